//! What Prometheus sees, and that docs/protocol.md names all of it.

use std::collections::BTreeSet;

use backend::frame::{Bye, Frame};
use tempfile::TempDir;

use crate::{
    process::{Im, eventually},
    ws::{Client, send, token},
};

async fn start() -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), &[]).await, data)
}

/// The value of a series, named as on the page.
async fn value(im: &Im, series: &str) -> Option<f64> {
    let page = im.get("/metrics").await.body;
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

async fn check(im: &Im, series: &str, want: f64) {
    eventually(&format!("{series} is {want}"), async || (value(im, series).await == Some(want)).then_some(())).await;
}

#[tokio::test]
async fn what_happens_is_counted() {
    let (im, _data) = start().await;
    check(&im, r#"warbler_im_logins_total{result="ok"}"#, 0.0).await;
    check(&im, r#"warbler_im_refusals_total{code="too_fast"}"#, 0.0).await;
    let mut alice = Client::connect(im.address).await;
    let session = alice.log_in("alice", "phone").await.session_id;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut mallory = Client::connect(im.address).await;
    mallory.say_login(token("mallory", -3600), "phone").await;
    assert_eq!(mallory.closed().await, 4001);
    check(&im, "warbler_im_sessions", 2.0).await;
    check(&im, "warbler_im_connections", 2.0).await;
    check(&im, "warbler_im_draining", 0.0).await;
    check(&im, r#"warbler_im_logins_total{result="ok"}"#, 2.0).await;
    check(&im, r#"warbler_im_logins_total{result="token_expired"}"#, 1.0).await;
    check(&im, r#"warbler_im_closes_total{code="4001"}"#, 1.0).await;

    alice.send("dm:alice:bob", 1, b"hello").await;
    alice.send("dm:alice:bob", 1, b"hello").await;
    assert_eq!(bob.hear_msg().await.seq, 1);
    alice.say(&send("dm:bob:carol", 1, b"x")).await;
    assert!(matches!(alice.hear().await, Frame::SendErr(_)));
    bob.read("dm:bob:carol:dave", 1).await;
    assert!(matches!(bob.hear().await, Frame::Refused(_)));
    check(&im, r#"warbler_im_requests_total{frame="send"}"#, 3.0).await;
    check(&im, r#"warbler_im_acks_total{result="stored"}"#, 1.0).await;
    check(&im, r#"warbler_im_acks_total{result="duplicate"}"#, 1.0).await;
    check(&im, r#"warbler_im_refusals_total{code="not_a_member"}"#, 1.0).await;
    check(&im, r#"warbler_im_refusals_total{code="conv_invalid"}"#, 1.0).await;
    check(&im, "warbler_im_pushes_total", 1.0).await;
    check(&im, "warbler_im_pushes_dropped_total", 0.0).await;
    assert!(value(&im, "warbler_im_commit_duration_seconds_count").await.unwrap() >= 2.0);
    assert!(value(&im, "warbler_im_commit_batch_size_sum").await.unwrap() >= 2.0);
    check(&im, "warbler_im_commit_failures_total", 0.0).await;
    assert!(value(&im, "warbler_im_store_bytes").await.unwrap() > 4096.0);

    drop(alice);
    check(&im, "warbler_im_sessions", 1.0).await;
    let mut alice = Client::connect(im.address).await;
    alice.resume("alice", "phone", &session).await;
    check(&im, r#"warbler_im_logins_total{result="resumed"}"#, 1.0).await;
    alice.say(&Frame::Bye(Bye {})).await;
    assert_eq!(alice.closed().await, 1000);
    check(&im, r#"warbler_im_closes_total{code="1000"}"#, 1.0).await;
    check(&im, r#"warbler_im_closes_total{code="gone"}"#, 1.0).await;
}

#[tokio::test]
async fn the_page_and_the_documentation_name_the_same_metrics() {
    let (im, _data) = start().await;
    let answer = im.get("/metrics").await;
    assert!(answer.head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{}", answer.head);
    // A label without a value yet has no series and no name on the page.
    let mut client = Client::connect(im.address).await;
    client.say(&Frame::Bye(Bye {})).await;
    client.closed().await;
    check(&im, r#"warbler_im_closes_total{code="1000"}"#, 1.0).await;
    let page = im.get("/metrics").await.body;
    let told: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let told: BTreeSet<_> = told.into_iter().filter(|name| name.starts_with("warbler_im_")).collect();
    let documented: BTreeSet<_> = include_str!("../../../docs/protocol.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `warbler_im_")?.split(['`', '{']).next())
        .collect();
    let told: BTreeSet<_> = told.iter().filter_map(|name| name.strip_prefix("warbler_im_")).collect();
    assert_eq!(told, documented);
    assert_eq!(im.post("/metrics", "").await.status, 405);
}
