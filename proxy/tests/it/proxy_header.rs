//! The PROXY header in front of a connection: believed from trusted networks, demanded from them, and refused otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use bench::harness::{EchoTcp, HttpStub, RawClient, TestCa, Workspace, http, proxy_header as header, tls};

use crate::edge::Edge;
use crate::parts::{seen_by_stub, tcp_with, web_with};

const TRUSTED: &str = "[edge]\nworkers = 1\ntrusted-proxies = [\"127.0.0.0/24\"]\n\n";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_announced_client_is_the_one_that_counts() {
    let stub = HttpStub::start("one").await.unwrap();
    let config = format!("{TRUSTED}{}", web_with("proxy-protocol = true", "", &[stub.address()]));
    let edge = Edge::start(&config).await;
    let here = address("127.0.0.1:443");
    let headers = [
        (header::v1(address("203.0.113.7:4711"), here), "203.0.113.7", "203.0.113.7:4711"),
        (header::v2(address("203.0.113.8:4712"), here), "203.0.113.8", "203.0.113.8:4712"),
        (header::v1(address("[2001:db8::7]:4713"), address("[::1]:443")), "2001:db8::7", "[2001:db8::7]:4713"),
        (header::v2(address("[2001:db8::8]:4714"), address("[::1]:443")), "2001:db8::8", "[2001:db8::8]:4714"),
        (
            header::v2_with(address("203.0.113.9:1"), here, &[(2, b"im.test"), (4, &[0; 1500])]),
            "203.0.113.9",
            "203.0.113.9:1",
        ),
    ];
    for (index, (header, client, logged)) in headers.into_iter().enumerate() {
        let mut connection = RawClient::connect(edge.address("web")).await.unwrap();
        // Byte by byte, with the request right behind the last one.
        for byte in &header[..header.len().min(120) - 1] {
            connection.send(&[*byte]).await.unwrap();
        }
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\nConnection: close\r\n\r\n";
        connection.send(&[&header[header.len().min(120) - 1..], request].concat()).await.unwrap();
        let seen = seen_by_stub(&http::read_answer(&mut connection, "GET").await.unwrap());
        // The client is not a trusted proxy, so what it says of itself is dropped.
        assert_eq!(
            (&seen["headers"]["x-real-ip"], &seen["headers"]["x-forwarded-for"]),
            (&client.into(), &client.into())
        );
        let line = edge.wait_for_lines(index + 1).await.pop().unwrap();
        assert_eq!(line["client"], logged);
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let stub = HttpStub::start("one").await.unwrap();
    let config = format!("{TRUSTED}{}", web_with("proxy-protocol = true", "", &[stub.address()]));
    let edge = Edge::start(&config).await;
    for header in [header::v2_local(), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut connection = RawClient::connect(edge.address("web")).await.unwrap();
        connection.send(&[&header[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await.unwrap();
        let seen = seen_by_stub(&http::read_answer(&mut connection, "GET").await.unwrap());
        assert_eq!(seen["headers"]["x-real-ip"], "127.0.0.1");
    }
}

#[tokio::test]
async fn the_bytes_behind_the_header_are_the_tunnels_first() {
    let echo = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&format!("{TRUSTED}{}", tcp_with("proxy-protocol = true", "", &[echo.address()]))).await;
    let header = header::v2(address("203.0.113.8:4712"), address("127.0.0.1:5222"));
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(&[&header[..], b"\x10\x0cfirst bytes"].concat()).await.unwrap();
    assert_eq!(client.read_exact(13).await.unwrap(), b"\x10\x0cfirst bytes");
    assert_eq!(echo.bytes(), 13, "the header itself stays here");
    client.finish().await.unwrap();
    client.expect_eof().await.unwrap();
    assert_eq!(edge.wait_for_lines(1).await[0]["client"], "203.0.113.8:4712");
}

#[tokio::test]
async fn tls_begins_right_behind_the_header() {
    let ca = TestCa::new().unwrap();
    let workspace = Workspace::new().unwrap();
    crate::tls_in::write_certificate(&workspace, &ca, "im", &["im.test"]);
    let stub = HttpStub::start("one").await.unwrap();
    let keys = "proxy-protocol = true\ntls.certificates = [{ chain = \"im.pem\", key = \"im.key\" }]";
    let edge = Edge::start_in(workspace, &format!("{TRUSTED}{}", web_with(keys, "", &[stub.address()]))).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&header::v1(address("203.0.113.7:4711"), address("127.0.0.1:443"))).await.unwrap();
    let (stream, _) = client.into_parts();
    let stream = tls::connect_over(stream, "im.test", ca.client(&[]).unwrap()).await.unwrap();
    let answer = http::request_over(RawClient::over(stream), "im.test", "GET", "/", &[], b"").await.unwrap();
    let headers = seen_by_stub(&answer)["headers"].clone();
    assert_eq!((&headers["x-real-ip"], &headers["x-forwarded-proto"]), (&"203.0.113.7".into(), &"https".into()));
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_refused_whatever_it_says() {
    let echo = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&format!("{TRUSTED}{}", tcp_with("proxy-protocol = true", "", &[echo.address()]))).await;
    // It may be gone before it has sent, or before it knows that it was connected.
    if let Ok(mut client) = RawClient::connect_from("127.0.1.1".parse().unwrap(), edge.address("im")).await {
        client.send(&header::v1(address("203.0.113.7:4711"), address("127.0.0.1:443"))).await.ok();
        assert_eq!(client.read_to_end().await.unwrap_or_default(), b"");
    }
    let labels = [("listener", "im"), ("reason", "untrusted-proxy")];
    edge.wait_for_count("warbler_connections_refused_total", &labels, 1).await;
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!(line["outcome"], "bad-proxy-header");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.1.1:"), "{line}");
    assert_eq!(echo.accepted(), 0);
}

#[tokio::test]
async fn what_is_no_header_or_not_all_of_one_ends_the_connection() {
    let echo = EchoTcp::start().await.unwrap();
    let keys = "proxy-protocol = true\ntimeouts.proxy-header = \"400ms\"";
    let edge = Edge::start(&format!("{TRUSTED}{}", tcp_with(keys, "", &[echo.address()]))).await;
    let whole = header::v2(address("203.0.113.8:4712"), address("127.0.0.1:5222"));
    let endless = [b"PROXY TCP4 ", &[b'1'; 5000][..]].concat();
    let cases: [(&[u8], bool, &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", false, "bad-proxy-header"),
        (b"PROXY TCP4 nonsense\r\n", false, "bad-proxy-header"),
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 70000 443\r\n", false, "bad-proxy-header"),
        (&endless, false, "bad-proxy-header"),
        (&whole[..20], true, "bad-proxy-header"),
        (&whole[..20], false, "too-slow"),
        (b"", false, "too-slow"),
    ];
    for (index, (bytes, ends, outcome)) in cases.into_iter().enumerate() {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap().with_patience(Duration::from_secs(20));
        client.send(bytes).await.ok();
        if ends {
            client.finish().await.unwrap();
        }
        assert_eq!(client.read_to_end().await.unwrap_or_default(), b"", "{}", bytes.escape_ascii());
        let line = edge.wait_for_lines(index + 1).await.pop().unwrap();
        assert_eq!(line["outcome"], outcome, "{}", bytes.escape_ascii());
    }
    edge.wait_until_empty().await;
    assert_eq!(echo.accepted(), 0);
}
