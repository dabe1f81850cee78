//! SIGTERM, SIGINT, and how everybody leaves.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bench::harness::{EchoTcp, HttpStub, RawClient, Signal, WsEcho, eventually, http, ws};
use futures_util::StreamExt;

use crate::edge::{Edge, SOON};
use crate::ends::{RawEndpoint, cluster, echo_client, echoes, read_frame, tcp_edge, web_edge};

/// Waits for the end of the process and checks what it leaves behind: its code, no socket.
async fn ended(edge: &mut Edge, code: i32) -> ExitStatus {
    let status = edge.process.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(code), "{}", edge.process.last_lines());
    assert!(!edge.socket().exists(), "the admin socket is removed");
    status
}

fn stop(grace: &str, deadline: &str, close_wait: &str) -> String {
    format!("\n[stop]\ngrace = \"{grace}\"\ndeadline = \"{deadline}\"\n\n[drain]\nclose-wait = \"{close_wait}\"\n")
}

#[tokio::test]
async fn sigterm_fails_readyz_at_once_serves_on_for_the_grace_and_then_everybody_leaves() {
    let (raw, web) = (EchoTcp::start().await.unwrap(), WsEcho::start().await.unwrap());
    let config = format!(
        "{}\n[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"web\"\n\n{}{}",
        tcp_edge("", &[raw.address()]),
        cluster("web", "", &[web.address()]),
        stop("2s", "20s", "5s")
    );
    let mut edge = Edge::start(&config).await;
    assert_eq!(edge.get("/readyz").await.status, 200);
    let mut old = echo_client(edge.address("im")).await;
    let mut socket = ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
    let began = Instant::now();
    edge.process.signal(Signal::TERM).unwrap();
    let unready = async || (edge.get("/readyz").await.status == 503).then_some(());
    eventually(Duration::from_millis(1500), "readyz fails", unready).await.unwrap();
    assert_eq!(edge.get("/healthz").await.status, 200);
    assert_eq!(edge.count("warbler_stopping", &[]).await, 1);
    // Whoever comes in the grace is served.
    let mut late = echo_client(edge.address("im")).await;
    echoes(&mut old, b"still here").await;
    let (code, (), ()) = tokio::join!(
        async {
            let close = socket.next().await.unwrap().unwrap();
            while socket.next().await.is_some() {}
            close.as_close().map(|(code, _)| u16::from(code))
        },
        async { old.expect_eof().await.unwrap() },
        async { late.expect_eof().await.unwrap() },
    );
    assert_eq!(code, Some(1012));
    assert!(began.elapsed() >= Duration::from_millis(1900), "the grace was kept: {:?}", began.elapsed());
    assert!(RawClient::connect(edge.address("im")).await.is_err(), "the port is closed before anybody is asked");
    drop((old, late));
    ended(&mut edge, 0).await;
    let lines = edge.wait_for_lines(3).await;
    assert!(lines.iter().all(|line| line["outcome"] == "left" && line["leave_reason"] == "stop"), "{lines:#?}");
    assert_eq!(web.closes(), [Some(1012)]);
}

#[tokio::test]
async fn who_has_not_left_by_the_deadline_is_cut_and_listed_and_the_exit_code_is_1() {
    let endpoint = EchoTcp::start().await.unwrap();
    let mut edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + &stop("0s", "1s", "30s"))).await;
    let mut stubborn = echo_client(edge.address("im")).await;
    edge.process.signal(Signal::TERM).unwrap();
    stubborn.expect_eof().await.unwrap();
    ended(&mut edge, 1).await;
    let listed = edge.process.wait_for_log("cut at the stop deadline", SOON).await.unwrap();
    assert!(listed.contains(&endpoint.address().to_string()), "{listed}");
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["leave_reason"]), (&"cut".into(), &"stop".into()), "{lines:#?}");
    eventually(SOON, "the endpoint's end", async || (endpoint.open() == 0).then_some(())).await.unwrap();
}

#[tokio::test]
async fn a_second_sigterm_and_sigint_end_it_at_once() {
    let endpoint = EchoTcp::start().await.unwrap();
    // In the grace, and while everybody leaves; a second SIGTERM, SIGINT after SIGTERM, SIGINT alone.
    for (grace, first, second) in [
        ("60s", Some(Signal::TERM), Signal::TERM),
        ("60s", Some(Signal::TERM), Signal::INT),
        ("0s", Some(Signal::TERM), Signal::TERM),
        ("0s", Some(Signal::TERM), Signal::INT),
        ("60s", None, Signal::INT),
    ] {
        let mut edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + &stop(grace, "2m", "1m"))).await;
        let mut client = echo_client(edge.address("im")).await;
        if let Some(first) = first {
            edge.process.signal(first).unwrap();
            edge.process.wait_for_log("stopping", SOON).await.unwrap();
            if grace == "0s" {
                client.expect_eof().await.unwrap();
            }
        }
        let began = Instant::now();
        edge.process.signal(second).unwrap();
        ended(&mut edge, 1).await;
        assert!(began.elapsed() < Duration::from_secs(10), "at once");
        let lines = edge.wait_for_lines(1).await;
        assert_eq!((&lines[0]["outcome"], &lines[0]["leave_reason"]), (&"cut".into(), &"stop".into()), "{lines:#?}");
    }
}

