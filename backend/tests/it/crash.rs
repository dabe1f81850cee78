//! G1 to G3 where it counts: the process is killed in the middle.

use std::collections::{HashMap, HashSet};

use backend::frame::Frame;
use futures_util::{SinkExt as _, future::join_all};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_websockets::Message;

use crate::{
    process::{Im, eventually},
    ws::{Client, send},
};

const WRITERS: u128 = 4;
const ROUNDS: u128 = 3;

/// Sends as fast as it can until the connection breaks; the ids that were acknowledged, with their `seq`.
async fn write_until_the_end(mut client: Client, writer: u128, round: u128, count: watch::Sender<usize>) -> Acked {
    let mut acked = Acked::new();
    let conv = |id: u128| if id.is_multiple_of(2) { "room:even" } else { "room:odd" };
    'connected: for batch in 0.. {
        for n in 0..16 {
            let id = (writer << 64) | (round << 48) | (batch * 16 + n);
            let message = Message::binary(send(conv(id), id, &id.to_be_bytes()).to_bytes());
            if client.websocket.feed(message).await.is_err() {
                break 'connected;
            }
        }
        if client.websocket.flush().await.is_err() {
            break;
        }
        let mut answers = 0;
        while answers < 16 {
            match client.hear_or_end().await {
                Some(Frame::SendAck(ack)) => {
                    answers += 1;
                    let id = u128::from_be_bytes(ack.client_msg_id[..].try_into().unwrap());
                    assert!(acked.insert(id, ack.seq).is_none());
                    count.send_modify(|count| *count += 1);
                }
                Some(Frame::Msg(_)) => {}
                Some(other) => panic!("{other:?}"),
                None => break 'connected,
            }
        }
    }
    acked
}

type Acked = HashMap<u128, u64>;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_message() {
    let data = TempDir::new().unwrap();
    let mut acked = Acked::new();
    for round in 0..ROUNDS {
        let im = Im::start(data.path(), &["--request-rate", "0"]).await;
        let (count, counted) = watch::channel(0);
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let client = Client::login(im.address, &format!("user{writer}"), "phone").await;
            writers.push(tokio::spawn(write_until_the_end(client, writer, round, count.clone())));
        }
        eventually("enough is acknowledged", async || (*counted.borrow() > 500).then_some(())).await;
        im.kill_9().await;
        for writer in join_all(writers).await {
            acked.extend(writer.unwrap());
        }
    }
    assert!(acked.len() > 1500);

    let im = Im::start(data.path(), &[]).await;
    let mut reader = Client::login(im.address, "reader", "phone").await;
    let mut stored = HashSet::new();
    for conv in ["room:even", "room:odd"] {
        let history = reader.history(conv).await;
        let seqs: Vec<_> = history.iter().map(|msg| msg.seq).collect();
        assert_eq!(seqs, (1..=u64::try_from(history.len()).unwrap()).collect::<Vec<_>>(), "{conv} is dense");
        for msg in history {
            let id = u128::from_be_bytes(msg.client_msg_id[..].try_into().unwrap());
            assert_eq!(&msg.body[..], id.to_be_bytes());
            assert!(stored.insert(id), "{id:x} is there twice");
            if let Some(seq) = acked.get(&id) {
                assert_eq!(msg.seq, *seq, "the acknowledged place of {id:x}");
            }
        }
    }
    let lost: Vec<_> = acked.keys().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged messages are lost", lost.len(), acked.len());
}
