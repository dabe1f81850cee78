//! What one client may take: requests a second, sessions of a user.

use std::time::Duration;

use backend::frame::{Frame, LoginCode, Ping, RefusalCode};
use futures_util::SinkExt as _;
use tempfile::TempDir;
use tokio_websockets::Message;

use crate::{
    process::{Im, eventually},
    ws::{Client, send, token},
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

#[tokio::test]
async fn who_asks_too_fast_is_refused_and_then_closed_and_what_was_acknowledged_stays() {
    let (im, _data) = start(&["--request-rate", "1"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    // Far more than two at once and two refused, however slow the machine is.
    for id in 0..30 {
        alice.websocket.feed(Message::binary(send("room:a", id, b"x").to_bytes())).await.unwrap();
    }
    alice.websocket.flush().await.unwrap();
    let (mut acked, mut refused) = (0, 0);
    while let Some(frame) = alice.hear_or_end().await {
        match frame {
            Frame::SendAck(_) => acked += 1,
            Frame::SendErr(error) => {
                assert_eq!(error.code, i32::from(RefusalCode::TooFast));
                assert!(error.retry_after_ms > 0);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(acked >= 2 && refused >= 2 && acked + refused < 30, "{acked} {refused}");
    let mut bob = Client::login(im.address, "bob", "phone").await;
    assert_eq!(bob.sync("room:a", 0, 0).await.last_seq, acked);
}

#[tokio::test]
async fn the_close_for_too_much_has_its_code() {
    let (im, _data) = start(&["--request-rate", "1"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    for _ in 0..30 {
        alice.read("room:a", 1).await;
    }
    assert_eq!(alice.closed().await, 4008);
}

#[tokio::test]
async fn who_waits_as_told_is_served_and_a_heartbeat_is_no_request() {
    let (im, _data) = start(&["--request-rate", "2"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    for t in 0..100 {
        alice.say(&Frame::Ping(Ping { t })).await;
        assert!(matches!(alice.hear().await, Frame::Pong(_)));
    }
    let mut waits = 0;
    for id in 0..7 {
        loop {
            alice.say(&send("room:a", id, b"x")).await;
            match alice.hear().await {
                Frame::SendAck(_) => break,
                Frame::SendErr(error) => {
                    waits += 1;
                    tokio::time::sleep(Duration::from_millis(error.retry_after_ms.into())).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(waits < 7, "a wait as long as told is enough: {waits}");
    let mut bob = Client::login(im.address, "bob", "phone").await;
    assert_eq!(bob.sync("room:a", 0, 0).await.last_seq, 7);
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_no_more() {
    let (im, _data) = start(&["--user-sessions", "2", "--heartbeat", "20s"]).await;
    let phone = Client::login(im.address, "alice", "phone").await;
    let _laptop = Client::login(im.address, "alice", "laptop").await;
    let mut tablet = Client::connect(im.address).await;
    tablet.say_login(token("alice", 60), "tablet").await;
    let answer = tablet.hear().await;
    assert!(
        matches!(&answer, Frame::LoginErr(error)
            if error.code == i32::from(LoginCode::TooManySessions) && error.retry_after_ms == 60_000),
        "{answer:?}"
    );
    assert_eq!(tablet.closed().await, 4001);
    // A device that is there already comes in, and so does somebody else.
    let _laptop = Client::login(im.address, "alice", "laptop").await;
    Client::login(im.address, "bob", "tablet").await;
    drop(phone);
    eventually("the place is free", async || {
        let mut tablet = Client::connect(im.address).await;
        tablet.say_login(token("alice", 60), "tablet").await;
        matches!(tablet.hear().await, Frame::LoginOk(_)).then_some(())
    })
    .await;
}
