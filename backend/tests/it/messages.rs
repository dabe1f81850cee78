//! Sending, pushes, catching up, and what is refused.
//!
//! That a push does *not* come is seen by the next one: all pushes come in the order of the commits.

use backend::frame::{Frame, LoginOk, MAX_BODY, MAX_FRAME, RefusalCode, Sync};
use bytes::Bytes;
use futures_util::SinkExt as _;
use tempfile::TempDir;
use tokio_websockets::Message;

use crate::{
    process::{Im, eventually},
    ws::{Client, send},
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

#[tokio::test]
async fn a_message_is_pushed_to_every_device_but_the_one_that_sent_it() {
    let (im, _data) = start(&[]).await;
    let mut phone = Client::login(im.address, "alice", "phone").await;
    let mut laptop = Client::login(im.address, "alice", "laptop").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut carol = Client::login(im.address, "carol", "phone").await;
    let ack = phone.send("dm:alice:bob", 7, b"hello").await;
    assert_eq!((ack.conv.as_str(), ack.seq, ack.duplicate), ("dm:alice:bob", 1, false));
    for client in [&mut laptop, &mut bob] {
        let msg = client.hear_msg().await;
        assert_eq!((msg.conv.as_str(), msg.seq, msg.sender.as_str()), ("dm:alice:bob", 1, "alice"));
        assert_eq!((&msg.body[..], msg.time, msg.sent_at), (&b"hello"[..], ack.server_time, 1));
        assert_eq!(msg.client_msg_id, ack.client_msg_id);
    }
    laptop.send("dm:alice:carol", 8, b"later").await;
    for client in [&mut phone, &mut carol] {
        assert_eq!(client.hear_msg().await.conv, "dm:alice:carol", "nothing came before it");
    }
}

#[tokio::test]
async fn a_repeated_send_is_answered_with_its_first_place_and_not_pushed_again() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let first = alice.send("dm:alice:bob", 1, b"one").await;
    alice.send("dm:alice:bob", 2, b"two").await;
    let again = alice.send("dm:alice:bob", 1, b"one").await;
    assert_eq!((again.seq, again.server_time, again.duplicate), (first.seq, first.server_time, true));
    assert_eq!(bob.hear_msg().await.seq, 1);
    assert_eq!(bob.hear_msg().await.seq, 2);
    alice.send("dm:alice:bob", 3, b"three").await;
    assert_eq!(bob.hear_msg().await.seq, 3);
    assert_eq!(bob.history("dm:alice:bob").await.len(), 3);
}

#[tokio::test]
async fn many_sends_at_once_are_acknowledged_and_pushed_in_their_order() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    // More than the server takes unanswered.
    for id in 0..200_u8 {
        alice.websocket.feed(Message::binary(send("dm:alice:bob", id.into(), &[id]).to_bytes())).await.unwrap();
    }
    alice.websocket.flush().await.unwrap();
    for seq in 1..=200 {
        assert!(matches!(alice.hear().await, Frame::SendAck(ack) if ack.seq == seq));
        assert_eq!(bob.hear_msg().await.seq, seq);
    }
}

#[tokio::test]
async fn catching_up_goes_page_by_page() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let empty = alice.sync("dm:alice:bob", 5, 10).await;
    assert_eq!((empty.msgs.len(), empty.next_seq, empty.last_seq, empty.more), (0, 5, 0, false));
    for id in 0..5 {
        alice.send("dm:alice:bob", id, &vec![b'x'; MAX_BODY / 2]).await;
    }
    let page = alice.sync("dm:alice:bob", 0, 1).await;
    assert_eq!((page.msgs.len(), page.next_seq, page.last_seq, page.more), (1, 1, 5, true));
    let page = alice.sync("dm:alice:bob", 1, 500).await;
    assert_eq!((page.msgs.len(), page.next_seq, page.more), (2, 3, true), "two halves fill a frame");
    let seqs: Vec<_> = alice.history("dm:alice:bob").await.iter().map(|msg| msg.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_room_is_pushed_to_those_who_follow_it() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut carol = Client::login(im.address, "carol", "phone").await;
    bob.sync("room:lobby", 0, 0).await;
    alice.send("room:lobby", 1, b"hi").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    alice.send("dm:alice:carol", 1, b"later").await;
    assert_eq!(carol.hear_msg().await.conv, "dm:alice:carol", "nothing came before it");
    // Who sends follows.
    carol.send("room:lobby", 1, b"me too").await;
    assert_eq!(alice.hear_msg().await.sender, "carol");
    assert_eq!(bob.hear_msg().await.sender, "carol");
}

