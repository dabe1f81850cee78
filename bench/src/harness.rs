//! Starting real programs and looking at them from the outside.
//!
//! Why one harness: tests, demo, comparison and drills all need the same things (a fresh directory, a program on port
//! 0, its ready line, a deadline on every wait, its logs when something fails, its end by process id), and each of
//! them is easy to get almost right. Here they are right once.
//!
//! What is always true: nothing waits without a deadline; a program started here does not outlive its [`Process`];
//! traffic stays on loopback.

mod binary;
mod eventually;
mod limits;
mod logs;
mod port;
mod process;
mod processors;
mod service;
mod workspace;

pub mod agent;
pub mod browser;
pub mod dns;
pub mod echo_tcp;
pub mod http;
pub mod http_stub;
pub mod mmdb;
pub mod proxy_header;
pub mod raw_client;
pub mod sample;
pub mod tls;
pub mod wan;
pub mod ws;
pub mod ws_echo;

pub use agent::Agent;
pub use binary::binary;
pub use browser::{Browser, Driver, Scheme};
pub use dns::DnsServer;
pub use echo_tcp::EchoTcp;
pub use eventually::eventually;
pub use http_stub::{Action, HttpStub};
pub use limits::{open_files, raise_open_files};
pub use port::reserve_port;
pub use process::{Finished, Launch, Process};
pub use processors::ProcessorTime;
pub use raw_client::RawClient;
pub use rustix::process::Signal;
pub use sample::CpuClock;
pub use tls::TestCa;
pub use wan::Wan;
pub use workspace::Workspace;
pub use ws_echo::WsEcho;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks even when another holder panicked: a failing test still wants to see what was recorded.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
