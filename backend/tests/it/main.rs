//! The real binary, spoken to over real sockets.

#![expect(clippy::unwrap_used, reason = "what fails in a helper has to fail its test")]

mod agent;
mod backup;
mod chat;
mod crash;
mod drain;
mod elsewhere;
mod groups;
mod haproxy;
mod http;
mod limits;
mod log;
mod login;
mod memory;
mod messages;
mod metrics;
mod presence;
mod process;
mod proxy;
mod receipts;
mod resume;
mod shared;
mod stop;
mod tcp;
mod tcp_client;
mod websocket;
mod ws;
