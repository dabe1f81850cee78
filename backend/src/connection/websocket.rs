//! Frames in WebSocket messages, one in each.
//!
//! WebSocket pings are answered by the library, at the next read or write.
//!
//! The library's stream has a read buffer of 8 KiB for as long as it lives, and a silent phone would hold it all day. So
//! it lives only while there is something to do: between two messages, with nothing waiting to be sent, nothing is in
//! it but the socket, and a new one made of that socket goes on where it was.

mod borders;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, future::poll_fn};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use self::borders::Borders;
use super::End;
use crate::{
    downstream::Downstream,
    frame::{Frame, MAX_FRAME},
    wire::Wire,
};

pub(super) struct WebSocket {
    socket: Socket,
    wire: Wire,
}

enum Socket {
    /// Nothing of a message is here.
    AtRest(Followed),
    Awake(Box<WebSocketStream<Followed>>),
    /// From one of the others to the other.
    Between,
}

impl WebSocket {
    pub(super) fn new(stream: Downstream, wire: Wire) -> Self {
        Self { socket: Socket::AtRest(Followed { stream, borders: Borders::default() }), wire }
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    pub(super) async fn hear(&mut self) -> Result<Option<Frame>, End> {
        let message = match poll_fn(|cx| self.socket.poll_message(cx)).await {
            Some(Ok(message)) => message,
            Some(Err(Error::PayloadTooLong { .. })) => return Err(End::TooLong),
            Some(Err(_)) | None => return Err(End::Gone),
        };
        if message.is_close() {
            return Err(End::Gone);
        }
        if message.is_ping() || message.is_pong() {
            return Ok(None);
        }
        if !self.wire.fits(&message) {
            return Err(End::WrongKind);
        }
        Ok(self.wire.read(message)?)
    }

    pub(super) async fn say_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), End> {
        let awake = self.socket.awake();
        for bytes in frames {
            awake.feed(self.wire.message(bytes)).await.map_err(|_gone| End::Gone)?;
        }
        awake.flush().await.map_err(|_gone| End::Gone)
    }

    pub(super) async fn close(mut self, end: End) -> io::Result<()> {
        let awake = self.socket.awake();
        if let Some((code, reason)) = end.code() {
            let code = CloseCode::try_from(code).expect("the codes of ends are in the range of RFC 6455");
            // Refused when the library has sent a Close of its own; reading on sends it out.
            let _sent = awake.send(Message::close(Some(code), reason)).await;
        }
        while awake.next().await.is_some() {}
        // Closing a socket with unread bytes sends a reset, which may overtake the Close; so read what still comes.
        let stream = &mut awake.get_mut().stream;
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

impl Socket {
    /// The next message. Goes to rest when there is none, and wakes when there is something to read.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        loop {
            if let Self::AtRest(resting) = self {
                // What is wrong with the socket shows when it is read.
                let _readable = ready!(resting.stream.poll_readable(cx));
            }
            let awake = self.awake();
            if let Poll::Ready(message) = awake.poll_next_unpin(cx) {
                return Poll::Ready(message);
            }
            if !awake.get_ref().borders.at_border() {
                return Poll::Pending;
            }
            // The answer to a ping may wait for room.
            if let Err(error) = ready!(awake.poll_flush_unpin(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            self.rest();
        }
    }

    fn awake(&mut self) -> &mut WebSocketStream<Followed> {
        if let Self::AtRest(_) = self
            && let Self::AtRest(stream) = std::mem::replace(self, Self::Between)
        {
            let limits = Limits::default().max_payload_len(Some(MAX_FRAME));
            *self = Self::Awake(Box::new(ServerBuilder::new().limits(limits).serve(stream)));
        }
        match self {
            Self::Awake(awake) => awake,
            Self::AtRest(_) | Self::Between => unreachable!("what rested is awake, and nothing stays between"),
        }
    }

    fn rest(&mut self) {
        if let Self::Awake(awake) = std::mem::replace(self, Self::Between) {
            *self = Self::AtRest(awake.into_inner());
        }
    }
}

/// The client's socket, with an eye on where its messages end.
struct Followed {
    stream: Downstream,
    borders: Borders,
}

impl AsyncRead for Followed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.borders.pass(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Followed {
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
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
