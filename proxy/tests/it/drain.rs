//! An endpoint that a reload removes: who is asked to leave, how fast, and what happens when it comes back.

use std::time::{Duration, Instant};

use bench::harness::{EchoTcp, eventually};

use crate::edge::{Edge, SOON};
use crate::ends::{RawEndpoint, SWITCHING, echo_client, echoes, read_frame, tcp_edge, web_edge};

const SLOWLY: &str = "\n[drain]\nrate = \"20/s\"\nclose-wait = \"1s\"\n";

#[tokio::test]
async fn the_tunnels_of_a_removed_endpoint_leave_at_the_pace_and_the_others_stay() {
    let (stays, goes) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let both = tcp_edge("", &[stays.address(), goes.address()]) + SLOWLY;
    let both = both.replace("health.off = true", "health.off = true\npolicy = \"round-robin\"");
    let one = both.replace(&format!(", {{ address = \"{}\" }}", goes.address()), "");
    let edge = Edge::start(&both).await;
    let mut clients = Vec::new();
    // Two workers have a turn each, so the shares are even within one.
    while goes.open() < 30 {
        clients.push(echo_client(edge.address("im")).await);
    }
    let staying = stays.open();
    let began = Instant::now();
    edge.reload(&one).await;
    let leaving = edge.endpoint(goes.address()).await;
    assert_eq!(leaving["standing"], "draining", "{leaving}");
    let half = async || (goes.open() <= 15).then(|| began.elapsed());
    let half = eventually(SOON, "half of them gone", half).await.unwrap();
    assert!(half >= Duration::from_millis(550), "15 at 20/s are not asked in {half:?}");
    // New ones go to the other one only.
    let accepted = goes.accepted();
    let mut newcomers = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    eventually(SOON, "all of them gone", async || (goes.open() == 0).then_some(())).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1250), "30 at 20/s are not asked in {took:?}");
    assert_eq!((goes.accepted(), stays.open()), (accepted, staying + 2));
    for client in &mut newcomers {
        echoes(client, b"still here").await;
    }
    let lines = edge.wait_for_lines(30).await;
    assert!(lines.iter().all(|line| line["outcome"] == "left" && line["leave_reason"] == "endpoint-removed"));
    // Nobody uses it, nobody names it: it is forgotten.
    let forgotten = async || edge.endpoint(goes.address()).await.is_null().then_some(());
    eventually(SOON, "the endpoint forgotten", forgotten).await.unwrap();
    drop(clients);
}

/// Whoever was not asked yet stays: the reason to leave is gone.
#[tokio::test]
async fn an_endpoint_that_comes_back_before_all_have_left_keeps_the_rest_and_gets_new_ones() {
    let (endpoint, other) = (EchoTcp::start().await.unwrap(), RawEndpoint::bind().await);
    let rate = "\n[drain]\nrate = \"5/s\"\nclose-wait = \"1s\"\n";
    let edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + rate)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(echo_client(edge.address("im")).await);
    }
    edge.reload(&(tcp_edge("", &[other.address()]) + rate)).await;
    let asked = async || (edge.count("warbler_asked_to_leave_total", &[]).await > 0).then_some(());
    eventually(SOON, "the first one asked", asked).await.unwrap();
    edge.reload(&(tcp_edge("", &[endpoint.address()]) + rate)).await;
    edge.wait_for_standing(endpoint.address(), "up").await;
    let _newcomer = echo_client(edge.address("im")).await;
    // Two rounds of the pacer, in which nobody may be asked, are what is tested here.
    let asked = edge.count("warbler_asked_to_leave_total", &[]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(edge.count("warbler_asked_to_leave_total", &[]).await <= asked + 1, "the order is withdrawn");
    eventually(SOON, "who was asked is gone", async || {
        let asked = edge.count("warbler_asked_to_leave_total", &[]).await;
        (endpoint.open() == 21 - asked).then_some(())
    })
    .await
    .unwrap();
    assert!(endpoint.open() >= 10, "the rest stays: {}", endpoint.open());
}

/// Every reload finds the endpoint still leaving; that is no reason to ask its clients again.
#[tokio::test]
async fn reloads_while_an_endpoint_drains_ask_nobody_twice() {
    let (endpoint, other) = (EchoTcp::start().await.unwrap(), RawEndpoint::bind().await);
    let edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + SLOWLY)).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(echo_client(edge.address("im")).await);
    }
    for number in 1..=5 {
        let extra = format!("max-connections = {}", 1000 + number);
        edge.reload(&(tcp_edge(&extra, &[other.address()]) + SLOWLY)).await;
    }
    eventually(SOON, "all of them gone", async || (endpoint.open() == 0).then_some(())).await.unwrap();
    edge.wait_for_lines(30).await;
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[("reason", "endpoint-removed")]).await, 30);
}

/// It was picked while it was still there, and agrees when nobody looks for its tunnels any more.
#[tokio::test]
async fn a_tunnel_that_opens_after_its_endpoint_was_removed_is_asked_to_leave_too() {
    let (endpoint, other) = (RawEndpoint::bind().await, RawEndpoint::bind().await);
    let edge = Edge::start(&web_edge("", &[endpoint.address()])).await;
    let (mut client, mut upstream) = endpoint.asked_websocket(edge.address("web")).await;
    edge.reload(&web_edge("", &[other.address()])).await;
    edge.process.wait_for_log("asking connections to leave", SOON).await.unwrap();
    // Longer than the pacer looks for somebody to ask: what comes later is what is tested.
    tokio::time::sleep(Duration::from_millis(300)).await;
    upstream.send(SWITCHING).await.unwrap();
    client.read_until(b"\r\n\r\n").await.unwrap();
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1012));
}