#[tokio::test]
async fn a_session_follows_so_many_rooms_and_no_more() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    for room in 0..256 {
        alice.sync(&format!("room:{room}"), 0, 1).await;
    }
    alice.say(&Frame::Sync(Sync { conv: "room:256".into(), after_seq: 0, limit: 1 })).await;
    assert!(matches!(alice.hear().await, Frame::SyncErr(error) if error.code == i32::from(RefusalCode::TooManyRooms)));
    alice.sync("room:0", 0, 1).await;
}

#[tokio::test]
async fn a_wrong_send_is_refused_and_the_session_goes_on() {
    let (im, _data) = start(&[]).await;
    let mut mallory = Client::login(im.address, "mallory", "phone").await;
    let frame = |conv: &str, id: &'static [u8], body: usize| match send(conv, 0, &vec![b'x'; body]) {
        Frame::Send(send) => Frame::Send(backend::frame::Send { client_msg_id: Bytes::from_static(id), ..send }),
        other => other,
    };
    let id = &[1; 16];
    for (frame, want) in [
        (frame("dm:alice:bob", id, 1), RefusalCode::NotAMember),
        (frame("dm:mallory:bob", id, 1), RefusalCode::ConvInvalid),
        (frame("channel:1", id, 1), RefusalCode::ConvInvalid),
        (frame("group:1", id, 1), RefusalCode::NotAMember),
        (frame("room:a", &[1; 15], 1), RefusalCode::IdInvalid),
        (frame("room:a", &[], 1), RefusalCode::IdInvalid),
        (frame("room:a", id, MAX_BODY + 1), RefusalCode::BodyTooLong),
    ] {
        mallory.say(&frame).await;
        let answer = mallory.hear().await;
        assert!(
            matches!(&answer, Frame::SendErr(error) if error.code == i32::from(want) && error.retry_after_ms == 0),
            "{answer:?}"
        );
    }
    mallory.say(&Frame::Sync(Sync { conv: "dm:alice:bob".into(), after_seq: 0, limit: 0 })).await;
    assert!(matches!(mallory.hear().await, Frame::SyncErr(error) if error.code == i32::from(RefusalCode::NotAMember)));
    assert_eq!(mallory.send("room:a", 1, &[0; MAX_BODY]).await.seq, 1);
}

