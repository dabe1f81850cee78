//! Where messages, and how far their readers have got, are kept. The trait is what the rest of the server knows;
//! `tests/store.rs` is its meaning, written against the trait so that every implementation passes the same suite.
//!
//! Always true of an implementation: what [`Store::append`] and [`Store::advance`] answer with `Ok` survives a crash of
//! any process; `seq` is dense per conversation; cursors never fall and never pass the newest message; the feed shows
//! every message once, in an order in which no earlier place can be filled later.
//!
//! A message is written once for its conversation, however many read it. A reader is a cursor: one row for each user
//! and conversation, which also says that the user takes part. In a group only members take part; a change of a group is
//! a message in it, stored in the same commit, so whoever has seen the feed up to there knows of it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use prometheus::core::Collector;

pub mod backup;
mod directory;
mod sqlite;

pub use sqlite::{OpenError, Sqlite, SqliteStore};

use crate::{
    conversation::Conversation,
    frame::{CLIENT_MSG_ID, Msg, Role},
    group::{Denied, Group, Order},
};

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes a message to be stored and answers when it is durable, or known not to be, or unknown.
    ///
    /// Not an `async fn`, because the order of messages is that of the calls and not that of the first polls.
    /// A message that is there already, by conversation, sender and client message id, is answered with its first
    /// place and not compared.
    ///
    /// Into a group only members send: [`StoreError::NotAMember`] for others, unless it repeats what was stored.
    ///
    /// The sender takes part from then on, in a direct conversation both users. If the sender had read
    /// all that came before, the message counts as read by its sender; nobody is told of that.
    fn append(&self, message: NewMessage) -> Appending;

    /// Moves a user's cursor forward and answers with where it stands, when that is durable. A place behind the cursor
    /// changes nothing, a place beyond the newest message is that message, and in a conversation without messages
    /// nothing is kept. The user takes part from then on. The order is that of the calls, also with
    /// [`Store::append`]. In a group only members have cursors that move.
    fn advance(&self, advance: Advance) -> Advancing;

    /// What `user` reads of a conversation: messages after or before a place, within limits. Of a group only members read:
    /// [`StoreError::NotAMember`] for others, as of the same moment as the page.
    async fn page(&self, conv: &str, user: &str, cut: Cut) -> Result<Page, StoreError>;

    /// Where a user's cursor in a conversation stands; at the beginning if there is none.
    async fn cursor(&self, conv: &str, user: &str) -> Result<Cursor, StoreError>;

    /// The conversations in which a user takes part, in the byte order of their names: those after the name `after`, at
    /// most `limit`.
    async fn taking_part(&self, user: &str, after: &str, limit: u32) -> Result<Vec<Part>, StoreError>;

    /// Makes a group with its first message. One that the creator has made with the same key is answered with its name
    /// and not compared. Members besides the creator find the first message unread.
    async fn create_group(&self, wanted: NewGroup) -> Result<Founded, GroupError>;

    /// Does what a member wants of a group, by the rules of [`group::decide`](crate::group::decide), and tells the group
    /// with a message. Who is added has read everything before that message. What is so already is `Ok` without one.
    async fn change_group(&self, wanted: GroupChange) -> Result<(), GroupError>;

    /// A group with its members; `None` if there is none of this name or nobody is left in it.
    async fn group(&self, conv: &str) -> Result<Option<Group>, StoreError>;

    /// The groups of a user, in the byte order of their names.
    async fn groups(&self, user: &str) -> Result<Vec<GroupOf>, StoreError>;

    /// How far the members of a group have got, by user.
    async fn cursors(&self, conv: &str) -> Result<Vec<(String, Cursor)>, StoreError>;

    /// The end of the feed.
    async fn newest(&self) -> Result<Position, StoreError>;

    /// What was stored after a position, by any process, oldest first; a bounded piece of it. Cursors come only with
    /// the last messages, so that nobody hears of a message as read before the message itself. A cursor that moved
    /// several times may be shown only with its last place.
    async fn feed(&self, after: Position) -> Result<News, StoreError>;

    /// Returns when the feed may have grown. It may return early, and late by no more than 50 ms.
    async fn changed(&self);

    /// A real commit, or one that has just succeeded.
    async fn check_writable(&self) -> Result<(), StoreError>;

    /// What it takes on the disk, in bytes.
    async fn bytes(&self) -> Result<u64, StoreError>;

    /// What it tells Prometheus, with names that begin with `warbler_im_`.
    fn metrics(&self) -> Vec<Box<dyn Collector>>;

    /// Ends after everything taken so far is answered. Appends after it are refused.
    async fn close(&self);
}

