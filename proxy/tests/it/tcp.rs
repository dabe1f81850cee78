//! TCP tunnels: both halves, resets, readers that are slow, silence, and endpoints that die.

use std::time::Duration;

use bench::harness::{EchoTcp, RawClient, TestCa, Workspace, eventually, raise_open_files, sample, tls};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::edge::{Edge, SOON};
use crate::ends::{RawEndpoint, cluster, echo_client, echoes, tcp_edge};

/// Ends the client's half first, then the endpoint's; and on a second tunnel the other way round.
async fn half_closes<S: AsyncRead + AsyncWrite + Unpin>(
    edge: &Edge,
    endpoint: &RawEndpoint,
    connect: impl AsyncFn() -> RawClient<S>,
) {
    let (mut client, mut upstream) = tokio::join!(connect(), endpoint.accept());
    client.send(b"question").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(upstream.read_to_end().await.unwrap(), b"question");
    upstream.send(b"answer after the end of the question").await.unwrap();
    upstream.finish().await.unwrap();
    assert_eq!(client.read_to_end().await.unwrap(), b"answer after the end of the question");
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["kind"], &lines[0]["outcome"]), (&"tcp".into(), &"client-closed".into()));
    assert_eq!((&lines[0]["bytes_to_endpoint"], &lines[0]["bytes_to_client"]), (&8.into(), &36.into()));

    let (mut client, mut upstream) = tokio::join!(connect(), endpoint.accept());
    upstream.send(b"greeting").await.unwrap();
    upstream.finish().await.unwrap();
    assert_eq!(client.read_to_end().await.unwrap(), b"greeting");
    client.send(b"thanks").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(upstream.read_to_end().await.unwrap(), b"thanks");
    let lines = edge.wait_for_lines(2).await;
    assert_eq!(lines[1]["outcome"], "endpoint-closed");
    assert_eq!(lines[1]["endpoint"], endpoint.address().to_string());
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    half_closes(&edge, &endpoint, async || RawClient::connect(edge.address("im")).await.unwrap()).await;
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_over_tls_too() {
    let endpoint = RawEndpoint::bind().await;
    let (workspace, ca) = with_certificate();
    let edge = Edge::start_in(workspace, &tcp_edge(CERTIFICATE, &[endpoint.address()])).await;
    let config = ca.client(&[]).unwrap();
    let connect = async || {
        let stream = tls::connect(edge.address("im"), "im.example.com", config.clone()).await.unwrap();
        RawClient::over(stream)
    };
    half_closes(&edge, &endpoint, connect).await;
}

pub(crate) const CERTIFICATE: &str = "tls.certificates = [{ chain = \"tls/im.pem\", key = \"tls/im.key\" }]";

/// A workspace with the certificate that [`CERTIFICATE`] names, and its authority.
pub(crate) fn with_certificate() -> (Workspace, TestCa) {
    let (workspace, ca) = (Workspace::new().unwrap(), TestCa::new().unwrap());
    let issued = ca.issue(&["im.example.com"]).unwrap();
    workspace.write("tls/im.pem", &issued.chain_pem).unwrap();
    workspace.write("tls/im.key", &issued.key_pem).unwrap();
    (workspace, ca)
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_for_the_other() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;

    let (client, mut upstream) = endpoint.tunnel(edge.address("im")).await;
    client.reset().unwrap();
    let error = upstream.read_to_end().await.unwrap_err();
    assert!(format!("{error:#}").contains("reset"), "the endpoint saw: {error:#}");
    edge.wait_for_lines(1).await;

    let (mut client, upstream) = endpoint.tunnel(edge.address("im")).await;
    upstream.reset().unwrap();
    let error = client.read_to_end().await.unwrap_err();
    assert!(format!("{error:#}").contains("reset"), "the client saw: {error:#}");

    let lines = edge.wait_for_lines(2).await;
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&"client-reset".into(), &"endpoint-reset".into()));
    edge.wait_until_empty().await;
}

#[tokio::test]
async fn a_client_that_nobody_can_serve_is_reset_and_not_closed_in_order() {
    let nobody = RawEndpoint::bind().await.address();
    let edge = Edge::start(&tcp_edge("", &[nobody])).await;
    // The reset may come as soon as the kernel has accepted.
    let error = match RawClient::connect(edge.address("im")).await {
        Ok(mut client) => client.read_to_end().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(format!("{error:#}").contains("reset"), "{error:#}");
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["kind"], &lines[0]["outcome"]), (&"tcp".into(), &"connect-failed".into()));
    assert_eq!(edge.leases(&[nobody]).await, [0]);
}

const STALLED: u64 = 1000;
/// In pieces of 64 KiB: more than what the kernel's buffers take.
const FLOOD: usize = 64;
/// Of the segments, as on an Ethernet. The kernel sizes its buffers by them: with the loopback's own they take some 4 MB for
/// each tunnel.
const SEGMENT: u32 = 1460;

/// The same pieces for the same tunnel, and no two of them alike.
fn flood_of(tunnel: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut noise = vec![0; 64 << 10];
    fastrand::Rng::with_seed(tunnel).fill(&mut noise);
    (0..FLOOD as u64).map(move |number| {
        noise[..8].copy_from_slice(&number.to_be_bytes());
        noise.rotate_left(9);
        noise.clone()
    })
}

