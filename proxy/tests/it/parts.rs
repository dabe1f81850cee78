//! Pieces that several rooms put their edges together from.

use std::net::SocketAddr;

use bench::harness::{RawClient, eventually, http, http::Answer};
use serde_json::Value;

use crate::edge::{Edge, SOON};

/// Endpoints as the configuration writes them.
pub(crate) fn endpoints(addresses: &[SocketAddr]) -> String {
    let tables: Vec<String> = addresses.iter().map(|address| format!("{{ address = \"{address}\" }}")).collect();
    format!("[{}]", tables.join(", "))
}

/// A cluster `c` in one place that is not probed, so that its endpoints see the test's connections alone. `keys` go into
/// the cluster's table.
pub(crate) fn cluster(keys: &str, addresses: &[SocketAddr]) -> String {
    let endpoints = endpoints(addresses);
    format!("[clusters.c]\nhealth.off = true\n{keys}\n[clusters.c.localities.here]\nendpoints = {endpoints}\n")
}

/// An `http` listener `web` with one route for everything, to a [`cluster`].
pub(crate) fn web_to(addresses: &[SocketAddr]) -> String {
    web_with("", "", addresses)
}

/// The same with more keys for the listener and for the cluster.
pub(crate) fn web_with(listener_keys: &str, cluster_keys: &str, addresses: &[SocketAddr]) -> String {
    format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n{listener_keys}\n\
         [[listeners.web.routes]]\ncluster = \"c\"\n\n{}",
        cluster(cluster_keys, addresses)
    )
}

/// A `tcp` listener `im` to a [`cluster`].
pub(crate) fn tcp_with(listener_keys: &str, cluster_keys: &str, addresses: &[SocketAddr]) -> String {
    format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n{listener_keys}\n\n{}",
        cluster(cluster_keys, addresses)
    )
}

/// The head of a WebSocket upgrade; `fields` are further lines, each with its line end.
pub(crate) fn upgrade_head(path: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: im.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
    .into_bytes()
}

/// Sends bytes on a connection of their own and reads one answer.
pub(crate) async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = RawClient::connect(address).await.unwrap();
    client.send(request.as_ref()).await.unwrap();
    http::read_answer(&mut client, "GET").await.unwrap()
}

/// Sends bytes, reads one answer, and checks that the connection then ends.
pub(crate) async fn last_answer(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = RawClient::connect(address).await.unwrap();
    client.send(request.as_ref()).await.unwrap();
    let answer = http::read_answer(&mut client, "GET").await.unwrap();
    client.expect_eof().await.unwrap();
    answer
}

/// Waits until picks know that an endpoint has this standing: a change counts for them a moment after it is known.
pub(crate) async fn wait_until_picks_know(edge: &Edge, listener: &str, address: SocketAddr, standing: &str) {
    let page = format!("/api/v1/explain?from=192.0.2.1&listener={listener}");
    let known = async || {
        let answer = edge.get(&page).await.json().unwrap();
        let endpoints = answer["endpoints"].as_array().unwrap();
        let is_it = |one: &&Value| one["name"] == address.to_string() && one["standing"] == standing;
        endpoints.iter().find(is_it).map(|_| ())
    };
    eventually(SOON, standing, known).await.unwrap();
}

/// Connects, and checks that the connection ends without a byte: in order or by a reset, which may be there before the
/// client knows that it was connected.
pub(crate) async fn turned_away(address: SocketAddr) {
    if let Ok(mut client) = RawClient::connect(address).await {
        assert_eq!(client.read_to_end().await.unwrap_or_default(), b"");
    }
}

/// What arrived at a stub that answers with JSON.
pub(crate) fn seen_by_stub(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()
}

/// An answer of the edge's own names nothing of the inside.
pub(crate) fn tells_nothing(answer: &Answer, inside: &[SocketAddr]) {
    let shown = format!("{:?} {}", answer.fields, answer.text()).to_lowercase();
    for address in inside {
        assert!(!shown.contains(&address.to_string()), "an endpoint's address: {shown}");
    }
    for word in ["pingora", "127.0.0.1", "warbler"] {
        assert!(!shown.contains(word), "{word}: {shown}");
    }
}
