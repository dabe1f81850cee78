//! Endpoints that fail their clients get none for a while, and come back.

use std::net::SocketAddr;

use bench::harness::ws::{self, CloseCode, Message};
use bench::harness::{Action, EchoTcp, HttpStub, RawClient, WsEcho, eventually, http};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::edge::{Edge, SOON};
use crate::ends::{CLOSE, client_frame, server_frame};
use crate::parts::{ask, tcp_with, turned_away, upgrade_head, wait_until_picks_know, web_with};

/// Returns within the time of a test: the shortest ejection that there is, without the spread.
const QUICK: &str = "policy = \"round-robin\"\nrequest-policy = \"round-robin\"\n\
                     outlier = { base-ejection = \"2s\", max-ejection = \"2s\", jitter = \"0%\" }";

/// The same with an ejection that outlasts the test.
const LONG: &str = "policy = \"round-robin\"\nrequest-policy = \"round-robin\"";

/// An endpoint that says its piece to whoever connects, and closes at once.
struct Closer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Closer {
    async fn start(says: &'static [u8]) -> Closer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                // A client that is gone already needs no words.
                socket.write_all(says).await.ok();
            }
        });
        Closer { address, task }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One client of the tcp listener: whether it got its byte back.
async fn is_served(edge: &Edge) -> bool {
    let Ok(mut client) = RawClient::connect(edge.address("im")).await else { return false };
    client.send(b"x").await.is_ok() && client.read_exact(1).await.is_ok()
}

/// Sends clients until this endpoint is ejected; what the status says of it then.
async fn drive_out(edge: &Edge, endpoint: SocketAddr, mut client: impl AsyncFnMut()) -> serde_json::Value {
    for _ in 0..100 {
        client().await;
        let known = edge.endpoint(endpoint).await;
        if known["standing"] == "suspect" {
            return known;
        }
    }
    panic!("not ejected after 100 clients: {}", edge.endpoint(endpoint).await);
}

/// Ejected for five of these in a row, or for some more that came before the control thread looked.
fn is_ejected_for(endpoint: &serde_json::Value, what: &str) {
    assert_eq!(endpoint["source"], "outlier", "{endpoint}");
    let count = endpoint["reason"].as_str().and_then(|reason| {
        reason.strip_prefix("ejected: ")?.strip_suffix(&format!(" {what} in a row"))?.parse::<u32>().ok()
    });
    assert!(count.is_some_and(|count| count >= 5), "{endpoint}");
}

fn told(edge: &Edge, what: &str) -> usize {
    edge.process.stderr_lines().iter().filter(|line| line.contains(what)).count()
}

#[tokio::test]
async fn an_endpoint_that_closes_its_tunnels_at_once_is_ejected_and_says_so_everywhere() {
    let (bad, good) = (Closer::start(b"").await, EchoTcp::start().await.unwrap());
    let edge = Edge::start(&tcp_with("", LONG, &[bad.address, good.address()])).await;
    let out = drive_out(&edge, bad.address, async || {
        is_served(&edge).await;
    })
    .await;
    is_ejected_for(&out, "early closes");
    assert_eq!(out["ejections_in_a_row"], 1);
    let vote = out["votes"].as_array().unwrap().iter().find(|vote| vote["source"] == "outlier").unwrap();
    assert!(vote["seconds_left"].as_f64().unwrap() <= 36.0, "{vote}");
    let address = bad.address.to_string();
    let why = [("endpoint", address.as_str()), ("source", "outlier"), ("reason", "early-close")];
    assert_eq!(edge.metric("warbler_endpoint_standing_reason", &why).await, Some(1.0));
    wait_until_picks_know(&edge, "im", bad.address, "suspect").await;
    let page = "/api/v1/explain?from=192.0.2.1&listener=im";
    let explained: serde_json::Value = edge.get(page).await.json().unwrap();
    let seen = explained["endpoints"].as_array().unwrap().iter().find(|one| one["standing"] == "suspect").unwrap();
    assert!(seen["seconds_left"].is_u64() && seen["eligibility"] != "eligible", "{seen}");
}

