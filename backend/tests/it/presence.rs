//! Who is here, and who is told.

use std::time::Duration;

use backend::frame::{Frame, Presence, PresenceSet, PresenceState, PresenceSub, RefusalCode};
use futures_util::SinkExt as _;
use tempfile::TempDir;
use tokio_websockets::Message;

use crate::{process::Im, ws::Client};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

pub(crate) async fn watch(client: &mut Client, users: &[&str]) {
    let users = users.iter().map(|user| (*user).to_owned()).collect();
    client.say(&Frame::PresenceSub(PresenceSub { users })).await;
}

pub(crate) async fn show(client: &mut Client, state: PresenceState) {
    client.say(&Frame::PresenceSet(PresenceSet { state: state.into() })).await;
}

pub(crate) async fn hear(client: &mut Client) -> Presence {
    match client.hear().await {
        Frame::Presence(presence) => presence,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn check(presence: &Presence, user: &str, state: PresenceState) {
    assert_eq!((presence.user.as_str(), presence.state()), (user, state));
}

#[tokio::test]
async fn who_watches_is_told_now_and_at_every_change() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::connect_json(im.address).await;
    alice.log_in("alice", "curl").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    watch(&mut alice, &["bob", "carol", "bob"]).await;
    let presence = hear(&mut alice).await;
    check(&presence, "bob", PresenceState::Online);
    assert!(presence.last_seen > 1_600_000_000_000);
    let presence = hear(&mut alice).await;
    check(&presence, "carol", PresenceState::Offline);
    assert_eq!(presence.last_seen, 0, "never seen");

    show(&mut bob, PresenceState::Away).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Away);
    let carol = Client::login(im.address, "carol", "phone").await;
    check(&hear(&mut alice).await, "carol", PresenceState::Online);
    drop(carol);
    let presence = hear(&mut alice).await;
    check(&presence, "carol", PresenceState::Offline);
    assert!(presence.last_seen > 1_600_000_000_000, "seen until just now");
    watch(&mut alice, &["carol"]).await;
    let again = hear(&mut alice).await;
    assert_eq!(again, presence, "who left when is remembered");

    // Bob is not watched any more: his change is not told, Carol's next one is.
    show(&mut bob, PresenceState::Busy).await;
    bob.send("room:a", 1, b"x").await;
    let _carol = Client::login(im.address, "carol", "phone").await;
    check(&hear(&mut alice).await, "carol", PresenceState::Online);
}

#[tokio::test]
async fn the_best_of_a_users_sessions_counts() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut phone = Client::login(im.address, "bob", "phone").await;
    let mut laptop = Client::login(im.address, "bob", "laptop").await;
    watch(&mut alice, &["bob"]).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    show(&mut phone, PresenceState::Away).await;
    // Each is waited for, so that the order of the two sessions does not matter.
    phone.send("room:a", 1, b"x").await;
    show(&mut laptop, PresenceState::Busy).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Busy);
    drop(laptop);
    check(&hear(&mut alice).await, "bob", PresenceState::Away);
    show(&mut phone, PresenceState::Offline).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Offline);
    // Who is not seen is there all the same.
    alice.send("dm:alice:bob", 1, b"hello").await;
    assert_eq!(&phone.hear_msg().await.body[..], b"hello");
}

#[tokio::test]
async fn a_device_that_connects_again_was_never_away() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut first = Client::login(im.address, "bob", "phone").await;
    watch(&mut alice, &["bob"]).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    let mut second = Client::login(im.address, "bob", "phone").await;
    assert_eq!(first.closed().await, 4002);
    show(&mut second, PresenceState::Away).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Away);
}

#[tokio::test]
async fn who_is_silent_for_three_heartbeats_is_offline() {
    let (im, _data) = start(&["--heartbeat", "1s"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let _silent = Client::login(im.address, "bob", "phone").await;
    watch(&mut alice, &["bob"]).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    let mut every = tokio::time::interval(Duration::from_millis(300));
    let presence = loop {
        tokio::select! {
            frame = alice.hear() => break frame,
            _ = every.tick() => alice.websocket.send(Message::ping("x")).await.unwrap(),
        }
    };
    assert!(matches!(&presence, Frame::Presence(presence) if presence.state() == PresenceState::Offline));
}

#[tokio::test]
async fn a_wrong_wish_is_refused_and_changes_nothing() {
    let (im, _data) = start(&[]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    watch(&mut alice, &["bob"]).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Offline);
    let many: Vec<_> = (0..257).map(|user| format!("user{user}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (users, want) in [
        (&many[..], RefusalCode::TooManyUsers),
        (&["a:b"], RefusalCode::UserInvalid),
        (&["carol", ""], RefusalCode::UserInvalid),
    ] {
        watch(&mut alice, users).await;
        let answer = alice.hear().await;
        assert!(
            matches!(&answer, Frame::Refused(refused) if refused.of == "presence_sub" && refused.code == i32::from(want)),
            "{answer:?}"
        );
    }
    alice.say(&Frame::PresenceSet(PresenceSet { state: 99 })).await;
    let answer = alice.hear().await;
    assert!(
        matches!(&answer, Frame::Refused(refused) if refused.of == "presence_set"
            && refused.code == i32::from(RefusalCode::StateInvalid)),
        "{answer:?}"
    );
    let _bob = Client::login(im.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    watch(&mut alice, &many[..256]).await;
    for _ in 0..256 {
        assert_eq!(hear(&mut alice).await.state(), PresenceState::Offline);
    }
}
