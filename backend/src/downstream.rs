//! A client's socket, and where it comes from.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The client's socket, with what was read from it too early in front.
#[derive(Debug)]
pub(crate) struct Downstream {
    unread: Bytes,
    stream: TcpStream,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client's address; a proxy's own when it speaks for itself.
    pub(crate) address: SocketAddr,
    /// The proxy in between that announced the client, if there is one.
    pub(crate) proxy: Option<SocketAddr>,
    /// It comes from a network whose proxies have to announce their clients, and nobody was announced.
    pub(crate) unnamed: bool,
}

impl Origin {
    /// Somebody who connects without a proxy that says so.
    pub(crate) fn direct(address: SocketAddr) -> Self {
        Self { address, proxy: None, unnamed: false }
    }
}

impl Downstream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { unread: Bytes::new(), stream }
    }

    /// Puts bytes in front of what will be read next.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            // No bytes, and perhaps a large buffer behind them: HTTP's read buffer once took 8 KB of each idle session.
        } else if self.unread.is_empty() {
            self.unread = bytes;
        } else {
            let mut all = BytesMut::from(&bytes[..]);
            all.extend_from_slice(&self.unread);
            self.unread = all.freeze();
        }
    }

    /// Waits until a read would probably not have to wait, so that whoever reads needs no buffer until then. May be
    /// dropped and called again.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// As [`Downstream::readable`].
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() { self.stream.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.has_remaining() {
            let count = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(count));
            if self.unread.is_empty() {
                // Lets go of the buffer behind it.
                self.unread = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
