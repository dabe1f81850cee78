//! Frames over a connection, whatever carries them.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use backend::frame::{Frame, MAX_FRAME};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use socket2::SockRef;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_websockets::{Message, WebSocketStream};

use super::{
    SessionError,
    door::{Door, Pipe, Transport},
    upgrade::upgrade,
};

#[derive(Debug)]
pub(super) struct Wire {
    kind: Kind,
    /// Frames that are still to be sent.
    outgoing: VecDeque<Bytes>,
}

#[derive(Debug)]
enum Kind {
    WebSocket(Box<WebSocketStream<Pipe>>),
    Tcp(Box<Framed<Pipe, LengthDelimitedCodec>>),
}

impl Wire {
    pub(super) async fn open(door: &Door) -> Result<Self, SessionError> {
        let address = door.address;
        let pipe = door.reach().await.map_err(|cause| SessionError::Unreachable { address, cause })?;
        let kind = match door.transport {
            Transport::WebSocket => Kind::WebSocket(Box::new(upgrade(pipe, door).await?)),
            Transport::Tcp => {
                let lengths = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec();
                Kind::Tcp(Box::new(Framed::new(pipe, lengths)))
            }
        };
        Ok(Self { kind, outgoing: VecDeque::new() })
    }

    /// Sends this frame as soon as [`poll_hear`](Self::poll_hear) is asked and there is room.
    pub(super) fn say(&mut self, frame: &Frame) {
        self.outgoing.push_back(frame.to_bytes());
    }

    /// The next frame's bytes; meanwhile everything is sent that fits.
    ///
    /// What came before the connection broke is told first, even if sending fails already: a Close says why.
    pub(super) fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, SessionError>> {
        let sent = self.poll_send(cx);
        match self.kind.poll_hear(cx) {
            Poll::Pending => match sent {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
            heard => heard,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        while !self.outgoing.is_empty() {
            ready!(self.kind.poll_ready(cx))?;
            if let Some(frame) = self.outgoing.pop_front() {
                self.kind.start_send(frame)?;
            }
        }
        self.kind.poll_flush(cx)
    }

    /// The connection ends with a reset when this is dropped.
    pub(super) fn end_with_reset(&self) {
        // A connection that is gone already is what was wanted.
        _ = SockRef::from(self.kind.pipe().socket()).set_linger(Some(Duration::ZERO));
    }
}

impl Kind {
    fn pipe(&self) -> &Pipe {
        match self {
            Self::WebSocket(socket) => socket.get_ref(),
            Self::Tcp(framed) => framed.get_ref(),
        }
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, SessionError>> {
        match self {
            Self::WebSocket(socket) => loop {
                let message = ready!(Pin::new(&mut *socket).poll_next(cx)).transpose()?;
                let Some(message) = message else { return Poll::Ready(Err(SessionError::Closed { code: None })) };
                if let Some((code, _)) = message.as_close() {
                    return Poll::Ready(Err(SessionError::Closed { code: Some(code.into()) }));
                }
                if message.is_binary() {
                    return Poll::Ready(Ok(message.into_payload().into()));
                }
            },
            Self::Tcp(framed) => match ready!(Pin::new(&mut **framed).poll_next(cx)) {
                Some(Ok(frame)) => Poll::Ready(Ok(frame.freeze())),
                Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    Poll::Ready(Err(SessionError::Protocol { what: error.to_string() }))
                }
                // Not every server says goodbye in TLS before it closes the connection.
                Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Err(SessionError::Closed { code: None }))
                }
                Some(Err(error)) => Poll::Ready(Err(error.into())),
                None => Poll::Ready(Err(SessionError::Closed { code: None })),
            },
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        Poll::Ready(match self {
            Self::WebSocket(socket) => Ok(ready!(Pin::new(&mut **socket).poll_ready(cx))?),
            Self::Tcp(framed) => Ok(ready!(Sink::<Bytes>::poll_ready(Pin::new(&mut **framed), cx))?),
        })
    }

    fn start_send(&mut self, frame: Bytes) -> Result<(), SessionError> {
        match self {
            Self::WebSocket(socket) => Ok(Pin::new(&mut **socket).start_send(Message::binary(frame))?),
            Self::Tcp(framed) => Ok(Pin::new(&mut **framed).start_send(frame)?),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        Poll::Ready(match self {
            Self::WebSocket(socket) => Ok(ready!(Pin::new(&mut **socket).poll_flush(cx))?),
            Self::Tcp(framed) => Ok(ready!(Sink::<Bytes>::poll_flush(Pin::new(&mut **framed), cx))?),
        })
    }
}
