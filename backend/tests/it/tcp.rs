//! Frames over plain TCP: the same sessions, and reasons that reach the client.

use std::time::{Duration, Instant};

use backend::frame::{Bye, Close, Frame, KickReason, Login, LoginCode, MAX_FRAME, Ping};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    log::start_logged,
    process::{ANY, DEADLINE, Im, eventually},
    tcp_client::{TcpClient, bytes, login},
    ws::{Client, send, token},
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    let options = [&["--tcp", ANY], options].concat();
    (Im::start(data.path(), &options).await, data)
}

#[tokio::test]
async fn people_on_both_transports_share_a_conversation() {
    let (im, _data) = start(&[]).await;
    let tcp = im.address_of("tcp");
    let mut alice = TcpClient::login(tcp, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut json = Client::connect_json(im.address).await;
    json.log_in("bob", "laptop").await;
    assert_eq!(alice.send("dm:alice:bob", 1, b"over TCP").await.seq, 1);
    assert_eq!(&bob.hear_msg().await.body[..], b"over TCP");
    assert_eq!(&json.hear_msg().await.body[..], b"over TCP");
    assert_eq!(bob.send("dm:alice:bob", 2, b"over WebSocket").await.seq, 2);
    assert_eq!(&alice.hear_msg().await.body[..], b"over WebSocket");
    // A repeated message is the same message, whichever way it comes.
    let mut tablet = Client::login(im.address, "alice", "tablet").await;
    let again = tablet.send("dm:alice:bob", 1, b"over TCP").await;
    assert!(again.duplicate && again.seq == 1);
    alice.say(&Frame::Bye(Bye {})).await;
    assert_eq!(alice.closed().await, 1000);
    eventually("she has gone", async || (im.get("/load").await.json()["sessions"] == 3).then_some(())).await;
    let metrics = im.get("/metrics").await.body;
    assert!(metrics.contains("warbler_im_connections 3"), "{metrics}");
}

#[tokio::test]
async fn frames_may_come_in_any_pieces() {
    let (im, _data) = start(&[]).await;
    let tcp = im.address_of("tcp");
    let said = [login("alice", "phone"), Frame::Ping(Ping { t: 7 }), send("room:a", 1, b"x"), Frame::Bye(Bye {})];
    let said: Vec<u8> = said.iter().flat_map(bytes).collect();
    for split in 1..said.len() {
        let mut client = TcpClient::connect(tcp).await;
        let (first, second) = said.split_at(split);
        client.stream.write_all(first).await.unwrap();
        // Where the pieces meet is the server's to find out; that they do not become one is the kernel's business.
        tokio::task::yield_now().await;
        client.stream.write_all(second).await.unwrap();
        assert!(matches!(client.hear().await, Frame::LoginOk(_)), "{split}");
        assert!(matches!(client.hear().await, Frame::Pong(pong) if pong.t == 7), "{split}");
        assert!(matches!(client.hear().await, Frame::SendAck(ack) if ack.seq == 1), "{split}");
        assert_eq!(client.closed().await, 1000, "{split}");
    }
    // Byte by byte, each in a segment of its own.
    let mut client = TcpClient::connect(tcp).await;
    for byte in &said {
        client.stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!(matches!(client.hear().await, Frame::LoginOk(_)));
    assert_eq!(client.closed().await, 1000);
}

#[tokio::test]
async fn the_longest_frame_is_taken_and_a_longer_one_is_not_waited_for() {
    let (im, _data) = start(&[]).await;
    let tcp = im.address_of("tcp");
    // A `LOGIN` with a token that is none. Lengths are written alike from 16 384 bytes on.
    let of = |token| Frame::Login(Login { token: "x".repeat(token), device_id: "phone".into(), ..Login::default() });
    let longest = of(20_000 + MAX_FRAME - of(20_000).to_bytes().len());
    assert_eq!(longest.to_bytes().len(), MAX_FRAME);
    let mut client = TcpClient::connect(tcp).await;
    client.say(&longest).await;
    assert!(matches!(client.hear().await, Frame::LoginErr(error) if error.code() == LoginCode::TokenMalformed));
    assert_eq!(client.closed().await, 4001);
    for length in [u32::try_from(MAX_FRAME).unwrap() + 1, u32::MAX] {
        let mut client = TcpClient::connect(tcp).await;
        client.stream.write_all(&length.to_be_bytes()).await.unwrap();
        assert_eq!(client.closed().await, 1009, "{length}");
    }
}

#[tokio::test]
async fn an_empty_frame_means_nothing_and_garbage_ends_the_connection() {
    let (im, _data) = start(&[]).await;
    let tcp = im.address_of("tcp");
    let mut client = TcpClient::connect(tcp).await;
    client.stream.write_all(&[0; 4]).await.unwrap();
    client.log_in("alice", "phone").await;
    client.stream.write_all(&[0; 40]).await.unwrap();
    // A frame of a later version: field 100, empty.
    client.stream.write_all(&[0, 0, 0, 3, 0xa2, 0x06, 0x00]).await.unwrap();
    assert_eq!(client.send("room:a", 1, b"still here").await.seq, 1);
    client.stream.write_all(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(client.closed().await, 1007);
    // What a browser or a prober says begins with a length that no frame has.
    let mut prober = TcpClient::connect(tcp).await;
    prober.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(prober.closed().await, 1009);
    let mut client = TcpClient::login(tcp, "alice", "laptop").await;
    client.say(&Frame::Close(Close::default())).await;
    assert_eq!(client.closed().await, 1008, "only the server says CLOSE");
}

#[tokio::test]
async fn who_only_stops_talking_gets_its_answers_and_may_go_on_with_the_session() {
    let (im, _data) = start(&["--faults"]).await;
    let tcp = im.address_of("tcp");
    let mut client = TcpClient::connect(tcp).await;
    let session = client.log_in("alice", "phone").await.session_id;
    im.fault(r#"{"ack_delay_ms":300}"#).await;
    client.say(&send("room:a", 1, b"last words")).await;
    client.stream.shutdown().await.unwrap();
    assert!(matches!(client.hear().await, Frame::SendAck(ack) if ack.seq == 1));
    assert_eq!(client.closed().await, 1000);
    // It did not say BYE: the session is remembered, over either transport.
    let mut again = Client::connect(im.address).await;
    assert!(again.resume("alice", "phone", &session).await.resumed);
    // An end inside a frame is a break.
    let mut broken = TcpClient::login(tcp, "bob", "phone").await;
    broken.stream.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    broken.stream.shutdown().await.unwrap();
    assert_eq!(broken.hear_or_end().await, None);
}

#[tokio::test]
async fn every_other_end_has_its_code_as_over_websocket() {
    let (im, _data) = start(&["--heartbeat", "1s", "--request-rate", "1"]).await;
    let tcp = im.address_of("tcp");
    let mut early = TcpClient::connect(tcp).await;
    early.say(&Frame::Ping(Ping { t: 1 })).await;
    assert_eq!(early.closed().await, 1008);
    let mut first = TcpClient::login(tcp, "alice", "phone").await;
    let second = Client::login(im.address, "alice", "phone").await;
    assert!(matches!(first.hear().await, Frame::Kick(kick) if kick.reason() == KickReason::SameDevice));
    assert_eq!(first.closed().await, 4002);
    drop(second);
    let mut silent = TcpClient::login(tcp, "bob", "phone").await;
    assert_eq!(silent.closed().await, 4004);
    let mut expiring = TcpClient::connect(tcp).await;
    let Frame::Login(mut wanted) = login("carol", "phone") else { unreachable!() };
    wanted.token = token("carol", -29);
    expiring.say(&Frame::Login(wanted)).await;
    assert!(matches!(expiring.hear().await, Frame::LoginOk(_)));
    assert_eq!(expiring.closed().await, 4006);
    let mut hasty = TcpClient::login(tcp, "dave", "phone").await;
    for id in 0..20 {
        hasty.stream.write_all(&bytes(&send("room:a", id, b"x"))).await.unwrap();
    }
    assert_eq!(hasty.closed().await, 4008);
}

#[tokio::test]
async fn who_does_not_log_in_is_closed() {
    let (im, _data) = start(&["--login-timeout", "500ms"]).await;
    let tcp = im.address_of("tcp");
    assert_eq!(TcpClient::connect(tcp).await.closed().await, 4003);
    let mut half = TcpClient::connect(tcp).await;
    half.stream.write_all(&[0, 0, 0, 90]).await.unwrap();
    assert_eq!(half.closed().await, 4003, "half a frame is no login");
}

#[tokio::test]
async fn a_full_server_says_so() {
    let (im, _data) = start(&["--max-sessions", "8", "--login-timeout", "1h"]).await;
    let tcp = im.address_of("tcp");
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(TcpClient::connect(tcp).await);
    }
    eventually("all are there", async || (im.get("/load").await.json()["sessions"] == 8).then_some(())).await;
    assert_eq!(TcpClient::connect(tcp).await.closed().await, 1013);
}

#[tokio::test]
async fn a_drain_tells_those_on_tcp_too_and_then_closes_them() {
    let (mut im, _data) = start(&["--admin", "--stop-grace", "0s", "--drain-deadline", "1s"]).await;
    let tcp = im.address_of("tcp");
    let mut obedient = TcpClient::login(tcp, "alice", "phone").await;
    let mut stubborn = TcpClient::login(tcp, "bob", "phone").await;
    assert_eq!(im.post("/admin/drain?deadline=1h", "").await.status, 202);
    assert!(matches!(obedient.hear().await, Frame::Reconnect(hint) if hint.reason == "drain"));
    obedient.say(&Frame::Bye(Bye {})).await;
    assert_eq!(obedient.closed().await, 1000);
    assert_eq!(TcpClient::connect(tcp).await.closed().await, 1012, "nobody new");
    im.signal(Signal::TERM);
    assert!(matches!(stubborn.hear().await, Frame::Reconnect(_)));
    assert_eq!(stubborn.closed().await, 1012);
    assert_eq!(im.ended().await.code(), Some(0));
}

/// It was told `CLOSE` once, in the middle of the frame that it had not taken.
#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_finds_no_wrong_frame_in_what_it_takes_later() {
    let body = vec![b'x'; 50_000];
    let (im, _data, logged) =
        start_logged(&["--tcp", ANY, "--stall-timeout", "500ms", "--heartbeat", "60s", "--request-rate", "0"]).await;
    let tcp = im.address_of("tcp");
    let mut deaf = TcpClient::login(tcp, "alice", "phone").await;
    let mut bob = TcpClient::login(tcp, "bob", "phone").await;
    let mut id = 0;
    eventually("the deaf one is gone", async || {
        for _ in 0..40 {
            id += 1;
            bob.send("dm:alice:bob", id, &body).await;
        }
        logged.now(|line| line["fields"]["message"] == "session ends" && line["fields"]["code"] == 4005)
    })
    .await;
    // What was on its way is still there, and then the stream is over: every frame up to there is a whole message.
    let mut taken = Vec::new();
    let _reset = timeout(DEADLINE, deaf.stream.read_to_end(&mut taken)).await.expect("an end in time");
    let mut rest = &taken[..];
    while let Some((length, behind)) = rest.split_first_chunk()
        && let Some((frame, behind)) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).unwrap())
    {
        let frame = Frame::from_bytes(frame.to_vec().into()).expect("a whole frame");
        assert!(matches!(&frame, Some(Frame::Msg(msg)) if msg.body == body), "{frame:?}");
        rest = behind;
    }
    let close = b"takes no data";
    assert!(!rest.windows(close.len()).any(|words| words == close), "CLOSE is in the middle of another frame");
    assert!(rest.len() < taken.len(), "it has taken something");
}

