//! `warbler-im`, the reference IM server: logins, messages that are stored before they are acknowledged, pushes, and
//! catching up by sequence number, over WebSocket. docs/protocol.md says what is on the wire.
//!
//! It exists so that an edge can be tested, shown and measured with real IM traffic; its guarantees are real, so that
//! a test can tell what the edge lost from what the server lost. A client's life reads `http` → `upgrade` → `session`
//! → `store` → `delivery`.
//!
//! Always true: a `SEND_ACK` follows the durable commit (`store`); every push comes out of the store, so that it does
//! not matter which process stored it (`delivery`); every queue has a bound.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;

mod clock;
mod connection;
mod conversation;
mod delivery;
pub mod fault;
pub mod frame;
mod http;
mod json;
mod load;
mod server;
mod session;
pub mod store;
pub mod token;
mod upgrade;
mod wire;

use fault::{Faults, Faulty};
use server::Server;
use store::{SqliteStore, Store};
use token::Verifier;

/// What a server needs to know to start.
#[derive(Debug)]
pub struct Config {
    /// Where HTTP and WebSocket are served; port 0 takes a free one.
    pub bind: Vec<SocketAddr>,
    /// Directory of the database. Several processes of one machine may share it.
    pub data: PathBuf,
    /// Name of this process, told to clients and in `/whoami`.
    pub node: String,
    /// Whose tokens are believed.
    pub verifier: Verifier,
    /// How often clients are told to send `PING`. A session silent for three of these is closed.
    pub heartbeat: Duration,
    /// How long a connection may take until its `LOGIN` is there.
    pub login_timeout: Duration,
    /// How long a session's socket may take nothing while there is something to send.
    pub stall_timeout: Duration,
    /// WebSocket connections at the same time, with and without login; more get 503.
    pub max_sessions: usize,
    /// When stopping: how long `/readyz` fails before sessions are closed.
    pub stop_grace: Duration,
    /// When stopping: how long sessions may take to leave before they are cut.
    pub stop_deadline: Duration,
    /// Serve `/admin/fault`, for tests.
    pub faults: bool,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("address {address} cannot be bound")]
    Bind {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("messages cannot be stored in {}", data.display())]
    Store {
        data: PathBuf,
        #[source]
        cause: store::OpenError,
    },
    #[error("the store cannot be read")]
    Read(#[source] store::StoreError),
}

/// A running server. Dropping it without [`Backend::stop`] leaves its tasks to the runtime.
#[derive(Debug)]
pub struct Backend {
    server: Arc<Server>,
    addresses: Vec<SocketAddr>,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Sessions that had not left at the deadline.
    pub cut: usize,
}

impl Backend {
    /// Opens the store, binds every address and serves.
    ///
    /// # Errors
    /// [`StartError`] when the store cannot be opened or an address cannot be bound; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let mut listeners = Vec::with_capacity(config.bind.len());
        for &address in &config.bind {
            let bound = TcpListener::bind(address).await.and_then(|l| Ok((l.local_addr()?, l)));
            listeners.push(bound.map_err(|cause| StartError::Bind { address, cause })?);
        }
        let store =
            SqliteStore::open(&config.data).map_err(|cause| StartError::Store { data: config.data.clone(), cause })?;
        let mut store: Arc<dyn Store> = Arc::new(store);
        let faults = Arc::new(Faults::default());
        if config.faults {
            store = Arc::new(Faulty::new(store, Arc::clone(&faults)));
        }
        // Before the first session, so that no message falls between its login and the beginning of the feed.
        let newest = store.newest().await.map_err(StartError::Read)?;

        let server = Arc::new(Server::new(config, store, faults));
        server.spawn(delivery::feed(Arc::clone(&server), newest));
        server.spawn(load::sample(Arc::clone(&server)));
        let addresses = listeners.iter().map(|(address, _)| *address).collect();
        for (_, listener) in listeners {
            server.spawn(http::accept(Arc::clone(&server), listener));
        }
        Ok(Self { server, addresses })
    }

    /// The addresses in the order of [`Config::bind`], with the ports that were taken.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// WebSocket connections that are open now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.server.sessions()
    }

    /// Fails `/readyz`, waits [`Config::stop_grace`], closes every session with 1012 after its last
    /// acknowledgement, and returns when all have left or [`Config::stop_deadline`] has passed.
    pub async fn stop(self) -> Stopped {
        let began = Instant::now();
        self.server.drain();
        tokio::time::sleep(self.server.config.stop_grace).await;
        self.server.leave();
        let all_left = tokio::time::timeout(self.server.config.stop_deadline, self.server.ended()).await;
        let cut = if all_left.is_ok() { 0 } else { self.server.sessions() };
        self.server.store.close().await;
        tracing::info!(cut, took = ?began.elapsed(), "stopped");
        Stopped { cut }
    }
}
