//! Who is here by what other processes on the same directory say.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use backend::frame::{Bye, Frame, Presence, PresenceState};
use futures_util::{StreamExt as _, stream};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    presence::{check, hear, show, watch},
    process::{DEADLINE, Im, eventually},
    ws::Client,
};

/// A process that ends without a word is believed to be there for longer than this, whatever else the machine does.
const LEASE_AT_LEAST: Duration = Duration::from_secs(5);

async fn two() -> (Im, Im, TempDir) {
    let data = TempDir::new().unwrap();
    let (one, two) = both(data.path()).await;
    (one, two, data)
}

async fn both(data: &Path) -> (Im, Im) {
    tokio::join!(
        Im::start(data, &["--node", "im-1", "--admin", "--drain-deadline", "0s"]),
        Im::start(data, &["--node", "im-2", "--admin", "--drain-deadline", "0s"])
    )
}

/// Somebody who is told of these users, all of whom are offline.
async fn watcher(im: &Im, users: &[&str]) -> Client {
    let mut client = Client::login(im.address, "alice", "watching").await;
    watch(&mut client, users).await;
    for user in users {
        check(&hear(&mut client).await, user, PresenceState::Offline);
    }
    client
}

/// The next change, waiting for it as long as a lease may take.
async fn hear_late(client: &mut Client) -> Presence {
    let heard = tokio::time::timeout(3 * DEADLINE, client.hear_or_end()).await;
    match heard.expect("a change in time") {
        Some(Frame::Presence(presence)) => presence,
        other => panic!("{other:?}"),
    }
}

/// Asks how these users are seen. Changes that were told before may come in between.
async fn seen(client: &mut Client, users: &[&str]) -> BTreeMap<String, PresenceState> {
    watch(client, users).await;
    let mut seen = BTreeMap::new();
    while !users.iter().all(|user| seen.contains_key(*user)) {
        let presence = hear(client).await;
        seen.insert(presence.user.clone(), presence.state());
    }
    seen
}

fn unix_now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn metric(im: &Im, name: &str) -> f64 {
    let page = im.get("/metrics").await.body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("{name} is on the page"))
}

#[tokio::test]
async fn who_is_at_another_process_is_seen_and_every_change() {
    let (one, two, _data) = two().await;
    let mut alice = watcher(&one, &["bob"]).await;
    let begun = unix_now();
    let mut bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    for state in [PresenceState::Busy, PresenceState::Away, PresenceState::Online] {
        show(&mut bob, state).await;
        check(&hear(&mut alice).await, "bob", state);
    }
    // Who asks only now is told at once.
    let mut carol = Client::login(one.address, "carol", "phone").await;
    watch(&mut carol, &["bob"]).await;
    check(&hear(&mut carol).await, "bob", PresenceState::Online);
    bob.say(&Frame::Bye(Bye {})).await;
    let presence = hear(&mut alice).await;
    check(&presence, "bob", PresenceState::Offline);
    assert!((begun..=unix_now()).contains(&presence.last_seen), "{presence:?}");
    check(&hear(&mut carol).await, "bob", PresenceState::Offline);
    watch(&mut carol, &["bob"]).await;
    assert_eq!(hear(&mut carol).await, presence, "who left when is known here, too");
    assert!(metric(&one, "warbler_im_presence_lag_seconds_count").await >= 5.0);
}

#[tokio::test]
async fn the_best_of_a_users_sessions_at_all_processes_counts() {
    let (one, two, _data) = two().await;
    let mut alice = watcher(&one, &["bob"]).await;
    let mut laptop = Client::login(two.address, "bob", "laptop").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    show(&mut laptop, PresenceState::Away).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Away);
    let mut phone = Client::login(one.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    show(&mut phone, PresenceState::Busy).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Busy);
    drop(phone);
    check(&hear(&mut alice).await, "bob", PresenceState::Away);
    show(&mut laptop, PresenceState::Online).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    drop(laptop);
    check(&hear(&mut alice).await, "bob", PresenceState::Offline);
}

