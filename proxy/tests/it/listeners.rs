//! Listeners that come, move, change their name and go while the edge runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::harness::{EchoTcp, RawClient, eventually, reserve_port};

use crate::edge::{Edge, SOON};
use crate::ends::{CLOSE, RawEndpoint, client_frame, cluster, echo_client, echoes, read_frame};

fn fresh() -> SocketAddr {
    ([127, 0, 0, 1], reserve_port().unwrap()).into()
}

/// A tcp listener for the cluster `im`.
fn listener(name: &str, addresses: &[SocketAddr]) -> String {
    let listed: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[listeners.{name}]\nbind = [{}]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n", listed.join(", "))
}

fn im(endpoint: &EchoTcp) -> String {
    cluster("im", "health.off = true", &[endpoint.address()])
}

/// Waits until nobody listens there. Not by connecting: until then the edge would serve that client, too.
async fn refuses(address: SocketAddr) {
    let unbound = async || std::net::TcpListener::bind(address).is_ok().then_some(());
    eventually(SOON, "a closed port", unbound).await.unwrap();
    assert!(RawClient::connect(address).await.is_err());
}

#[tokio::test]
async fn a_listener_is_added_and_serves_beside_the_others() {
    let endpoint = EchoTcp::start().await.unwrap();
    let (first, second) = (fresh(), fresh());
    let edge = Edge::start(&(listener("a", &[first]) + &im(&endpoint))).await;
    let mut old = echo_client(first).await;
    assert!(RawClient::connect(second).await.is_err());
    edge.reload(&(listener("a", &[first]) + &listener("b", &[second]) + &im(&endpoint))).await;
    let _new = echo_client(second).await;
    echoes(&mut old, b"still here").await;
    assert_eq!(edge.count("warbler_connections", &[("listener", "b")]).await, 1);
}

#[tokio::test]
async fn a_listener_moves_and_its_tunnels_stay() {
    let endpoint = EchoTcp::start().await.unwrap();
    let (before, after) = (fresh(), fresh());
    let edge = Edge::start(&(listener("a", &[before]) + &im(&endpoint))).await;
    let mut old = echo_client(before).await;
    edge.reload(&(listener("a", &[after]) + &im(&endpoint))).await;
    let _new = echo_client(after).await;
    refuses(before).await;
    echoes(&mut old, b"still here").await;
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
    // And back, with both for a while.
    edge.reload(&(listener("a", &[before, after]) + &im(&endpoint))).await;
    let _both = [echo_client(before).await, echo_client(after).await];
    echoes(&mut old, b"still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_with_a_new_name_keeps_its_socket_and_refuses_nobody() {
    let endpoint = EchoTcp::start().await.unwrap();
    let address = fresh();
    let edge = Edge::start(&(listener("a", &[address]) + &im(&endpoint))).await;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let storm = tokio::spawn(async move {
        let mut served = 0;
        while !*stopping.borrow() {
            // Who came in by the old name may be asked to leave at once, which is an end in order.
            let mut client = RawClient::connect(address).await.expect("nobody is refused").with_patience(SOON);
            client.send(b"hello").await.expect("nobody is reset");
            client.finish().await.expect("nobody is reset");
            served += usize::from(client.read_to_end().await.expect("nobody is reset") == b"hello");
        }
        served
    });
    for name in ["b", "c", "d", "e", "f", "a"] {
        edge.reload(&(listener(name, &[address]) + &im(&endpoint))).await;
        drop(echo_client(address).await);
    }
    stop.send_replace(true);
    assert!(storm.await.expect("a client was refused") > 0);
    assert!(edge.count("warbler_connections_total", &[("listener", "b")]).await > 0);
}

#[tokio::test]
async fn two_listeners_change_places() {
    let (left, right) = (EchoTcp::start().await.unwrap(), RawEndpoint::bind().await);
    let (one, two) = (fresh(), fresh());
    let clusters = im(&left) + "\n" + &cluster("other", "health.off = true", &[right.address()]);
    let to_other = |address| listener("b", &[address]).replace("cluster = \"im\"", "cluster = \"other\"");
    let edge = Edge::start(&(listener("a", &[one]) + &to_other(two) + &clusters)).await;
    drop(echo_client(one).await);
    edge.reload(&(listener("a", &[two]) + &to_other(one) + &clusters)).await;
    // Connections that were accepted before the change were served as before; new ones go by the new names.
    let to_the_left = async || {
        let mut client = RawClient::connect(two).await.unwrap().with_patience(Duration::from_millis(500));
        client.send(b"x").await.unwrap();
        (client.read_exact(1).await.is_ok()).then_some(())
    };
    eventually(SOON, "the other endpoint", to_the_left).await.unwrap();
}

#[tokio::test]
async fn one_listener_has_two_addresses_and_ipv6() {
    let endpoint = EchoTcp::start().await.unwrap();
    let v6: SocketAddr = "[::1]:0".parse().unwrap();
    let v4: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let edge = Edge::start(&(listener("a", &[v4, v6]) + &im(&endpoint))).await;
    let addresses = edge.addresses("a");
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
    let _both = [echo_client(addresses[0]).await, echo_client(addresses[1]).await];
    assert_eq!(edge.count("warbler_connections", &[("listener", "a")]).await, 2);
    drop(_both);
    let lines = edge.wait_for_lines(2).await;
    assert!(lines.iter().any(|line| line["client"].as_str().unwrap().starts_with("[::1]:")), "{lines:#?}");
    // Ports that the kernel chose survive a reload.
    edge.reload(&(listener("a", &[v4, v6]) + &listener("b", &[v4]) + &im(&endpoint))).await;
    let _both = [echo_client(addresses[0]).await, echo_client(addresses[1]).await];
}

#[tokio::test]
async fn a_removed_listener_asks_its_tunnels_to_leave_at_a_pace_and_its_port_refuses() {
    let (endpoint, web) = (EchoTcp::start().await.unwrap(), RawEndpoint::bind().await);
    let (kept, gone, gone_web) = (fresh(), fresh(), fresh());
    let rest = format!(
        "{}\n{}\n[drain]\nrate = \"20/s\"\n",
        im(&endpoint),
        cluster("web", "health.off = true", &[web.address()])
    );
    let http = format!(
        "[listeners.web]\nbind = [\"{gone_web}\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"web\"\n\n"
    );
    let edge = Edge::start(&(listener("a", &[kept]) + &listener("b", &[gone]) + &http + &rest)).await;
    let mut stays = echo_client(kept).await;
    let mut leavers = Vec::new();
    for _ in 0..30 {
        leavers.push(echo_client(gone).await);
    }
    let (mut client, mut upstream) = web.websocket(gone_web).await;
    let began = Instant::now();
    edge.reload(&(listener("a", &[kept]) + &rest)).await;
    refuses(gone).await;
    refuses(gone_web).await;
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1001));
    let answer = client_frame(CLOSE, &1001u16.to_be_bytes());
    client.send(&answer).await.unwrap();
    assert_eq!(upstream.read_exact(answer.len()).await.unwrap(), answer);
    drop(upstream);
    for mut leaver in leavers {
        leaver.expect_eof().await.unwrap();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1300), "31 at 20/s are not asked in {took:?}");
    drop(client);
    let lines = edge.wait_for_lines(31).await;
    assert!(lines.iter().all(|line| line["outcome"] == "left" && line["leave_reason"] == "listener-removed"));
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[("reason", "listener-removed")]).await, 31);
    echoes(&mut stays, b"still here").await;
}
