//! One connection on which the same question gets the same answer again and again: a tunnel, or HTTP/1.1.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Stream, Way, websocket};
use crate::{measure::row::Protocol, serve::BODY};

/// Bytes of a message.
const MESSAGE: usize = 200;
/// Larger than any answer.
const BUFFER: usize = 1024;

#[derive(Debug)]
pub(in super::super) struct Dialogue {
    stream: Stream,
    protocol: Protocol,
    question: Vec<u8>,
    /// The exact answer; of HTTP only the body, since proxies add fields.
    answer: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Dialogue {
    /// Connects, a WebSocket handshake included, with one exchange.
    pub(super) async fn connect(way: &Way) -> Result<Self> {
        Self::over(way.open().await?, way.protocol).await
    }

    /// Begins on a connection that is open already, with one exchange.
    pub(in super::super) async fn over(mut stream: Stream, protocol: Protocol) -> Result<Self> {
        let message = vec![b'm'; MESSAGE];
        let (question, answer) = match protocol {
            Protocol::Tcp | Protocol::Tls => (message.clone(), message),
            Protocol::WebSocket | Protocol::WebSocketTls => {
                websocket::upgrade(&mut stream).await?;
                (websocket::masked_frame(&message), websocket::frame(&message))
            }
            Protocol::Http1 | Protocol::Http1Tls | Protocol::Http2 => (
                b"GET /hello HTTP/1.1\r\nhost: im.example.com\r\nuser-agent: warbler-bench\r\n\r\n".to_vec(),
                BODY.to_vec(),
            ),
        };
        let mut dialogue = Self { stream, protocol, question, answer, buffer: vec![0; BUFFER], filled: 0 };
        dialogue.exchange().await?;
        Ok(dialogue)
    }

    pub(in super::super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Whether a question may be asked before the one before it is answered.
    pub(in super::super) fn is_tunnel(&self) -> bool {
        !self.protocol.is_http()
    }

    pub(in super::super) async fn exchange(&mut self) -> Result<()> {
        self.ask().await?;
        self.answer().await
    }

    pub(in super::super) async fn ask(&mut self) -> Result<()> {
        self.stream.write_all(&self.question).await.context("the proxy took no message")?;
        self.stream.flush().await.context("the proxy took no message")
    }

    /// Waits for the answer to the oldest question. Dropped in the middle, it goes on where it was.
    pub(in super::super) async fn answer(&mut self) -> Result<()> {
        if self.is_tunnel() { self.echo().await } else { self.response().await }
    }

    async fn echo(&mut self) -> Result<()> {
        let length = self.answer.len();
        while self.filled < length {
            // No further than this answer: the next one stays in the kernel until its turn.
            self.filled += self.read_to(length).await?;
        }
        self.filled = 0;
        ensure!(self.buffer[..length] == self.answer, "not the message that was sent");
        Ok(())
    }

    async fn response(&mut self) -> Result<()> {
        loop {
            self.filled += self.read_to(BUFFER).await?;
            let so_far = &self.buffer[..self.filled];
            let Some(end) = so_far.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            if self.filled < end + 4 + self.answer.len() {
                continue;
            }
            ensure!(
                so_far.starts_with(b"HTTP/1.1 200") && so_far[end + 4..] == self.answer,
                "answered: {}",
                so_far.escape_ascii()
            );
            self.filled = 0;
            return Ok(());
        }
    }

    /// Reads once, up to this place of the buffer.
    async fn read_to(&mut self, end: usize) -> Result<usize> {
        let read = self.stream.read(&mut self.buffer[self.filled..end]).await.context("no answer")?;
        ensure!(read > 0, "the answer ended early: {}", self.buffer[..self.filled].escape_ascii());
        Ok(read)
    }
}
