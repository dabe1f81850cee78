//! Delivered, read, unread: cursors and who hears of them. And history, which is read backwards.

use backend::frame::{Frame, Receipt, RefusalCode, UnreadConv};
use tempfile::TempDir;

use crate::{process::Im, ws::Client};

const CONV: &str = "dm:alice:bob";

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

fn receipt(conv: &str, user: &str, delivered_seq: u64, read_seq: u64) -> Receipt {
    Receipt { conv: conv.into(), user: user.into(), delivered_seq, read_seq }
}

fn unread(conv: &str, last_seq: u64, read_seq: u64) -> UnreadConv {
    UnreadConv { conv: conv.into(), last_seq, read_seq, n: last_seq - read_seq }
}

#[tokio::test]
async fn a_receipt_goes_to_every_session_of_the_members_but_the_one_it_comes_from() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut phone = Client::login(im.address, "bob", "phone").await;
    let mut laptop = Client::login(im.address, "bob", "laptop").await;
    let mut carol = Client::login(im.address, "carol", "phone").await;
    for id in 0..3 {
        alice.send(CONV, id, b"hello").await;
    }
    for client in [&mut phone, &mut laptop] {
        for seq in 1..=3 {
            assert_eq!(client.hear_msg().await.seq, seq);
        }
    }
    phone.ack(CONV, 3).await;
    for client in [&mut alice, &mut laptop] {
        assert_eq!(client.hear_receipt().await, receipt(CONV, "bob", 3, 0));
    }
    phone.read(CONV, 2).await;
    for client in [&mut alice, &mut laptop] {
        assert_eq!(client.hear_receipt().await, receipt(CONV, "bob", 3, 2));
    }
    // Nothing that does not grow is told, and neither the phone nor a stranger heard anything.
    phone.read(CONV, 1).await;
    phone.ack(CONV, 3).await;
    phone.read(CONV, 3).await;
    for client in [&mut alice, &mut laptop] {
        assert_eq!(client.hear_receipt().await, receipt(CONV, "bob", 3, 3));
    }
    alice.send("dm:alice:carol", 1, b"later").await;
    assert_eq!(carol.hear_msg().await.conv, "dm:alice:carol");
    alice.send(CONV, 9, b"later").await;
    assert_eq!(phone.hear_msg().await.seq, 4);
}

#[tokio::test]
async fn a_room_hears_of_its_followers() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    alice.send("room:a", 1, b"hello").await;
    // Bob does not follow the room, he may tell all the same.
    bob.read("room:a", 1).await;
    assert_eq!(alice.hear_receipt().await, receipt("room:a", "bob", 1, 1));
}

#[tokio::test]
async fn a_place_beyond_the_end_is_the_end() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    bob.read(CONV, 7).await; // there is no message, so there is nothing to read
    assert_eq!(bob.unread("").await.convs, []);
    alice.send(CONV, 1, b"one").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    bob.read(CONV, u64::MAX).await;
    assert_eq!(alice.hear_receipt().await, receipt(CONV, "bob", 1, 1));
    alice.send(CONV, 2, b"two").await;
    assert_eq!(bob.unread("").await.convs, [unread(CONV, 2, 1)]);
}

#[tokio::test]
async fn a_wrong_cursor_is_refused_and_the_session_goes_on() {
    let (im, _data) = start(&[]).await;
    let mut mallory = Client::connect_json(im.address).await;
    mallory.log_in("mallory", "curl").await;
    for (conv, want) in [
        (CONV, RefusalCode::NotAMember),
        ("dm:mallory:bob", RefusalCode::ConvInvalid),
        ("channel:1", RefusalCode::ConvInvalid),
        ("", RefusalCode::ConvInvalid),
    ] {
        for of in ["ack", "read"] {
            match of {
                "ack" => mallory.ack(conv, 1).await,
                _ => mallory.read(conv, 1).await,
            }
            let answer = mallory.hear().await;
            assert!(
                matches!(&answer, Frame::Refused(refused)
                    if refused.of == of && refused.conv == conv && refused.code == i32::from(want)
                        && refused.retry_after_ms == 0),
                "{of} {conv}: {answer:?}"
            );
        }
    }
    mallory.send("room:a", 1, b"still here").await;
}

