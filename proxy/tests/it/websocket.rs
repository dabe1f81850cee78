//! WebSocket tunnels over time: silence, idle time, a goodbye at the border of a frame.

use std::time::Duration;

use bench::harness::ws::{self, Message};
use bench::harness::{EchoTcp, RawClient, WsEcho, tls};
use futures_util::{SinkExt, StreamExt};

use crate::edge::{Edge, SOON};
use crate::ends::{
    BINARY, CLOSE, RawEndpoint, client_frame, cluster, echo_client, echoes, read_frame, server_frame, web_edge,
};
use crate::tcp::{CERTIFICATE, with_certificate};

/// Time is what is tested here: NAT tables and proxies like to forget connections after a minute.
#[tokio::test]
async fn tunnels_that_are_silent_for_70_seconds_stay_open() {
    let (web, raw) = (WsEcho::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let (workspace, ca) = with_certificate();
    let config = format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"web\"\n\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n\
         [listeners.ims]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n{CERTIFICATE}\n\n{}\n{}",
        cluster("web", "", &[web.address()]),
        cluster("im", "", &[raw.address()]),
    );
    let edge = Edge::start_in(workspace, &config).await;
    let mut socket = ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
    let mut plain = echo_client(edge.address("im")).await;
    let over_tls = tls::connect(edge.address("ims"), "im.example.com", ca.client(&[]).unwrap()).await.unwrap();
    let mut over_tls = RawClient::over(over_tls);
    echoes(&mut over_tls, b"hello").await;
    let silence = Duration::from_secs(70);
    let (came, plain_silent, tls_silent) = tokio::join!(
        tokio::time::timeout(silence, socket.next()),
        plain.expect_silence(silence),
        over_tls.expect_silence(silence),
    );
    assert!(came.is_err(), "the WebSocket was not silent: {came:?}");
    plain_silent.unwrap();
    tls_silent.unwrap();
    echoes(&mut plain, b"still here").await;
    echoes(&mut over_tls, b"still here").await;
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().as_text(), Some("still here"));
    assert_eq!(edge.access_lines().len(), 0);
}

#[tokio::test]
async fn an_idle_websocket_gets_a_close_frame_and_a_busy_one_stays() {
    let endpoint = WsEcho::start().await.unwrap();
    let edge = Edge::start(&web_edge("timeouts.idle = \"4s\"", &[endpoint.address()])).await;
    let mut busy = ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
    let mut idle = ws::connect(edge.address("web"), "/ws", &[]).await.unwrap();
    let began = std::time::Instant::now();
    let (code, ()) = tokio::join!(
        async {
            let message = idle.next().await.unwrap().unwrap();
            // The library answers a Close by itself when it is polled on.
            while idle.next().await.is_some() {}
            message.as_close().map(|(code, _)| u16::from(code))
        },
        async {
            while began.elapsed() < Duration::from_secs(7) {
                busy.send(Message::text("still here")).await.unwrap();
                assert_eq!(busy.next().await.unwrap().unwrap().as_text(), Some("still here"));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    );
    assert_eq!(code, Some(1001));
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["kind"], &lines[0]["outcome"]), (&"upgrade".into(), &"left".into()));
    assert_eq!((&lines[0]["leave_reason"], &lines[0]["status"]), (&"idle".into(), &101.into()));
    // The client's answer reached the endpoint.
    assert_eq!(endpoint.closes(), [Some(1001)]);
}

/// The configuration without its endpoint, which is then asked to leave; another one keeps the cluster valid.
async fn remove_endpoint(edge: &Edge, keys: &str) {
    let other = RawEndpoint::bind().await;
    edge.reload(&format!("{}\n{keys}", web_edge("", &[other.address()]))).await;
}

#[tokio::test]
async fn a_goodbye_comes_at_the_border_of_a_frame_and_never_inside() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&web_edge("", &[endpoint.address()])).await;
    let (mut client, mut upstream) = endpoint.websocket(edge.address("web")).await;
    let large = vec![0x5a; 3 << 20];
    let frame = server_frame(BINARY, &large);
    let (first, rest) = frame.split_at(frame.len() / 3);
    // Part of a frame is on its way when the endpoint is removed.
    upstream.send(first).await.unwrap();
    remove_endpoint(&edge, "").await;
    edge.wait_for_count("warbler_asked_to_leave_total", &[("reason", "endpoint-removed")], 1).await;
    // The client still speaks, and is heard.
    let said = client_frame(BINARY, b"not lost");
    client.send(&said).await.unwrap();
    assert_eq!(upstream.read_exact(said.len()).await.unwrap(), said);
    let more = [rest, &server_frame(BINARY, b"dropped"), &server_frame(BINARY, b"dropped too")].concat();
    let (sent, got) = tokio::join!(upstream.send(&more), read_frame(&mut client));
    sent.unwrap();
    assert!(got.opcode == BINARY && got.payload == large, "the frame came whole");
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1012));
    // What the client says before its answering Close reaches the endpoint, and so does that Close.
    let said = [client_frame(BINARY, b"last words"), client_frame(CLOSE, &1012u16.to_be_bytes())].concat();
    client.send(&said).await.unwrap();
    assert_eq!(upstream.read_exact(said.len()).await.unwrap(), said);
    upstream.finish().await.unwrap();
    client.finish().await.unwrap();
    client.expect_eof().await.unwrap();
    upstream.expect_eof().await.unwrap();
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["leave_reason"]), (&"left".into(), &"endpoint-removed".into()));
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_goodbye_is_closed_after_its_time_and_the_endpoint_gets_a_masked_close() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&format!("{}\n[drain]\nclose-wait = \"1s\"\n", web_edge("", &[endpoint.address()]))).await;
    let (mut client, mut upstream) = endpoint.websocket(edge.address("web")).await;
    // Told after this, so that a test that stands still is no reason to fail.
    let before = std::time::Instant::now();
    remove_endpoint(&edge, "[drain]\nclose-wait = \"1s\"\n").await;
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1012));
    let close = read_frame(&mut upstream).await;
    assert!(before.elapsed() >= Duration::from_secs(1), "the client had its time: {:?}", before.elapsed());
    assert_eq!((close.close_code(), close.masked), (Some(1012), true));
    client.expect_eof().await.unwrap();
    upstream.expect_eof().await.unwrap();
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["leave_reason"]), (&"left".into(), &"endpoint-removed".into()));
}

#[tokio::test]
async fn an_endpoint_that_stalls_inside_a_frame_does_not_hold_its_client_for_longer_than_the_wait() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&format!("{}\n[drain]\nclose-wait = \"1s\"\n", web_edge("", &[endpoint.address()]))).await;
    let (mut client, mut upstream) = endpoint.websocket(edge.address("web")).await;
    upstream.send(&server_frame(BINARY, &[1; 1000])[..500]).await.unwrap();
    remove_endpoint(&edge, "[drain]\nclose-wait = \"1s\"\n").await;
    assert_eq!(client.read_to_end().await.unwrap().len(), 500, "no Close inside a frame");
    assert_eq!(read_frame(&mut upstream).await.close_code(), Some(1012));
    edge.wait_until_empty().await;
    tokio::time::timeout(SOON, edge.wait_for_lines(1)).await.unwrap();
}