#[tokio::test]
async fn who_does_not_want_to_be_seen_is_seen_nowhere() {
    let (one, two, _data) = two().await;
    let mut alice = watcher(&one, &["carol", "dave"]).await;
    let mut bob = Client::login(two.address, "bob", "phone").await;
    show(&mut bob, PresenceState::Offline).await;
    // What comes after it has been heard, so it has been, too.
    bob.send("room:a", 1, b"x").await;
    let _carol = Client::login(two.address, "carol", "phone").await;
    check(&hear(&mut alice).await, "carol", PresenceState::Online);
    watch(&mut alice, &["bob", "dave"]).await;
    let hidden = hear(&mut alice).await;
    check(&hidden, "bob", PresenceState::Offline);
    check(&hear(&mut alice).await, "dave", PresenceState::Offline);

    // Nor does the end of a session show that the user was there.
    bob.say(&Frame::Bye(Bye {})).await;
    assert_eq!(bob.closed().await, 1000);
    let _dave = Client::login(two.address, "dave", "phone").await;
    check(&hear(&mut alice).await, "dave", PresenceState::Online);
    watch(&mut alice, &["bob"]).await;
    assert_eq!(hear(&mut alice).await, hidden);
}

#[tokio::test]
async fn the_users_of_a_killed_process_are_offline_when_its_lease_is_over() {
    let (one, two, _data) = two().await;
    let mut alice = watcher(&one, &["bob"]).await;
    let _bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    let (killed, begun) = (unix_now(), Instant::now());
    two.kill_9().await;
    let presence = hear_late(&mut alice).await;
    check(&presence, "bob", PresenceState::Offline);
    assert!(begun.elapsed() >= LEASE_AT_LEAST, "{:?}", begun.elapsed());
    assert!(presence.last_seen <= killed, "{presence:?}: seen no longer than it could be known");
}

#[tokio::test]
async fn a_process_that_was_stopped_for_long_is_believed_again() {
    let (one, two, _data) = two().await;
    let mut alice = watcher(&one, &["bob"]).await;
    let _bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    two.signal(Signal::STOP);
    check(&hear_late(&mut alice).await, "bob", PresenceState::Offline);
    two.signal(Signal::CONT);
    check(&hear_late(&mut alice).await, "bob", PresenceState::Online);
}

#[tokio::test]
async fn the_users_of_a_process_that_drains_or_stops_are_offline_at_once() {
    let (one, mut two, data) = two().await;
    let mut alice = watcher(&one, &["bob", "carol"]).await;
    let _bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    let begun = Instant::now();
    assert_eq!(two.post("/admin/drain", "").await.status, 202);
    check(&hear(&mut alice).await, "bob", PresenceState::Offline);
    assert!(begun.elapsed() < LEASE_AT_LEAST, "{:?}", begun.elapsed());
    two.signal(Signal::TERM);
    assert_eq!(two.ended().await.code(), Some(0));

    let mut two = Im::start(data.path(), &["--drain-deadline", "0s"]).await;
    let _carol = Client::login(two.address, "carol", "phone").await;
    check(&hear(&mut alice).await, "carol", PresenceState::Online);
    let begun = Instant::now();
    two.signal(Signal::TERM);
    check(&hear(&mut alice).await, "carol", PresenceState::Offline);
    assert!(begun.elapsed() < LEASE_AT_LEAST, "{:?}", begun.elapsed());
    assert_eq!(two.ended().await.code(), Some(0));
}

#[tokio::test]
async fn who_left_when_is_known_after_all_have_stopped() {
    let (mut one, mut two, data) = two().await;
    let mut alice = watcher(&one, &["bob"]).await;
    let bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    drop(bob);
    let left = hear(&mut alice).await;
    for im in [&mut one, &mut two] {
        im.signal(Signal::TERM);
        im.ended().await;
    }
    let one = Im::start(data.path(), &[]).await;
    let mut alice = Client::login(one.address, "alice", "phone").await;
    eventually("it is known when bob left", async || {
        watch(&mut alice, &["bob"]).await;
        (hear(&mut alice).await == left).then_some(())
    })
    .await;
}

