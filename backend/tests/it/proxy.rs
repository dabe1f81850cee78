//! Clients that are announced by PROXY headers, and those who must not announce anybody.

use std::net::SocketAddr;

use backend::frame::Frame;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    log::{Logged, start_logged},
    process::{ANY, DEADLINE, Im},
    tcp_client::TcpClient,
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: im.v1\r\n\r\n";

/// 2001:db8::7 with port 4711, and an authority behind it.
fn v2() -> Vec<u8> {
    let from = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let tlv = [0x02, 0, 2, b'i', b'm'];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x29", &from[..], &from[..], &[0x12, 0x67, 1, 187], &tlv[..]].concat()
}

async fn start(options: &[&str]) -> (Im, TempDir, Logged) {
    start_logged(&[&["--tcp", ANY, "--proxy-from", "127.0.0.0/8"], options].concat()).await
}

/// Says these bytes and reads to the end.
async fn exchange(address: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // A server that has refused already may have closed.
        let _said = stream.write_all(piece).await;
    }
    let mut answer = Vec::new();
    let _reset = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_announced_address_is_the_clients_on_both_ports() {
    let (im, _data, logged) = start(&[]).await;
    let whoami = b"GET /whoami HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n";
    for (header, client) in [(V1, "203.0.113.7:4711"), (&v2(), "[2001:db8::7]:4711")] {
        let answer = exchange(im.address, &[header, whoami]).await;
        assert!(answer.contains(&format!(r#""peer":"{client}","#)), "{answer}");
        // Byte by byte, with the request behind it.
        let pieces: Vec<&[u8]> = header.chunks(1).chain([&whoami[..]]).collect();
        assert!(exchange(im.address, &pieces).await.contains(client));
        let mut alice = TcpClient::connect(im.address_of("tcp")).await;
        alice.stream.write_all(header).await.unwrap();
        alice.log_in("alice", "phone").await;
        let begun = logged.line(|line| {
            let fields = &line["fields"];
            fields["message"] == "session begins" && fields["address"] == client && fields["transport"] == "tcp"
        });
        assert!(begun.await["fields"]["proxy"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    let upgraded = [V1, UPGRADE.as_bytes()].concat();
    let mut websocket = TcpStream::connect(im.address).await.unwrap();
    websocket.write_all(&upgraded).await.unwrap();
    let mut status = [0; 12];
    websocket.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    drop(websocket);
    logged
        .line(|line| {
            let fields = &line["fields"];
            fields["message"] == "no session" && fields["address"] == "203.0.113.7:4711"
        })
        .await;
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_its_own_client() {
    let (im, _data, _) = start(&[]).await;
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let request = b"GET /whoami HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n";
        let answer = exchange(im.address, &[header, request]).await;
        assert!(answer.contains(r#""peer":"127.0.0.1:"#) && answer.contains(r#""proxy":null"#), "{answer}");
        let mut client = TcpClient::connect(im.address_of("tcp")).await;
        client.stream.write_all(header).await.unwrap();
        client.log_in("alice", "phone").await;
    }
}

#[tokio::test]
async fn without_a_header_a_trusted_network_may_probe_and_nothing_else() {
    let (im, _data, logged) = start(&[]).await;
    assert_eq!(im.get("/healthz").await.status, 200);
    assert_eq!(im.get("/readyz").await.status, 200);
    let answer = exchange(im.address, &[UPGRADE.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("PROXY header"), "{answer}");
    let mut frames = TcpClient::connect(im.address_of("tcp")).await;
    frames.stream.write_all(&[0, 0, 0, 0]).await.unwrap();
    assert_eq!(frames.hear_or_end().await, None);
    logged.said("a PROXY header is needed").await;
}

#[tokio::test]
async fn a_header_from_elsewhere_is_refused_and_logged() {
    let (im, _data, logged) = start_logged(&["--tcp", ANY, "--proxy-from", "10.0.0.0/8"]).await;
    for address in [im.address, im.address_of("tcp")] {
        assert_eq!(exchange(address, &[V1, b"GET /healthz HTTP/1.1\r\n\r\n"]).await, "");
        assert_eq!(exchange(address, &[LOCAL]).await, "");
    }
    logged.said("no --proxy-from names").await;
    assert_eq!(im.get("/healthz").await.status, 200);
    let mut alice = TcpClient::login(im.address_of("tcp"), "alice", "phone").await;
    assert!(matches!(alice.send("room:a", 1, b"x").await, ack if ack.seq == 1));
    alice.say(&Frame::Bye(backend::frame::Bye {})).await;
    assert_eq!(alice.closed().await, 1000);
}

#[tokio::test]
async fn a_header_that_is_broken_too_large_or_cut_off_is_refused_with_its_reason() {
    let (im, _data, logged) = start(&[]).await;
    let too_large = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &[0; 5000][..]].concat();
    for (header, reason) in [
        (&b"PROXY TCP4 nonsense\r\n"[..], "cannot be understood"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x41\x00\x00", "cannot be understood"),
        (&too_large, "larger than 4096 bytes"),
    ] {
        assert_eq!(exchange(im.address, &[header]).await, "");
        assert_eq!(exchange(im.address_of("tcp"), &[header]).await, "");
        logged.said(reason).await;
    }
    let mut cut = TcpStream::connect(im.address).await.unwrap();
    cut.write_all(&V1[..20]).await.unwrap();
    drop(cut);
    logged.said("ended inside its PROXY header").await;
}

/// Five seconds of waiting, on both ports at once.
#[tokio::test]
async fn a_header_that_does_not_come_to_its_end_is_given_up() {
    let (im, _data, logged) = start(&[]).await;
    let (slow, half) = ([&V1[..20]], [&LOCAL[..14]]);
    let (http, tcp) = tokio::join!(exchange(im.address, &slow), exchange(im.address_of("tcp"), &half));
    assert_eq!((http.as_str(), tcp.as_str()), ("", ""));
    logged.said("was not complete").await;
}
