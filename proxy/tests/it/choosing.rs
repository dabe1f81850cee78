//! What a running edge makes of policies, slow start, rates, limits and spill-over. The arithmetic itself is tested in
//! `policies`; here it is seen through sockets, status and metrics.

use std::net::SocketAddr;

use bench::harness::{Action, EchoTcp, HttpStub, RawClient, eventually, http};
use serde_json::Value;

use crate::edge::{Edge, SOON};
use crate::ends::echo_client;
use crate::parts::{endpoints, tcp_with, turned_away, web_with};

const POLICIES: [&str; 8] =
    ["round-robin", "least-connections", "random", "p2c", "peak-ewma", "prequal", "maglev", "ring-hash"];

async fn listeners(count: usize) -> Vec<EchoTcp> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(EchoTcp::start().await.unwrap());
    }
    listeners
}

fn addresses(of: &[EchoTcp]) -> Vec<SocketAddr> {
    of.iter().map(EchoTcp::address).collect()
}

/// A `tcp` listener `im` to a near and a far locality, steered by priority and not probed.
fn near_and_far(keys: &str, near: (&str, SocketAddr), far: (&str, SocketAddr)) -> String {
    let locality = |name: &str, priority: u8, (keys, address): (&str, SocketAddr)| {
        let endpoints = endpoints(&[address]);
        format!("[clusters.c.localities.{name}]\npriority = {priority}\n{keys}\nendpoints = {endpoints}\n")
    };
    format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\nsteer = [\"priority\"]\nhealth.off = true\noutlier.off = true\n{keys}\n{}{}",
        locality("near", 0, near),
        locality("far", 1, far)
    )
}

fn locality<'s>(status: &'s Value, name: &str) -> &'s Value {
    let localities = status["clusters"][0]["localities"].as_array().unwrap();
    localities.iter().find(|locality| locality["name"] == name).unwrap()
}

#[tokio::test]
async fn every_policy_serves_tunnels_and_requests_and_counts_them_back() {
    for policy in POLICIES {
        let tunnels = listeners(3).await;
        let edge = Edge::start(&tcp_with("", &format!("policy = \"{policy}\""), &addresses(&tunnels))).await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(echo_client(edge.address("im")).await);
        }
        let leases: u64 = edge.leases(&addresses(&tunnels)).await.iter().sum();
        assert_eq!(leases, 12, "{policy}");
        clients.clear();
        edge.wait_until_empty().await;
        let stub = HttpStub::start("a").await.unwrap();
        let web = Edge::start(&web_with("", &format!("request-policy = \"{policy}\""), &[stub.address()])).await;
        for _ in 0..3 {
            assert_eq!(http::get(web.address("web"), "/").await.unwrap().status, 200, "{policy}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_joins_a_running_edge_starts_slowly() {
    let all = listeners(2).await;
    let config = |addresses: &[SocketAddr]| {
        let keys = "policy = \"random\"\nslow-start = { window = \"1h\", least = \"1%\" }";
        tcp_with("", keys, addresses)
    };
    let [old, new] = [all[0].address(), all[1].address()];
    let edge = Edge::start(&config(&[old])).await;
    assert_eq!(edge.endpoint(old).await["ramp"], 1.0, "it was there from the start");
    edge.reload(&config(&[old, new])).await;
    assert_eq!(edge.endpoint(old).await["ramp"], 1.0);
    assert!(edge.endpoint(new).await["ramp"].as_f64().unwrap() < 0.02);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(echo_client(edge.address("im")).await);
    }
    // One in a hundred is expected; half of them without slow start. Fifteen would be a wonder.
    let leases = edge.leases(&[old, new]).await;
    assert!(leases[1] < 15, "{leases:?}");
    let ramp = edge.metric("warbler_endpoint_ramp_ratio", &[("endpoint", &new.to_string())]).await;
    assert!(ramp.is_some_and(|ramp| ramp < 0.02), "{ramp:?}");
    let explained = edge.get("/api/v1/explain?from=192.0.2.1").await.json().unwrap();
    assert!(
        explained["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["ramp"].as_f64().is_some_and(|ramp| ramp < 0.02)),
        "{explained}"
    );
}

#[tokio::test]
async fn a_slow_start_goes_on_by_itself_and_ends() {
    let all = listeners(2).await;
    let config = |addresses: &[SocketAddr]| tcp_with("", "slow-start = { window = \"3s\" }", addresses);
    let [old, new] = [all[0].address(), all[1].address()];
    let edge = Edge::start(&config(&[old])).await;
    edge.reload(&config(&[old, new])).await;
    assert!(edge.endpoint(new).await["ramp"].as_f64().unwrap() < 1.0);
    let whole = async || (edge.endpoint(new).await["ramp"] == 1.0).then_some(());
    eventually(SOON, "the whole share", whole).await.unwrap();
}

#[tokio::test]
async fn an_accept_rate_is_kept_and_told() {
    let all = listeners(2).await;
    let keys = "policy = \"p2c\"\naccept-rate = \"0.01/s\"\noutlier.off = true";
    let edge = Edge::start(&tcp_with("", keys, &addresses(&all))).await;
    let _both = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    assert_eq!(edge.leases(&addresses(&all)).await, [1, 1], "each takes one in a hundred seconds");
    turned_away(edge.address("im")).await;
    edge.wait_for_count("warbler_pick_failures_total", &[("cluster", "c"), ("reason", "rate-limited")], 1).await;
    let explained = edge.get("/api/v1/explain?from=192.0.2.1").await.json().unwrap();
    let eligibilities: Vec<&Value> =
        explained["endpoints"].as_array().unwrap().iter().map(|endpoint| &endpoint["eligibility"]).collect();
    assert_eq!(eligibilities, ["rate-limited", "rate-limited"]);
    // A reload that lifts the rate lets them in again.
    edge.reload(&tcp_with("", "policy = \"p2c\"\noutlier.off = true", &addresses(&all))).await;
    echo_client(edge.address("im")).await;
}

#[tokio::test]
async fn a_limit_of_the_cluster_holds_until_a_client_leaves() {
    let all = listeners(2).await;
    let edge = Edge::start(&tcp_with("", "limits.max-connections = 2", &addresses(&all))).await;
    let first = echo_client(edge.address("im")).await;
    let _second = echo_client(edge.address("im")).await;
    turned_away(edge.address("im")).await;
    edge.wait_for_count("warbler_pick_failures_total", &[("cluster", "c"), ("reason", "limit-reached")], 1).await;
    drop(first);
    let one = async || (edge.leases(&addresses(&all)).await.iter().sum::<u64>() == 1).then_some(());
    eventually(SOON, "the lease to come back", one).await.unwrap();
    echo_client(edge.address("im")).await;
}

#[tokio::test]
async fn a_limit_of_a_priority_sends_clients_on_to_the_next_one() {
    let all = listeners(2).await;
    let keys = "priority-limits = [{ priority = 0, max-connections = 1 }]";
    let edge = Edge::start(&near_and_far(keys, ("", all[0].address()), ("", all[1].address()))).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&addresses(&all)).await, [1, 2]);
}

