//! A connection from accept until its protocol takes over: PROXY header, TLS handshake, then TCP or HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Serves;
use crate::events;
use crate::listener::ListenerPlan;
use crate::prelude::proxy_protocol::{self, HeaderError};
use crate::registry::Registered;
use crate::snapshot::Snapshot;
use crate::stream::Io;
use crate::tls::TlsSocket;
use crate::trip::{Kind, Origin, Outcome, Trip};
use crate::worker::Worker;
use crate::{http, tcp};

/// A connection that was let in.
pub struct Accepted {
    pub worker: Arc<Worker>,
    pub snapshot: Arc<Snapshot>,
    pub plan: Arc<ListenerPlan>,
    pub tcp: TcpStream,
    pub peer: SocketAddr,
    pub registered: Registered,
}

/// A connection whose protocol can begin.
pub struct Opened {
    pub worker: Arc<Worker>,
    pub snapshot: Arc<Snapshot>,
    pub plan: Arc<ListenerPlan>,
    pub io: Io,
    pub origin: Origin,
    pub registered: Registered,
}

/// Serves a connection to its end, or until its tunnel has a task of its own. A cut ends it in the middle of whatever it
/// is; tunnels see to that themselves.
pub async fn serve(accepted: Accepted) {
    let entry = accepted.registered.entry().clone();
    let origin = Origin {
        listener: accepted.plan.name().clone(),
        client: accepted.peer,
        peer: accepted.peer,
        connection: entry.id,
    };
    let state = accepted.worker.state.clone();
    tokio::select! {
        biased;
        () = begin(accepted, origin.clone()) => {}
        reason = entry.cut() => {
            if entry.trips() == 0 {
                Trip::new(state, Kind::Connection, origin).outcome = Outcome::Cut(reason);
            }
        }
    }
}

async fn begin(accepted: Accepted, mut origin: Origin) {
    let state = accepted.worker.state.clone();
    match open(accepted, &mut origin).await {
        Ok(opened) => match opened.plan.config.serves {
            Serves::Tcp { cluster } => tcp::serve(opened, cluster).await,
            // Boxed, so that a TCP connection does not pay for the larger future.
            Serves::Http(_) => Box::pin(http::serve(opened)).await,
        },
        Err(refusal) => Trip::new(state, Kind::Connection, origin).fail(refusal.outcome(), refusal),
    }
}

async fn open(accepted: Accepted, origin: &mut Origin) -> Result<Opened, Refusal> {
    let Accepted { worker, snapshot, plan, mut tcp, peer, registered } = accepted;
    let config = &plan.config;
    if config.proxy_protocol {
        if !snapshot.config.trusts(peer.ip()) {
            events::refused(&worker.state, &config.name, "untrusted-proxy");
            return Err(Refusal::UntrustedProxy);
        }
        let header = timeout(config.timeouts.proxy_header, proxy_protocol::read(&mut tcp)).await;
        origin.client = header.map_err(|_elapsed| Refusal::TooSlow("PROXY header"))??.unwrap_or(peer);
    }
    let io = match &plan.tls {
        None => Io::Plain(tcp),
        Some(tls) => {
            let handshake = timeout(config.timeouts.tls_handshake, TlsSocket::accept(tcp, tls.clone())).await;
            let tls = handshake.map_err(|_elapsed| Refusal::TooSlow("TLS handshake"))?.map_err(Refusal::Tls)?;
            Io::Tls(Box::new(tls))
        }
    };
    Ok(Opened { worker, snapshot, plan, io, origin: origin.clone(), registered })
}

/// Why a connection ended before its protocol began.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("only trusted proxies may connect here")]
    UntrustedProxy,
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("{0} took too long")]
    TooSlow(&'static str),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
}

impl Refusal {
    fn outcome(&self) -> Outcome {
        match self {
            Refusal::UntrustedProxy | Refusal::Header(_) => Outcome::BadProxyHeader,
            Refusal::TooSlow(_) => Outcome::TooSlow,
            Refusal::Tls(_) => Outcome::BadTls,
        }
    }
}
