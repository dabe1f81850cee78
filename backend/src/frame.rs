//! The frames of the IM protocol and their binary form: one protobuf `Envelope` per message.
//!
//! Clients use this module too, so it knows nothing of the server. The structs are written by hand with `prost`'s
//! derives instead of being generated: no `protoc`, no build script, and the doc comments stay beside the fields.
//! The same structs carry the JSON twin (`json.rs`), so that the two forms cannot drift apart.
//!
//! Field numbers are for ever. docs/protocol.md lists them all; an envelope with a frame of a later version decodes to
//! `None` here, which the receiver ignores.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::json;

mod group;
mod login;
mod presence;
mod receipt;

pub use group::{GroupEvent, KIND_GROUP, KIND_SERVER, MAX_GROUP_NAME, MAX_GROUPS, MAX_MEMBERS, Role};
pub use login::{Login, LoginCode, LoginErr, LoginOk, Resume};
pub use presence::{Presence, PresenceSet, PresenceState, PresenceSub};
pub use receipt::{Ack, Read, Receipt, Unread, UnreadConv, UnreadList};

/// WebSocket subprotocol of the binary form: one [`Envelope`] per binary message.
pub const SUBPROTOCOL: &str = "im.v1";
/// WebSocket subprotocol of the JSON twin: one JSON object per text message.
pub const SUBPROTOCOL_JSON: &str = "im.v1.json";
/// Longest message a client may send, in bytes, in either form; longest binary message a server sends.
pub const MAX_FRAME: usize = 64 * 1024;
/// Longest body of one message, in bytes. What is left of [`MAX_FRAME`] holds the other fields, so that a stored
/// message always fits into a `MSG` and into a `SYNC_PAGE` of its own.
pub const MAX_BODY: usize = 60 * 1024;
/// Longest name of a conversation, in bytes.
pub const MAX_CONV: usize = 128;
/// Longest user id (`sub` of the token) and device id, in bytes: two of them fit into the name of a `dm:` conversation.
pub const MAX_ID: usize = 60;
/// Most conversations in one `UNREAD_LIST`.
pub const MAX_UNREAD: usize = 256;
/// Exact length of a client message id, in bytes.
pub const CLIENT_MSG_ID: usize = 16;

/// Everything that can be said in one message, by either side.
#[derive(Clone, PartialEq, prost::Oneof, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame {
    #[prost(message, tag = "1")]
    Login(Login),
    #[prost(message, tag = "2")]
    LoginOk(LoginOk),
    #[prost(message, tag = "3")]
    LoginErr(LoginErr),
    #[prost(message, tag = "4")]
    Ping(Ping),
    #[prost(message, tag = "5")]
    Pong(Pong),
    #[prost(message, tag = "6")]
    Send(Send),
    #[prost(message, tag = "7")]
    SendAck(SendAck),
    #[prost(message, tag = "8")]
    SendErr(SendErr),
    #[prost(message, tag = "9")]
    Msg(Msg),
    #[prost(message, tag = "10")]
    Ack(Ack),
    #[prost(message, tag = "11")]
    Read(Read),
    #[prost(message, tag = "12")]
    Receipt(Receipt),
    #[prost(message, tag = "13")]
    Sync(Sync),
    #[prost(message, tag = "14")]
    SyncPage(SyncPage),
    #[prost(message, tag = "15")]
    Unread(Unread),
    #[prost(message, tag = "16")]
    UnreadList(UnreadList),
    #[prost(message, tag = "17")]
    History(History),
    #[prost(message, tag = "18")]
    PresenceSub(PresenceSub),
    #[prost(message, tag = "19")]
    PresenceSet(PresenceSet),
    #[prost(message, tag = "20")]
    Presence(Presence),
    #[prost(message, tag = "21")]
    Bye(Bye),
    #[prost(message, tag = "22")]
    Reconnect(Reconnect),
    #[prost(message, tag = "23")]
    Kick(Kick),
    #[prost(message, tag = "24")]
    SyncErr(SyncErr),
    #[prost(message, tag = "25")]
    Refused(Refused),
    #[prost(message, tag = "26")]
    Close(Close),
}

impl Frame {
    /// The bytes of the envelope around this frame.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        bytes.freeze()
    }

    /// Reads one envelope. `None` is a frame that this version does not know, to be ignored.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above [`MAX_FRAME`], [`FrameError::Malformed`] if it is no protobuf of our kind.
    pub fn from_bytes(bytes: Bytes) -> Result<Option<Self>, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLong { length: bytes.len() });
        }
        Ok(Envelope::decode(bytes)?.frame)
    }
}

/// Why some bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {length} bytes is longer than {MAX_FRAME}")]
    TooLong { length: usize },
    #[error("frame is not a protobuf envelope")]
    Malformed(#[from] prost::DecodeError),
    #[error("frame is not a JSON frame")]
    MalformedJson(#[from] serde_json::Error),
}

/// What is on the wire: one frame, or none that this version knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    #[prost(
        oneof = "Frame",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26"
    )]
    pub frame: Option<Frame>,
}

