//! Where messages are kept. The trait is what the rest of the server knows; `tests/store.rs` is its meaning, written
//! against the trait so that every implementation passes the same suite.
//!
//! Always true of an implementation: what [`Store::append`] answers with `Ok` survives a crash of any process; `seq`
//! is dense per conversation; the feed shows every message once, in an order in which no earlier place can be filled
//! later.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

mod sqlite;

pub use sqlite::{OpenError, SqliteStore};

use crate::frame::{CLIENT_MSG_ID, Msg};

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes a message to be stored and answers when it is durable, or known not to be, or unknown.
    ///
    /// Not an `async fn`, because the order of messages is that of the calls and not that of the first polls.
    /// A message that is there already, by conversation, sender and client message id, is answered with its first
    /// place and not compared.
    fn append(&self, message: NewMessage) -> Appending;

    /// Messages of a conversation after `after_seq`, at most `limit` of them and at most `max_bytes` of bodies, but
    /// at least one if there is one.
    async fn page(&self, conv: &str, after_seq: u64, limit: u32, max_bytes: usize) -> Result<Page, StoreError>;

    /// The end of the feed.
    async fn newest(&self) -> Result<Position, StoreError>;

    /// What was stored after a position, by any process, oldest first; a bounded piece of it.
    async fn feed(&self, after: Position) -> Result<Vec<Fed>, StoreError>;

    /// Returns when the feed may have grown. It may return early, and late by no more than 50 ms.
    async fn changed(&self);

    /// A real commit, or one that has just succeeded.
    async fn check_writable(&self) -> Result<(), StoreError>;

    /// Ends after everything taken so far is answered. Appends after it are refused.
    async fn close(&self);
}

/// The answer to an append, to come.
pub type Appending = BoxFuture<'static, Result<Stored, StoreError>>;

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

/// A piece of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In the order of `seq`.
    pub msgs: Vec<Msg>,
    /// The newest `seq` of the conversation at the same moment; 0 when there is none.
    pub last_seq: u64,
}

/// A place in the order in which messages of all conversations became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// A message as the feed shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fed {
    pub position: Position,
    /// The device that sent it.
    pub device: String,
    pub msg: Msg,
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
    /// A test asked for it.
    #[error("the commit was refused by an injected fault")]
    Injected,
}