/// Crowds come back after an outage. One transaction each would keep the file busy for all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_logs_in_is_told_in_few_transactions() {
    const CROWD: usize = 1000;
    let (one, two, _data) = two().await;
    let users: Vec<_> = (0..CROWD).map(|user| format!("user{user:03}")).collect();
    let watched: Vec<_> = users.iter().rev().take(256).map(String::as_str).rev().collect();
    let mut alice = watcher(&one, &watched).await;
    let (before, begun) = (metric(&two, "warbler_im_presence_writes_total").await, Instant::now());
    let log_in = |user| Client::login(two.address, user, "phone");
    let crowd: Vec<_> = stream::iter(&users).map(|user| log_in(user)).buffer_unordered(64).collect().await;
    // A push may be lost when so many come at once; who wants to be sure asks again.
    eventually("everybody is seen", async || {
        seen(&mut alice, &watched).await.values().all(|state| *state == PresenceState::Online).then_some(())
    })
    .await;
    let writes = metric(&two, "warbler_im_presence_writes_total").await - before;
    assert!(writes <= 2.0 + 5.0 * begun.elapsed().as_secs_f64(), "{writes} in {:?}", begun.elapsed());
    assert!(writes < 200.0, "{writes} for {CROWD} logins in {:?}", begun.elapsed());
    drop(crowd);
}

#[tokio::test]
async fn without_a_board_messages_go_on_and_presence_is_that_of_the_process() {
    let data = TempDir::new().unwrap();
    let file = data.path().join("presence.db");
    // Even who may do everything cannot open this.
    fs::create_dir(&file).unwrap();
    let (one, two) = both(data.path()).await;
    let mut alice = Client::login(one.address, "alice", "phone").await;
    let mut bob = Client::login(two.address, "bob", "phone").await;
    eventually("it is counted", async || {
        (metric(&one, "warbler_im_presence_failures_total").await >= 2.0).then_some(())
    })
    .await;
    alice.send("dm:alice:bob", 1, b"over there").await;
    assert_eq!(&bob.hear_msg().await.body[..], b"over there");
    assert_eq!(one.get("/readyz").await.status, 200);
    watch(&mut alice, &["carol"]).await;
    check(&hear(&mut alice).await, "carol", PresenceState::Offline);
    let _carol = Client::login(one.address, "carol", "phone").await;
    check(&hear(&mut alice).await, "carol", PresenceState::Online);

    // As soon as there can be one, everybody is known.
    watch(&mut alice, &["bob"]).await;
    check(&hear(&mut alice).await, "bob", PresenceState::Offline);
    fs::remove_dir(&file).unwrap();
    check(&hear(&mut alice).await, "bob", PresenceState::Online);

    // And when there is none again, what was heard does not hold for ever.
    eventually("the file is gone before a new one is there", async || {
        fs::remove_file(&file).ok();
        fs::create_dir(&file).ok()
    })
    .await;
    check(&hear_late(&mut alice).await, "bob", PresenceState::Offline);
    alice.send("dm:alice:bob", 2, b"still there").await;
    assert_eq!(&bob.hear_msg().await.body[..], b"still there");
}

#[tokio::test]
async fn a_board_that_is_damaged_or_removed_is_made_anew() {
    let data = TempDir::new().unwrap();
    fs::write(data.path().join("presence.db"), "not a database ".repeat(500)).unwrap();
    let (one, two) = both(data.path()).await;
    let mut alice = watcher(&one, &["bob", "carol"]).await;
    let _bob = Client::login(two.address, "bob", "phone").await;
    check(&hear(&mut alice).await, "bob", PresenceState::Online);
    // Both meet again in a new file, whoever of them is first; until then each may see nobody elsewhere.
    fs::remove_file(data.path().join("presence.db")).unwrap();
    eventually("there is a new file", async || data.path().join("presence.db").exists().then_some(())).await;
    let _carol = Client::login(two.address, "carol", "phone").await;
    eventually("both are seen", async || {
        seen(&mut alice, &["bob", "carol"]).await.values().all(|state| *state == PresenceState::Online).then_some(())
    })
    .await;
}
