//! Both ends of a tunnel, byte by byte: configurations, raw endpoints, WebSocket frames.

use std::net::SocketAddr;

use bench::harness::RawClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::edge::SOON;

/// A tcp listener `im` and a cluster `im` without probes; `extra` are further keys of the listener.
pub(crate) fn tcp_edge(extra: &str, endpoints: &[SocketAddr]) -> String {
    let cluster = cluster("im", "health.off = true", endpoints);
    format!("[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n{extra}\n\n{cluster}")
}

/// An http listener `web` with one route to the cluster `im`, without probes.
pub(crate) fn web_edge(extra: &str, endpoints: &[SocketAddr]) -> String {
    let cluster = cluster("im", "health.off = true", endpoints);
    format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n{extra}\n\n[[listeners.web.routes]]\ncluster = \"im\"\n\n{cluster}"
    )
}

/// A cluster with one locality.
pub(crate) fn cluster(name: &str, keys: &str, endpoints: &[SocketAddr]) -> String {
    let listed: Vec<String> = endpoints.iter().map(|address| format!("{{ address = \"{address}\" }}")).collect();
    let listed = listed.join(", ");
    format!("[clusters.{name}]\n{keys}\n\n[clusters.{name}.localities.here]\nendpoints = [{listed}]\n")
}

/// An endpoint whose every byte the test says and sees itself.
pub(crate) struct RawEndpoint(TcpListener);

impl RawEndpoint {
    pub(crate) async fn bind() -> RawEndpoint {
        RawEndpoint(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> RawClient {
        let (stream, _) = timeout(SOON, self.0.accept()).await.expect("a connection to the endpoint").unwrap();
        stream.set_nodelay(true).unwrap();
        RawClient::over(stream).with_patience(SOON)
    }

    /// A client and this endpoint with an open tunnel between them. The kernel accepts before the edge knows that it
    /// is connected, so a byte each way proves it.
    pub(crate) async fn tunnel(&self, edge: SocketAddr) -> (RawClient, RawClient) {
        let mut client = RawClient::connect(edge).await.unwrap().with_patience(SOON);
        let mut upstream = self.accept().await;
        client.send(b"?").await.unwrap();
        assert_eq!(upstream.read_exact(1).await.unwrap(), b"?");
        upstream.send(b"!").await.unwrap();
        assert_eq!(client.read_exact(1).await.unwrap(), b"!");
        (client, upstream)
    }

    /// The same with a WebSocket.
    pub(crate) async fn websocket(&self, edge: SocketAddr) -> (RawClient, RawClient) {
        let (mut client, mut upstream) = self.asked_websocket(edge).await;
        upstream.send(SWITCHING).await.unwrap();
        let answer = client.read_until(b"\r\n\r\n").await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", answer.escape_ascii());
        (client, upstream)
    }

    /// A client that has asked this endpoint for a WebSocket and has no answer yet.
    pub(crate) async fn asked_websocket(&self, edge: SocketAddr) -> (RawClient, RawClient) {
        let mut client = RawClient::connect(edge).await.unwrap().with_patience(SOON);
        client.send(UPGRADE).await.unwrap();
        let mut upstream = self.accept().await;
        upstream.read_until(b"\r\n\r\n").await.unwrap();
        (client, upstream)
    }
}

/// An endpoint's agreement to a WebSocket.
pub(crate) const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: im.example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
const KEY: [u8; 4] = [7, 1, 8, 2];

/// A frame of a server (RFC 6455 section 5.2).
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, payload, None)
}

/// A frame of a client, masked.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, payload, Some(KEY))
}

fn frame(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..126), _) => bytes.push(masked | short),
        (_, Ok(medium)) => {
            bytes.push(masked | 126);
            bytes.extend(medium.to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(key.into_iter().flatten());
    let key = key.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A frame that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) masked: bool,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a Close frame.
    pub(crate) fn close_code(&self) -> Option<u16> {
        (self.opcode == CLOSE).then(|| u16::from_be_bytes([self.payload[0], self.payload[1]]))
    }
}

/// Reads one whole frame, unmasked.
pub(crate) async fn read_frame<S: AsyncRead + AsyncWrite + Unpin>(from: &mut RawClient<S>) -> Frame {
    let head = from.read_exact(2).await.unwrap();
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(from.read_exact(2).await.unwrap().try_into().unwrap())),
        127 => u64::from_be_bytes(from.read_exact(8).await.unwrap().try_into().unwrap()),
        short => u64::from(short),
    };
    let masked = head[1] & 0x80 != 0;
    let key = if masked { from.read_exact(4).await.unwrap() } else { vec![0; 4] };
    let mut payload = from.read_exact(usize::try_from(length).unwrap()).await.unwrap();
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Frame { opcode: head[0] & 0x0f, masked, payload }
}

/// Sends bytes and expects them back.
pub(crate) async fn echoes<S: AsyncRead + AsyncWrite + Unpin>(client: &mut RawClient<S>, bytes: &[u8]) {
    client.send(bytes).await.unwrap();
    assert_eq!(client.read_exact(bytes.len()).await.unwrap(), bytes);
}

/// A client with an open, proven tunnel to an echo endpoint.
pub(crate) async fn echo_client(edge: SocketAddr) -> RawClient {
    let mut client = RawClient::connect(edge).await.unwrap().with_patience(SOON);
    echoes(&mut client, b"hello").await;
    client
}