/// Client: still here.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Ping {
    /// Comes back in the `PONG`; any number, usually the client's clock.
    #[prost(uint64, tag = "1")]
    pub t: u64,
}

/// Server: the answer to a `PING`.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Pong {
    #[prost(uint64, tag = "1")]
    pub t: u64,
    /// Unix time in milliseconds.
    #[prost(uint64, tag = "2")]
    pub server_time: u64,
}

/// Client: store this message and push it to the others.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Send {
    #[prost(string, tag = "1")]
    pub conv: String,
    /// Exactly 16 bytes, new for each message, the same when the message is sent again.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json::id")]
    pub client_msg_id: Bytes,
    /// What the body is; the server only passes it on. 0 is text; from [`KIND_SERVER`] on they are the server's own.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json::body")]
    pub body: Bytes,
    /// The client's clock, Unix time in milliseconds; only passed on.
    #[prost(uint64, tag = "5")]
    pub sent_at: u64,
}

/// Server: the message is stored and survives a crash.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SendAck {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::id")]
    pub client_msg_id: Bytes,
    #[prost(string, tag = "2")]
    pub conv: String,
    /// Place of the message in its conversation: 1, 2, 3, … without holes.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// When it was stored, Unix time in milliseconds.
    #[prost(uint64, tag = "4")]
    pub server_time: u64,
    /// The message had been stored before; `seq` and `server_time` are those of the first time.
    #[prost(bool, tag = "5")]
    pub duplicate: bool,
}

/// Server: the message is not known to be stored.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SendErr {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::id")]
    pub client_msg_id: Bytes,
    #[prost(string, tag = "2")]
    pub conv: String,
    #[prost(enumeration = "RefusalCode", tag = "3")]
    #[serde(with = "json::Code::<RefusalCode>")]
    pub code: i32,
    /// When the client may send it again under the same id, in milliseconds; 0: not as it is.
    #[prost(uint32, tag = "4")]
    pub retry_after_ms: u32,
}

/// Why a `SEND` or a `SYNC` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RefusalCode {
    Unspecified = 0,
    /// `conv` is no name of a conversation.
    ConvInvalid = 1,
    /// The user is not a member of the conversation.
    NotAMember = 2,
    /// `client_msg_id` is not exactly 16 bytes.
    IdInvalid = 3,
    /// The body is longer than [`MAX_BODY`].
    BodyTooLong = 4,
    /// The session follows as many rooms as it may.
    TooManyRooms = 5,
    /// The commit failed, or how it ended is unknown. Sending again under the same id is safe.
    NotStored = 6,
    /// The server has more to do than it can; nothing was stored.
    Busy = 7,
    /// A name that cannot be a user id.
    UserInvalid = 8,
    /// More users than a session may watch.
    TooManyUsers = 9,
    /// A presence that this server does not know.
    StateInvalid = 10,
    /// The session asks for more than it may; nothing was done.
    TooFast = 11,
    /// Messages of this kind are written by the server alone.
    KindInvalid = 12,
}

/// Server: a message of a conversation, as a push or in a page.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Msg {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(string, tag = "3")]
    pub sender: String,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json::id")]
    pub client_msg_id: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(with = "json::body")]
    pub body: Bytes,
    /// When it was stored, Unix time in milliseconds.
    #[prost(uint64, tag = "6")]
    pub time: u64,
    #[prost(uint32, tag = "7")]
    pub kind: u32,
    /// The sender's clock, Unix time in milliseconds, unchecked.
    #[prost(uint64, tag = "8")]
    pub sent_at: u64,
}

/// Client: what came after `after_seq`?
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Sync {
    #[prost(string, tag = "1")]
    pub conv: String,
    /// The last `seq` that the client has; 0 for all.
    #[prost(uint64, tag = "2")]
    pub after_seq: u64,
    /// At most so many messages: 1 to 500; 0 is 100, more is 500.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

/// Client: what came before `before_seq`?
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[prost(string, tag = "1")]
    pub conv: String,
    /// The first `seq` that the client has; 0 for the end of the conversation.
    #[prost(uint64, tag = "2")]
    pub before_seq: u64,
    /// At most so many messages: 1 to 500; 0 is 100, more is 500.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

/// Server: messages in the order of `seq`, as many as were asked for and fit into one frame.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncPage {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(message, repeated, tag = "2")]
    pub msgs: Vec<Msg>,
    /// With what to ask for the next page: the `after_seq` of `SYNC`, the `before_seq` of `HISTORY`.
    #[prost(uint64, tag = "3")]
    pub next_seq: u64,
    /// The newest `seq` of the conversation; 0 when it has no message.
    #[prost(uint64, tag = "4")]
    pub last_seq: u64,
    /// There is a next page.
    #[prost(bool, tag = "5")]
    pub more: bool,
}

