//! TLS towards endpoints: whom the edge believes, for requests and for tunnels.

use std::net::SocketAddr;
use std::sync::Arc;

use bench::harness::{RawClient, TestCa, Workspace, http};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::edge::Edge;
use crate::parts::{tcp_with, tells_nothing, upgrade_head, web_with};

/// An endpoint behind TLS. It tells the name that it was asked for: as an answer to a request, behind the `101` of an
/// upgrade, and at once to anything else. After the latter two it echoes.
async fn secure_endpoint(ca: &TestCa, names: &[&str]) -> SocketAddr {
    let issued = ca.issue(names).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream));
        }
    });
    address
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        let said = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
        let answer = if said.contains("\r\nupgrade: websocket\r\n") {
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{name}")
        } else if said.contains(" http/1.1\r\n") {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
        } else {
            format!("{name}:{said}")
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// What a request, an upgrade and a TCP tunnel get through an edge with these keys for TLS to the endpoint.
async fn three_ways(ca: &TestCa, tls: &str, endpoint: SocketAddr) -> [String; 3] {
    let workspace = Workspace::new().unwrap();
    workspace.write("ca.pem", ca.pem()).unwrap();
    let config = web_with("", tls, &[endpoint]);
    let tcp = tcp_with("", "", &[]).split("[clusters").next().unwrap().to_owned();
    let edge = Edge::start_in(workspace, &format!("{tcp}{config}")).await;
    let answer = http::get(edge.address("web"), "/").await.unwrap();
    if answer.status != 200 {
        tells_nothing(&answer, &[endpoint]);
    }
    let request = format!("{} {}", answer.status, answer.text());
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws", "")).await.unwrap();
    let head = client.read_until(b"\r\n\r\n").await.unwrap();
    let status = String::from_utf8_lossy(&head[9..12]).into_owned();
    client.finish().await.unwrap();
    let upgrade = format!("{status} {}", String::from_utf8_lossy(&client.read_to_end().await.unwrap()));
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(b"hello").await.unwrap();
    client.finish().await.unwrap();
    let tunnel = String::from_utf8(client.read_to_end().await.unwrap_or_default()).unwrap();
    let probes = [("cluster", "c")];
    if tunnel.is_empty() {
        assert!(edge.count("warbler_connect_failures_total", &probes).await >= 3);
    }
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[endpoint]).await, [0]);
    [request, upgrade, tunnel]
}

#[tokio::test]
async fn an_endpoint_with_a_certificate_of_the_named_authority_is_believed() {
    let ca = TestCa::new().unwrap();
    let endpoint = secure_endpoint(&ca, &["inner.test"]).await;
    let got = three_ways(&ca, "tls = { name = \"inner.test\", ca = \"ca.pem\" }", endpoint).await;
    assert_eq!(got, ["200 inner.test", "101 inner.test", "inner.test:hello"]);
}

#[tokio::test]
async fn an_endpoint_with_another_name_or_authority_is_not() {
    let (ca, stranger) = (TestCa::new().unwrap(), TestCa::new().unwrap());
    let misnamed = secure_endpoint(&ca, &["other.test"]).await;
    let unknown = secure_endpoint(&stranger, &["inner.test"]).await;
    for (keys, endpoint) in [
        ("tls = { name = \"inner.test\", ca = \"ca.pem\" }", misnamed),
        ("tls = { name = \"inner.test\", ca = \"ca.pem\" }", unknown),
        ("tls = { name = \"other.test\" }", misnamed),
    ] {
        let got = three_ways(&ca, keys, endpoint).await;
        assert_eq!(got, ["502 502 Bad Gateway\n", "502 502 Bad Gateway\n", ""], "{keys}");
    }
}

#[tokio::test]
async fn without_verification_any_endpoint_is_believed_and_still_told_the_name() {
    let stranger = TestCa::new().unwrap();
    let endpoint = secure_endpoint(&stranger, &["other.test"]).await;
    let keys = "tls = { name = \"inner.test\", verify = false }";
    let got = three_ways(&TestCa::new().unwrap(), keys, endpoint).await;
    assert_eq!(got, ["200 inner.test", "101 inner.test", "inner.test:hello"]);
}
