//! A client that says exactly the bytes that a test wants, and sees exactly those that come back.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// The deadline of each call unless another is set.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than this before the awaited bytes is a runaway peer.
const MOST: usize = 64 << 20;

/// A byte stream with deadlines: TCP, or anything else, such as TLS over it. What was read too far stays for the next
/// call.
#[derive(Debug)]
pub struct RawClient<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
    patience: Duration,
}

impl RawClient<TcpStream> {
    /// Connects.
    ///
    /// # Errors
    /// When the address refuses or does not answer in 10 s.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .with_context(|| format!("{address} did not answer"))?;
        Self::over_tcp(stream.with_context(|| format!("cannot connect to {address}"))?)
    }

    /// Connects from a given source address, such as 127.0.1.7: the whole of 127.0.0.0/8 is at hand on Linux.
    ///
    /// # Errors
    /// When the source cannot be bound, or the address refuses or does not answer in 10 s.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Result<Self> {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.context("no socket")?;
        socket.bind((source, 0).into()).with_context(|| format!("cannot bind to {source}"))?;
        let stream =
            timeout(PATIENCE, socket.connect(address)).await.with_context(|| format!("{address} did not answer"))?;
        Self::over_tcp(stream.with_context(|| format!("cannot connect from {source} to {address}"))?)
    }

    fn over_tcp(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).context("the connection is gone already")?;
        Ok(Self::over(stream))
    }

    /// The own address of the connection.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.stream.local_addr().context("the connection is gone")
    }

    /// Ends the connection with a reset instead of a FIN.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn reset(self) -> Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).context("the connection is gone")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    /// A client over a stream that is open already.
    #[must_use]
    pub fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new(), patience: PATIENCE }
    }

    /// Sets the deadline of each call from now on.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection breaks or the peer takes too little in time.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = timeout(self.patience, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        sent.await
            .with_context(|| format!("the peer did not take {} bytes in {:?}", bytes.len(), self.patience))?
            .context("cannot send")
    }

    /// Sends FIN (or the TLS close); reading goes on.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn finish(&mut self) -> Result<()> {
        timeout(self.patience, self.stream.shutdown())
            .await
            .context("cannot end the stream in time")?
            .context("cannot end the stream")
    }

    /// Reads up to and with `end`, such as `b"\r\n\r\n"`.
    ///
    /// # Errors
    /// When the peer ends or is silent before: the error shows what came.
    pub async fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            let found = self.unread[looked..].windows(end.len().max(1)).position(|window| window == end);
            if let Some(at) = found {
                return Ok(self.unread.drain(..looked + at + end.len()).collect());
            }
            looked = self.unread.len().saturating_sub(end.len());
            ensure!(self.unread.len() < MOST, "{} was not in the first {MOST} bytes", end.escape_ascii());
            if self.read_some().await? == 0 {
                bail!("the peer ended before {}: {}", end.escape_ascii(), self.unread.escape_ascii());
            }
        }
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// When the peer ends or is silent before: the error shows what came.
    pub async fn read_exact(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.unread.len() < count {
            if self.read_some().await? == 0 {
                bail!("the peer ended after {} of {count} bytes: {}", self.unread.len(), tail(&self.unread));
            }
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Reads until the peer ends.
    ///
    /// # Errors
    /// When the connection is reset, or the peer is silent without ending.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        while self.read_some().await? > 0 {
            ensure!(self.unread.len() < MOST, "the peer does not end: {MOST} bytes so far");
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Waits for the peer's orderly end.
    ///
    /// # Errors
    /// When bytes come instead, the connection is reset, or the peer stays.
    pub async fn expect_eof(&mut self) -> Result<()> {
        if self.unread.is_empty() {
            self.read_some().await?;
        }
        ensure!(self.unread.is_empty(), "bytes came instead of the end: {}", tail(&self.unread));
        Ok(())
    }

    /// Checks that nothing comes, neither bytes nor an end, for as long as `quiet`.
    ///
    /// # Errors
    /// When something comes.
    pub async fn expect_silence(&mut self, quiet: Duration) -> Result<()> {
        let mut buffer = [0; 1024];
        ensure!(self.unread.is_empty(), "bytes came instead of silence: {}", tail(&self.unread));
        match timeout(quiet, self.stream.read(&mut buffer)).await {
            Err(_silent) => Ok(()),
            Ok(read) => bail!(
                "instead of silence: {}",
                read.map_or_else(|e| e.to_string(), |n| buffer[..n].escape_ascii().to_string())
            ),
        }
    }

    /// The stream, and what was read from it but not taken.
    #[must_use]
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.unread)
    }

    async fn read_some(&mut self) -> Result<usize> {
        let read = timeout(self.patience, self.stream.read_buf(&mut self.unread)).await;
        let read = read.with_context(|| format!("silence for {:?} after: {}", self.patience, tail(&self.unread)))?;
        read.with_context(|| format!("the connection broke after: {}", tail(&self.unread)))
    }
}

/// The end of what came, short enough for a message.
fn tail(bytes: &[u8]) -> String {
    let shown = &bytes[bytes.len().saturating_sub(400)..];
    if shown.is_empty() { "nothing".into() } else { shown.escape_ascii().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::EchoTcp;

    #[tokio::test]
    async fn what_was_read_too_far_stays_for_the_next_call() {
        let server = EchoTcp::start().await.unwrap();
        let mut client = RawClient::connect(server.address()).await.unwrap();
        client.send(b"head\r\n\r\nbodymore").await.unwrap();
        assert_eq!(client.read_until(b"\r\n\r\n").await.unwrap(), b"head\r\n\r\n");
        assert_eq!(client.read_exact(4).await.unwrap(), b"body");
        client.finish().await.unwrap();
        assert_eq!(client.read_to_end().await.unwrap(), b"more");
    }

    #[tokio::test]
    async fn an_end_that_comes_too_early_shows_what_came() {
        let server = EchoTcp::start_greeting("127.0.0.1:0", b"220 hello".to_vec()).await.unwrap();
        let mut client = RawClient::connect_from("127.0.3.9".parse().unwrap(), server.address()).await.unwrap();
        assert_eq!(client.local_address().unwrap().ip().to_string(), "127.0.3.9");
        client.finish().await.unwrap();
        let error = client.read_until(b"\r\n").await.unwrap_err().to_string();
        assert_eq!(error, r"the peer ended before \r\n: 220 hello");
    }

    #[tokio::test]
    async fn silence_is_told_from_bytes_and_from_an_end() {
        let server = EchoTcp::start().await.unwrap();
        let mut client = RawClient::connect(server.address()).await.unwrap().with_patience(Duration::from_millis(100));
        client.expect_silence(Duration::from_millis(50)).await.unwrap();
        assert!(client.read_exact(1).await.unwrap_err().to_string().contains("silence for 100ms after: nothing"));
        client.send(b"x").await.unwrap();
        assert!(client.expect_silence(Duration::from_secs(10)).await.is_err());
    }
}
