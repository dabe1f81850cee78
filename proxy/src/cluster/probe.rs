//! Active probes: is an endpoint there, does it answer well, and how long does that take.
//!
//! One task an endpoint, on the control thread. Each probe opens a connection of its own, so a probe also measures the
//! two RTT figures: the kernel's after the handshake, and the whole probe's round trip.
//!
//! Each protocol has a room: what it asks, and what a good answer is. All of them end in an answer or in a reason.

mod grpc;
mod http;
mod im;
mod websocket;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::votes::Source;
use super::{ClusterPlan, EndpointState};
use crate::config::{Health, Probe};
use crate::events;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::stream::Io;
use crate::sys;
use crate::tls::UpstreamTls;

/// A good answer.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// When it was there; saying goodbye comes after it.
    at: Instant,
    /// The endpoint takes traffic, and would rather not.
    degraded: bool,
    /// The requests and tunnels that it has from everybody, if it says so.
    in_flight: Option<Result<u32, NotWhole>>,
}

/// A load was reported, and is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotWhole;

impl Answer {
    fn now(degraded: bool) -> Answer {
        Answer { at: Instant::now(), degraded, in_flight: None }
    }
}

/// The running probes. Lives on the control thread.
#[derive(Default)]
pub struct Probes {
    running: HashMap<(Arc<str>, SocketAddr), Running>,
}

struct Running {
    health: Health,
    tls: Option<u64>,
    task: AbortHandle,
}

impl Probes {
    /// Starts, keeps and stops probes so that they fit the snapshot.
    pub fn fit(&mut self, state: &Arc<State>, snapshot: &Snapshot) {
        let mut wanted = HashMap::new();
        for cluster in &snapshot.clusters {
            for member in &cluster.members {
                wanted.insert((member.cluster.clone(), member.address), (cluster, member));
            }
        }
        self.running.retain(|key, running| {
            let keep = wanted.get(key).is_some_and(|(cluster, _)| {
                cluster.config.health == running.health && fingerprint(cluster) == running.tls
            });
            if !keep {
                running.task.abort();
            }
            keep
        });
        for (key, (cluster, member)) in wanted {
            self.running.entry(key).or_insert_with(|| start(state, cluster, member));
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.task.abort());
    }
}

fn start(state: &Arc<State>, cluster: &Arc<ClusterPlan>, member: &Arc<EndpointState>) -> Running {
    let health = cluster.config.health.clone();
    let prober = Prober {
        state: state.clone(),
        endpoint: member.clone(),
        health: health.clone(),
        tls: cluster.tls.clone(),
        told_of_no_number: false,
    };
    Running { health, tls: fingerprint(cluster), task: tokio::spawn(prober.run()).abort_handle() }
}

fn fingerprint(cluster: &ClusterPlan) -> Option<u64> {
    cluster.tls.as_ref().map(|tls| tls.fingerprint)
}

struct Prober {
    state: Arc<State>,
    endpoint: Arc<EndpointState>,
    health: Health,
    tls: Option<UpstreamTls>,
    /// Said once: it would be the same with each probe.
    told_of_no_number: bool,
}

impl Prober {
    async fn run(mut self) {
        if self.health.probe == Probe::Off {
            let now = self.state.clock.now();
            self.endpoint.is_now_degraded(false);
            self.endpoint.reports(None, now);
            if self.endpoint.vote(|votes| votes.probes_withdrawn(now)) {
                self.changed();
            }
            return;
        }
        loop {
            let started = Instant::now();
            let result = match timeout(self.health.timeout, self.probe()).await {
                Ok(result) => result,
                Err(_elapsed) => Err(ProbeError::TimedOut(self.health.timeout)),
            };
            self.judge(&result);
            tokio::time::sleep_until(started + self.pause()).await;
        }
    }

    fn judge(&mut self, result: &Result<Answer, ProbeError>) {
        let now = self.state.clock.now();
        if let Err(error) = result
            && error.is_ours()
        {
            return events::cannot_probe(&self.state, error);
        }
        let changed = match result {
            Ok(_) => self.endpoint.vote(|votes| votes.probe_succeeded(self.health.rise, now)),
            Err(error) => {
                self.endpoint.probe_failed(now);
                self.endpoint.vote(|votes| {
                    votes.probe_failed(&error.to_string(), self.health.fall, now);
                    votes.classify(Source::Probes, error.kind());
                })
            }
        };
        self.state.metrics.probed(&self.endpoint.cluster, result.is_ok());
        if let Ok(answer) = result {
            self.endpoint.reports(answer.in_flight.and_then(Result::ok), now);
            if answer.in_flight == Some(Err(NotWhole)) && !std::mem::replace(&mut self.told_of_no_number, true) {
                events::reported_no_number(&self.endpoint);
            }
            if self.endpoint.is_now_degraded(answer.degraded) {
                events::degraded_changed(&self.state, &self.endpoint);
                self.state.steering_changed.notify_one();
            }
        }
        if changed {
            self.changed();
        }
    }

