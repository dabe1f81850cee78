//! What a phone does when a server says what real ones seldom say.

use std::time::Duration;

use backend::frame::{Bye, Frame, Msg, Reconnect, SendAck, UnreadList};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{BackOff, Event, Line, Phone, Tries};
use crate::im::{
    Door, Journal, Secret, SessionError,
    stub::{Script, farewell},
};

const SOON: Duration = Duration::from_secs(20);
const PAIR: &str = "dm:alice:bob";

fn phone(door: Door) -> Phone {
    Phone::new("alice", door, &Secret::random(), &Journal::default())
}

/// A message of `bob` to `alice`.
fn message(seq: u64) -> Msg {
    let id = Bytes::copy_from_slice(&u128::from(seq).to_be_bytes());
    Msg { conv: PAIR.into(), seq, sender: "bob".into(), client_msg_id: id, body: "hello".into(), ..Msg::default() }
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_for_ages_is_borne() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut alice = phone(Door::new(listener.local_addr().unwrap()));
    alice.go_online();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = "HTTP/1.1 503 x\r\nRetry-After: 18446744073709551615\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Until the client has gone: a reset may overtake the answer.
        while stream.read(&mut [0; 512]).await.is_ok_and(|count| count > 0) {}
    };
    let (event, ()) = tokio::join!(alice.next(), server);
    let Event::NotLoggedIn(error) = event else { panic!("{event:?}") };
    assert_eq!(error.retry_after(), Duration::from_secs(3600));
}

#[tokio::test]
async fn a_nearer_hint_takes_the_place_of_a_later_one() {
    let script = Script::start().await;
    let mut alice = phone(script.door());
    alice.go_online();
    let server = async {
        let mut client = script.client(UnreadList::default()).await;
        for after_ms in [3_000_000, 0] {
            client.say(Frame::Reconnect(Reconnect { after_ms, ..Reconnect::default() })).await;
        }
        assert_eq!(client.hear().await, Some(Frame::Bye(Bye {})));
        client.say(farewell()).await;
        script.client(UnreadList::default()).await
    };
    let phone = async {
        let mut events = Vec::new();
        while alice.logins() < 2 || !alice.is_caught_up() {
            events.push(alice.next().await);
        }
        events
    };
    let (events, _client) = timeout(SOON, async { tokio::join!(phone, server) }).await.expect("it moves");
    assert!(events.iter().any(|event| matches!(event, Event::Moved)), "{events:?}");
}

#[tokio::test]
async fn after_a_session_that_lasted_the_back_off_begins_anew_however_it_ended() {
    let script = Script::start().await;
    // After twenty tries in vain a wait as short as the first one has a chance of one in 100 000.
    let back_off = BackOff { first: Duration::from_nanos(500), longest: Duration::from_millis(50) };
    for way in ["leaves", "vanishes", "breaks off", "moves"] {
        let mut alice = phone(script.door()).backing_off(back_off);
        alice.tries = tried(20, back_off);
        let server = async {
            let mut client = script.client(UnreadList::default()).await;
            if way == "moves" {
                client.say(Frame::Reconnect(Reconnect { after_ms: 60, ..Reconnect::default() })).await;
            }
            while let Some(frame) = client.hear().await {
                if frame == Frame::Bye(Bye {}) {
                    client.say(farewell()).await;
                }
            }
        };
        let phone = async {
            alice.online(SOON).await.unwrap();
            let Line::Up(talk) = &alice.line else { panic!("no session") };
            let since = talk.since();
            while alice.node().is_some() && since.elapsed() < back_off.longest * 2 {
                alice.listen(Duration::from_millis(5)).await;
            }
            match way {
                "leaves" => alice.leave().await.unwrap(),
                "breaks off" => alice.break_off(),
                _ => {}
            }
            alice.vanish();
            // Who broke off has drawn its first wait already.
            assert!(alice.tries.next_wait(back_off) <= back_off.first * 2, "{way}");
        };
        timeout(SOON, async { tokio::join!(phone, server) }).await.expect("it ends");
    }
}

fn tried(times: u32, back_off: BackOff) -> Tries {
    let mut tries = Tries::default();
    for _ in 0..times {
        tries.next_wait(back_off);
    }
    tries
}

#[tokio::test]
async fn who_leaves_takes_the_last_answers_and_says_what_was_delivered_before_bye() {
    let script = Script::start().await;
    let mut alice = phone(script.door());
    let server = async {
        let mut client = script.client(UnreadList::default()).await;
        let send = client.wait_for(|frame| if let Frame::Send(send) = frame { Some(send) } else { None }).await;
        client.say(Frame::Msg(message(1))).await;
        let mut heard: Vec<Frame> =
            timeout(Duration::from_millis(100), client.hear()).await.ok().flatten().into_iter().collect();
        assert!(!heard.contains(&Frame::Bye(Bye {})), "whoever leaves waits for the answer");
        let (conv, client_msg_id) = (send.conv, send.client_msg_id);
        client.say(Frame::SendAck(SendAck { conv, client_msg_id, seq: 2, ..SendAck::default() })).await;
        while !heard.contains(&Frame::Bye(Bye {})) {
            heard.push(client.hear().await.expect("it says BYE"));
        }
        client.say(farewell()).await;
        assert!(matches!(&heard[..], [Frame::Ack(_), .., Frame::Bye(_)]), "{heard:?}");
    };
    let phone = async {
        alice.online(SOON).await.unwrap();
        let said = alice.submit(PAIR, "the last word".into()).unwrap();
        // The message is on its way when this is given up.
        alice.listen(Duration::from_millis(50)).await;
        alice.leave().await.unwrap();
        said
    };
    let (said, ()) = timeout(SOON, async { tokio::join!(phone, server) }).await.expect("it ends");
    assert_eq!(alice.unacknowledged(), 0);
    let acknowledged = |event: &Event| matches!(event, Event::Acknowledged { id, seq: 2, .. } if *id == said);
    assert!(alice.events.iter().any(acknowledged), "{:?}", alice.events);
}

#[tokio::test]
async fn who_leaves_and_is_not_answered_has_not_left_in_order() {
    let script = Script::start().await;
    let mut alice = phone(Door { patience: Duration::from_secs(2), ..script.door() });
    let phone = async {
        alice.online(SOON).await.unwrap();
        alice.leave().await.unwrap_err()
    };
    let (error, _client) = timeout(SOON, async { tokio::join!(phone, script.client(UnreadList::default())) })
        .await
        .expect("there is an end to it");
    assert!(matches!(error.downcast_ref(), Some(SessionError::Silent { .. })), "{error:#}");
    assert_eq!((alice.node(), alice.logins()), (None, 1));
}