#[tokio::test]
async fn an_edge_without_clients_stops_with_0_on_either_signal() {
    let endpoint = EchoTcp::start().await.unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let mut edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + &stop("0s", "20s", "5s"))).await;
        edge.process.signal(signal).unwrap();
        ended(&mut edge, 0).await;
    }
}

#[tokio::test]
async fn idle_http_connections_close_and_a_request_in_flight_gets_its_answer() {
    use bench::harness::Action;
    let endpoint = HttpStub::scripted("slow", |head| {
        let pause = if head.starts_with(b"GET /slow") { Duration::from_secs(2) } else { Duration::ZERO };
        vec![Action::Pause(pause), Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())]
    })
    .await
    .unwrap();
    let mut edge = Edge::start(&(web_edge("", &[endpoint.address()]) + &stop("0s", "20s", "5s"))).await;
    let mut idle = RawClient::connect(edge.address("web")).await.unwrap();
    idle.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(http::read_answer(&mut idle, "GET").await.unwrap().status, 200);
    let silent = RawClient::connect(edge.address("web")).await.unwrap();
    let mut busy = RawClient::connect(edge.address("web")).await.unwrap().with_patience(SOON);
    busy.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually(SOON, "the slow request", async || (endpoint.requests() == 2).then_some(())).await.unwrap();
    edge.process.signal(Signal::TERM).unwrap();
    idle.expect_eof().await.unwrap();
    { silent }.expect_eof().await.unwrap();
    let answer = http::read_answer(&mut busy, "GET").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    busy.expect_eof().await.unwrap();
    ended(&mut edge, 0).await;
    let lines = edge.access_lines();
    let answered = lines.iter().filter(|line| line["kind"] == "request" && line["outcome"] == "answered");
    assert_eq!(answered.count(), 2, "{lines:#?}");
}

#[tokio::test]
async fn a_stop_asks_at_the_pace_of_the_drain_rate() {
    let endpoint = EchoTcp::start().await.unwrap();
    let config = tcp_edge("", &[endpoint.address()]);
    let config = format!("{config}\n[stop]\ngrace = \"0s\"\ndeadline = \"1m\"\n\n[drain]\nrate = \"20/s\"\n");
    let mut edge = Edge::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(echo_client(edge.address("im")).await);
    }
    let began = Instant::now();
    edge.process.signal(Signal::TERM).unwrap();
    for mut client in clients {
        client.expect_eof().await.unwrap();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1250), "30 at 20/s are not asked in {took:?}");
    ended(&mut edge, 0).await;
    edge.wait_for_lines(30).await;
}

/// The deadline counts more than the pace: everybody is asked in time to leave in order.
#[tokio::test]
async fn a_near_deadline_makes_the_pace_faster() {
    let endpoint = EchoTcp::start().await.unwrap();
    let config = tcp_edge("", &[endpoint.address()]);
    let config = format!("{config}\n[stop]\ngrace = \"0s\"\ndeadline = \"5s\"\n\n[drain]\nrate = \"1/s\"\n");
    let mut edge = Edge::start(&config).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = echo_client(edge.address("im")).await;
        clients.spawn(async move { client.expect_eof().await });
    }
    edge.process.signal(Signal::TERM).unwrap();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap().expect("asked, not cut");
    }
    ended(&mut edge, 0).await;
}

#[tokio::test]
async fn a_reload_that_is_asked_for_during_a_stop_is_answered_and_does_nothing() {
    let endpoint = RawEndpoint::bind().await;
    let mut edge = Edge::start(&(tcp_edge("", &[endpoint.address()]) + &stop("60s", "2m", "5s"))).await;
    edge.process.signal(Signal::TERM).unwrap();
    edge.process.wait_for_log("stopping", SOON).await.unwrap();
    assert_eq!(edge.ask_reload().await.status, 503);
    edge.process.signal(Signal::INT).unwrap();
    ended(&mut edge, 0).await;
}

#[tokio::test]
async fn a_client_that_never_answers_at_a_stop_is_closed_after_its_time_and_the_exit_code_is_0() {
    let endpoint = RawEndpoint::bind().await;
    let mut edge = Edge::start(&(web_edge("", &[endpoint.address()]) + &stop("0s", "20s", "1s"))).await;
    let (mut client, mut upstream) = endpoint.websocket(edge.address("web")).await;
    edge.process.signal(Signal::TERM).unwrap();
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1012));
    assert_eq!(read_frame(&mut upstream).await.close_code(), Some(1012));
    client.expect_eof().await.unwrap();
    ended(&mut edge, 0).await;
}
