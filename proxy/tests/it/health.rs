//! Probes and what they decide: who gets new clients, and who keeps the old ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bench::harness::{Action, EchoTcp, HttpStub, RawClient, eventually, http};
use tokio::time::{Instant, sleep};

use crate::edge::{Edge, SOON};
use crate::parts::{endpoints, turned_away, wait_until_picks_know};

/// An `http` and a `tcp` listener to one cluster with these keys.
fn config(keys: &str, addresses: &[SocketAddr]) -> String {
    let endpoints = endpoints(addresses);
    format!(
        "[edge]\nworkers = 1\n[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"c\"\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\n{keys}\n[clusters.c.localities.here]\nendpoints = {endpoints}\n"
    )
}

async fn name_of_answer(edge: &Edge) -> String {
    let answer = http::get(edge.address("web"), "/").await.unwrap();
    // The stub's `/` has the status that it is set to as well; who answered is what counts.
    answer.json().unwrap()["name"].as_str().unwrap().to_owned()
}

/// Endpoints `a` and `b`: `/health` has the status that the stub is set to, everything else is served in any case.
#[tokio::test]
async fn an_endpoint_falls_by_its_probes_and_rises_again() {
    let (a, b) = (HttpStub::start("a").await.unwrap(), HttpStub::start("b").await.unwrap());
    let keys = "request-policy = \"round-robin\"\n\
                health.http = { path = \"/health\", interval = \"1s\", fast-interval = \"1s\", jitter = \"0%\", rise = 2, fall = 2 }";
    let edge = Edge::start(&config(keys, &[a.address(), b.address()])).await;
    for address in [a.address(), b.address()] {
        let probed = async || (edge.endpoint(address).await["reason"] == "probe succeeded").then_some(());
        eventually(SOON, "a good probe", probed).await.unwrap();
    }
    a.set_status(503);
    // The fast interval is slow here, so that the state between is seen.
    let suspect = edge.wait_for_standing(a.address(), "suspect").await;
    assert!(suspect["reason"].as_str().unwrap().contains("503"), "{suspect}");
    assert_eq!(edge.count("warbler_endpoint_up", &[("endpoint", &a.address().to_string())]).await, 0);
    let down = edge.wait_for_standing(a.address(), "down").await;
    assert!(
        down["reason"].as_str().unwrap().contains("503")
            && down["since_seconds"].as_u64().is_some_and(|since| since < 20),
        "{down}"
    );
    let why = [("endpoint", &*a.address().to_string()), ("source", "probes"), ("reason", "status")];
    assert_eq!(edge.metric("warbler_endpoint_standing_reason", &why).await, Some(1.0));
    let since = [("endpoint", &*a.address().to_string()), ("source", "probes")];
    let stood = async || edge.metric("warbler_endpoint_standing_seconds", &since).await.filter(|&since| since >= 1.0);
    assert!(eventually(SOON, "a second of it", stood).await.unwrap() < 60.0);
    wait_until_picks_know(&edge, "web", a.address(), "down").await;
    let explained = edge.get("/api/v1/explain?from=127.0.0.1&listener=web").await.json().unwrap();
    let endpoints = explained["endpoints"].as_array().unwrap();
    let told = endpoints.iter().find(|endpoint| endpoint["name"] == a.address().to_string()).unwrap();
    assert!(told["since_seconds"].as_u64().is_some_and(|since| (1..60).contains(&since)), "{explained:#}");
    for _ in 0..6 {
        assert_eq!(name_of_answer(&edge).await, "b");
    }
    a.set_status(200);
    edge.wait_for_standing(a.address(), "up").await;
    let back = async || (name_of_answer(&edge).await == "a").then_some(());
    eventually(SOON, "new requests", back).await.unwrap();
    let changes = [("cluster", "c"), ("standing", "down")];
    assert_eq!(edge.count("warbler_endpoint_standing_changes_total", &changes).await, 1);
    assert!(edge.count("warbler_probes_total", &[("cluster", "c"), ("result", "failed")]).await >= 2);
    // The log tells each change once.
    let told = edge.process.stderr_lines().iter().filter(|line| line.contains("changed its standing")).count();
    assert_eq!(told, 3, "{}", edge.process.stderr_text());
}

