//! Limits: connections, deadlines of every step before a request, sizes, descriptors.

use std::time::{Duration, Instant};

use bench::harness::{EchoTcp, HttpStub, RawClient, eventually, http, proxy_header};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::edge::{Edge, SOON};
use crate::ends::{echo_client, echoes, tcp_edge, web_edge};
use crate::tcp::{CERTIFICATE, with_certificate};

/// A client that is let in by the kernel and turned away by the edge.
async fn turned_away(edge: &Edge, listener: &str) {
    let Ok(mut client) = RawClient::connect(edge.address(listener)).await else { return };
    if let Ok(bytes) = client.read_to_end().await {
        assert_eq!(bytes, b"");
    }
}

#[tokio::test]
async fn connections_over_the_limit_of_a_listener_are_refused_and_counted() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("max-connections = 2", &[endpoint.address()])).await;
    let mut first = echo_client(edge.address("im")).await;
    let second = echo_client(edge.address("im")).await;
    turned_away(&edge, "im").await;
    edge.wait_for_count(
        "warbler_connections_refused_total",
        &[("listener", "im"), ("reason", "listener-max-connections")],
        1,
    )
    .await;
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((&line["kind"], &line["outcome"]), (&"connection".into(), &"refused".into()), "{line}");
    assert_eq!((&line["listener"], &line["detail"]), (&"im".into(), &"listener-max-connections".into()), "{line}");
    echoes(&mut first, b"still here").await;
    drop(second);
    edge.wait_for_count("warbler_connections", &[("listener", "im")], 1).await;
    let _third = echo_client(edge.address("im")).await;
    // The limit is live.
    edge.reload(&tcp_edge("max-connections = 3", &[endpoint.address()])).await;
    let _fourth = echo_client(edge.address("im")).await;
    assert_eq!(edge.count("warbler_connections_total", &[("listener", "im")]).await, 5);
}

#[tokio::test]
async fn connections_over_the_limit_in_all_are_refused_and_counted() {
    let endpoint = EchoTcp::start().await.unwrap();
    let two = |config: &str| {
        let more = "[listeners.more]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        format!("{config}\n{more}\n[edge]\nworkers = 2\nmax-connections = 2\n")
    };
    let edge = Edge::start(&two(&tcp_edge("", &[endpoint.address()]))).await;
    assert_eq!(edge.count("warbler_max_connections", &[]).await, 2);
    let _both = [echo_client(edge.address("im")).await, echo_client(edge.address("more")).await];
    turned_away(&edge, "im").await;
    turned_away(&edge, "more").await;
    for listener in ["im", "more"] {
        let labels = [("listener", listener), ("reason", "max-connections")];
        edge.wait_for_count("warbler_connections_refused_total", &labels, 1).await;
    }
    // The admin side is not a client.
    assert_eq!(edge.status().await["connections"], 2);
}

#[tokio::test]
async fn a_proxy_header_has_a_deadline_and_must_be_one() {
    let endpoint = EchoTcp::start().await.unwrap();
    let config = tcp_edge("proxy-protocol = true\ntimeouts.proxy-header = \"300ms\"", &[endpoint.address()]);
    let edge = Edge::start(&format!("{config}\n[edge]\nworkers = 1\ntrusted-proxies = [\"127.0.0.1\"]\n")).await;
    let began = Instant::now();
    let mut slow = RawClient::connect(edge.address("im")).await.unwrap();
    slow.send(b"PROXY TCP4 203.0.113.7 ").await.unwrap();
    slow.expect_eof().await.or_else(|error| format!("{error:#}").contains("reset").then_some(()).ok_or(error)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(250));
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((&line["kind"], &line["outcome"]), (&"connection".into(), &"too-slow".into()), "{line}");

    let mut wrong = RawClient::connect(edge.address("im")).await.unwrap();
    wrong.send(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(wrong.read_to_end().await.unwrap_or_default().is_empty());
    assert_eq!(edge.wait_for_lines(2).await[1]["outcome"], "bad-proxy-header");

    let stranger = RawClient::connect_from("127.0.0.2".parse().unwrap(), edge.address("im")).await;
    assert!(stranger.unwrap().read_to_end().await.unwrap_or_default().is_empty());
    assert_eq!(edge.wait_for_lines(3).await[2]["outcome"], "bad-proxy-header");
    assert_eq!(edge.count("warbler_connections_refused_total", &[("reason", "untrusted-proxy")]).await, 1);

    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(&proxy_header::v1("203.0.113.7:4000".parse().unwrap(), edge.address("im"))).await.unwrap();
    echoes(&mut client, b"hello").await;
    drop(client);
    let line = edge.wait_for_lines(4).await.remove(3);
    assert_eq!((&line["client"], &line["outcome"]), (&"203.0.113.7:4000".into(), &"client-closed".into()));
}

#[tokio::test]
async fn a_tls_handshake_has_a_deadline() {
    let endpoint = EchoTcp::start().await.unwrap();
    let (workspace, _ca) = with_certificate();
    let extra = format!("{CERTIFICATE}\ntimeouts.tls-handshake = \"2s\"");
    let edge = Edge::start_in(workspace, &tcp_edge(&extra, &[endpoint.address()])).await;
    let began = Instant::now();
    let mut silent = RawClient::connect(edge.address("im")).await.unwrap();
    silent.expect_eof().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1900));
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((&line["kind"], &line["outcome"]), (&"connection".into(), &"too-slow".into()), "{line}");
    let mut wrong = RawClient::connect(edge.address("im")).await.unwrap();
    wrong.send(b"hello, is this TLS?\r\n").await.unwrap();
    wrong.read_to_end().await.ok();
    assert_eq!(edge.wait_for_lines(2).await[1]["outcome"], "bad-tls");
}