#[tokio::test]
async fn a_cursor_that_cannot_be_stored_is_said_to_be_so() {
    let (im, _data) = start(&["--faults"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    alice.send(CONV, 1, b"one").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    im.fault(r#"{"refuse_commit":true}"#).await;
    bob.read(CONV, 1).await;
    let answer = bob.hear().await;
    assert!(
        matches!(&answer, Frame::Refused(refused) if refused.of == "read" && refused.conv == CONV
            && refused.code == i32::from(RefusalCode::NotStored) && refused.retry_after_ms > 0),
        "{answer:?}"
    );
    im.fault(r#"{"refuse_commit":false}"#).await;
    bob.read(CONV, 1).await;
    assert_eq!(alice.hear_receipt().await, receipt(CONV, "bob", 1, 1));
}

#[tokio::test]
async fn who_was_away_hears_of_the_other_with_the_last_page() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    alice.send(CONV, 1, b"one").await;
    alice.send(CONV, 2, b"two").await;
    drop(alice);
    bob.read(CONV, 1).await;
    // Answered by the store, so the cursor before it is there.
    bob.send("room:a", 1, b"x").await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let page = alice.sync(CONV, 0, 1).await;
    assert!(page.more, "no receipt follows a page that has another one behind it");
    let page = alice.sync(CONV, 1, 1).await;
    assert!(!page.more);
    assert_eq!(alice.hear_receipt().await, receipt(CONV, "bob", 1, 1));
}

#[tokio::test]
async fn unread_lists_the_conversations_that_one_is_in() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::connect_json(im.address).await;
    bob.log_in("bob", "curl").await;
    assert_eq!(bob.unread("").await.convs, []);
    alice.send(CONV, 1, b"one").await;
    alice.send(CONV, 2, b"two").await;
    alice.send("room:a", 1, b"not for bob").await;
    bob.send("room:b", 1, b"mine").await;
    alice.send("room:b", 2, b"answer").await;
    let list = bob.unread("").await;
    assert_eq!((list.convs, list.more), (vec![unread(CONV, 2, 0), unread("room:b", 2, 1)], false));
    assert_eq!(bob.unread(CONV).await.convs, [unread("room:b", 2, 1)]);
    bob.read(CONV, 1).await;
    bob.read("room:b", 2).await;
    assert_eq!(bob.unread("").await.convs, [unread(CONV, 2, 1), unread("room:b", 2, 2)], "what was just said counts");
    // Who writes without having read what was before has not read it.
    bob.send(CONV, 1, b"three").await;
    assert_eq!(bob.unread("").await.convs, [unread(CONV, 3, 1), unread("room:b", 2, 2)]);
    assert_eq!(alice.unread("").await.convs, [unread(CONV, 3, 2), unread("room:a", 1, 1), unread("room:b", 2, 0)]);
}

#[tokio::test]
async fn a_long_list_of_unread_comes_in_pieces() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut convs: Vec<_> = (0..300).map(|user| format!("dm:alice:user{user}")).collect();
    for conv in &convs {
        alice.send(conv, 1, b"hello").await;
    }
    convs.sort_unstable();
    let first = alice.unread("").await;
    assert_eq!((first.convs.len(), first.more), (256, true));
    let rest = alice.unread(&first.convs[255].conv).await;
    assert_eq!((rest.convs.len(), rest.more), (44, false));
    let listed: Vec<_> = first.convs.into_iter().chain(rest.convs).map(|listed| listed.conv).collect();
    assert_eq!(listed, convs);
}

#[tokio::test]
async fn history_goes_backwards_page_by_page() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let empty = alice.back(CONV, 0, 10).await;
    assert_eq!((empty.msgs.len(), empty.next_seq, empty.last_seq, empty.more), (0, 1, 0, false));
    for id in 0..7 {
        alice.send(CONV, id, b"hello").await;
    }
    let (mut pages, mut before) = (Vec::new(), 0);
    loop {
        let page = alice.back(CONV, before, 3).await;
        assert_eq!(page.last_seq, 7);
        pages.push(page.msgs.iter().map(|msg| msg.seq).collect::<Vec<_>>());
        before = page.next_seq;
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [vec![5, 6, 7], vec![2, 3, 4], vec![1]]);
    assert_eq!(alice.back(CONV, before, 3).await.msgs, [], "who goes on does not begin again");
    assert_eq!(alice.back(CONV, 100, 2).await.next_seq, 6);
    // Asking for a room's history is asking for the room.
    let mut bob = Client::login(im.address, "bob", "phone").await;
    bob.back("room:a", 0, 0).await;
    alice.send("room:a", 1, b"hello").await;
    assert_eq!(bob.hear_msg().await.conv, "room:a");
    alice.say(&Frame::History(backend::frame::History { conv: "dm:bob:carol".into(), ..Default::default() })).await;
    assert!(matches!(alice.hear().await, Frame::SyncErr(error) if error.code == i32::from(RefusalCode::NotAMember)));
}

#[tokio::test]
async fn receipts_and_cursors_go_from_process_to_process_and_survive_kill_9() {
    let data = TempDir::new().unwrap();
    let (one, two) =
        tokio::join!(Im::start(data.path(), &["--node", "im-1"]), Im::start(data.path(), &["--node", "im-2"]));
    let mut alice = Client::login(one.address, "alice", "phone").await;
    let mut bob = Client::login(two.address, "bob", "phone").await;
    alice.send(CONV, 1, b"one").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    bob.read(CONV, 1).await;
    assert_eq!(alice.hear_receipt().await, receipt(CONV, "bob", 1, 1));
    two.kill_9().await;
    one.kill_9().await;
    let im = Im::start(data.path(), &[]).await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    assert_eq!(bob.unread("").await.convs, [unread(CONV, 1, 1)]);
}