#[tokio::test]
async fn a_tcp_probe_finds_an_endpoint_that_stopped_listening_and_tunnels_elsewhere_stay() {
    let mut a = EchoTcp::start().await.unwrap();
    let b = EchoTcp::start().await.unwrap();
    let keys = "policy = \"round-robin\"\nhealth.tcp = { interval = \"100ms\", jitter = \"0%\", rise = 2, fall = 2 }";
    let edge = Edge::start(&config(keys, &[a.address(), b.address()])).await;
    let mut stays = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.send(b"x").await.unwrap();
        client.read_exact(1).await.unwrap();
        stays.push(client);
    }
    assert_eq!(edge.leases(&[a.address(), b.address()]).await, [2, 2]);
    a.stop().await;
    let down = edge.wait_for_standing(a.address(), "down").await;
    assert!(!down["reason"].as_str().unwrap().is_empty(), "{down}");
    wait_until_picks_know(&edge, "im", a.address(), "down").await;
    let mut alive = 0;
    for client in &mut stays {
        if client.send(b"y").await.is_ok() && client.read_exact(1).await.is_ok() {
            alive += 1;
        }
    }
    assert_eq!(alive, 2, "those on the other endpoint");
    let failures = edge.count("warbler_connect_failures_total", &[]).await;
    for _ in 0..4 {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.send(b"z").await.unwrap();
        assert_eq!(client.read_exact(1).await.unwrap(), b"z");
    }
    assert_eq!(edge.count("warbler_connect_failures_total", &[]).await, failures, "nobody is sent to who is down");
    a.restart().await.unwrap();
    edge.wait_for_standing(a.address(), "up").await;
}

#[tokio::test]
async fn a_tunnel_outlives_its_endpoints_bad_health() {
    let script = |head: Vec<u8>| {
        if head.starts_with(b"GET /health ") {
            return vec![Action::Send(b"HTTP/1.1 503 Sick\r\ncontent-length: 0\r\n\r\n".to_vec())];
        }
        vec![Action::Echo]
    };
    let stub = HttpStub::scripted("sick", script).await.unwrap();
    let keys =
        "health.http = { path = \"/health\", interval = \"100ms\", rise = 1, fall = 1 }\npanic-threshold = \"50%\"";
    let edge = Edge::start(&config(keys, &[stub.address()])).await;
    wait_until_picks_know(&edge, "im", stub.address(), "down").await;
    // All are down, so all are tried: better than to refuse everybody.
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(b"HELLO\r\n\r\nhello").await.unwrap();
    assert_eq!(client.read_exact(5).await.unwrap(), b"hello");
    assert_eq!(edge.count("warbler_picks_total", &[("reason", "panic")]).await, 1);
    let probes = edge.count("warbler_probes_total", &[]).await;
    eventually(SOON, "more probes", async || {
        (edge.count("warbler_probes_total", &[]).await > probes + 3).then_some(())
    })
    .await
    .unwrap();
    client.send(b"still").await.unwrap();
    assert_eq!(client.read_exact(5).await.unwrap(), b"still");
}

#[tokio::test]
async fn without_panic_nobody_is_sent_to_endpoints_that_are_down() {
    let stub = HttpStub::start("sick").await.unwrap();
    stub.set_status(500);
    let keys =
        "health.http = { path = \"/health\", interval = \"100ms\", rise = 1, fall = 1 }\npanic-threshold = \"0%\"";
    let edge = Edge::start(&config(keys, &[stub.address()])).await;
    wait_until_picks_know(&edge, "im", stub.address(), "down").await;
    assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 503);
    turned_away(edge.address("im")).await;
    assert_eq!(edge.count("warbler_pick_failures_total", &[("reason", "none-ready")]).await, 2);
    // `/readyz` is about this edge: with all its endpoints down every edge would leave at once.
    assert_eq!(edge.get("/readyz").await.status, 200);
    let heads = stub.heads();
    assert!(heads.iter().all(|head| head.starts_with("GET /health HTTP/1.1\r\n")), "{heads:?}");
    assert!(heads[0].to_lowercase().contains(&format!("host: {}\r\n", stub.address())), "{heads:?}");
}