/// The answer to an append, to come.
pub type Appending = BoxFuture<'static, Result<Stored, StoreError>>;

/// The answer to an advance, to come.
pub type Advancing = BoxFuture<'static, Result<Cursor, StoreError>>;

/// A message before it has a place. Its fields are within the limits of the protocol.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub conv: String,
    pub sender: String,
    /// The sender's device, so that the push can leave it out.
    pub device: String,
    pub client_msg_id: [u8; CLIENT_MSG_ID],
    pub kind: u32,
    pub body: Bytes,
    /// The client's clock, passed on.
    pub sent_at: u64,
}

/// The place of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub seq: u64,
    /// When it was stored first, Unix time in milliseconds.
    pub time: u64,
    /// It had been stored before.
    pub duplicate: bool,
}

/// A cursor's way forward. The user may use the conversation.
#[derive(Clone, Debug)]
pub struct Advance {
    pub conv: String,
    pub user: String,
    /// The device that says so, so that the receipt can leave it out.
    pub device: String,
    pub to: Cursor,
}

/// How far a user has got in a conversation: everything up to these places, 0 for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub delivered_seq: u64,
    /// At most `delivered_seq`: what is read has been delivered.
    pub read_seq: u64,
}

impl Cursor {
    /// Everything up to here has reached the user.
    #[must_use]
    pub fn delivered(seq: u64) -> Self {
        Self { delivered_seq: seq, read_seq: 0 }
    }

    /// The user has read everything up to here.
    #[must_use]
    pub fn read(seq: u64) -> Self {
        Self { delivered_seq: seq, read_seq: seq }
    }

    /// Where a cursor stands after it was told of another place. No order of such steps makes a difference, nor does
    /// repeating one.
    #[must_use]
    pub fn advanced(self, to: Self) -> Self {
        let read_seq = self.read_seq.max(to.read_seq);
        Self { delivered_seq: self.delivered_seq.max(to.delivered_seq).max(read_seq), read_seq }
    }

    /// The same place in a conversation that ends at `last_seq`.
    #[must_use]
    pub fn within(self, last_seq: u64) -> Self {
        Self { delivered_seq: self.delivered_seq.min(last_seq), read_seq: self.read_seq.min(last_seq) }
    }

    /// Where a sender's cursor stands after a message of its own at `seq`: past it, unless something unread is before.
    #[must_use]
    pub fn after_sending(self, seq: u64) -> Self {
        if self.read_seq.checked_add(1) == Some(seq) { self.advanced(Self::read(seq)) } else { self }
    }
}

/// A conversation as one who takes part in it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub conv: String,
    pub last_seq: u64,
    pub cursor: Cursor,
}

impl Part {
    /// Messages that the user has not read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.last_seq.saturating_sub(self.cursor.read_seq)
    }
}

/// A group to be made. Its fields are within the limits of the protocol.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// A conversation that is not there yet.
    pub conv: String,
    pub name: String,
    pub creator: String,
    /// What the creator calls this creation, so that it may be asked for again.
    pub key: Option<String>,
    /// Others than the creator, each once, fewer than [`MAX_MEMBERS`](crate::frame::MAX_MEMBERS).
    pub others: Vec<String>,
    /// Id of the group's first message, new.
    pub message_id: [u8; CLIENT_MSG_ID],
}

/// A group that was made, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    pub conv: String,
    /// It had been made before.
    pub duplicate: bool,
}

/// A change of a group, by one of its members.
#[derive(Clone, Debug)]
pub struct GroupChange {
    pub conv: String,
    pub actor: String,
    pub order: Order,
    /// Id of the message that tells of it, new.
    pub message_id: [u8; CLIENT_MSG_ID],
}

/// A group as it stands in the list of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOf {
    pub conv: String,
    pub name: String,
    pub role: Role,
    pub members: u32,
}