#[tokio::test]
async fn an_endpoint_that_was_ejected_returns_and_goes_again_when_it_is_no_better() {
    let (bad, good) = (Closer::start(b"").await, EchoTcp::start().await.unwrap());
    let edge = Edge::start(&tcp_with("", QUICK, &[bad.address, good.address()])).await;
    let kind = [("cluster", "c"), ("kind", "early-close")];
    let ejected = async |times| {
        let out = async || {
            is_served(&edge).await;
            (edge.count("warbler_outlier_ejections_total", &kind).await == times).then_some(())
        };
        eventually(SOON, "an ejection", out).await.unwrap();
    };
    ejected(1).await;
    edge.process.wait_for_log("endpoint returned", SOON).await.unwrap();
    edge.wait_for_standing(bad.address, "up").await;
    assert_eq!(edge.count("warbler_outlier_ejections_total", &kind).await, 1);
    assert_eq!(edge.count("warbler_endpoints_ejected", &[("cluster", "c")]).await, 0);
    assert!(edge.count("warbler_endpoint_failures_total", &kind).await >= 5);
    assert_eq!((told(&edge, "endpoint ejected"), told(&edge, "endpoint returned")), (1, 1));
    ejected(2).await;
}

#[tokio::test]
async fn while_an_endpoint_is_ejected_nobody_is_sent_there() {
    let (bad, good) = (Closer::start(b"").await, EchoTcp::start().await.unwrap());
    let edge = Edge::start(&tcp_with("", LONG, &[bad.address, good.address()])).await;
    drive_out(&edge, bad.address, async || {
        is_served(&edge).await;
    })
    .await;
    wait_until_picks_know(&edge, "im", bad.address, "suspect").await;
    assert_eq!(edge.count("warbler_endpoints_ejected", &[("cluster", "c")]).await, 1);
    for _ in 0..20 {
        assert!(is_served(&edge).await);
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_ejected_and_no_client_notices() {
    let mut bad = EchoTcp::start().await.unwrap();
    bad.stop().await;
    let good = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_with("", QUICK, &[bad.address(), good.address()])).await;
    let out = drive_out(&edge, bad.address(), async || assert!(is_served(&edge).await)).await;
    is_ejected_for(&out, "connect failures");
    bad.restart().await.unwrap();
    edge.wait_for_standing(bad.address(), "up").await;
    let back = async || {
        assert!(is_served(&edge).await);
        (bad.accepted() > 0).then_some(())
    };
    eventually(SOON, "clients on the endpoint that is back", back).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_whose_upgrades_get_503_is_ejected_though_it_answers_requests() {
    let script = |head: Vec<u8>| {
        let status = if head.starts_with(b"GET /ws ") { "503 Busy" } else { "200 OK" };
        vec![Action::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())]
    };
    let bad = HttpStub::scripted("bad", script).await.unwrap();
    let good = WsEcho::start().await.unwrap();
    let edge = Edge::start(&web_with("", LONG, &[bad.address(), good.address()])).await;
    let client = async || {
        let _refused_by_one_of_two = ws::connect(edge.address("web"), "/ws", &[]).await;
        // Requests in between, of which the bad endpoint gets some.
        for _ in 0..2 {
            http::get(edge.address("web"), "/page").await.unwrap();
        }
    };
    is_ejected_for(&drive_out(&edge, bad.address(), client).await, "refused upgrades");
    wait_until_picks_know(&edge, "web", bad.address(), "suspect").await;
    for _ in 0..5 {
        ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
    }
}

/// What went wrong elsewhere: a gateway that took the end of a WebSocket for a failure ejected hosts whose clients left
/// as they should (envoy#24690).
#[tokio::test]
async fn websockets_that_are_closed_normally_and_soon_never_eject_anybody() {
    let (a, b) = (WsEcho::start().await.unwrap(), WsEcho::start().await.unwrap());
    let edge = Edge::start(&web_with("", LONG, &[a.address(), b.address()])).await;
    for nth in 0..40 {
        let mut socket = ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
        if nth % 2 == 0 {
            socket.send(Message::text("hello")).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        let code = [CloseCode::NORMAL_CLOSURE, CloseCode::GOING_AWAY, CloseCode::try_from(4000).unwrap()][nth % 3];
        socket.send(Message::close(Some(code), "bye")).await.unwrap();
        while socket.next().await.is_some() {}
    }
    edge.wait_for_lines(40).await;
    assert_eq!(edge.count("warbler_endpoint_failures_total", &[]).await, 0);
    for endpoint in [a.address(), b.address()] {
        let known = edge.endpoint(endpoint).await;
        assert_eq!((&known["standing"], &known["failures_in_a_row"]["tunnels"]), (&"up".into(), &0.into()), "{known}");
    }
}

/// A server that closes says why: 1000 and what is about the client are the end of a conversation, 1013 is not.
#[tokio::test]
async fn a_close_from_the_endpoint_counts_when_it_tells_of_trouble() {
    const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (payload, failures) in [(vec![0x03, 0xe8], 0), (vec![0x11, 0x31], 0), (vec![0x03, 0xf5], 3), (vec![], 0)] {
        let close = server_frame(CLOSE, &payload);
        let script = move |_| vec![Action::Send([SWITCHING, &close].concat()), Action::Close];
        let stub = HttpStub::scripted("closing", script).await.unwrap();
        let edge = Edge::start(&web_with("", LONG, &[stub.address()])).await;
        for _ in 0..3 {
            let mut client = RawClient::connect(edge.address("web")).await.unwrap();
            client.send(&upgrade_head("/ws", "")).await.unwrap();
            client.read_until(b"\r\n\r\n").await.unwrap();
            // The answer to the Close; the endpoint may be gone already.
            client.send(&client_frame(CLOSE, &payload)).await.ok();
            client.read_to_end().await.ok();
        }
        edge.wait_for_lines(3).await;
        let counted = edge.count("warbler_endpoint_failures_total", &[("kind", "early-close")]).await;
        assert_eq!(counted, failures, "a Close with {payload:?}");
    }
}

#[tokio::test]
async fn clients_that_leave_and_short_conversations_count_against_nobody() {
    let (talker, silent) = (Closer::start(b"hello and goodbye").await, EchoTcp::start().await.unwrap());
    let edge = Edge::start(&tcp_with("", LONG, &[talker.address, silent.address()])).await;
    for _ in 0..20 {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.finish().await.unwrap();
        client.read_to_end().await.unwrap();
    }
    edge.wait_for_lines(20).await;
    assert_eq!(edge.count("warbler_endpoint_failures_total", &[]).await, 0);
}

#[tokio::test]
async fn an_http_endpoint_that_answers_503_is_ejected_and_one_that_answers_500_is_not() {
    for (status, is_out) in [(503, true), (500, false)] {
        let stubs = [HttpStub::start("a").await.unwrap(), HttpStub::start("b").await.unwrap()];
        let more = HttpStub::start("c").await.unwrap();
        stubs[0].set_status(status);
        let edge = Edge::start(&web_with("", LONG, &[stubs[0].address(), stubs[1].address(), more.address()])).await;
        for _ in 0..30 {
            http::get(edge.address("web"), "/").await.unwrap();
        }
        if is_out {
            let out = edge.wait_for_standing(stubs[0].address(), "suspect").await;
            is_ejected_for(&out, "gateway errors");
            wait_until_picks_know(&edge, "web", stubs[0].address(), "suspect").await;
            for _ in 0..10 {
                assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 200);
            }
        } else {
            assert_eq!(edge.count("warbler_endpoint_failures_total", &[]).await, 0);
        }
    }
}

/// Either side may end a kept connection at any time (RFC 9112 section 9.5), also just as a request is on its way; one that
/// must not be sent again fails then, and that is nobody's fault.
#[tokio::test]
async fn an_endpoint_that_ends_a_kept_connection_has_not_failed_and_one_that_ends_a_new_one_has() {
    for end in [Action::Close, Action::Reset] {
        let stub = HttpStub::scripted("ends", move |head| match head.starts_with(b"GET ") {
            true => vec![Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())],
            false => vec![end.clone()],
        });
        let stub = stub.await.unwrap();
        let edge = Edge::start(&format!("[edge]\nworkers = 1\n{}", web_with("", LONG, &[stub.address()]))).await;
        assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 200);
        for (connections, failures) in [(1, 0), (2, 1)] {
            let request = "POST / HTTP/1.1\r\nHost: im.test\r\nContent-Length: 0\r\n\r\n";
            assert_eq!(ask(edge.address("web"), request).await.status, 502);
            edge.wait_for_lines(1 + connections).await;
            assert_eq!(stub.connections(), u64::try_from(connections).unwrap());
            let kind = [("kind", "gateway-error")];
            assert_eq!(edge.count("warbler_endpoint_failures_total", &kind).await, failures);
        }
    }
}

