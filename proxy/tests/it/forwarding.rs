//! What endpoints learn about the client, and whom the edge believes.

use bench::harness::{HttpStub, RawClient, http};
use serde_json::Value;

use crate::edge::Edge;
use crate::parts::{seen_by_stub, web_to};

const FORGED: &str = "X-Forwarded-For: 203.0.113.7, 198.51.100.9\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: shop.test\r\nForwarded: for=203.0.113.7\r\nX-Real-IP: 203.0.113.7\r\n\
                      X-Request-ID: given-by-client\r\n";

async fn headers_seen(config: &str, source: &str, fields: &str) -> (Value, http::Answer) {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&format!("{config}\n{}", web_to(&[stub.address()]))).await;
    let mut client = RawClient::connect_from(source.parse().unwrap(), edge.address("web")).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: im.test:80\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let answer = http::read_answer(&mut client, "GET").await.unwrap();
    (seen_by_stub(&answer)["headers"].clone(), answer)
}

#[tokio::test]
async fn what_a_stranger_says_of_itself_is_replaced() {
    let (seen, answer) = headers_seen("", "127.0.7.7", FORGED).await;
    assert_eq!(seen["x-forwarded-for"], "127.0.7.7");
    assert_eq!(seen["x-forwarded-proto"], "http");
    assert_eq!(seen["x-forwarded-host"], "im.test:80");
    assert_eq!(seen["forwarded"], "for=127.0.7.7;proto=http;host=\"im.test:80\"");
    assert_eq!(seen["x-real-ip"], "127.0.7.7");
    let id = seen["x-request-id"].as_str().unwrap();
    assert!(id.len() == 32 && id != "given-by-client", "{id}");
    assert_eq!(answer.field("x-request-id"), Some(id), "the client can quote it");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_continued() {
    let trusted = "[edge]\nworkers = 1\ntrusted-proxies = [\"127.0.9.0/24\", \"198.51.100.0/24\"]\n";
    let (seen, answer) = headers_seen(trusted, "127.0.9.1", FORGED).await;
    assert_eq!(seen["x-forwarded-for"], "203.0.113.7, 198.51.100.9, 127.0.9.1");
    assert_eq!(seen["x-forwarded-proto"], "https");
    assert_eq!(seen["x-forwarded-host"], "shop.test");
    assert_eq!(seen["forwarded"], "for=203.0.113.7, for=127.0.9.1;proto=https;host=\"im.test:80\"");
    assert_eq!(seen["x-real-ip"], "203.0.113.7", "the rightmost address that no trusted proxy owns");
    assert_eq!(seen["x-request-id"], "given-by-client");
    assert_eq!(answer.field("x-request-id"), Some("given-by-client"));
    // The same fields from elsewhere are a stranger's.
    let (seen, _) = headers_seen(trusted, "127.0.8.1", FORGED).await;
    assert_eq!((&seen["x-real-ip"], &seen["x-forwarded-for"]), (&"127.0.8.1".into(), &"127.0.8.1".into()));
}

#[tokio::test]
async fn an_id_that_would_spoil_logs_is_replaced_even_from_a_trusted_proxy() {
    let trusted = "[edge]\nworkers = 1\ntrusted-proxies = [\"127.0.0.0/8\"]\n";
    for id in ["a b", &"x".repeat(129), "\u{e9}"] {
        let (seen, _) = headers_seen(trusted, "127.0.0.1", &format!("X-Request-ID: {id}\r\n")).await;
        assert_eq!(seen["x-request-id"].as_str().unwrap().len(), 32, "{id:?}");
    }
}