/// Server: no page.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncErr {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(enumeration = "RefusalCode", tag = "2")]
    #[serde(with = "json::Code::<RefusalCode>")]
    pub code: i32,
    /// When the client may ask again, in milliseconds; 0: not as it is.
    #[prost(uint32, tag = "3")]
    pub retry_after_ms: u32,
}

/// Server: a request was not done. For requests that have no answer of their own to say so with.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// The refused frame, by its name in the JSON twin.
    #[prost(string, tag = "1")]
    pub of: String,
    /// The `conv` of that frame, if it has one.
    #[prost(string, tag = "2")]
    pub conv: String,
    #[prost(enumeration = "RefusalCode", tag = "3")]
    #[serde(with = "json::Code::<RefusalCode>")]
    pub code: i32,
    /// When the client may ask again, in milliseconds; 0: not as it is.
    #[prost(uint32, tag = "4")]
    pub retry_after_ms: u32,
}

/// Client: I am leaving. The server closes with 1000.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Bye {}

/// Server: please connect again, elsewhere if you can.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Reconnect {
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Earliest time to leave, in milliseconds from now.
    #[prost(uint32, tag = "2")]
    pub after_ms: u32,
    /// The client adds a random time of at most this.
    #[prost(uint32, tag = "3")]
    pub spread_ms: u32,
    /// When the server cuts the connection, in milliseconds from now.
    #[prost(uint32, tag = "4")]
    pub deadline_ms: u32,
    /// Addresses to prefer.
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<String>,
    /// The session may be resumed there.
    #[prost(bool, tag = "6")]
    pub resume_ok: bool,
}

/// Server: this session is over, do not connect again by yourself.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Kick {
    #[prost(enumeration = "KickReason", tag = "1")]
    #[serde(with = "json::Code::<KickReason>")]
    pub reason: i32,
}

/// Server, over TCP only: the connection ends here. Over WebSocket the Close says so.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Close {
    /// As over WebSocket.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Why a session was ended by the server for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum KickReason {
    Unspecified = 0,
    /// The same device logged in again.
    SameDevice = 1,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_of_a_later_version_is_none_and_not_an_error() {
        // Field 100, length-delimited, empty.
        let bytes = Bytes::from_static(&[0xa2, 0x06, 0x00]);
        assert_eq!(Frame::from_bytes(bytes).unwrap(), None);
    }

    #[test]
    fn the_envelope_has_the_documented_bytes() {
        let ping = Frame::Ping(Ping { t: 5 });
        assert_eq!(&ping.to_bytes()[..], &[0x22, 0x02, 0x08, 0x05]);
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_it_is_read() {
        let long = Bytes::from(vec![0; MAX_FRAME + 1]);
        assert!(matches!(Frame::from_bytes(long), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn the_longest_message_fits_into_a_page_of_its_own() {
        let msg = Msg {
            conv: "c".repeat(MAX_CONV),
            seq: u64::MAX,
            sender: "s".repeat(MAX_ID),
            client_msg_id: Bytes::from_static(&[0xff; CLIENT_MSG_ID]),
            body: Bytes::from(vec![0xff; MAX_BODY]),
            time: u64::MAX,
            kind: u32::MAX,
            sent_at: u64::MAX,
        };
        let conv = msg.conv.clone();
        let page = SyncPage { conv, msgs: vec![msg], next_seq: u64::MAX, last_seq: u64::MAX, more: true };
        assert!(Frame::SyncPage(page).to_bytes().len() <= MAX_FRAME);
    }

    #[test]
    fn the_longest_unread_list_fits_into_a_frame() {
        let conv = "c".repeat(MAX_CONV);
        let entry = UnreadConv { conv, last_seq: u64::MAX, read_seq: u64::MAX, n: u64::MAX };
        let list = UnreadList { convs: vec![entry; MAX_UNREAD], more: true };
        assert!(Frame::UnreadList(list).to_bytes().len() <= MAX_FRAME);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            drop(Frame::from_bytes(Bytes::from(bytes)));
        }

        #[test]
        fn a_message_survives_both_forms(
            conv in "[ -~]{0,20}", id in any::<[u8; 16]>(), kind in any::<u32>(),
            body in proptest::collection::vec(any::<u8>(), 0..64), sent_at in 0_u64..1 << 53,
        ) {
            let client_msg_id = Bytes::copy_from_slice(&id);
            let frame = Frame::Send(Send { conv, client_msg_id, kind, body: body.into(), sent_at });
            prop_assert_eq!(Frame::from_bytes(frame.to_bytes()).unwrap(), Some(frame.clone()));
            prop_assert_eq!(Frame::from_json(&frame.to_json()).unwrap(), Some(frame));
        }
    }
}
