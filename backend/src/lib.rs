//! `warbler-im`, the reference IM server: logins, messages that are stored before they are acknowledged, pushes, and
//! catching up by sequence number, over WebSocket or TCP. docs/protocol.md says what is on the wire.
//!
//! It exists so that an edge can be tested, shown and measured with real IM traffic; its guarantees are real, so that
//! a test can tell what the edge lost from what the server lost. A client's life reads `accept` → `http` →
//! `upgrade` → `session` → `store` → `delivery`.
//!
//! Always true: a `SEND_ACK` follows the durable commit (`store`); every push comes out of the store, so that it does
//! not matter which process stored it (`delivery`), but for presence, which processes tell each other beside it (`board`);
//! every queue has a bound.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::net::TcpListener;

mod accept;
mod agent;
mod allowance;
mod board;
mod clock;
mod connection;
mod conversation;
mod delivery;
mod downstream;
mod drain;
pub mod duration;
pub mod fault;
pub mod frame;
pub mod group;
mod http;
mod json;
mod load;
mod metrics;
mod proxy_protocol;
mod server;
mod session;
pub mod store;
pub mod token;
mod upgrade;
mod wire;

pub use drain::Pace;

use accept::Speaks;
use board::Exchange;
use fault::{Faults, Faulty};
use metrics::Metrics;
use server::Server;
use store::{SqliteStore, Store};
use token::Verifier;

/// What a server needs to know to start.
#[derive(Debug)]
pub struct Config {
    /// Where HTTP and WebSocket are served; port 0 takes a free one.
    pub bind: Vec<SocketAddr>,
    /// What else is served.
    pub ports: Ports,
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
    /// Connections for sessions at the same time, with and without login; more are refused.
    pub max_sessions: usize,
    /// What one client may take.
    pub limits: Limits,
    /// When stopping or draining: how long `/readyz` fails before sessions are asked to leave.
    pub stop_grace: Duration,
    /// When stopping, and when draining if the request does not say: how sessions are asked to leave.
    pub drain: Pace,
    /// When stopping: how long sessions may take to leave after their close before they are cut.
    pub stop_deadline: Duration,
    /// Serve `/admin/drain`, for operators.
    pub admin: bool,
    /// Serve `/admin/fault`, for tests.
    pub faults: bool,
    /// Give everybody a token for any name at `/api/v1/demo-login`, for demos.
    pub demo_login: Option<token::Signer>,
}

/// What is served besides HTTP and WebSocket, and through whom.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// Where frames are spoken over plain TCP; port 0 takes a free one.
    pub tcp: Vec<SocketAddr>,
    /// Where load balancers ask how much this server can take, by HAProxy's `agent-check`.
    pub agent: Vec<SocketAddr>,
    /// Networks of proxies that announce their clients by PROXY headers, and are believed.
    pub proxy_from: Vec<IpNet>,
}

/// What one client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one session in a second, twice as many at once; `None` is no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Sessions of one user at this process, on different devices.
    pub sessions_per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_per_second: NonZeroU32::new(1000), sessions_per_user: 32 }
    }
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
    #[error("the metrics cannot be made")]
    Metrics(#[source] prometheus::Error),
    #[error("the thread of presence cannot be started")]
    Presence(#[source] io::Error),
}

/// A running server. Dropping it without [`Backend::stop`] leaves its tasks to the runtime.
#[derive(Debug)]
pub struct Backend {
    server: Arc<Server>,
    exchange: Exchange,
    addresses: Addresses,
}

/// Where a server listens, with the ports that were taken, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub http: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub agent: Vec<SocketAddr>,
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
        let http = bind(&config.bind).await?;
        let tcp = bind(&config.ports.tcp).await?;
        let agent = bind(&config.ports.agent).await?;
        let store =
            SqliteStore::open(&config.data).map_err(|cause| StartError::Store { data: config.data.clone(), cause })?;
        let mut store: Arc<dyn Store> = Arc::new(store);
        let faults = Arc::new(Faults::default());
        if config.faults {
            store = Arc::new(Faulty::new(store, Arc::clone(&faults)));
        }
        // Before the first session, so that no message falls between its login and the beginning of the feed.
        let newest = store.newest().await.map_err(StartError::Read)?;

        let metrics = Metrics::new(store.metrics()).map_err(StartError::Metrics)?;
        let server = Arc::new(Server::new(config, store, faults, metrics));
        let exchange = Exchange::start(Arc::clone(&server)).map_err(StartError::Presence)?;
        server.spawn(delivery::feed(Arc::clone(&server), newest));
        server.spawn(load::sample(Arc::clone(&server)));
        let addresses = Addresses { http: of(&http), tcp: of(&tcp), agent: of(&agent) };
        for (listeners, speaks) in [(http, Speaks::Http), (tcp, Speaks::Frames)] {
            for (_, listener) in listeners {
                server.spawn(accept::accept(Arc::clone(&server), listener, speaks));
            }
        }
        for (_, listener) in agent {
            // Not waited for at a stop: to the last it says that the server stops.
            tokio::spawn(agent::serve(Arc::clone(&server), listener));
        }
        Ok(Self { server, exchange, addresses })
    }

    /// Where HTTP and WebSocket are served, in the order of [`Config::bind`].
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses.http
    }

    /// Everything that is listened on.
    #[must_use]
    pub fn all_addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Connections for sessions that are open now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.server.sessions()
    }

    /// Fails `/readyz`, waits [`Config::stop_grace`], asks sessions to leave at the pace of [`Config::drain`], closes
    /// those that are left with 1012 after their last acknowledgement, and returns when all have left or
    /// [`Config::stop_deadline`] has passed since the close.
    pub async fn stop(self) -> Stopped {
        let began = Instant::now();
        self.server.drain();
        tokio::time::sleep(self.server.config.stop_grace).await;
        drain::ask_to_leave(&self.server, self.server.config.drain).await;
        self.server.leave();
        let all_left = tokio::time::timeout(self.server.config.stop_deadline, self.server.ended()).await;
        let cut = if all_left.is_ok() { 0 } else { self.server.sessions() };
        self.exchange.stop().await;
        self.server.store.close().await;
        tracing::info!(cut, took = ?began.elapsed(), "stopped");
        Stopped { cut }
    }
}

type Bound = Vec<(SocketAddr, TcpListener)>;

async fn bind(addresses: &[SocketAddr]) -> Result<Bound, StartError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let bound = TcpListener::bind(address).await.and_then(|l| Ok((l.local_addr()?, l)));
        listeners.push(bound.map_err(|cause| StartError::Bind { address, cause })?);
    }
    Ok(listeners)
}

fn of(bound: &Bound) -> Vec<SocketAddr> {
    bound.iter().map(|(address, _)| *address).collect()
}
