//! Names of conversations and who is in them.
//!
//! For two kinds the name says it all. `dm:ALICE:BOB`, the two users in byte
//! order, is for these two and nobody else; `room:NAME` is for everybody who is logged in. `group:ID` is for its members,
//! whom the store knows: who asks for a group has to ask there as well.

use crate::frame::{MAX_CONV, MAX_ID, RefusalCode};

/// A well-formed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conversation<'a> {
    /// Between these two, who may be the same.
    Direct(&'a str, &'a str),
    Room,
    /// Whether the user is a member is not known here.
    Group,
}

/// What the name of a group begins with; its id follows.
pub(crate) const GROUP: &str = "group:";
/// Longest id of a group, in bytes.
const MAX_GROUP_ID: usize = 64;

impl<'a> Conversation<'a> {
    /// Reads a name for a user.
    ///
    /// # Errors
    /// [`RefusalCode::ConvInvalid`] for a name that is not one, [`RefusalCode::NotAMember`] for a conversation of
    /// others.
    pub(crate) fn of(name: &'a str, user: &str) -> Result<Self, RefusalCode> {
        let conversation = Self::parse(name).ok_or(RefusalCode::ConvInvalid)?;
        match conversation {
            Self::Direct(one, other) if one != user && other != user => Err(RefusalCode::NotAMember),
            Self::Direct(..) | Self::Room | Self::Group => Ok(conversation),
        }
    }

    /// Reads a name, whoever asks.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        if name.len() > MAX_CONV {
            return None;
        }
        if let Some(room) = name.strip_prefix("room:") {
            return (!room.is_empty() && !room.chars().any(char::is_control)).then_some(Self::Room);
        }
        if let Some(id) = name.strip_prefix(GROUP) {
            return is_group_id(id).then_some(Self::Group);
        }
        let (one, other) = name.strip_prefix("dm:")?.split_once(':')?;
        // One name for two people, or each would write into a conversation of their own.
        (is_id(one) && is_id(other) && one <= other).then_some(Self::Direct(one, other))
    }
}

/// Ids are made by servers and stand in paths: letters, digits, `-` and `_`.
fn is_group_id(id: &str) -> bool {
    (1..=MAX_GROUP_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Whether a text can be a user: 1 to [`MAX_ID`] bytes, no colon (it parts the names), no space, nothing invisible.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && !text.chars().any(|c| c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, user: &str, want: Result<Conversation<'_>, RefusalCode>) {
        assert_eq!(Conversation::of(name, user), want, "{name} for {user}");
    }

    #[test]
    fn only_the_two_in_its_name_are_in_a_direct_conversation() {
        check("dm:alice:bob", "alice", Ok(Conversation::Direct("alice", "bob")));
        check("dm:alice:bob", "bob", Ok(Conversation::Direct("alice", "bob")));
        check("dm:alice:alice", "alice", Ok(Conversation::Direct("alice", "alice")));
        check("dm:alice:bob", "carol", Err(RefusalCode::NotAMember));
        check("dm:alice:bob", "ali", Err(RefusalCode::NotAMember));
    }

    #[test]
    fn two_people_have_one_name() {
        check("dm:bob:alice", "alice", Err(RefusalCode::ConvInvalid));
        check("dm:alice:bob:alice", "alice", Err(RefusalCode::ConvInvalid));
        check("dm:alice", "alice", Err(RefusalCode::ConvInvalid));
        check("dm::alice", "alice", Err(RefusalCode::ConvInvalid));
    }

    #[test]
    fn rooms_are_open_and_other_kinds_do_not_exist() {
        check("room:lobby", "carol", Ok(Conversation::Room));
        check("room:a:b c", "carol", Ok(Conversation::Room));
        check("room:", "carol", Err(RefusalCode::ConvInvalid));
        check("room:a\nb", "carol", Err(RefusalCode::ConvInvalid));
        check("channel:x", "carol", Err(RefusalCode::ConvInvalid));
        check("", "carol", Err(RefusalCode::ConvInvalid));
        check(&format!("room:{}", "x".repeat(MAX_CONV)), "carol", Err(RefusalCode::ConvInvalid));
    }

    #[test]
    fn a_group_is_named_by_an_id() {
        check("group:Zm9v-_9", "carol", Ok(Conversation::Group));
        for wrong in ["group:", "group:a b", "group:a/b", "group:..", "group:é", "group:a:b"] {
            check(wrong, "carol", Err(RefusalCode::ConvInvalid));
        }
        check(&format!("group:{}", "x".repeat(MAX_GROUP_ID + 1)), "carol", Err(RefusalCode::ConvInvalid));
    }

    #[test]
    fn two_of_the_longest_users_fit_into_a_name() {
        let (one, other) = ("a".repeat(MAX_ID), "b".repeat(MAX_ID));
        check(&format!("dm:{one}:{other}"), &one, Ok(Conversation::Direct(&one, &other)));
    }
}