/// Sends each client, who says its number first, its flood.
async fn flooding(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        SockRef::from(&stream).set_send_buffer_size(16 << 10).unwrap();
        tokio::spawn(async move {
            let tunnel = stream.read_u64().await?;
            for piece in flood_of(tunnel) {
                stream.write_all(&piece).await?;
            }
            stream.shutdown().await
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_cost_little_memory_and_get_every_byte_once_they_read() {
    raise_open_files(8000).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SockRef::from(&listener).set_tcp_mss(SEGMENT).unwrap();
    let edge = Edge::start(&tcp_edge("", &[listener.local_addr().unwrap()])).await;
    let flood = tokio::spawn(flooding(listener));
    drop(stalled_client(&edge, 0).await);
    edge.wait_until_empty().await;
    let before = sample::proportional_memory(edge.process.pid()).unwrap();

    let mut clients = Vec::new();
    for tunnel in 0..STALLED {
        clients.push((tunnel, stalled_client(&edge, tunnel).await));
    }
    // At a standstill, and not merely slow: nothing more in a second, after each has got some.
    let mut looks = [0; 5];
    let stalled = async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        looks.rotate_left(1);
        looks[4] = edge.count("warbler_relayed_bytes_total", &[("direction", "to-client")]).await;
        (looks == [looks[4]; 5] && looks[4] >= STALLED * (64 << 10)).then_some(looks[4])
    };
    let moved = eventually(Duration::from_secs(60), "a standstill", stalled).await.unwrap();
    let all = STALLED * FLOOD as u64 * (64 << 10);
    assert!(moved < all * 3 / 4, "much of it still waits: {moved} of {all} bytes passed");
    let grown = sample::proportional_memory(edge.process.pid()).unwrap().saturating_sub(before);
    // A direction keeps 32 KiB at most; half as much again for everything else that a tunnel needs.
    assert!(grown < STALLED * (48 << 10), "{grown} bytes for {STALLED} stalled tunnels");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", edge.process.pid())).unwrap().count();
    assert!(descriptors < 2 * 1000 + 400, "{descriptors} descriptors for {STALLED} stalled tunnels");

    for (tunnel, mut client) in clients.drain(..).step_by(20) {
        for piece in flood_of(tunnel) {
            assert!(client.read_exact(piece.len()).await.unwrap() == piece, "tunnel {tunnel} got other bytes");
        }
        client.expect_eof().await.unwrap();
    }
    edge.wait_until_empty().await;
    flood.abort();
}

/// A client with a small receive buffer that asks for a flood and reads nothing.
async fn stalled_client(edge: &Edge, tunnel: u64) -> RawClient {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    SockRef::from(&socket).set_tcp_mss(SEGMENT).unwrap();
    let stream = socket.connect(edge.address("im")).await.unwrap();
    let mut client = RawClient::over(stream).with_patience(SOON);
    client.send(&tunnel.to_be_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_tunnel_without_a_byte_for_the_idle_time_ends_and_a_busy_one_stays() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("timeouts.idle = \"4s\"", &[endpoint.address()])).await;
    let mut busy = echo_client(edge.address("im")).await;
    let began = std::time::Instant::now();
    let mut idle = echo_client(edge.address("im")).await;
    let (closed, ()) = tokio::join!(
        async {
            idle.expect_eof().await.unwrap();
            began.elapsed()
        },
        async {
            while began.elapsed() < Duration::from_secs(7) {
                echoes(&mut busy, b"still here").await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    );
    assert!(closed >= Duration::from_secs(3), "not before its time: {closed:?}");
    drop(idle);
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["leave_reason"]), (&"left".into(), &"idle".into()));
    echoes(&mut busy, b"and here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_dies_under_load_takes_its_own_tunnels_and_no_others() {
    const CLIENTS: usize = 30;
    let mut endpoints =
        [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()];
    let addresses = endpoints.each_ref().map(EchoTcp::address);
    let probes = "policy = \"least-connections\"\nhealth.tcp = { interval = \"100ms\", fast-interval = \"100ms\", rise = 2, fall = 3 }";
    let config = format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n{}",
        cluster("im", probes, &addresses)
    );
    let edge = Edge::start(&config).await;
    let mut clients = tokio::task::JoinSet::new();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    for _ in 0..CLIENTS {
        let (mut client, stopping) = (echo_client(edge.address("im")).await, stopping.clone());
        clients.spawn(async move {
            while !*stopping.borrow() {
                if client.send(b"ping").await.is_err() || client.read_exact(4).await.is_err() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            true
        });
    }
    assert_eq!(edge.leases(&addresses).await, [10, 10, 10]);

    endpoints[1].stop_with_resets().await;
    let mut broken = 0;
    while broken < CLIENTS / 3 {
        let ended = tokio::time::timeout(SOON, clients.join_next()).await.expect("broken tunnels").unwrap();
        assert!(!ended.unwrap(), "only broken ones have ended");
        broken += 1;
    }
    // New ones go elsewhere, at once and when it is known to be down.
    for _ in 0..5 {
        drop(echo_client(edge.address("im")).await);
    }
    let down = edge.wait_for_standing(addresses[1], "down").await;
    assert!(down["reason"].as_str().unwrap().contains("refused"), "{down}");
    assert_eq!(edge.count("warbler_endpoint_up", &[("endpoint", &addresses[1].to_string())]).await, 0);
    let _newcomers = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    assert_eq!(edge.leases(&addresses).await, [11, 0, 11]);

    endpoints[1].restart().await.unwrap();
    edge.wait_for_standing(addresses[1], "up").await;
    // It is the emptiest one by far as soon as picks know that it is back.
    let mut returned = Vec::new();
    while edge.leases(&addresses).await[1] == 0 {
        assert!(returned.len() < 500, "nobody goes there again: {:?}", edge.leases(&addresses).await);
        returned.push(echo_client(edge.address("im")).await);
    }

    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        assert!(ended.unwrap(), "a tunnel to another endpoint broke");
    }
    let resets = edge.access_lines().iter().filter(|line| line["outcome"] == "endpoint-reset").count();
    assert_eq!(resets, CLIENTS / 3);
}