/// Why a group was not made or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which piece of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub side: Side,
    /// Most messages.
    pub limit: u32,
    /// Most bytes of bodies; but one message is given, if there is one.
    pub max_bytes: usize,
}

/// On which side of a place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first messages after this `seq`.
    After(u64),
    /// The last messages before this `seq`.
    Before(u64),
}

/// A piece of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In the order of `seq`.
    pub msgs: Vec<Msg>,
    /// The newest `seq` of the conversation at the same moment; 0 when there is none.
    pub last_seq: u64,
}

/// A place in the order in which messages of all conversations, and moves of all cursors, became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    messages: u64,
    moves: u64,
}

/// A piece of the feed.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    pub messages: Vec<Fed>,
    pub moves: Vec<Moved>,
    /// Where the next piece begins.
    pub end: Position,
}

impl News {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.moves.is_empty()
    }
}

/// A message as the feed shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fed {
    /// The device that sent it.
    pub device: String,
    pub msg: Msg,
}

/// A cursor that has moved, as the feed shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub conv: String,
    pub user: String,
    /// The device that moved it last.
    pub device: String,
    pub cursor: Cursor,
}

/// Who takes part in a conversation since a message of this sender: both users of a direct one, or the sender.
pub(crate) fn takes_part<'a>(conv: &'a str, sender: &'a str) -> impl Iterator<Item = &'a str> {
    let (one, other) = match Conversation::parse(conv) {
        Some(Conversation::Direct(one, other)) => (one, (one != other).then_some(other)),
        Some(Conversation::Room | Conversation::Group) | None => (sender, None),
    };
    std::iter::once(one).chain(other)
}

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was stored; trying again soon makes sense.
    #[error("the store has more to do than it can")]
    Busy,
    /// Of an append: it is unknown whether it was stored. Repeating it is safe.
    #[error("the store failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("the store is closed")]
    Closed,
    /// The conversation is a group, and the user is not in it.
    #[error("the user is not a member of the group")]
    NotAMember,
    /// A test asked for it.
    #[error("the commit was refused by an injected fault")]
    Injected,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Cursor> {
        (any::<bool>(), 0_u64..20).prop_map(|(read, seq)| if read { Cursor::read(seq) } else { Cursor::delivered(seq) })
    }

    proptest! {
        #[test]
        fn no_order_and_no_repetition_of_steps_changes_where_a_cursor_ends(
            steps in proptest::collection::vec(place(), 0..12), turns in any::<u64>(),
        ) {
            let mut other_order = [steps.clone(), steps.clone()].concat();
            let turn = usize::try_from(turns % 24).unwrap().min(other_order.len());
            other_order.rotate_left(turn);
            other_order.reverse();
            let end = |steps: &[Cursor]| steps.iter().fold(Cursor::default(), |at, to| at.advanced(*to));
            prop_assert_eq!(end(&steps), end(&other_order));
            let mut at = Cursor::default();
            for step in steps {
                let next = at.advanced(step);
                prop_assert!(next.delivered_seq >= at.delivered_seq && next.read_seq >= at.read_seq);
                prop_assert!(next.read_seq <= next.delivered_seq);
                at = next;
            }
        }
    }

    #[test]
    fn a_sender_reads_its_own_message_only_if_nothing_unread_is_before_it() {
        assert_eq!(Cursor::read(4).after_sending(5), Cursor::read(5));
        assert_eq!(Cursor::read(3).after_sending(5), Cursor::read(3));
        assert_eq!(Cursor::default().after_sending(1), Cursor::read(1));
        let ahead = Cursor { delivered_seq: 9, read_seq: 4 };
        assert_eq!(ahead.after_sending(5), Cursor { delivered_seq: 9, read_seq: 5 });
    }

    #[test]
    fn both_users_of_a_direct_conversation_take_part_and_of_a_room_the_sender() {
        let check = |conv, sender, want: &[&str]| assert_eq!(takes_part(conv, sender).collect::<Vec<_>>(), want);
        check("dm:alice:bob", "bob", &["alice", "bob"]);
        check("dm:bob:bob", "bob", &["bob"]);
        check("room:a", "bob", &["bob"]);
    }
}