#[tokio::test]
async fn an_endpoint_that_never_answers_its_probe_is_down_after_the_timeout() {
    let stub = HttpStub::scripted("silent", |_| vec![]).await.unwrap();
    let keys = "health.http = { path = \"/health\", host = \"probe.test\", interval = \"200ms\", timeout = \"150ms\" }";
    let edge = Edge::start(&config(keys, &[stub.address()])).await;
    let down = edge.wait_for_standing(stub.address(), "down").await;
    assert!(!down["reason"].as_str().unwrap().is_empty(), "{down}");
    assert!(stub.heads()[0].to_lowercase().contains("host: probe.test\r\n"), "{:?}", stub.heads());
}

/// Time itself is what is looked at here.
#[tokio::test]
async fn probes_come_at_their_interval_and_give_both_round_trips() {
    let stub = HttpStub::start("a").await.unwrap();
    let keys = "health.http = { path = \"/health\", interval = \"200ms\", jitter = \"20%\" }";
    let edge = Edge::start(&config(keys, &[stub.address()])).await;
    eventually(SOON, "the first probe", async || (stub.requests() > 0).then_some(())).await.unwrap();
    let (before, began) = (stub.requests(), Instant::now());
    sleep(Duration::from_secs(3)).await;
    let (probes, passed) = (stub.requests() - before, began.elapsed());
    let expected = passed.as_millis() / 200;
    // A busy machine probes late, never early: 20 % of jitter at most.
    assert!(u128::from(probes) <= expected * 5 / 4 + 2, "{probes} probes in {passed:?}");
    assert!(u128::from(probes) >= expected / 4, "{probes} probes in {passed:?}");
    let address = stub.address().to_string();
    for figure in ["probe", "handshake"] {
        let labels = [("endpoint", address.as_str()), ("figure", figure)];
        let seconds = edge.metric("warbler_endpoint_rtt_seconds", &labels).await.unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{figure}: {seconds}");
    }
}

/// Twenty failures at the interval take forty seconds, which is longer than anything is waited for here.
#[tokio::test]
async fn whoever_is_in_doubt_is_probed_at_the_fast_interval() {
    let stub = HttpStub::start("a").await.unwrap();
    let keys = "health.http = { path = \"/health\", interval = \"2s\", fast-interval = \"100ms\", fall = 20 }";
    let edge = Edge::start(&config(keys, &[stub.address()])).await;
    let probed = async || (edge.endpoint(stub.address()).await["reason"] == "probe succeeded").then_some(());
    eventually(SOON, "a good probe", probed).await.unwrap();
    stub.set_status(503);
    edge.wait_for_standing(stub.address(), "down").await;
    assert!(stub.requests() > 20, "each of them is a probe: {}", stub.requests());
}

/// An endpoint that echoes tunnels and keeps probes of `/health` waiting until `answers` is set.
async fn late(name: &str, answers: &Arc<AtomicBool>) -> HttpStub {
    let answers = answers.clone();
    let script = move |head: Vec<u8>| match (head.starts_with(b"GET /health "), answers.load(Relaxed)) {
        (true, true) => vec![Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())],
        (true, false) => vec![Action::Pause(SOON)],
        (false, _) => vec![Action::Echo],
    };
    HttpStub::scripted(name, script).await.unwrap()
}

const PATIENT: &str =
    "policy = \"round-robin\"\nhealth.http = { path = \"/health\", interval = \"1s\", timeout = \"1s\", rise = 3 }";

async fn tunnel(edge: &Edge) -> RawClient {
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(b"HELLO\r\n\r\nhello").await.unwrap();
    assert_eq!(client.read_exact(5).await.unwrap(), b"hello");
    client
}

