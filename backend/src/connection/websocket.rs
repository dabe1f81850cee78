//! Frames in WebSocket messages, one in each.
//!
//! WebSocket pings are answered by the library, at the next read or write.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use super::End;
use crate::{
    downstream::Downstream,
    frame::{Frame, MAX_FRAME},
    wire::Wire,
};

pub(super) struct WebSocket {
    websocket: WebSocketStream<Downstream>,
    wire: Wire,
}

impl WebSocket {
    pub(super) fn new(stream: Downstream, wire: Wire) -> Self {
        let limits = Limits::default().max_payload_len(Some(MAX_FRAME));
        Self { websocket: ServerBuilder::new().limits(limits).serve(stream), wire }
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    pub(super) async fn hear(&mut self) -> Result<Option<Frame>, End> {
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
        Ok(self.wire.read(message)?)
    }

    pub(super) async fn say_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), End> {
        for bytes in frames {
            self.websocket.feed(self.wire.message(bytes)).await.map_err(|_gone| End::Gone)?;
        }
        self.websocket.flush().await.map_err(|_gone| End::Gone)
    }

    pub(super) async fn close(mut self, end: End) -> io::Result<()> {
        if let Some((code, reason)) = end.code() {
            let code = CloseCode::try_from(code).expect("the codes of ends are in the range of RFC 6455");
            // Refused when the library has sent a Close of its own; reading on sends it out.
            let _sent = self.websocket.send(Message::close(Some(code), reason)).await;
        }
        while self.websocket.next().await.is_some() {}
        // Closing a socket with unread bytes sends a reset, which may overtake the Close; so read what still comes.
        let mut stream = self.websocket.into_inner();
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}