#[tokio::test]
async fn a_nearly_full_locality_sends_new_clients_on_and_takes_them_back() {
    let all = listeners(2).await;
    let keys = "spill = { above = \"50%\", slope = \"100%\" }";
    let config = near_and_far(keys, ("capacity = 10", all[0].address()), ("capacity = 1000", all[1].address()));
    let edge = Edge::start(&config).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(echo_client(edge.address("im")).await);
    }
    let sheds = async |least: u64| {
        let shed = locality(&edge.status().await, "near")["shed_percent"].as_u64().unwrap();
        (if least == 0 { shed == 0 } else { shed >= least }).then_some(())
    };
    eventually(SOON, "the near one to send clients on", async || sheds(90).await).await.unwrap();
    let status = edge.status().await;
    assert_eq!(locality(&status, "near")["utilisation"], 1.0, "{status}");
    let moved = async || {
        held.push(echo_client(edge.address("im")).await);
        (edge.leases(&[all[1].address()]).await[0] > 0).then_some(())
    };
    eventually(SOON, "a client in the far one", moved).await.unwrap();
    let ratio = edge.metric("warbler_locality_shed_ratio", &[("locality", "near")]).await;
    assert!(ratio.is_some_and(|ratio| ratio >= 0.9), "{ratio:?}");
    held.clear();
    eventually(SOON, "the near one to take them back", async || sheds(0).await).await.unwrap();
}

#[tokio::test]
async fn peak_ewma_leaves_an_endpoint_that_answers_slowly() {
    let slow = HttpStub::scripted("slow", |_head| {
        vec![
            Action::Pause(std::time::Duration::from_millis(200)),
            Action::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ]
    })
    .await
    .unwrap();
    let fast = HttpStub::start("fast").await.unwrap();
    let keys =
        "request-policy = \"peak-ewma\"\npeak-ewma = { choices = 16, decay = \"1h\", default-latency = \"1ms\" }";
    let edge = Edge::start(&web_with("", keys, &[slow.address(), fast.address()])).await;
    for _ in 0..40 {
        assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 200);
    }
    // Sixteen draws of two miss neither. The slow one is tried once, and hardly after its first answer.
    assert!(slow.requests() <= 4 && fast.requests() >= 36, "{} and {}", slow.requests(), fast.requests());
}

#[tokio::test]
async fn a_hash_policy_sends_one_client_to_one_endpoint_and_many_to_all() {
    let stubs =
        [HttpStub::start("a").await.unwrap(), HttpStub::start("b").await.unwrap(), HttpStub::start("c").await.unwrap()];
    let all: Vec<SocketAddr> = stubs.iter().map(HttpStub::address).collect();
    for policy in ["maglev", "ring-hash"] {
        // Of so few requests even one that has not quite ended is more than a fair share, so nothing bounds it here.
        let keys = format!(
            "request-policy = \"{policy}\"\n{policy}.balance-factor = 0\nhash-on = [\"header:x-user\", \"address\"]"
        );
        let edge = Edge::start(&web_with("", &keys, &all)).await;
        let mut places = std::collections::BTreeSet::new();
        for user in 0..20 {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..3 {
                let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: u{user}\r\nConnection: close\r\n\r\n");
                let mut client = RawClient::connect(edge.address("web")).await.unwrap();
                client.send(request.as_bytes()).await.unwrap();
                let answer = http::read_answer(&mut client, "GET").await.unwrap();
                seen.insert(answer.json().unwrap()["name"].as_str().unwrap().to_owned());
            }
            assert_eq!(seen.len(), 1, "{policy}: user {user} went to {seen:?}");
            places.extend(seen);
        }
        assert_eq!(places.len(), 3, "{policy}");
    }
}