#[tokio::test]
async fn all_errors_count_when_they_are_asked_to_and_none_when_it_is_off() {
    for (keys, failures) in [("outlier = { server-errors = true, consecutive = 0 }", 10), ("outlier.off = true", 0)] {
        let stub = HttpStub::start("a").await.unwrap();
        stub.set_status(500);
        let edge = Edge::start(&web_with("", keys, &[stub.address()])).await;
        for _ in 0..10 {
            http::get(edge.address("web"), "/").await.unwrap();
        }
        edge.wait_for_lines(10).await;
        assert_eq!(edge.count("warbler_endpoint_failures_total", &[]).await, failures, "{keys}");
    }
}

#[tokio::test]
async fn errors_of_the_server_in_a_row_eject_where_they_are_asked_for() {
    let (bad, good) = (HttpStub::start("bad").await.unwrap(), HttpStub::start("good").await.unwrap());
    bad.set_status(500);
    let keys = format!("{LONG}\noutlier.server-errors = true");
    let edge = Edge::start(&web_with("", &keys, &[bad.address(), good.address()])).await;
    let out = drive_out(&edge, bad.address(), async || {
        http::get(edge.address("web"), "/").await.unwrap();
    })
    .await;
    is_ejected_for(&out, "server errors");
}

/// Five endpoints of which one fails every client, and nothing counts in a row: its rate alone gives it away.
#[tokio::test]
async fn whoever_fails_far_more_than_its_peers_is_ejected_by_its_rate() {
    for (rule, said) in [
        ("success-rate = { volume = 10 }", "% of its requests succeeded, under the limit of"),
        (
            "success-rate.enforce = false, failure-percentage = { enforce = true, volume = 10 }",
            "% of its requests failed",
        ),
    ] {
        let mut stubs = Vec::new();
        for name in ["a", "b", "c", "d", "bad"] {
            stubs.push(HttpStub::start(name).await.unwrap());
        }
        stubs[4].set_status(503);
        let addresses: Vec<SocketAddr> = stubs.iter().map(HttpStub::address).collect();
        let keys = format!("{LONG}\noutlier = {{ interval = \"1s\", consecutive = 0, {rule} }}");
        let edge = Edge::start(&web_with("", &keys, &addresses)).await;
        let ejected = async || {
            for _ in 0..100 {
                http::get(edge.address("web"), "/").await.unwrap();
            }
            Some(edge.endpoint(addresses[4]).await).filter(|endpoint| endpoint["standing"] == "suspect")
        };
        let out = eventually(SOON, "the one that fails ejected", ejected).await.unwrap();
        assert!(out["source"] == "outlier" && out["reason"].as_str().unwrap().contains(said), "{rule}: {out}");
        assert_eq!(edge.count("warbler_endpoints_ejected", &[]).await, 1, "{rule}");
    }
}