#[tokio::test]
async fn an_endpoint_that_a_reload_adds_gets_nobody_before_its_first_good_probe() {
    let (now, later) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (old, new) = (late("old", &now).await, late("new", &later).await);
    let edge = Edge::start(&config(PATIENT, &[old.address()])).await;
    edge.wait_for_standing(old.address(), "up").await;
    edge.reload(&config(PATIENT, &[old.address(), new.address()])).await;
    let added = edge.endpoint(new.address()).await;
    assert_eq!((&added["standing"], &added["reason"]), (&"suspect".into(), &"not probed yet".into()), "{added}");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tunnel(&edge).await);
    }
    assert_eq!(edge.leases(&[old.address(), new.address()]).await, [4, 0]);
    // Its first probe runs into the timeout; from then on it answers, and has fallen: it takes `rise`.
    later.store(true, Relaxed);
    edge.wait_for_standing(new.address(), "up").await;
    wait_until_picks_know(&edge, "im", new.address(), "up").await;
    for _ in 0..4 {
        clients.push(tunnel(&edge).await);
    }
    assert!(edge.leases(&[new.address()]).await[0] >= 1);
    // A cluster that is new as a whole has nobody better: panic serves its clients before the first probe is back.
    let never = late("never", &Arc::new(AtomicBool::new(false))).await;
    let renamed = config(PATIENT, &[never.address()]).replace("clusters.c", "clusters.d").replace("\"c\"", "\"d\"");
    edge.reload(&renamed).await;
    let client = tunnel(&edge).await;
    assert_eq!(edge.leases(&[never.address()]).await, [1]);
    drop((client, clients));
}

#[tokio::test]
async fn with_initial_down_an_edge_waits_for_the_first_good_probe_of_its_endpoints() {
    let answers = Arc::new(AtomicBool::new(false));
    let stub = late("late", &answers).await;
    let keys = PATIENT.replace("rise = 3", "rise = 3, initial = \"down\"") + "\npanic-threshold = \"0%\"";
    let edge = Edge::start(&config(&keys, &[stub.address()])).await;
    let down = edge.endpoint(stub.address()).await;
    assert_eq!(down["standing"], "down", "{down}");
    turned_away(edge.address("im")).await;
    answers.store(true, Relaxed);
    edge.wait_for_standing(stub.address(), "up").await;
    wait_until_picks_know(&edge, "im", stub.address(), "up").await;
    tunnel(&edge).await;
}

#[tokio::test]
async fn with_cut_on_down_tunnels_leave_an_endpoint_that_goes_down_and_stay_in_panic() {
    let (a, b) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (one, two) = (late("one", &a).await, late("two", &b).await);
    let keys = "policy = \"round-robin\"\ncut-on-down = true\n\
                health.http = { path = \"/health\", interval = \"500ms\", timeout = \"500ms\", rise = 1, fall = 1 }";
    let edge = Edge::start(&config(keys, &[one.address(), two.address()])).await;
    for address in [one.address(), two.address()] {
        let probed = async || (edge.endpoint(address).await["reason"] == "probe succeeded").then_some(());
        eventually(SOON, "a good probe", probed).await.unwrap();
    }
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(tunnel(&edge).await);
    }
    assert_eq!(edge.leases(&[one.address(), two.address()]).await, [3, 3]);
    a.store(false, Relaxed);
    let lines = edge.wait_for_lines(3).await;
    assert!(lines.iter().all(|line| line["leave_reason"] == "endpoint-down"), "{lines:#?}");
    assert!(lines.iter().all(|line| line["endpoint"] == one.address().to_string()), "{lines:#?}");
    // Now everybody is down: health is not believed, and nobody is asked.
    b.store(false, Relaxed);
    edge.wait_for_standing(two.address(), "down").await;
    wait_until_picks_know(&edge, "im", two.address(), "down").await;
    let probes = edge.count("warbler_probes_total", &[]).await;
    let more = async || (edge.count("warbler_probes_total", &[]).await > probes + 4).then_some(());
    eventually(SOON, "more probes", more).await.unwrap();
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[("reason", "endpoint-down")]).await, 3);
    assert_eq!(edge.leases(&[two.address()]).await, [3]);
}
