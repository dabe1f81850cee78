//! Clients of the IM protocol (docs/protocol.md) and the proof that nothing they were promised was lost.
//!
//! A [`Session`] is one login on one connection, over WebSocket or TCP, plain or TLS: the [`Door`] says which. A
//! [`Phone`] is a whole client: it obeys everything that the protocol asks of one, and writes every acknowledgement and
//! every push into a [`Journal`]. The [`checker`] holds journals against what the servers have stored.

mod back_off;
pub mod checker;
mod diary;
mod door;
mod journal;
mod outbox;
mod phone;
mod server;
mod session;
mod shelf;
#[cfg(test)]
pub(crate) mod stub;
mod token;
mod upgrade;
mod wire;

pub use back_off::BackOff;
pub use diary::{Diary, Entry, Happening};
pub use door::{Door, Tls, Transport};
pub use journal::{Journal, Promise};
pub use outbox::OutboxFull;
pub use phone::{Event, Phone, Receipts};
pub use server::Server;
pub use session::{Session, SessionError};
pub use token::Secret;

pub use backend::frame::{Msg, RefusalCode, SendAck};
