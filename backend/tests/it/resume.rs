//! Sessions that go on after their connection broke.

use backend::frame::{Bye, Frame, PresenceState, PresenceSub};
use tempfile::TempDir;

use crate::{
    process::{Im, eventually},
    ws::Client,
};

async fn start() -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), &[]).await, data)
}

/// A session that follows a room and watches Carol, and its id.
async fn with_interests(im: &Im) -> (Client, String) {
    let mut client = Client::connect(im.address).await;
    let session = client.log_in("alice", "phone").await.session_id;
    client.sync("room:a", 0, 0).await;
    client.say(&Frame::PresenceSub(PresenceSub { users: vec!["carol".into()] })).await;
    assert!(matches!(client.hear().await, Frame::Presence(_)));
    (client, session)
}

/// Bob writes to the room and Carol comes: what `client` hears of both.
async fn hears_both(im: &Im, client: &mut Client) {
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let sent = bob.send("room:a", 1, b"hello").await;
    assert_eq!(client.hear_msg().await.seq, sent.seq);
    let _carol = Client::login(im.address, "carol", "phone").await;
    let presence = client.hear().await;
    assert!(
        matches!(&presence, Frame::Presence(presence) if presence.state() == PresenceState::Online),
        "{presence:?}"
    );
}

async fn sessions(im: &Im, count: u64) {
    eventually("so many sessions", async || (im.get("/load").await.json()["sessions"] == count).then_some(())).await;
}

#[tokio::test]
async fn a_session_goes_on_after_its_connection_broke_and_what_was_missed_is_asked_for() {
    let (im, _data) = start().await;
    let (client, session) = with_interests(&im).await;
    drop(client);
    sessions(&im, 0).await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut dave = Client::login(im.address, "dave", "phone").await;
    dave.sync("room:a", 0, 0).await;
    bob.send("room:a", 7, b"missed").await;
    assert_eq!(dave.hear_msg().await.seq, 1, "it has been pushed to whoever was there");
    let mut client = Client::connect(im.address).await;
    let ok = client.resume("alice", "phone", &session).await;
    assert!(ok.resumed && ok.session_id != session, "it goes on under a name of its own");
    bob.send("room:a", 8, b"pushed").await;
    assert_eq!(client.hear_msg().await.seq, 2, "the room is followed, and a hole is seen");
    let page = client.sync("room:a", 0, 0).await;
    assert_eq!(page.msgs.iter().map(|msg| &msg.body[..]).collect::<Vec<_>>(), [&b"missed"[..], b"pushed"]);
    drop(bob);
    hears_both(&im, &mut client).await;
}

#[tokio::test]
async fn a_session_whose_connection_is_dead_but_open_is_taken_over() {
    let (im, _data) = start().await;
    let (mut dead, session) = with_interests(&im).await;
    let mut client = Client::connect(im.address).await;
    assert!(client.resume("alice", "phone", &session).await.resumed);
    assert_eq!(dead.closed().await, 4002);
    hears_both(&im, &mut client).await;
}

#[tokio::test]
async fn a_session_goes_on_only_once_and_only_for_its_own_device() {
    let (im, _data) = start().await;
    let (client, session) = with_interests(&im).await;
    drop(client);
    sessions(&im, 0).await;
    for (user, device, session) in
        [("bob", "phone", session.as_str()), ("alice", "laptop", &session), ("alice", "phone", "no such session")]
    {
        assert!(!Client::connect(im.address).await.resume(user, device, session).await.resumed, "{user} {device}");
    }
    sessions(&im, 0).await;
    let mut client = Client::connect(im.address).await;
    assert!(client.resume("alice", "phone", &session).await.resumed);
    let mut again = Client::connect(im.address).await;
    assert!(!again.resume("alice", "phone", &session).await.resumed);
}

#[tokio::test]
async fn who_said_goodbye_begins_anew() {
    let (im, _data) = start().await;
    let (mut client, session) = with_interests(&im).await;
    client.say(&Frame::Bye(Bye {})).await;
    assert_eq!(client.closed().await, 1000);
    assert!(!Client::connect(im.address).await.resume("alice", "phone", &session).await.resumed);
}
