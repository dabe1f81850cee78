//! One client's connection in frames: hearing, saying, and parting with a reason, over whichever transport.
//!
//! Sessions know only this. What differs between transports is how a frame is told from the next and how a reason
//! reaches the client: a Close of WebSocket, or the frame `CLOSE` over TCP.
//!
//! Everything said has a deadline: a socket that takes nothing for `stall` ends the connection, because a phone that
//! has gone without a word must not hold a session for ever.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::{downstream::Downstream, frame::Frame, wire::Wire};

mod end;
mod tcp;
mod websocket;

pub(crate) use end::End;

use tcp::Tcp;
use websocket::WebSocket;

/// How long the other side may take for its part of the closing.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) struct Connection {
    transport: Transport,
    stall: Duration,
}

enum Transport {
    WebSocket(WebSocket),
    Tcp(Tcp),
}

impl Connection {
    pub(crate) fn websocket(stream: Downstream, wire: Wire, stall: Duration) -> Self {
        Self { transport: Transport::WebSocket(WebSocket::new(stream, wire)), stall }
    }

    pub(crate) fn tcp(stream: Downstream, stall: Duration) -> Self {
        Self { transport: Transport::Tcp(Tcp::new(stream)), stall }
    }

    /// Waits for whatever the client says next. `None` was something without a meaning here: a WebSocket ping, or a
    /// frame of a later version. May be dropped and called again.
    pub(crate) async fn hear(&mut self) -> Result<Option<Frame>, End> {
        match &mut self.transport {
            Transport::WebSocket(websocket) => websocket.hear().await,
            Transport::Tcp(tcp) => tcp.hear().await,
        }
    }

    pub(crate) async fn say(&mut self, frame: &Frame) -> Result<(), End> {
        self.say_all([self.wire().bytes(frame)]).await
    }

    /// Sends several at once: frames that [`Wire::bytes`] of this connection's form made.
    pub(crate) async fn say_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), End> {
        let saying = async {
            match &mut self.transport {
                Transport::WebSocket(websocket) => websocket.say_all(frames).await,
                Transport::Tcp(tcp) => tcp.say_all(frames).await,
            }
        };
        timeout(self.stall, saying).await.unwrap_or(Err(End::Stalled))
    }

    pub(crate) fn wire(&self) -> Wire {
        match &self.transport {
            Transport::WebSocket(websocket) => websocket.wire(),
            Transport::Tcp(_) => Wire::Binary,
        }
    }

    /// The transport's name in the log and in metrics.
    pub(crate) fn transport(&self) -> &'static str {
        match &self.transport {
            Transport::WebSocket(_) => "websocket",
            Transport::Tcp(_) => "tcp",
        }
    }

    /// Says why, waits a little for the other side to agree, and closes.
    pub(crate) async fn close(self, end: End) {
        let closing = async {
            match self.transport {
                Transport::WebSocket(websocket) => websocket.close(end).await,
                Transport::Tcp(tcp) => tcp.close(end).await,
            }
        };
        // Whatever fails from here on, or takes too long, the connection is over.
        let _agreed = timeout(GOODBYE, closing).await;
    }
}
