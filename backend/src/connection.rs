//! One WebSocket connection in frames: hearing, saying, and parting with a reason.
//!
//! Everything said has a deadline: a socket that takes nothing for `stall` ends the connection, because a phone that
//! has gone without a word must not hold a session for ever. WebSocket pings are answered below this layer, at the
//! next read or write.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use crate::{
    frame::{Frame, FrameError, MAX_FRAME},
    upgrade::Downstream,
    wire::Wire,
};

/// How long the other side may take for its part of the closing.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) struct Connection {
    websocket: WebSocketStream<Downstream>,
    wire: Wire,
    stall: Duration,
}

/// Why a connection ends. Its codes and words are those of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side closed, or broke the WebSocket protocol and was told so already.
    Gone,
    Bye,
    Restart,
    Internal,
    WrongKind,
    Malformed,
    TooLong,
    LoginFirst,
    AlreadyLoggedIn,
    NotAClientsFrame,
    LoginRefused,
    Replaced,
    LoginTimeout,
    Silent,
    Stalled,
    TokenExpired,
    TooFast,
}

impl End {
    /// The code and the words of the Close; `None` where there is nobody left to hear them.
    pub(crate) fn code(self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::Gone => return None,
            Self::Bye => (1000, "bye"),
            Self::Restart => (1012, "the server stops, connect again"),
            Self::Internal => (1011, "internal error"),
            Self::WrongKind => (1003, "wrong kind of message for this subprotocol"),
            Self::Malformed => (1007, "not a frame"),
            Self::TooLong => (1009, "longer than 64 KiB"),
            Self::LoginFirst => (1008, "LOGIN must be the first frame"),
            Self::AlreadyLoggedIn => (1008, "already logged in"),
            Self::NotAClientsFrame => (1008, "only the server sends this frame"),
            Self::LoginRefused => (4001, "login refused"),
            Self::Replaced => (4002, "the same device logged in again"),
            Self::LoginTimeout => (4003, "no LOGIN in time"),
            Self::Silent => (4004, "silent for three heartbeats"),
            Self::Stalled => (4005, "takes no data"),
            Self::TokenExpired => (4006, "token expired"),
            Self::TooFast => (4008, "asks for too much"),
        })
    }
}

impl Connection {
    pub(crate) fn new(stream: Downstream, wire: Wire, stall: Duration) -> Self {
        let limits = Limits::default().max_payload_len(Some(MAX_FRAME));
        Self { websocket: ServerBuilder::new().limits(limits).serve(stream), wire, stall }
    }

    /// Waits for whatever the client says next. `None` was something without a meaning here: a WebSocket ping, or a
    /// frame of a later version. May be dropped and called again.
    pub(crate) async fn hear(&mut self) -> Result<Option<Frame>, End> {
        let message = match self.websocket.next().await {
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
        self.wire.read(message).map_err(|error| match error {
            FrameError::TooLong { .. } => End::TooLong,
            FrameError::Malformed(_) | FrameError::MalformedJson(_) => End::Malformed,
        })
    }

    pub(crate) async fn say(&mut self, frame: &Frame) -> Result<(), End> {
        self.say_all([self.wire.bytes(frame)]).await
    }

    /// Sends several at once: frames that [`Wire::bytes`] of this connection's form made.
    pub(crate) async fn say_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), End> {
        let (websocket, wire) = (&mut self.websocket, self.wire);
        let saying = async {
            for bytes in frames {
                websocket.feed(wire.message(bytes)).await?;
            }
            websocket.flush().await
        };
        match timeout(self.stall, saying).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(End::Gone),
            Err(_elapsed) => Err(End::Stalled),
        }
    }

    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// Says why, waits a little for the other side to agree, and closes.
    pub(crate) async fn close(mut self, end: End) {
        // Whatever fails from here on, or takes too long, the connection is over.
        let _agreed = timeout(GOODBYE, async {
            if let Some((code, reason)) = end.code() {
                let code = CloseCode::try_from(code).expect("the codes above are in the range of RFC 6455");
                // Refused when the library has sent a Close of its own; reading on sends it out.
                let _sent = self.websocket.send(Message::close(Some(code), reason)).await;
            }
            while self.websocket.next().await.is_some() {}
            // Closing a socket with unread bytes sends a reset, which may overtake the Close; so read what still comes.
            let mut stream = self.websocket.into_inner();
            stream.shutdown().await?;
            let mut rest = [0; 512];
            while stream.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        })
        .await;
    }
}
