//! Frames about how far a user has got in a conversation.

use serde::{Deserialize, Serialize};

/// Client: everything up to here has reached this user.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Ack {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// Client: this user has read everything up to here. What is read has been delivered.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Read {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// Server: how far a member of a conversation has got. Neither number ever falls.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(string, tag = "2")]
    pub user: String,
    #[prost(uint64, tag = "3")]
    pub delivered_seq: u64,
    /// At most `delivered_seq`.
    #[prost(uint64, tag = "4")]
    pub read_seq: u64,
}

/// Client: which conversations am I in, and what is unread in them?
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Unread {
    /// The last conversation that the client was told of, for the next piece of a long list; empty for the first.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub after: String,
}

/// Server: conversations that the user is in, in the byte order of their names; at most
/// [`MAX_UNREAD`](super::MAX_UNREAD).
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct UnreadList {
    #[prost(message, repeated, tag = "1")]
    pub convs: Vec<UnreadConv>,
    /// There are others after the last of these.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// One conversation of an [`UnreadList`].
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct UnreadConv {
    #[prost(string, tag = "1")]
    pub conv: String,
    #[prost(uint64, tag = "2")]
    pub last_seq: u64,
    #[prost(uint64, tag = "3")]
    pub read_seq: u64,
    /// Unread messages: `last_seq - read_seq`.
    #[prost(uint64, tag = "4")]
    pub n: u64,
}
