//! Connects a tunnel to an endpoint, and tries another when that fails.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use policies::{Answer, Failure, Kind, NoPick, Retry, Tick, Tried};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::affinity::{Affinity, Stay};
use crate::cluster::outlier;
use crate::cluster::{Client, ClusterPlan, EndpointState};
use crate::events;
use crate::pick::pick;
use crate::state::State;
use crate::stream::Io;
use crate::sys;
use crate::trip::{Outcome, Trip};

/// Endpoints that one client gets in total before it is refused.
pub const MAX_TRIES: u8 = 3;

/// A connection to the endpoint that was picked; its lease is in the trip.
pub struct Reached {
    pub io: Io,
    pub endpoint: Arc<EndpointState>,
}

/// Picks and connects, at most [`MAX_TRIES`] times.
///
/// # Errors
/// When no endpoint can be picked, or none of the tries connected.
pub async fn reach(
    state: &State,
    cluster: &ClusterPlan,
    client: &Client,
    affinity: Affinity,
    kind: Kind,
    trip: &mut Trip,
) -> Result<Reached, ReachError> {
    trip.cluster = Some(cluster.config.name.clone());
    let mut tried = Tried::default();
    let mut last: Option<io::Error> = None;
    // Held until the further try has connected or failed.
    let mut retry: Option<Retry> = None;
    while trip.tries < MAX_TRIES.min(cluster.tries()) {
        if let Some(error) = last.take() {
            drop(retry.take());
            retry = cluster.retry(state);
            if retry.is_none() {
                return Err(ReachError::NoRetry(error));
            }
            last = Some(error);
        }
        let (picked, ix) = match pick(state, cluster, client, affinity, kind, &tried, trip) {
            Ok(picked) => picked,
            Err(no_pick) => return Err(last.map_or(ReachError::NoEndpoint(no_pick), ReachError::Connect)),
        };
        trip.tries += 1;
        let endpoint = picked.endpoint.clone();
        trip.picked = Some(picked);
        let connecting = state.clock.now();
        let connected = connect(state, cluster, &endpoint).await;
        if !connected.as_ref().is_err_and(|(_, error)| sys::is_ours(error)) {
            learn(state, cluster, &endpoint, connecting, connected.is_err());
        }
        match connected {
            Ok(io) => {
                if let Some(picked) = &mut trip.picked {
                    picked.lease.connected();
                    picked.stay = Stay::begin(state, cluster, affinity, &endpoint);
                }
                return Ok(Reached { io, endpoint });
            }
            Err((failure, error)) => {
                trip.picked = None;
                if !sys::is_ours(&error) {
                    endpoint.connect_failed();
                    outlier::failed(state, &cluster.config, &endpoint, kind, failure);
                }
                events::connect_failed(state, &cluster.config.name, endpoint.address, &error);
                tried.push(ix);
                last = Some(error);
            }
        }
    }
    Err(last.map_or(ReachError::NoEndpoint(NoPick::AllTried), ReachError::Connect))
}

/// A policy for tunnels that goes by latency has nothing but connects to learn it from: how long a tunnel lives says
/// nothing about its server.
fn learn(state: &State, cluster: &ClusterPlan, endpoint: &EndpointState, since: Tick, failed: bool) {
    let now = state.clock.now();
    if let Some(in_flight) = cluster.in_flight(Kind::Tunnel, &endpoint.load, now) {
        let answer = Answer { took: now.since(since), failed, in_flight };
        cluster.answered(Kind::Tunnel, &endpoint.load, answer, now);
    }
}

async fn connect(state: &State, cluster: &ClusterPlan, endpoint: &EndpointState) -> Result<Io, (Failure, io::Error)> {
    let deadline = cluster.config.connect_timeout;
    let mut failure = Failure::Connect;
    let connecting = async {
        let tcp = TcpStream::connect(endpoint.address).await?;
        let now = state.clock.now();
        if endpoint.wants_tunnel_rtt(now)
            && let Some(handshake) = sys::handshake_rtt(&tcp)
        {
            endpoint.sample_tunnel_rtt(handshake, now);
        }
        sys::prepare(&tcp, cluster.config.tcp)?;
        match &cluster.tls {
            None => Ok(Io::Plain(tcp)),
            Some(tls) => {
                failure = Failure::Tls;
                tls.connect(tcp).await
            }
        }
    };
    let connected = timeout(deadline, connecting).await.unwrap_or_else(|_elapsed| Err(too_slow(deadline)));
    connected.map_err(|error| (failure, error))
}

fn too_slow(deadline: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("did not connect within {deadline:?}"))
}

/// Why a client could not be connected to an endpoint. Never shown to the client.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    NoEndpoint(NoPick),
    #[error("cannot connect to an endpoint: {0}")]
    Connect(io::Error),
    /// The first try failed, and too many clients are on a further one.
    #[error("cannot connect to an endpoint: {0}; no other was tried: the retry budget is used up")]
    NoRetry(io::Error),
}

impl ReachError {
    pub fn outcome(&self) -> Outcome {
        match self {
            ReachError::NoEndpoint(_) => Outcome::NoEndpoint,
            ReachError::Connect(_) | ReachError::NoRetry(_) => Outcome::ConnectFailed,
        }
    }
}
