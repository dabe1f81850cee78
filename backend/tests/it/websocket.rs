//! The bytes of WebSocket frames, cut and mixed in every way: a connection that goes to rest between two messages must not
//! lose one, nor the place in one.

use std::net::SocketAddr;

use backend::frame::{Frame, Ping};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, sleep, timeout},
};
use tokio_websockets::{ClientBuilder, Message};

use crate::{
    process::{DEADLINE, Im},
    tcp_client::login,
    ws::send,
};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: im.v1\r\n\r\n";
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const PING: u8 = 0x9;
const LAST: u8 = 0x80;

/// One frame, masked with a key that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = vec![first];
    match u8::try_from(length) {
        Ok(short @ ..126) => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

async fn upgraded(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// A login, a message in three frames with pings between them, a long one, and a ping of the protocol's own.
fn conversation(user: &str) -> Vec<u8> {
    let conv = format!("dm:{user}:{user}");
    let login = login(user, "phone").to_bytes();
    let short = send(&conv, 1, b"in pieces").to_bytes();
    let long = send(&conv, 2, &[b'x'; 700]).to_bytes();
    let ping = Frame::Ping(Ping { t: 7 }).to_bytes();
    [
        frame(LAST | BINARY, &login),
        frame(BINARY, &short[..5]),
        frame(LAST | PING, b"first"),
        frame(CONTINUATION, &[]),
        frame(LAST | PING, b""),
        frame(LAST | CONTINUATION, &short[5..]),
        frame(LAST | PING, b"second"),
        frame(LAST | BINARY, &long),
        frame(LAST | BINARY, &ping),
    ]
    .concat()
}

/// Says the conversation in these pieces, with a rest after each, and hears all answers.
async fn check(address: SocketAddr, piece: usize, rest: Duration) {
    let mut stream = upgraded(address).await;
    for bytes in conversation(&format!("user{piece}")).chunks(piece) {
        stream.write_all(bytes).await.unwrap();
        sleep(rest).await;
    }
    let mut client = ClientBuilder::new().take_over(stream);
    let (mut heard, mut pongs) = (Vec::new(), Vec::new());
    // The login's answer, two acknowledgements and the answer to the protocol's own ping.
    while heard.len() < 4 || pongs.len() < 3 {
        let message: Message = timeout(DEADLINE, client.next()).await.expect("an answer in time").unwrap().unwrap();
        if message.is_pong() {
            pongs.push(message.into_payload().to_vec());
        } else {
            heard.push(Frame::from_bytes(message.into_payload().into()).unwrap().unwrap());
        }
    }
    assert_eq!(pongs, [&b"first"[..], b"", b"second"], "{piece}");
    let acks = heard.iter().filter(|frame| matches!(frame, Frame::SendAck(_))).count();
    let answered = heard.iter().any(|frame| matches!(frame, Frame::Pong(pong) if pong.t == 7));
    assert!(matches!(heard[0], Frame::LoginOk(_)) && acks == 2 && answered, "{piece}: {heard:?}");
}

#[tokio::test]
async fn messages_may_be_cut_anywhere_and_have_pings_in_between() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &[]).await;
    // Byte by byte the server reads many times; in one piece it has all of it at once.
    for (piece, rest) in [(1, 100), (2, 100), (7, 200), (100, 500), (10_000, 0)] {
        check(im.address, piece, Duration::from_micros(rest)).await;
    }
}

#[tokio::test]
async fn every_place_for_a_cut_is_one_at_which_the_server_may_rest() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &[]).await;
    let cuts = (1..conversation("user1000").len()).step_by(3);
    let checks = cuts.map(|cut| check(im.address, cut, Duration::from_millis(2)));
    futures_util::stream::iter(checks).buffer_unordered(16).collect::<()>().await;
}
