//! A connection of the load: plain, or TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Wake, Poll},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, HandshakeKind, pki_types::ServerName},
};

use super::super::certificate::NAME;

#[derive(Debug)]
pub(in super::super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, and shakes hands where there is TLS.
    pub(super) async fn open(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true).context("the connection is gone already")?;
        let Some(config) = tls else { return Ok(Self::Plain(stream)) };
        let name = ServerName::try_from(NAME).context("no server name")?;
        let stream = TlsConnector::from(config).connect(name, stream).await.context("no TLS handshake")?;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// How the handshake went; `None` without TLS.
    pub(in super::super) fn handshake(&self) -> Option<HandshakeKind> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.handshake_kind(),
        }
    }

    /// Says that nothing more comes, and waits until the other side has said so, too: both ends close in order, and the
    /// work of closing is done when this returns.
    pub(in super::super) async fn close(mut self) -> Result<()> {
        self.shutdown().await.context("the connection was gone before it was closed")?;
        let mut rest = [0; 64];
        match self.read(&mut rest).await {
            Ok(0) => Ok(()),
            Ok(read) => bail!("something came after the last answer: {}", rest[..read].escape_ascii()),
            // Not every proxy says goodbye in TLS before it closes the connection.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error).context("the connection was not closed in order"),
        }
    }

    /// # Errors
    /// When the handshake was of another kind.
    pub(in super::super) fn ensure_handshake(&self, wanted: HandshakeKind) -> Result<()> {
        let seen = self.handshake();
        ensure!(seen == Some(wanted), "the TLS handshake was to be {wanted:?}, and was {seen:?}");
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Wake<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Wake<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Wake<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Wake<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
