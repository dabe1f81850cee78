//! Sessions that are asked to go elsewhere: by an operator, and when the process stops.

use std::time::{Duration, Instant};

use backend::frame::{Bye, Frame, Reconnect};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    process::{Im, request},
    ws::Client,
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

async fn users(im: &Im, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for user in 0..count {
        clients.push(Client::login(im.address, &format!("user{user}"), "phone").await);
    }
    clients
}

async fn hear_reconnect(client: &mut Client) -> Reconnect {
    match client.hear().await {
        Frame::Reconnect(reconnect) => reconnect,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_drain_tells_everybody_and_leaves_the_process_running_without_them() {
    let (im, _data) = start(&["--admin"]).await;
    let mut clients = users(&im, 5).await;
    let begun = im.post("/admin/drain?rate=1000&deadline=1h", "").await;
    assert_eq!((begun.status, &begun.json()["sessions"], &begun.json()["rate"]), (202, &5.into(), &1000.into()));
    assert_eq!(im.post("/admin/drain", "").await.status, 409);
    for client in &mut clients {
        let hint = hear_reconnect(client).await;
        assert_eq!((hint.reason.as_str(), hint.after_ms, hint.spread_ms), ("drain", 0, 1000));
        assert!(!hint.resume_ok && (3_000_000..=3_600_000).contains(&hint.deadline_ms), "{hint:?}");
        client.say(&Frame::Bye(Bye {})).await;
        assert_eq!(client.closed().await, 1000);
    }
    assert_eq!(im.get("/healthz").await.status, 200);
    assert_eq!(im.get("/readyz").await.json()["reasons"][0], "draining");
    let upgrade = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: im.v1\r\nConnection: close\r\n\r\n";
    assert_eq!(request(im.address, upgrade).await.status, 503);
}

#[tokio::test]
async fn a_drain_closes_who_stays_at_its_deadline() {
    let (im, _data) = start(&["--admin"]).await;
    let mut clients = users(&im, 3).await;
    assert_eq!(im.post("/admin/drain?deadline=1s", "").await.status, 202);
    for client in &mut clients {
        assert_eq!(client.closed().await, 1012);
    }
    assert_eq!(im.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn sessions_are_told_one_after_the_other_and_served_until_they_leave() {
    let (im, _data) = start(&["--admin"]).await;
    let mut clients = users(&im, 3).await;
    let begun = Instant::now();
    assert_eq!(im.post("/admin/drain?rate=2&deadline=1h", "").await.status, 202);
    // At half a second each the last one is told after a whole one, never earlier.
    for client in &mut clients {
        hear_reconnect(client).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    clients[0].send("room:a", 1, b"still served").await;
    for client in &mut clients {
        client.say(&Frame::Bye(Bye {})).await;
        assert_eq!(client.closed().await, 1000);
    }
}

#[tokio::test]
async fn a_drain_waits_for_those_who_look_at_readyz() {
    let (im, _data) = start(&["--admin", "--stop-grace", "1h"]).await;
    let mut clients = users(&im, 1).await;
    assert_eq!(im.post("/admin/drain?deadline=0s", "").await.status, 202);
    assert_eq!(im.get("/readyz").await.status, 503);
    // Neither told nor closed: the answer to what it says is the next thing that it hears.
    clients[0].send("room:a", 1, b"still served").await;
}

#[tokio::test]
async fn a_wrong_drain_is_refused_with_a_reason_and_without_the_flag_there_is_none() {
    let (im, _data) = start(&["--admin"]).await;
    for (query, reason) in [("rate=0", "rate `0`"), ("deadline=60", "deadline `60`"), ("speed=9", "`speed=9`")] {
        let answer = im.post(&format!("/admin/drain?{query}"), "").await;
        assert!(answer.status == 400 && answer.body.contains(reason), "{}", answer.body);
    }
    assert_eq!(im.get("/admin/drain").await.status, 405);
    assert_eq!(im.get("/readyz").await.status, 200, "nothing has begun");
    assert_eq!(im.post("/admin/fault", "{}").await.status, 404, "faults have a flag of their own");
    let (im, _data) = start(&["--faults"]).await;
    assert_eq!(im.post("/admin/drain", "").await.status, 404);
}

#[tokio::test]
async fn sigterm_asks_sessions_to_leave_and_ends_when_they_have() {
    let (mut im, _data) = start(&["--drain-deadline", "1h"]).await;
    let mut clients = users(&im, 3).await;
    im.signal(Signal::TERM);
    for client in &mut clients {
        let hint = hear_reconnect(client).await;
        assert!((3_000_000..=3_600_000).contains(&hint.deadline_ms), "{hint:?}");
        client.say(&Frame::Bye(Bye {})).await;
        assert_eq!(client.closed().await, 1000);
    }
    assert_eq!(im.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_closes_who_stays_at_the_deadline() {
    let (mut im, _data) = start(&["--drain-deadline", "1s"]).await;
    let mut clients = users(&im, 3).await;
    im.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.closed().await, 1012);
    }
    assert_eq!(im.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_during_a_drain_does_not_wait_for_it() {
    let (mut im, _data) = start(&["--admin", "--drain-deadline", "0s"]).await;
    let mut clients = users(&im, 1).await;
    assert_eq!(im.post("/admin/drain?deadline=1h", "").await.status, 202);
    hear_reconnect(&mut clients[0]).await;
    im.signal(Signal::TERM);
    assert_eq!(clients[0].closed().await, 1012);
    assert_eq!(im.ended().await.code(), Some(0));
}
