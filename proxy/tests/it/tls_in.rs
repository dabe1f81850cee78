//! TLS towards clients: certificates by name, versions, resumption, and certificates that change while tunnels stay.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bench::harness::{EchoTcp, HttpStub, RawClient, TestCa, Workspace, WsEcho, eventually, http, tls, ws};
use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::edge::{Edge, SOON};
use crate::parts::{tcp_with, web_with};

/// Writes `NAME.pem` and `NAME.key`.
pub(crate) fn write_certificate(workspace: &Workspace, ca: &TestCa, name: &str, names: &[&str]) {
    let issued = ca.issue(names).unwrap();
    workspace.replace(format!("{name}.key"), issued.key_pem).unwrap();
    workspace.replace(format!("{name}.pem"), issued.chain_pem).unwrap();
}

const TWO: &str =
    "tls.certificates = [{ chain = \"im.pem\", key = \"im.key\" }, { chain = \"wild.pem\", key = \"wild.key\" }]";

fn two_certificates(ca: &TestCa) -> Workspace {
    let workspace = Workspace::new().unwrap();
    write_certificate(&workspace, ca, "im", &["im.test", "alias.test"]);
    write_certificate(&workspace, ca, "wild", &["*.chat.test"]);
    workspace
}

/// Why a handshake as this name failed; the client's library says for which names the shown certificate is.
async fn refusal(edge: &Edge, name: &str, config: Arc<ClientConfig>) -> String {
    format!("{:#}", tls::connect(edge.address("im"), name, config).await.unwrap_err())
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_unknown_ones_the_first() {
    let ca = TestCa::new().unwrap();
    let echo = EchoTcp::start().await.unwrap();
    let edge = Edge::start_in(two_certificates(&ca), &tcp_with(TWO, "", &[echo.address()])).await;
    let config = ca.client(&[]).unwrap();
    for name in ["im.test", "IM.test", "alias.test", "a.chat.test", "B.Chat.Test"] {
        let stream = tls::connect(edge.address("im"), name, config.clone()).await.unwrap();
        let mut client = RawClient::over(stream);
        client.send(name.as_bytes()).await.unwrap();
        assert_eq!(client.read_exact(name.len()).await.unwrap(), name.as_bytes());
    }
    // A wildcard is for one label; whoever is not found, or names nobody, is shown the first certificate.
    for name in ["a.b.chat.test", "chat.test", "other.test", "127.0.0.1"] {
        let refusal = refusal(&edge, name, config.clone()).await;
        assert!(refusal.contains("im.test") && !refusal.contains("chat.test\")"), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn strict_sni_refuses_names_that_no_certificate_has() {
    let ca = TestCa::new().unwrap();
    let echo = EchoTcp::start().await.unwrap();
    let keys = format!("{TWO}\ntls.strict-sni = true");
    let edge = Edge::start_in(two_certificates(&ca), &tcp_with(&keys, "", &[echo.address()])).await;
    let config = ca.client(&[]).unwrap();
    tls::connect(edge.address("im"), "a.chat.test", config.clone()).await.unwrap();
    // 127.0.0.1 is sent as no name at all.
    for name in ["other.test", "127.0.0.1"] {
        let refusal = refusal(&edge, name, config.clone()).await;
        assert!(refusal.contains("alert"), "refused by the edge, and not for what it showed: {refusal}");
    }
    let line = async || edge.access_lines().into_iter().find(|line| line["outcome"] == "bad-tls");
    eventually(SOON, "the event of a refused handshake", line).await.unwrap();
    let reached = async || (echo.accepted() == 1).then_some(());
    eventually(SOON, "the one that was let in, alone", reached).await.unwrap();
}

fn speaking(ca: &TestCa, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_down_to_the_oldest_allowed() {
    let ca = TestCa::new().unwrap();
    let echo = EchoTcp::start().await.unwrap();
    for (keys, old_is_welcome) in [("", true), ("tls.min-version = \"1.3\"", false)] {
        let keys = format!("{TWO}\n{keys}");
        let edge = Edge::start_in(two_certificates(&ca), &tcp_with(&keys, "", &[echo.address()])).await;
        for (version, welcome) in [(&version::TLS12, old_is_welcome), (&version::TLS13, true)] {
            let connected = tls::connect(edge.address("im"), "im.test", speaking(&ca, version)).await;
            assert_eq!(connected.is_ok(), welcome, "{version:?} {keys}");
            if let Ok(stream) = connected {
                assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
                let mut client = RawClient::over(stream);
                client.send(b"ping").await.unwrap();
                assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
                client.finish().await.unwrap();
                client.expect_eof().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_also_after_a_reload() {
    let ca = TestCa::new().unwrap();
    let stub = HttpStub::start("one").await.unwrap();
    let config = web_with(TWO, "", &[stub.address()]);
    for version in [&version::TLS12, &version::TLS13] {
        let edge = Edge::start_in(two_certificates(&ca), &config).await;
        let client = speaking(&ca, version);
        let mut kinds = Vec::new();
        for turn in 0..3 {
            let stream = tls::connect(edge.address("web"), "im.test", client.clone()).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // Tickets come behind the handshake, with the answer at the latest.
            let answer = http::request_over(RawClient::over(stream), "im.test", "GET", "/", &[], b"").await.unwrap();
            assert_eq!(answer.status, 200);
            if turn == 1 {
                edge.reload(&config.replace("[clusters.c]", "[clusters.c]\npolicy = \"round-robin\"")).await;
            }
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed], "{version:?}");
    }
}

/// How a client comes in, once it has had an answer, and with it its ticket.
async fn comes_in(edge: &Edge, client: &Arc<ClientConfig>) -> HandshakeKind {
    let stream = tls::connect(edge.address("web"), "im.test", client.clone()).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let answer = http::request_over(RawClient::over(stream), "im.test", "GET", "/", &[], b"").await.unwrap();
    assert_eq!(answer.status, 200);
    kind
}

/// Has an edge take these keys for tickets.
async fn gives_ticket_keys(edge: &Edge, seeds: &[u8]) {
    edge.workspace.replace("tickets.keys", ticket_keys(seeds)).unwrap();
    let answer = edge.ask_reload().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn ticket_keys(seeds: &[u8]) -> String {
    seeds.iter().map(|seed| BASE64_STANDARD.encode([*seed; 48]) + "\n").collect()
}

#[tokio::test]
async fn a_session_goes_on_at_another_edge_with_the_same_ticket_keys_also_while_they_are_rotated() {
    let ca = TestCa::new().unwrap();
    let stub = HttpStub::start("one").await.unwrap();
    let config = web_with(&format!("{TWO}\ntls.ticket-keys = \"tickets.keys\""), "", &[stub.address()]);
    let start = async |seeds| {
        let workspace = two_certificates(&ca);
        workspace.write("tickets.keys", ticket_keys(seeds)).unwrap();
        Edge::start_in(workspace, &config).await
    };
    for version in [&version::TLS12, &version::TLS13] {
        let (one, other, stranger) = (start(&[1]).await, start(&[1]).await, start(&[9]).await);
        let client = speaking(&ca, version);
        assert_eq!(comes_in(&one, &client).await, HandshakeKind::Full);
        assert_eq!(comes_in(&other, &client).await, HandshakeKind::Resumed);
        // A new key is known everywhere before the first edge uses it.
        for edge in [&one, &other] {
            gives_ticket_keys(edge, &[1, 2]).await;
        }
        gives_ticket_keys(&one, &[2, 1]).await;
        assert_eq!(comes_in(&one, &client).await, HandshakeKind::Resumed, "by a ticket of the old key");
        assert_eq!(comes_in(&other, &client).await, HandshakeKind::Resumed, "by a ticket of the new key");
        assert_eq!(comes_in(&one, &client).await, HandshakeKind::Resumed);
        gives_ticket_keys(&other, &[3]).await;
        assert_eq!(comes_in(&other, &client).await, HandshakeKind::Full, "{version:?}: the key is gone");
        assert_eq!(comes_in(&stranger, &client).await, HandshakeKind::Full, "{version:?}: it never had the key");
    }
}

#[tokio::test]
async fn broken_ticket_keys_are_refused_and_those_before_stay() {
    let ca = TestCa::new().unwrap();
    let stub = HttpStub::start("one").await.unwrap();
    let config = web_with(&format!("{TWO}\ntls.ticket-keys = \"tickets.keys\""), "", &[stub.address()]);
    let workspace = two_certificates(&ca);
    workspace.write("tickets.keys", ticket_keys(&[1])).unwrap();
    let edge = Edge::start_in(workspace, &config).await;
    let client = speaking(&ca, &version::TLS13);
    assert_eq!(comes_in(&edge, &client).await, HandshakeKind::Full);
    edge.workspace.replace("tickets.keys", "half a ke").unwrap();
    let answer = edge.ask_reload().await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("tickets.keys is not base64 in line 1"), "{}", answer.text());
    assert!(!answer.text().contains("half a ke"), "contents are never shown: {}", answer.text());
    assert_eq!(comes_in(&edge, &client).await, HandshakeKind::Resumed);
}

/// A changed file behind an unchanged configuration was read again and then taken for nothing new, because what had been
/// seen was compared with itself. What was published is compared now.
#[tokio::test]
async fn a_changed_certificate_is_shown_to_new_clients_and_open_tunnels_stay() {
    let ca = TestCa::new().unwrap();
    let echo = WsEcho::start().await.unwrap();
    let edge = Edge::start_in(two_certificates(&ca), &web_with(TWO, "", &[echo.address()])).await;
    let stream = tls::connect(edge.address("web"), "im.test", ca.client(&[]).unwrap()).await.unwrap();
    let before = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut socket = ws::connect_over(stream, "im.test", "/ws", &[]).await.unwrap();
    socket.send(ws::Message::text("before")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().as_text(), Some("before"));

    let (workspace, generation) = (&edge.workspace, edge.generation().await);
    write_certificate(workspace, &ca, "im", &["im.test", "renewed.test"]);
    let config = ca.client(&[]).unwrap();
    let renewed = eventually(SOON, "the new certificate", async || {
        tls::connect(edge.address("web"), "renewed.test", config.clone()).await.ok()
    });
    let renewed = renewed.await.unwrap();
    assert_ne!(renewed.get_ref().1.peer_certificates().unwrap()[0], before);
    assert!(edge.generation().await > generation);
    let refused = tls::connect(edge.address("web"), "alias.test", config).await;
    assert!(refused.is_err(), "the old certificate is gone");

    socket.send(ws::Message::text("after")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().as_text(), Some("after"));
    let forwarded = echo.upgrades()[0].headers()["x-forwarded-proto"].clone();
    assert_eq!(forwarded, "https");
}

#[tokio::test]
async fn a_broken_certificate_is_refused_and_the_one_before_stays() {
    let ca = TestCa::new().unwrap();
    let echo = EchoTcp::start().await.unwrap();
    let text = tcp_with(TWO, "", &[echo.address()]);
    let edge = Edge::start_in(two_certificates(&ca), &text).await;
    let other_key = ca.issue(&["im.test"]).unwrap().key_pem;
    for broken in ["not a key", other_key.as_str()] {
        edge.workspace.replace("im.key", broken).unwrap();
        let answer = edge.ask_reload().await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains("im.key"), "{}", answer.text());
        assert_eq!(edge.count("warbler_config_last_reload_successful", &[]).await, 0);
        tls::connect(edge.address("im"), "im.test", ca.client(&[]).unwrap()).await.unwrap();
    }
    assert_eq!(edge.status().await["last_reload"]["ok"], false);

    // Mended, it counts: nobody has to touch the configuration for that.
    write_certificate(&edge.workspace, &ca, "im", &["mended.test"]);
    let config = ca.client(&[]).unwrap();
    let mended = async || tls::connect(edge.address("im"), "mended.test", config.clone()).await.ok();
    eventually(SOON, "the mended certificate", mended).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_stalls_or_is_none_ends_the_connection() {
    let ca = TestCa::new().unwrap();
    let echo = EchoTcp::start().await.unwrap();
    let keys = format!("{TWO}\ntimeouts.tls-handshake = \"2s\"");
    let edge = Edge::start_in(two_certificates(&ca), &tcp_with(&keys, "", &[echo.address()])).await;
    let mut silent = RawClient::connect(edge.address("im")).await.unwrap();
    silent.expect_eof().await.unwrap();
    let mut plain = RawClient::connect(edge.address("im")).await.unwrap();
    plain.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // An alert, or nothing; never an answer in the clear.
    let said = plain.read_to_end().await.unwrap_or_default();
    assert!(said.len() < 16, "{}", said.escape_ascii());
    let mut outcomes: Vec<String> =
        edge.wait_for_lines(2).await.iter().map(|line| line["outcome"].as_str().unwrap().to_owned()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["bad-tls", "too-slow"]);
    assert_eq!(echo.accepted(), 0);
}
