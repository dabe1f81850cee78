//! The real binary, spoken to over real sockets.

#![expect(clippy::unwrap_used, reason = "what fails in a helper has to fail its test")]

mod chat;
mod crash;
mod drain;
mod groups;
mod http;
mod limits;
mod login;
mod messages;
mod metrics;
mod presence;
mod process;
mod receipts;
mod resume;
mod shared;
mod stop;
mod ws;
