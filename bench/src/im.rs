//! Clients of the IM protocol (docs/protocol.md) and the proof that nothing they were promised was lost.
//!
//! A [`Session`] is one login on one connection. A [`Phone`] is what people carry: it connects again when its
//! connection breaks, sends again what was not acknowledged, and writes every acknowledgement into a [`Journal`]. The
//! [`checker`] holds journals against what the servers have stored.

pub mod checker;
mod diary;
mod journal;
mod phone;
mod server;
mod session;
mod token;

pub use diary::{Diary, Entry, Happening};
pub use journal::{Acknowledged, Asked, Entries, Journal, Pushed};
pub use phone::{BackOff, Phone};
pub use server::Server;
pub use session::{Door, Session, SessionError};
pub use token::Secret;

pub use backend::frame::{Msg, SendAck};
