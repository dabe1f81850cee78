//! The frames with which a session begins, or does not.

use serde::{Deserialize, Serialize};

use crate::json;

/// Client: the first frame of a connection.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// A JWT; its `sub` is the user.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Which of the user's devices this is, 1 to 60 bytes. A second login of one device ends the first.
    #[prost(string, tag = "2")]
    pub device_id: String,
    /// The session to continue, if the client had one.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Names of optional features that the client understands.
    #[prost(string, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
}

/// An earlier session of this device.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Resume {
    #[prost(string, tag = "1")]
    pub session_id: String,
    /// The last push that the client saw of it; not used.
    #[prost(uint64, tag = "2")]
    pub last_push: u64,
}

/// Server: the session is open.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct LoginOk {
    #[prost(string, tag = "1")]
    pub session_id: String,
    /// Unix time in milliseconds.
    #[prost(uint64, tag = "2")]
    pub server_time: u64,
    /// How often the client should send `PING` when it has nothing else to say, in seconds.
    #[prost(uint32, tag = "3")]
    pub heartbeat_s: u32,
    /// The session named by `resume` goes on: its rooms are followed, its users watched. What was missed is to be asked
    /// for with `SYNC`, as after every login.
    #[prost(bool, tag = "4")]
    pub resumed: bool,
    /// Name of the server process.
    #[prost(string, tag = "5")]
    pub node: String,
    /// Those of the client's `caps` that hold here.
    #[prost(string, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
}

/// Server: no session; a close follows.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct LoginErr {
    #[prost(enumeration = "LoginCode", tag = "1")]
    #[serde(with = "json::Code::<LoginCode>")]
    pub code: i32,
    /// When another try may succeed, in milliseconds; 0: not with this token.
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
}

/// Why a login was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LoginCode {
    Unspecified = 0,
    /// The token is no JWT at all, or misses `sub` or `exp`.
    TokenMalformed = 1,
    /// The token's `alg` is not one that this server has a key for; `none` never is.
    TokenAlgorithm = 2,
    /// The signature does not fit the token.
    TokenSignature = 3,
    /// `exp` has passed.
    TokenExpired = 4,
    /// `nbf` has not come yet.
    TokenNotYetValid = 5,
    /// The token is good, but its `sub` cannot be a user id here.
    UserInvalid = 6,
    /// `device_id` is empty or too long.
    DeviceInvalid = 7,
    /// The server is full or stopping; another one may take the client.
    TryLater = 8,
    /// The user has as many sessions on other devices as it may.
    TooManySessions = 9,
}
