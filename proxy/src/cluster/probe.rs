//! Active probes: is an endpoint there, does it answer well, and how long does that take.
//!
//! One task an endpoint, on the control thread. Each probe opens a connection of its own, so a probe also measures the
//! two RTT figures: the kernel's after the handshake, and the whole probe's round trip.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::{ClusterPlan, EndpointState};
use crate::config::{Health, Probe};
use crate::events;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::sys;
use crate::tls::UpstreamTls;

/// Enough of an answer to see its status line.
const STATUS_LINE: usize = 256;

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
    let prober =
        Prober { state: state.clone(), endpoint: member.clone(), health: health.clone(), tls: cluster.tls.clone() };
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
}

impl Prober {
    async fn run(self) {
        if self.health.probe == Probe::Off {
            let now = self.state.clock.now();
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

    fn judge(&self, result: &Result<(), ProbeError>) {
        let now = self.state.clock.now();
        if let Err(ProbeError::Connect(error)) = result
            && sys::is_ours(error)
        {
            // Out of descriptors or ports here: no vote, or one busy edge would take its whole fleet down.
            return events::cannot_probe(&self.state, error);
        }
        let changed = match result {
            Ok(()) => self.endpoint.vote(|votes| votes.probe_succeeded(self.health.rise, now)),
            Err(error) => {
                self.endpoint.probe_failed(now);
                self.endpoint.vote(|votes| votes.probe_failed(&error.to_string(), self.health.fall, now))
            }
        };
        self.state.metrics.probed(&self.endpoint.cluster, result.is_ok());
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
        interval.mul_f64(1.0 + self.health.jitter * (fastrand::f64() - 0.5))
    }

    async fn probe(&self) -> Result<(), ProbeError> {
        let started = Instant::now();
        let tcp = TcpStream::connect(self.endpoint.address).await.map_err(ProbeError::Connect)?;
        let handshake = sys::handshake_rtt(&tcp);
        match &self.health.probe {
            Probe::Off | Probe::Tcp => {}
            Probe::Http { path, host, expect } => {
                let host = host.clone().unwrap_or_else(|| self.endpoint.address.to_string());
                match &self.tls {
                    None => ask(tcp, path, &host, expect).await?,
                    Some(tls) => ask(tls.connect(tcp).await.map_err(ProbeError::Tls)?, path, &host, expect).await?,
                }
            }
        }
        self.endpoint.sample_rtt(handshake, started.elapsed(), self.state.clock.now());
        Ok(())
    }
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    expect: &[(u16, u16)],
) -> Result<(), ProbeError> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: warbler-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(ProbeError::Broken)?;
    stream.flush().await.map_err(ProbeError::Broken)?;
    let mut answer = Vec::with_capacity(STATUS_LINE);
    while answer.len() < STATUS_LINE && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await.map_err(ProbeError::Broken)? == 0 {
            break;
        }
    }
    let status = status_of(&answer).ok_or(ProbeError::NotHttp)?;
    if expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        Ok(())
    } else {
        Err(ProbeError::Status(status))
    }
}

/// The status code of `HTTP/1.1 200 OK`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\n').next()?).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status_of(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(status_of(b""), None);
    }
}
