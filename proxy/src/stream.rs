//! The one stream type: a client's or an endpoint's socket, plain or TLS.
//!
//! It exists because pingora's own stream is a one-way door: its buffers cannot be sized from outside and the socket
//! never comes back. [`Stream`] implements pingora's `IO`, so HTTP sessions run on it, and gives the bare [`Io`] back
//! when a connection turns into a tunnel. What was read too far goes back in front with [`Stream::unread`]; writes of
//! an HTTP session are gathered in a small buffer, because pingora writes head and body apart.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::TlsSocket;

/// Room for the head and a small body of one response, so that they leave in one segment.
const WRITE_BUFFER: usize = 4096;

/// A connected socket, and TLS on it if there is any. What the relay works on.
pub enum Io {
    Plain(TcpStream),
    Tls(Box<TlsSocket>),
}

impl Io {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Io::Plain(tcp) => tcp,
            Io::Tls(tls) => tls.tcp(),
        }
    }

    /// Whether bytes that were written wait inside the TLS session.
    pub fn holds_back_writes(&self) -> bool {
        match self {
            Io::Plain(_) => false,
            Io::Tls(tls) => tls.holds_back_writes(),
        }
    }

    /// The protocol that was agreed on in the TLS handshake.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match self {
            Io::Plain(_) => None,
            Io::Tls(tls) => tls.alpn_protocol(),
        }
    }

    /// Makes the close of this socket a reset, so that the peer does not take a broken stream for a finished one.
    pub fn reset_on_close(&self) {
        let socket = socket2::SockRef::from(self.tcp());
        // A socket that is gone already cannot be told; its peer has seen the end.
        socket.set_linger(Some(std::time::Duration::ZERO)).ok();
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

/// A downstream connection while HTTP is spoken on it, or while its first bytes are read.
pub struct Stream {
    io: Io,
    /// Read from the socket already, and to be read again first.
    unread: BytesMut,
    /// Written by the session; the first `sent` bytes of it by us, too.
    unsent: Vec<u8>,
    sent: usize,
    http2: bool,
    socket: Option<Arc<SocketDigest>>,
    connection: Option<Arc<ProxyDigest>>,
}

impl Stream {
    pub fn new(io: Io) -> Stream {
        Stream {
            io,
            unread: BytesMut::new(),
            unsent: Vec::new(),
            sent: 0,
            http2: false,
            socket: None,
            connection: None,
        }
    }

    /// Puts bytes back in front of what the socket will give.
    pub fn unread(&mut self, bytes: BytesMut) {
        debug_assert!(self.unread.is_empty(), "bytes are put back once, by the one who read them");
        self.unread = bytes;
    }

    /// Makes pingora speak HTTP/2 on this connection.
    pub fn speak_http2(&mut self) {
        self.http2 = true;
    }

    /// Tells pingora who is at the other end, and carries our own facts to its hooks.
    pub fn describe(&mut self, socket: Arc<SocketDigest>, connection: Arc<ProxyDigest>) {
        self.socket = Some(socket);
        self.connection = Some(connection);
    }

    pub fn io(&self) -> &Io {
        &self.io
    }

    /// The socket itself, and what was read from it and not used. Everything written must have been flushed.
    pub fn into_parts(self) -> (Io, BytesMut) {
        debug_assert!(self.unsent.is_empty(), "flush before taking the socket");
        (self.io, self.unread)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        // Keeps its room: the next answer is of about the same size.
        self.unsent.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let take = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..take]);
        this.unread.advance(take);
        if this.unread.is_empty() {
            this.unread = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unsent.len() + buf.len() > WRITE_BUFFER {
            ready!(this.poll_send(cx))?;
        }
        if buf.len() > WRITE_BUFFER {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        }
        this.unsent.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("fd", &self.as_raw_fd()).field("http2", &self.http2).finish_non_exhaustive()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.io.tcp().as_raw_fd()
    }
}

// What pingora asks of a stream.

#[async_trait]
impl Shutdown for Stream {
    async fn shutdown(&mut self) {
        crate::http::answer::linger(self).await;
    }
}

impl UniqueID for Stream {
    fn id(&self) -> pingora::protocols::UniqueIDType {
        self.as_raw_fd()
    }
}

impl Ssl for Stream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.http2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.connection.clone()
    }
}

impl GetSocketDigest for Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for Stream {}