/// The time began anew with the first byte once.
#[tokio::test]
async fn the_first_byte_does_not_lengthen_the_time_until_login() {
    const WITHIN: Duration = Duration::from_secs(3);
    let (im, _data) = start(&["--login-timeout", "3s"]).await;
    let begun = Instant::now();
    let mut slow = TcpClient::connect(im.address_of("tcp")).await;
    tokio::time::sleep(WITHIN * 2 / 3).await;
    slow.stream.write_all(&[0]).await.unwrap();
    let said = Instant::now();
    assert_eq!(slow.closed().await, 4003);
    assert!(begun.elapsed() >= WITHIN, "{:?}", begun.elapsed());
    assert!(said.elapsed() < WITHIN, "{:?} after its first byte", said.elapsed());
}

#[tokio::test]
async fn who_is_refused_before_the_first_byte_has_a_line_in_the_log() {
    let (im, _data, logged) =
        start_logged(&["--tcp", ANY, "--login-timeout", "2s", "--max-sessions", "1", "--admin"]).await;
    let tcp = im.address_of("tcp");
    let refused = async |code: u32| {
        let mut client = TcpClient::connect(tcp).await;
        let address = client.stream.local_addr().unwrap().to_string();
        assert_eq!(client.closed().await, code);
        let line = logged.line(|line| line["fields"]["address"] == *address).await;
        let fields = &line["fields"];
        assert!(fields["message"] == "no session" && fields["code"] == code, "{line}");
        assert!(fields["transport"] == "tcp" && !fields["reason"].as_str().unwrap().is_empty(), "{line}");
    };
    refused(4003).await;
    let _only = eventually("the place is free", async || {
        let mut client = TcpClient::connect(tcp).await;
        client.say(&login("alice", "phone")).await;
        matches!(client.hear().await, Frame::LoginOk(_)).then_some(client)
    })
    .await;
    refused(1013).await;
    assert_eq!(im.post("/admin/drain?deadline=1h", "").await.status, 202);
    refused(1012).await;
}
