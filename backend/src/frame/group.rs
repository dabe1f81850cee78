//! What happens to a group, told in its own conversation: the bodies of messages that the server writes.

use serde::{Deserialize, Serialize};

/// Kinds of messages from here on are written by the server alone; a client's `SEND` of one is refused.
pub const KIND_SERVER: u32 = 1 << 31;
/// The body is a [`GroupEvent`] in JSON, the sender is who did it.
pub const KIND_GROUP: u32 = KIND_SERVER;

/// Most members of a group.
pub const MAX_MEMBERS: usize = 256;
/// Most groups of a user.
pub const MAX_GROUPS: u32 = 256;
/// Longest name of a group, in bytes.
pub const MAX_GROUP_NAME: usize = 128;

/// What a member may do, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything. A group has exactly one.
    Owner,
    /// Adds and removes members, and renames.
    Admin,
    Member,
}

/// A change of a group. `users`, `user` and `owner` are user ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GroupEvent {
    /// The first message of every group, with all members it begins with.
    Created {
        name: String,
        users: Vec<String>,
    },
    Added {
        user: String,
    },
    Removed {
        user: String,
    },
    /// The sender has left; if it was the owner, `owner` is the next one, who is missing when nobody is left.
    Left {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    Renamed {
        name: String,
    },
    /// With the role of owner, the sender is an admin from then on.
    Role {
        user: String,
        role: Role,
    },
}

impl GroupEvent {
    /// The body of the message.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("events have string keys and no failing serializers")
    }

    /// Who is concerned besides the sender and the members that there are afterwards.
    #[must_use]
    pub fn parted(&self) -> Option<&str> {
        match self {
            Self::Removed { user } => Some(user),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{MAX_BODY, MAX_ID};

    #[test]
    fn events_are_small_json_objects() {
        let check = |event: GroupEvent, want: &str| {
            assert_eq!(event.to_json(), want);
            assert_eq!(serde_json::from_str::<GroupEvent>(want).unwrap(), event);
        };
        check(GroupEvent::Left { owner: None }, r#"{"event":"left"}"#);
        check(GroupEvent::Left { owner: Some("bob".into()) }, r#"{"event":"left","owner":"bob"}"#);
        check(
            GroupEvent::Role { user: "bob".into(), role: Role::Admin },
            r#"{"event":"role","user":"bob","role":"admin"}"#,
        );
    }

    #[test]
    fn the_largest_group_begins_with_a_message_that_fits() {
        // A quotation mark is the longest that a user id can become: two bytes for one.
        let users = vec!["\"".repeat(MAX_ID); MAX_MEMBERS];
        assert!(GroupEvent::Created { name: "\"".repeat(MAX_GROUP_NAME), users }.to_json().len() <= MAX_BODY);
    }
}
