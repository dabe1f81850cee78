//! The two forms a frame takes. Inside WebSocket messages they are agreed by the subprotocol; TCP has the binary one.

use bytes::Bytes;
use tokio_websockets::Message;

use crate::frame::{Frame, FrameError, SUBPROTOCOL, SUBPROTOCOL_JSON};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Binary,
    Json,
}

impl Wire {
    /// The client's first choice that is known here, from the value of `Sec-WebSocket-Protocol`.
    pub(crate) fn choose(offered: &str) -> Option<Self> {
        offered.split(',').find_map(|name| match name.trim() {
            SUBPROTOCOL => Some(Self::Binary),
            SUBPROTOCOL_JSON => Some(Self::Json),
            _ => None,
        })
    }

    pub(crate) fn subprotocol(self) -> &'static str {
        match self {
            Self::Binary => SUBPROTOCOL,
            Self::Json => SUBPROTOCOL_JSON,
        }
    }

    /// Whether a data message is of the kind in which this form travels.
    pub(crate) fn fits(self, message: &Message) -> bool {
        match self {
            Self::Binary => message.is_binary(),
            Self::Json => message.is_text(),
        }
    }

    /// Reads a message that fits; `None` is a frame of a later version.
    pub(crate) fn read(self, message: Message) -> Result<Option<Frame>, FrameError> {
        match self {
            Self::Binary => Frame::from_bytes(message.into_payload().into()),
            Self::Json => Frame::from_json(message.as_text().unwrap_or_default()),
        }
    }

    pub(crate) fn bytes(self, frame: &Frame) -> Bytes {
        match self {
            Self::Binary => frame.to_bytes(),
            Self::Json => frame.to_json().into(),
        }
    }

    /// A message of bytes that [`Wire::bytes`] made.
    pub(crate) fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Binary => Message::binary(bytes),
            Self::Json => Message::text(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_choice_wins() {
        assert_eq!(Wire::choose("chat, im.v1.json , im.v1"), Some(Wire::Json));
        assert_eq!(Wire::choose("im.v1,im.v1.json"), Some(Wire::Binary));
        assert_eq!(Wire::choose("im.v2"), None);
        assert_eq!(Wire::choose(""), None);
    }
}