#[tokio::test]
async fn a_request_head_has_a_deadline_and_a_size() {
    let endpoint = HttpStub::start("im").await.unwrap();
    let extra = "max-head = \"1KiB\"\ntimeouts.request-head = \"2s\"\ntimeouts.keep-alive = \"2s\"";
    let edge = Edge::start(&web_edge(extra, &[endpoint.address()])).await;

    let mut slow = RawClient::connect(edge.address("web")).await.unwrap();
    slow.send(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    assert_eq!(http::read_answer(&mut slow, "GET").await.unwrap().status, 408);
    slow.expect_eof().await.unwrap();
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((&line["kind"], &line["outcome"]), (&"connection".into(), &"too-slow".into()), "{line}");

    let mut silent = RawClient::connect(edge.address("web")).await.unwrap();
    silent.expect_eof().await.unwrap();
    assert_eq!(edge.wait_for_lines(2).await[1]["outcome"], "too-slow");

    let mut large = RawClient::connect(edge.address("web")).await.unwrap();
    large.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(2000)).as_bytes()).await.unwrap();
    assert_eq!(http::read_answer(&mut large, "GET").await.unwrap().status, 431);
    drop(large);
    assert_eq!(edge.wait_for_lines(3).await[2]["outcome"], "bad-request");

    let mut wrong = RawClient::connect(edge.address("web")).await.unwrap();
    wrong.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    assert_eq!(http::read_answer(&mut wrong, "GET").await.unwrap().status, 400);
    drop(wrong);
    assert_eq!(edge.wait_for_lines(4).await[3]["outcome"], "bad-request");
    assert_eq!(endpoint.requests(), 0);

    // Between two requests the keep-alive time counts, and its end is no error.
    let mut kept = RawClient::connect(edge.address("web")).await.unwrap();
    kept.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(http::read_answer(&mut kept, "GET").await.unwrap().status, 200);
    kept.expect_eof().await.unwrap();
    let lines = edge.wait_for_lines(5).await;
    assert_eq!((&lines[4]["kind"], &lines[4]["outcome"]), (&"request".into(), &"answered".into()));
    edge.wait_until_empty().await;
    assert_eq!(edge.access_lines().len(), 5, "a connection that had a request needs no line of its own");
}

#[tokio::test]
async fn running_out_of_descriptors_pauses_accepting_and_says_so_once_and_it_goes_on_afterwards() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let mut served = echo_client(edge.address("im")).await;
    let pid = Pid::from_raw(i32::try_from(edge.process.pid()).unwrap());
    let before = rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current: Some(8), maximum: None });
    let before = match before {
        Ok(before) => before,
        // Without the right to raise a hard limit the soft one is enough.
        Err(_) => {
            let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
            prlimit(pid, Resource::Nofile, Rlimit { current: Some(8), maximum: hard }).unwrap()
        }
    };
    let mut waiting = RawClient::connect(edge.address("im")).await.unwrap().with_patience(SOON);
    waiting.send(b"patient").await.unwrap();
    edge.process.wait_for_log("accepting is paused", SOON).await.unwrap();
    waiting.expect_silence(Duration::from_millis(700)).await.unwrap();
    echoes(&mut served, b"still here").await;
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(waiting.read_exact(7).await.unwrap(), b"patient");
    edge.process.wait_for_log("accepting again", SOON).await.unwrap();
    let said = |what: &str| edge.process.stderr_lines().iter().filter(|line| line.contains(what)).count();
    assert_eq!((said("accepting is paused"), said("accepting again")), (1, 1), "{}", edge.process.stderr_text());
    eventually(SOON, "the counter", async || {
        (edge.count("warbler_accept_pauses_total", &[("listener", "im")]).await == 1).then_some(())
    })
    .await
    .unwrap();
}
