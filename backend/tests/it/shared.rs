//! Several processes on one data directory.

use backend::frame::Frame;
use futures_util::SinkExt as _;
use tempfile::TempDir;
use tokio_websockets::Message;

use crate::{
    process::Im,
    ws::{Client, send},
};

async fn two() -> (Im, Im, TempDir) {
    let data = TempDir::new().unwrap();
    let (one, two) =
        tokio::join!(Im::start(data.path(), &["--node", "im-1"]), Im::start(data.path(), &["--node", "im-2"]));
    (one, two, data)
}

#[tokio::test]
async fn a_message_stored_by_one_process_is_pushed_by_the_other() {
    let (one, two, _data) = two().await;
    let mut alice = Client::login(one.address, "alice", "phone").await;
    let mut bob = Client::login(two.address, "bob", "phone").await;
    alice.send("dm:alice:bob", 1, b"over there").await;
    assert_eq!(&bob.hear_msg().await.body[..], b"over there");
    bob.send("dm:alice:bob", 1, b"and back").await;
    assert_eq!(&alice.hear_msg().await.body[..], b"and back");
}

#[tokio::test]
async fn a_client_that_reconnects_elsewhere_finds_its_messages_and_sends_again_safely() {
    let (one, two, _data) = two().await;
    let mut alice = Client::login(one.address, "alice", "phone").await;
    let first = alice.send("dm:alice:bob", 1, b"once").await;
    one.kill_9().await;
    let mut alice = Client::login(two.address, "alice", "phone").await;
    let again = alice.send("dm:alice:bob", 1, b"once").await;
    assert_eq!((again.seq, again.duplicate, again.server_time), (first.seq, true, first.server_time));
    assert_eq!(alice.history("dm:alice:bob").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn seq_is_dense_when_both_write_at_the_same_time() {
    const EACH: u64 = 300;
    let (one, two, _data) = two().await;
    let write = async |address, user: &'static str| {
        let mut client = Client::login(address, user, "phone").await;
        for id in 0..EACH {
            client.websocket.feed(Message::binary(send("room:a", id.into(), b"x").to_bytes())).await.unwrap();
        }
        client.websocket.flush().await.unwrap();
        let mut seqs = Vec::new();
        while seqs.len() < usize::try_from(EACH).unwrap() {
            match client.hear().await {
                Frame::SendAck(ack) => seqs.push(ack.seq),
                Frame::Msg(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(seqs.is_sorted(), "the order of {user}'s sends is kept");
        seqs
    };
    let (mut seqs, more) = tokio::join!(write(one.address, "alice"), write(two.address, "bob"));
    seqs.extend(more);
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=2 * EACH).collect::<Vec<_>>());
    let mut reader = Client::login(one.address, "carol", "phone").await;
    assert_eq!(reader.history("room:a").await.len(), usize::try_from(2 * EACH).unwrap());
}
