//! Endpoints to put behind a proxy: as little work as possible, so that the core they share with the load is free for
//! the load.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_websockets::ServerBuilder;

use crate::harness::echo_tcp::listen;

/// The body of every HTTP answer.
pub const BODY: &[u8] = b"hello, world";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello, world";
/// Large enough for the largest request of the load; also the most that an idle connection keeps.
const BUFFER: usize = 4 << 10;
/// Bytes that a bulk endpoint writes at once.
pub const BULK_PIECE: usize = 256 << 10;

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sends back what comes.
    TcpEcho,
    /// Upgrades any request to a WebSocket and sends back every message.
    WsEcho,
    /// Answers every request without a body with the same 200, and keeps the connection.
    Http,
    /// Sends as many bytes as the eight bytes of a question say, the most significant first.
    Bulk,
}

/// An endpoint that is bound and not yet serving.
#[derive(Debug)]
pub struct Endpoint {
    kind: Kind,
    listener: TcpListener,
}

/// Binds an endpoint.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(kind: Kind, address: SocketAddr) -> Result<Endpoint> {
    Ok(Endpoint { kind, listener: listen(address)? })
}

impl Endpoint {
    /// # Errors
    /// When the kernel does not tell it.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("a listener without an address")
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When no more connections can be accepted, such as without descriptors.
    pub async fn run(self) -> Result<()> {
        loop {
            let (stream, _) = self.listener.accept().await.context("cannot accept")?;
            let kind = self.kind;
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                match kind {
                    Kind::TcpEcho => echo_tcp(stream).await,
                    Kind::WsEcho => echo_ws(stream).await,
                    Kind::Http => answer_http(stream).await,
                    Kind::Bulk => send_bulk(stream).await,
                }
            });
        }
    }
}

async fn echo_tcp(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

async fn echo_ws(stream: TcpStream) -> Result<()> {
    let (_, mut socket) = ServerBuilder::new().accept(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn answer_http(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; BUFFER];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        // A request that fills the buffer is not of the load.
        if read == 0 {
            return Ok(());
        }
        filled += read;
        while let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            stream.write_all(ANSWER).await?;
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
        }
    }
}

async fn send_bulk(mut stream: TcpStream) -> Result<()> {
    let piece = bulk_piece();
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let now = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            stream.write_all(&piece[..now]).await?;
            left -= now as u64;
        }
    }
}

/// What a bulk endpoint sends over and over: bytes that differ from their neighbours, so that lost and moved ones are
/// noticed.
#[must_use]
pub fn bulk_piece() -> Vec<u8> {
    // 251 is prime: no power of two, such as the size of a buffer, is a period of it.
    (0..=250).cycle().take(BULK_PIECE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{RawClient, http, ws};

    async fn start(kind: Kind) -> SocketAddr {
        let endpoint = bind(kind, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = endpoint.address().unwrap();
        tokio::spawn(endpoint.run());
        address
    }

    #[tokio::test]
    async fn each_kind_does_what_it_says() {
        let mut tcp = RawClient::connect(start(Kind::TcpEcho).await).await.unwrap();
        tcp.send(b"x").await.unwrap();
        assert_eq!(tcp.read_exact(1).await.unwrap(), b"x");

        let mut socket = ws::connect(start(Kind::WsEcho).await, "/", &[]).await.unwrap();
        socket.send(ws::Message::text("x")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().as_text(), Some("x"));

        let mut web = RawClient::connect(start(Kind::Http).await).await.unwrap();
        web.send(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            assert_eq!(http::read_answer(&mut web, "GET").await.unwrap().body, BODY);
        }

        let mut bulk = RawClient::connect(start(Kind::Bulk).await).await.unwrap();
        bulk.send(&300_000_u64.to_be_bytes()).await.unwrap();
        let sent = bulk.read_exact(300_000).await.unwrap();
        assert!(sent[..BULK_PIECE] == bulk_piece() && sent[BULK_PIECE..] == bulk_piece()[..300_000 - BULK_PIECE]);
    }
}
