//! The load: plain sockets and bytes made beforehand, so that the core it shares with the endpoint is spent on
//! system calls and hardly on anything else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::serve::{BODY, Kind};

/// Bytes of a message.
const MESSAGE: usize = 200;
/// Connections opened at a time: below every proxy's accept queue.
const OPENED_AT_ONCE: usize = 50;
/// A load that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(180);
const MASK: [u8; 4] = [0x17, 0x2a, 0xf3, 0x5c];

/// One connection through the proxy and what is said on it.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    kind: Kind,
    question: Vec<u8>,
    /// The exact answer; of HTTP only the body, since proxies add fields.
    answer: Vec<u8>,
    buffer: Vec<u8>,
}

/// Opens connections, a WebSocket handshake included, with one exchange on each.
pub(super) async fn connect_all(kind: Kind, address: SocketAddr, count: u32) -> Result<Vec<Client>> {
    let opening = stream::iter(0..count).map(|_| Client::connect(kind, address)).buffer_unordered(OPENED_AT_ONCE);
    timeout(PATIENCE, opening.try_collect())
        .await
        .with_context(|| format!("{count} connections were not open within {PATIENCE:?}"))?
}

/// Does `each` exchanges on every connection, one in flight on each.
pub(super) async fn exchange_all(clients: &mut [Client], each: u32) -> Result<()> {
    let count = clients.len();
    let all =
        stream::iter(clients).map(|client| client.exchange_times(each)).buffer_unordered(count.max(1)).try_collect();
    timeout(PATIENCE, all)
        .await
        .with_context(|| format!("{count} times {each} exchanges were not done within {PATIENCE:?}"))?
}

impl Client {
    async fn connect(kind: Kind, address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        if kind == Kind::WsEcho {
            upgrade(&mut stream).await?;
        }
        let message = vec![b'm'; MESSAGE];
        let (question, answer) = match kind {
            Kind::TcpEcho => (message.clone(), message),
            Kind::WsEcho => (masked_frame(&message), frame(&message)),
            Kind::Http => (
                b"GET /hello HTTP/1.1\r\nhost: im.example.com\r\nuser-agent: warbler-bench\r\n\r\n".to_vec(),
                BODY.to_vec(),
            ),
        };
        let mut client = Self { stream, kind, question, answer, buffer: vec![0; 1024] };
        client.exchange().await?;
        Ok(client)
    }

    async fn exchange_times(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.exchange().await?;
        }
        Ok(())
    }

    async fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.question).await.context("the proxy took no message")?;
        match self.kind {
            Kind::TcpEcho | Kind::WsEcho => {
                let echo = &mut self.buffer[..self.answer.len()];
                self.stream.read_exact(echo).await.context("no echo")?;
                ensure!(echo == self.answer, "not the message that was sent");
            }
            Kind::Http => self.read_response().await?,
        }
        Ok(())
    }

    async fn read_response(&mut self) -> Result<()> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await.context("no answer")?;
            ensure!(read > 0, "the answer ended early: {}", self.buffer[..filled].escape_ascii());
            filled += read;
            let so_far = &self.buffer[..filled];
            let Some(end) = so_far.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            if filled < end + 4 + self.answer.len() {
                continue;
            }
            ensure!(
                so_far.starts_with(b"HTTP/1.1 200") && so_far.ends_with(&self.answer),
                "answered: {}",
                so_far.escape_ascii()
            );
            return Ok(());
        }
    }
}

/// An upgrade with the key of RFC 6455's own example: the load is no place to test handshakes.
async fn upgrade(stream: &mut TcpStream) -> Result<()> {
    let request = b"GET /ws HTTP/1.1\r\nhost: im.example.com\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(request).await?;
    let mut head = Vec::with_capacity(512);
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut head).await? == 0 || head.len() > 4096 {
            bail!("the upgrade got no answer: {}", head.escape_ascii());
        }
    };
    ensure!(head.starts_with(b"HTTP/1.1 101"), "the upgrade was refused: {}", head.escape_ascii());
    ensure!(
        end == head.len(),
        "the endpoint is silent until it is spoken to, yet it said: {}",
        head[end..].escape_ascii()
    );
    Ok(())
}

/// A final binary frame from the server.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(message.len(), 0);
    frame.extend(message);
    frame
}

/// A final binary frame from a client.
fn masked_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(message.len(), 0x80);
    frame.extend(MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn frame_head(length: usize, mask_bit: u8) -> Vec<u8> {
    let [high, low] = u16::try_from(length).expect("the load's messages are short").to_be_bytes();
    if high == 0 && low < 126 { vec![0x82, mask_bit | low] } else { vec![0x82, mask_bit | 126, high, low] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve;

    #[tokio::test]
    async fn each_kind_of_load_gets_its_answers_straight_from_the_endpoint() {
        for kind in [Kind::TcpEcho, Kind::WsEcho, Kind::Http] {
            let endpoint = serve::bind(kind, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = endpoint.address().unwrap();
            tokio::spawn(endpoint.run());
            let mut clients = connect_all(kind, address, 3).await.unwrap();
            exchange_all(&mut clients, 5).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_the_question_is_noticed() {
        let other = crate::harness::HttpStub::start("not an echo").await.unwrap();
        assert!(connect_all(Kind::Http, other.address(), 1).await.is_err());
        assert!(connect_all(Kind::WsEcho, other.address(), 1).await.unwrap_err().to_string().contains("refused"));
    }
}
