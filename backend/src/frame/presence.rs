//! Frames about who is here.

use serde::{Deserialize, Serialize};

use crate::json;

/// Client: tell me of these users, now and whenever it changes. Takes the place of what was asked for before.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceSub {
    #[prost(string, repeated, tag = "1")]
    pub users: Vec<String>,
}

/// Client: this is how I want to be seen.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceSet {
    #[prost(enumeration = "PresenceState", tag = "1")]
    #[serde(with = "json::Code::<PresenceState>")]
    pub state: i32,
}

/// Server: how a user is seen.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(enumeration = "PresenceState", tag = "2")]
    #[serde(with = "json::Code::<PresenceState>")]
    pub state: i32,
    /// When the user was here last, Unix time in milliseconds; 0 when that is not known.
    #[prost(uint64, tag = "3")]
    pub last_seen: u64,
}

/// How a user is seen. The smallest number of a user's sessions is the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PresenceState {
    Unspecified = 0,
    Online = 1,
    /// Here, and not to be disturbed.
    Busy = 2,
    /// Logged in, but not looking.
    Away = 3,
    /// Not logged in, or does not want to be seen.
    Offline = 4,
}
