//! Why connections end.

use crate::frame::FrameError;

/// Why a connection ends. Its codes and words are those of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side closed, or broke the WebSocket protocol and was told so already.
    Gone,
    /// The other side will say no more, and may still listen.
    Finished,
    Bye,
    Restart,
    Full,
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
    /// The code and the words that the client is told; `None` where there is nobody left to hear them.
    pub(crate) fn code(self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::Gone => return None,
            Self::Finished => (1000, "the client's stream ended"),
            Self::Bye => (1000, "bye"),
            Self::Restart => (1012, "the server stops, connect again"),
            Self::Full => (1013, "the server is full, connect again later"),
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

    /// The reason for people who read the log.
    pub(crate) fn reason(self) -> &'static str {
        self.code().map_or("the client has gone", |(_, words)| words)
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            FrameError::Malformed(_) | FrameError::MalformedJson(_) => Self::Malformed,
        }
    }
}