/// A refusal needs no commit, and once overtook the acknowledgements of what was sent before it.
#[tokio::test]
async fn a_refused_send_is_answered_in_its_turn() {
    let (im, _data) = start(&["--faults"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    im.fault(r#"{"ack_delay_ms":300}"#).await;
    alice.say(&send("dm:alice:bob", 1, b"x")).await;
    alice.say(&send("dm:bob:carol", 2, b"x")).await;
    alice.say(&send("dm:alice:bob", 3, b"x")).await;
    assert!(matches!(alice.hear().await, Frame::SendAck(ack) if ack.seq == 1));
    assert!(matches!(alice.hear().await, Frame::SendErr(error) if error.conv == "dm:bob:carol"));
    assert!(matches!(alice.hear().await, Frame::SendAck(ack) if ack.seq == 2));
}

#[tokio::test]
async fn both_forms_are_one_conversation() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::connect_json(im.address).await;
    alice.log_in("alice", "curl").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    alice.send("dm:alice:bob", 1, "grüß dich".as_bytes()).await;
    assert_eq!(&bob.hear_msg().await.body[..], "grüß dich".as_bytes());
    bob.send("dm:alice:bob", 2, &[0xff, 0x00]).await;
    assert_eq!(&alice.hear_msg().await.body[..], &[0xff, 0x00]);
    assert_eq!(alice.history("dm:alice:bob").await, bob.history("dm:alice:bob").await);
}

#[tokio::test]
async fn what_is_not_in_the_protocol_ends_the_connection_with_its_code() {
    let (im, _data) = start(&[]).await;
    let long = vec![0; MAX_FRAME + 1];
    for (message, want) in [
        (Message::text("{}"), 1003),
        (Message::binary(vec![0xff; 9]), 1007),
        (Message::binary(long), 1009),
        (Message::binary(Frame::LoginOk(LoginOk::default()).to_bytes()), 1008),
    ] {
        let mut client = Client::login(im.address, "alice", "phone").await;
        client.websocket.send(message).await.unwrap();
        assert_eq!(client.closed().await, want);
    }
    let mut json = Client::connect_json(im.address).await;
    json.log_in("alice", "curl").await;
    json.websocket.send(Message::text("{\"type\":\"sendd\"}")).await.unwrap();
    assert_eq!(json.closed().await, 1007);
    // A frame of a later version is no mistake.
    let mut later = Client::login(im.address, "alice", "phone").await;
    later.websocket.send(Message::binary(&[0xa2_u8, 0x06, 0x00][..])).await.unwrap();
    later.send("room:a", 1, b"still here").await;
}

#[tokio::test]
async fn a_lost_push_is_healed_by_catching_up() {
    let (im, _data) = start(&["--faults"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    alice.send("dm:alice:bob", 1, b"one").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    im.fault(r#"{"drop_push":true}"#).await;
    alice.send("dm:alice:bob", 2, b"two").await;
    eventually("the push is lost", async || (im.get("/load").await.json()["pushes_dropped"] == 1).then_some(())).await;
    im.fault(r#"{"drop_push":false}"#).await;
    alice.send("dm:alice:bob", 3, b"three").await;
    assert_eq!(bob.hear_msg().await.seq, 3, "the hole is visible");
    let page = bob.sync("dm:alice:bob", 1, 0).await;
    assert_eq!(page.msgs.iter().map(|msg| msg.seq).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn a_commit_that_fails_is_not_acknowledged_and_makes_the_server_unready() {
    let (im, _data) = start(&["--faults"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    assert_eq!(im.get("/readyz").await.status, 200);
    im.fault(r#"{"refuse_commit":true}"#).await;
    alice.say(&send("dm:alice:bob", 1, b"x")).await;
    let answer = alice.hear().await;
    assert!(
        matches!(&answer, Frame::SendErr(error)
            if error.code == i32::from(RefusalCode::NotStored) && error.retry_after_ms > 0),
        "{answer:?}"
    );
    let unready = im.get("/readyz").await;
    assert_eq!((unready.status, unready.json()["ready"].as_bool()), (503, Some(false)));
    assert!(unready.json()["reasons"][0].as_str().unwrap().starts_with("store:"), "{}", unready.body);
    assert_eq!(im.get("/healthz").await.status, 200);
    im.fault(r#"{"refuse_commit":false}"#).await;
    assert_eq!(alice.send("dm:alice:bob", 1, b"x").await.seq, 1);
    assert_eq!(im.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_session_that_reads_nothing_is_closed_and_nothing_is_lost() {
    let (im, _data) = start(&["--stall-timeout", "500ms"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let stuck = Client::login(im.address, "bob", "phone").await;
    let count = 400;
    for id in 0..count {
        // 24 MB in all: more than the sockets' buffers and the queue hold.
        assert!(!alice.send("dm:alice:bob", id, &vec![b'x'; MAX_BODY]).await.duplicate);
    }
    eventually("the stuck session is closed", async || (im.get("/load").await.json()["sessions"] == 1).then_some(()))
        .await;
    drop(stuck);
    let mut bob = Client::login(im.address, "bob", "phone").await;
    assert_eq!(bob.history("dm:alice:bob").await.len(), usize::try_from(count).unwrap());
}
