//! The process `warbler`: an edge in front of instant-messaging servers.
//!
//! The life of a client, top to bottom: [`listener`] → admission in [`worker`] → [`connection`] → [`prelude`] →
//! [`route`] → [`pick`] → [`upstream`] → [`tunnel`] (or pingora's proxy, through [`http`]) → one event when its
//! [`trip`] is dropped. This is the only crate that knows pingora.

pub mod config;

pub mod snapshot;
pub mod state;

pub mod listener;
pub mod worker;

pub mod connection;
pub mod prelude;
pub mod stream;
pub mod tls;

pub mod http;
pub mod route;
pub mod tcp;
pub mod upgrade;

pub mod affinity;
pub mod cluster;
pub mod decisions;
pub mod pick;
pub mod upstream;

pub mod registry;
pub mod trip;
pub mod tunnel;

pub mod controls;
pub mod leave;
pub mod reload;
pub mod sockets;
pub mod stop;
pub mod watch;

pub mod access_log;
pub mod admin;
pub mod events;
pub mod log;
pub mod metrics;

pub mod simulate;
pub mod trace;

pub mod cli;
pub mod control;
mod sys;