#[tokio::test]
async fn of_many_that_fail_one_is_ejected_and_the_last_one_never() {
    let mut bad = Vec::new();
    for _ in 0..4 {
        bad.push(Closer::start(b"").await);
    }
    let addresses: Vec<SocketAddr> = bad.iter().map(|closer| closer.address).collect();
    let edge = Edge::start(&tcp_with("", LONG, &addresses)).await;
    let spared = async || {
        is_served(&edge).await;
        (edge.count("warbler_outlier_spared_total", &[("cluster", "c")]).await >= 6).then_some(())
    };
    eventually(SOON, "outliers that were spared", spared).await.unwrap();
    assert_eq!(edge.count("warbler_endpoints_ejected", &[]).await, 1, "ten percent of four, and one in any case");
    drop(edge);

    let edge = Edge::start(&tcp_with("", LONG, &addresses[..1])).await;
    let spared = async || {
        is_served(&edge).await;
        (edge.count("warbler_outlier_spared_total", &[("cluster", "c")]).await >= 2).then_some(())
    };
    eventually(SOON, "the last one spared", spared).await.unwrap();
    assert_eq!(edge.endpoint(addresses[0]).await["standing"], "up");
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_silent_and_one_that_is_owed_nothing_is_not() {
    let endpoint = EchoTcp::start().await.unwrap();
    endpoint.behave(bench::harness::echo_tcp::Manner::Swallow);
    let keys = "outlier = { silence = \"2s\" }";
    let edge = Edge::start(&tcp_with("", keys, &[endpoint.address()])).await;
    let quiet = RawClient::connect(edge.address("im")).await.unwrap();
    let mut asks = RawClient::connect(edge.address("im")).await.unwrap();
    asks.send(b"anybody there?").await.unwrap();
    let kind = [("cluster", "c"), ("kind", "silence")];
    edge.wait_for_count("warbler_endpoint_failures_total", &kind, 1).await;
    drop((quiet, asks));
}

#[tokio::test]
async fn a_reload_that_turns_detection_off_brings_everybody_back() {
    let (bad, good) = (Closer::start(b"").await, EchoTcp::start().await.unwrap());
    let config = tcp_with("", LONG, &[bad.address, good.address()]);
    let edge = Edge::start(&config).await;
    drive_out(&edge, bad.address, async || {
        is_served(&edge).await;
    })
    .await;
    edge.reload(&config.replace(LONG, "outlier.off = true")).await;
    edge.wait_for_standing(bad.address, "up").await;
    assert_eq!(edge.count("warbler_endpoints_ejected", &[]).await, 0);
}

/// Also of the tunnels that were there before: they were watched, and are no longer.
#[tokio::test]
async fn a_reload_that_turns_detection_off_ends_the_counting_at_once() {
    for (reloaded, failures) in [("outlier = { early-close = \"0s\" }", 1), ("outlier.off = true", 0)] {
        let mut endpoint = EchoTcp::start().await.unwrap();
        let watched = "outlier = { early-close = \"1m\" }";
        let config = tcp_with("", watched, &[endpoint.address()]);
        let edge = Edge::start(&config).await;
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        let connected =
            async || (edge.leases(&[endpoint.address()]).await == [1] && endpoint.accepted() > 0).then_some(());
        eventually(SOON, "the tunnel", connected).await.unwrap();
        edge.reload(&config.replace(watched, reloaded)).await;
        endpoint.stop().await;
        client.read_to_end().await.ok();
        drop(client);
        edge.wait_for_lines(1).await;
        let counted = edge.count("warbler_endpoint_failures_total", &[("kind", "early-close")]).await;
        assert_eq!(counted, failures, "{reloaded}");
    }
}

#[tokio::test]
async fn a_retry_budget_that_is_used_up_ends_the_tries() {
    let mut gone = Vec::new();
    for _ in 0..3 {
        let mut endpoint = EchoTcp::start().await.unwrap();
        endpoint.stop().await;
        gone.push(endpoint.address());
    }
    for (keys, tries, text) in [
        ("outlier.off = true", 3, "cannot connect"),
        ("outlier.off = true\nretry-budget = { share = \"0%\", min = 0 }", 1, "the retry budget is used up"),
    ] {
        let config = format!("{}\n{}", tcp_with("", keys, &gone), web_listener());
        let edge = Edge::start(&config).await;
        turned_away(edge.address("im")).await;
        assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 502);
        for line in edge.wait_for_lines(2).await {
            assert_eq!((&line["outcome"], &line["tries"]), (&"connect-failed".into(), &tries.into()), "{line}");
            let is_tunnel = line["kind"] == "tcp";
            assert!(line["detail"].as_str().unwrap().contains(text) || (tries == 3 && !is_tunnel), "{line}");
        }
        let result = if tries == 1 { "refused" } else { "allowed" };
        let wanted = if tries == 1 { 2 } else { 4 };
        assert_eq!(edge.count("warbler_retries_total", &[("cluster", "c"), ("result", result)]).await, wanted);
    }
}

fn web_listener() -> &'static str {
    "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"c\"\n"
}
