//! A socket with TLS on it.
//!
//! Reads go through a buffer of the thread, in which they are decrypted; writes are encrypted into another and sent from
//! there. Only what the reader had no room for, or the socket would not take, is kept with the connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::session::{ENCRYPTED_ROOM, MOST_ENCRYPTED, Session};

/// Bytes of ciphertext that one read may bring.
const READ: usize = 32 * 1024;
/// Those, and in front of them what came before of a message that is not complete. A record has at most 16 KiB and a
/// quarter (RFC 8446 section 5.2), a message of the handshake at most 64 KiB (rustls), which come in records.
const INCOMING: usize = 64 * 1024 + READ;

/// The most that a record takes, its head included.
const RECORD: usize = 5 + 16 * 1024 + 2048;
/// Connections of a thread that may be in the middle of a handshake message of more than a record at once, each with as
/// much as [`INCOMING`] kept for it. Hardly any certificate chain is as large, and no hello.
const LARGE_MESSAGES: usize = 64;

const TOO_MANY_PIECES: &str = "a message of the TLS handshake in more records than are taken";

/// What the connections of a thread take turns with.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

const LARGE_AFTERWARDS: &str = "a message behind the TLS handshake that is larger than any of use";
const TOO_MANY_LARGE: &str = "too many large messages of TLS handshakes at once";

thread_local! {
    static LARGE: Cell<usize> = const { Cell::new(0) };
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING].into_boxed_slice(),
        outgoing: vec![0; ENCRYPTED_ROOM].into_boxed_slice(),
    });
}

/// A connected socket and its TLS session.
pub struct TlsSocket {
    tcp: TcpStream,
    session: Session,
    /// Decrypted, and not taken by the reader yet.
    plain: Plain,
    large: Option<LargeMessage>,
    /// Found when there was something to read in front of it; the next read tells.
    failed: Option<io::Error>,
}

/// One of the [`LARGE_MESSAGES`].
struct LargeMessage(());

impl LargeMessage {
    fn begin() -> io::Result<LargeMessage> {
        if LARGE.get() == LARGE_MESSAGES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TOO_MANY_LARGE));
        }
        LARGE.set(LARGE.get() + 1);
        Ok(LargeMessage(()))
    }
}

impl Drop for LargeMessage {
    fn drop(&mut self) {
        LARGE.set(LARGE.get() - 1);
    }
}

#[derive(Default)]
struct Plain {
    bytes: Vec<u8>,
    taken: usize,
}

impl TlsSocket {
    /// Answers a client's handshake.
    ///
    /// # Errors
    /// When the client is gone, breaks the protocol, or cannot be agreed with; it has been told then.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsSocket> {
        TlsSocket::shake_hands(tcp, Session::server(config)).await
    }

    /// Begins a handshake with the server of this name.
    ///
    /// # Errors
    /// When the server is gone, breaks the protocol, or shows a certificate that is not believed; it has been told then.
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<TlsSocket> {
        TlsSocket::shake_hands(tcp, Session::client(config, name)).await
    }

    async fn shake_hands(tcp: TcpStream, session: Result<Session, rustls::Error>) -> io::Result<TlsSocket> {
        let mut socket =
            TlsSocket { tcp, session: session.map_err(invalid)?, plain: Plain::default(), large: None, failed: None };
        poll_fn(|cx| socket.poll_handshake(cx)).await?;
        Ok(socket)
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Whether bytes that were written wait for the socket.
    pub fn holds_back_writes(&self) -> bool {
        !self.session.unsent().is_empty()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))? == Received::End {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads once and decrypts what that completes, into `buf` and what it has no room for into `plain`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Received>> {
        let TlsSocket { tcp, session, plain, .. } = self;
        session.still_works().map_err(invalid)?;
        let outcome = SCRATCH.with_borrow_mut(|scratch| {
            let known = session.begin_record(&mut scratch.incoming);
            let end = INCOMING.min(known + READ);
            if known == end {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TOO_MANY_PIECES)));
            }
            let mut room = ReadBuf::new(&mut scratch.incoming[known..end]);
            ready!(Pin::new(tcp).poll_read(cx, &mut room))?;
            let read = room.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(Ok(Received::End)));
            }
            let received = session.receive(&mut scratch.incoming[..known + read], |bytes| plain.pass(bytes, buf));
            Poll::Ready(io::Result::Ok(received.map(|()| Received::Bytes)))
        });
        let received = ready!(outcome)?.map_err(|error| {
            // One try to tell: who breaks the protocol is not waited for.
            let _told_or_not = self.poll_send(cx);
            invalid(error)
        })?;
        self.count_large()?;
        // What the peer is told because of it (the server's flight, an alert) need not wait for a write.
        if self.holds_back_writes()
            && let Poll::Ready(sent) = self.poll_send(cx)
        {
            sent?;
        }
        Poll::Ready(Ok(received))
    }

    fn count_large(&mut self) -> io::Result<()> {
        if self.session.kept_incoming() > RECORD && !self.session.is_handshaking() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, LARGE_AFTERWARDS));
        }
        match (self.session.kept_incoming() > RECORD, &self.large) {
            (true, None) => self.large = Some(LargeMessage::begin()?),
            (false, Some(_)) => self.large = None,
            _ => {}
        }
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.holds_back_writes() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.session.unsent()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.was_sent(sent);
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Bytes,
    End,
}

impl Plain {
    /// Into `buf` as far as it has room; nothing may overtake what is kept already.
    fn pass(&mut self, bytes: &[u8], buf: &mut ReadBuf<'_>) {
        let room = if self.bytes.is_empty() { buf.remaining().min(bytes.len()) } else { 0 };
        buf.put_slice(&bytes[..room]);
        self.bytes.extend_from_slice(&bytes[room..]);
    }

    /// Whether there was something to take.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let kept = &self.bytes[self.taken..];
        if kept.is_empty() {
            return false;
        }
        let take = kept.len().min(buf.remaining());
        buf.put_slice(&kept[..take]);
        self.taken += take;
        if self.taken == self.bytes.len() {
            *self = Plain::default();
        }
        true
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.plain.take(buf) || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        while !this.session.peer_has_closed() && buf.filled().len() == before {
            match ready!(this.poll_receive(cx, buf)) {
                Ok(Received::Bytes) => {}
                // A peer that closes TCP without close_notify: for us an end like any other, since the protocols inside
                // (HTTP, WebSocket, IM frames) know their own ends.
                Ok(Received::End) => break,
                // What came before it counts, a last message perhaps.
                Err(error) if buf.filled().len() > before => {
                    this.failed = Some(error);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let taken = bytes.len().min(MOST_ENCRYPTED);
        SCRATCH.with_borrow_mut(|scratch| {
            let room = &mut scratch.outgoing;
            let length = this.session.encrypt(&bytes[..taken], room).map_err(invalid)?;
            this.send_or_keep(cx, &scratch.outgoing[..length])
        })?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.session.say_close().map_err(invalid)?;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

impl TlsSocket {
    /// Sends ciphertext as far as the socket takes it, and keeps the rest.
    fn send_or_keep(&mut self, cx: &mut Context<'_>, mut ciphertext: &[u8]) -> io::Result<()> {
        // An answer to a key update may have come in front.
        while !ciphertext.is_empty() && !self.holds_back_writes() {
            match Pin::new(&mut self.tcp).poll_write(cx, ciphertext) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => ciphertext = &ciphertext[sent..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.session.queue(ciphertext);
        Ok(())
    }
}

/// As tokio-rustls has it: what breaks the protocol is invalid data, with the cause inside.
fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