    fn changed(&self) {
        events::standing_changed(&self.state, &self.endpoint);
        self.state.steering_changed.notify_one();
    }

    /// The interval, spread by the jitter so that many edges and endpoints do not probe in step.
    fn pause(&self) -> Duration {
        let interval = if self.endpoint.votes().in_doubt() { self.health.fast_interval } else { self.health.interval };
        spread(interval, self.health.jitter, fastrand::f64())
    }

    async fn probe(&self) -> Result<Answer, ProbeError> {
        let started = Instant::now();
        let tcp = TcpStream::connect(self.endpoint.address).await.map_err(ProbeError::Connect)?;
        let handshake = sys::handshake_rtt(&tcp);
        let answer = self.ask(tcp).await?;
        self.endpoint.sample_rtt(handshake, answer.at - started, self.state.clock.now());
        Ok(answer)
    }

    async fn ask(&self, tcp: TcpStream) -> Result<Answer, ProbeError> {
        let host = |host: &Option<String>| host.clone().unwrap_or_else(|| self.endpoint.address.to_string());
        match &self.health.probe {
            Probe::Off | Probe::Tcp => Ok(Answer::now(false)),
            Probe::Http(probe) => http::ask(self.secured(tcp).await?, probe, &host(&probe.host)).await,
            Probe::Websocket(probe) => websocket::ask(self.secured(tcp).await?, probe, &host(&probe.host)).await,
            Probe::Im(probe) => im::ask(self.secured(tcp).await?, probe, &host(&probe.host)).await,
            Probe::Grpc(probe) => {
                let (io, named) = match &self.tls {
                    None => (Io::Plain(tcp), None),
                    Some(tls) => (tls.connect_h2(tcp).await.map_err(ProbeError::Tls)?, tls.authority()),
                };
                let authority = probe.authority.clone().or(named).unwrap_or_else(|| host(&None));
                grpc::ask(io, &probe.service, &authority, self.tls.is_some()).await
            }
        }
    }

    async fn secured(&self, tcp: TcpStream) -> Result<Io, ProbeError> {
        match &self.tls {
            None => Ok(Io::Plain(tcp)),
            Some(tls) => tls.connect(tcp).await.map_err(ProbeError::Tls),
        }
    }
}

/// Why a probe failed. The text is shown as the reason for an endpoint's standing.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("connection broke: {0}")]
    Broken(io::Error),
    #[error("answer is not HTTP/1")]
    NotHttp,
    #[error("status {0}")]
    Status(u16),
    #[error("upgrade failed: {0}")]
    Upgrade(String),
    #[error("subprotocol of the answer: {0}")]
    Subprotocol(String),
    #[error("not gRPC: {0}")]
    NotGrpc(String),
    #[error("gRPC status {0}")]
    Grpc(u16),
    #[error("health status {0}")]
    NotServing(String),
    #[error("login refused: {0}")]
    Login(String),
    #[error("{} cannot be read: {cause}", file.display())]
    Token { file: PathBuf, cause: io::Error },
}

impl ProbeError {
    /// The word that metrics see.
    fn kind(&self) -> &'static str {
        match self {
            ProbeError::TimedOut(_) => "timed-out",
            ProbeError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            ProbeError::Connect(_) => "cannot-connect",
            ProbeError::Tls(_) => "tls",
            ProbeError::Broken(_) => "broken",
            ProbeError::NotHttp => "not-http",
            ProbeError::Status(_) => "status",
            ProbeError::Upgrade(_) => "upgrade",
            ProbeError::Subprotocol(_) => "subprotocol",
            ProbeError::NotGrpc(_) => "not-grpc",
            ProbeError::Grpc(_) => "grpc-status",
            ProbeError::NotServing(_) => "not-serving",
            ProbeError::Login(_) => "login-refused",
            ProbeError::Token { .. } => "token",
        }
    }

    /// Ours, and not the endpoint's: out of descriptors or ports here, or without a token. No vote, or one edge in
    /// trouble would take its whole fleet down.
    fn is_ours(&self) -> bool {
        match self {
            ProbeError::Connect(error) => sys::is_ours(error),
            ProbeError::Token { .. } => true,
            _ => false,
        }
    }
}

/// `jitter` is the share of the interval that probes are spread over, half of it to either side; `dice` is in 0 to 1.
fn spread(interval: Duration, jitter: f64, dice: f64) -> Duration {
    interval.mul_f64(1.0 + jitter * (dice - 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_spread_around_their_interval() {
        let second = Duration::from_secs(1);
        assert_eq!([0.0, 0.5, 1.0].map(|dice| spread(second, 0.2, dice).as_millis()), [900, 1000, 1100]);
        assert_eq!([0.0, 0.5, 1.0].map(|dice| spread(second, 0.0, dice)), [second; 3]);
    }
}
