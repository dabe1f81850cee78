//! One measurement: a fresh endpoint, a fresh proxy before it, a load, and the figures that come of it.
//!
//! Always true: a proxy has one worker on a core of its own unless the circumstances say otherwise; load and endpoint
//! share another; only the proxy's processes are counted; every answer is checked, so a proxy that loses or changes
//! bytes fails the run; nothing waits without a deadline, and no process outlives its measurement.

mod bulk;
mod certificate;
mod connect;
mod exchange;
mod latency;
mod load;
mod memory;
mod meter;
mod reload;

pub(crate) mod figure;
pub(crate) mod peer;
pub(crate) mod row;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    harness::{CpuClock, Launch, Process, Workspace, raise_open_files, reserve_port, sample},
    serve::Kind,
};
use certificate::Sessions;
use exchange::Exchanges;
use figure::Figure;
use latency::Schedule;
use load::Way;
use peer::{Peer, Running, Setup};
use row::{Measure, Protocol};

pub(crate) use meter::{Conditions, Watched};
pub use peer::Programs;
pub use row::Row;

/// A measurement that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a rate is tried out.
const TRY: Duration = Duration::from_millis(400);
/// TLS downloads are so much smaller: they take as long.
const BULK_TLS_SHARE: u64 = 4;

/// How much is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    /// Idle tunnels for the memory by tunnel.
    pub connections: usize,
    /// Messages for each CPU figure of a tunnel.
    pub messages: usize,
    pub requests: usize,
    /// Connections that carry messages or requests, one in flight on each. HTTP/2: requests in flight, ten by connection.
    pub active: usize,
    /// Tunnels that come and go.
    pub new_connections: usize,
    pub bulk_mib: u64,
    /// Tunnels that close all at once.
    pub mass: usize,
    /// From the mass disconnect to the look at what came back.
    pub rest: Duration,
    /// How long messages are sent at a fixed rate.
    pub time: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub proxy: usize,
    /// For the load and the endpoints.
    pub load: usize,
}

/// Where measurements take place.
#[derive(Debug)]
pub(crate) struct Stage {
    workspace: Workspace,
    cores: Cores,
    pub(crate) size: Size,
    pub(crate) clock: CpuClock,
}

/// What differs from the plain case: one worker, one endpoint, as many connections as are active, no reloads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Open connections; as many as the size says unless set. What comes and goes, and what downloads, has them beside it.
    pub(crate) open: Option<usize>,
    pub(crate) workers: usize,
    pub(crate) endpoints: usize,
    pub(crate) reloads: bool,
    /// Messages by second; latency has to have it, and nothing else looks at it.
    pub(crate) rate: Option<f64>,
}

/// What one measurement gave.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    pub(crate) figures: Vec<(Figure, f64)>,
    pub(crate) conditions: Conditions,
}

impl Measurement {
    /// What it says of a figure, if it does.
    pub(crate) fn figure(&self, wanted: Figure) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| *figure == wanted).map(|&(_, value)| value)
    }
}

impl Default for Circumstances {
    fn default() -> Self {
        Self { open: None, workers: 1, endpoints: 1, reloads: false, rate: None }
    }
}

impl Stage {
    /// Moves this thread, which makes the load, to its core, and allows as many open files as `tunnels` need.
    pub(crate) fn new(cores: Cores, size: Size, tunnels: usize) -> Result<Self> {
        let count = std::thread::available_parallelism().context("cannot count the cores")?.get();
        ensure!(count >= 2, "one core cannot hold proxy and load apart: a measurement needs two");
        ensure!(cores.proxy != cores.load, "proxy and load need a core each, not both core {}", cores.load);
        // A proxy has two for each tunnel; the rest is for what it has anyway.
        raise_open_files(2 * tunnels as u64 + 500)?;
        sample::pin_this_thread(cores.load)?;
        let workspace = Workspace::new()?;
        certificate::write(&workspace)?;
        Ok(Self { workspace, cores, size, clock: CpuClock::of_this_machine() })
    }

    pub(crate) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Measures one proxy.
    pub(crate) async fn measure(&self, row: Row, peer: &Peer, circumstances: Circumstances) -> Result<Measurement> {
        within(async {
            let endpoint = self.start_endpoint(row.endpoint(), circumstances.endpoints).await?;
            let mut proxy = self.start_proxy(row, peer, &endpoint.addresses, circumstances.workers).await?;
            let watched = self.watched(&proxy, circumstances.workers);
            let way = Way::new(proxy.address, row.protocol, Sessions::Fresh)?;
            let work = self.work(row, watched, &way, circumstances);
            if circumstances.reloads { reload::during(&self.workspace, &mut proxy, work).await } else { work.await }
        })
        .await
    }

    async fn work(&self, row: Row, watched: Watched, way: &Way, circumstances: Circumstances) -> Result<Measurement> {
        let size = &self.size;
        let Circumstances { open, rate, endpoints, .. } = circumstances;
        // To read a file of one endpoint takes nothing worth waiting for.
        let pause = if endpoints > 1 { size.rest } else { Duration::ZERO };
        let beside = open.unwrap_or(0);
        let exchanges = |count| Exchanges { count, connections: open.unwrap_or(size.active), at_once: size.active };
        let new = size.new_connections;
        match row.measure {
            Measure::Idle => memory::idle(watched, way, open.unwrap_or(size.connections), pause).await,
            Measure::Message => exchange::cpu(watched, way, exchanges(size.messages)).await,
            Measure::Request => exchange::cpu(watched, way, exchanges(size.requests)).await,
            Measure::Connect | Measure::HandshakeFull => {
                connect::connections(watched, way, Sessions::Fresh, new, beside).await
            }
            Measure::HandshakeResumed => connect::connections(watched, way, Sessions::Resumed, new, beside).await,
            Measure::Bulk => bulk::download(watched, way, self.bulk_bytes(row.protocol), beside).await,
            Measure::GivenBack => memory::given_back(watched, way, open.unwrap_or(size.mass), size.rest, pause).await,
            Measure::Latency => {
                let rate = rate.context("latency is measured at a rate")?;
                let connections = open.unwrap_or(size.active);
                latency::measure(Some(watched), way, Schedule { rate, connections, time: size.time }).await
            }
        }
    }

    fn bulk_bytes(&self, protocol: Protocol) -> u64 {
        let bytes = self.size.bulk_mib << 20;
        if protocol.is_tls() { bytes / BULK_TLS_SHARE } else { bytes }
    }

    /// Exchanges by second that a proxy reaches in a closed loop.
    pub(crate) async fn throughput(&self, row: Row, peer: &Peer) -> Result<f64> {
        within(async {
            let endpoint = self.start_endpoint(row.endpoint(), 1).await?;
            let proxy = self.start_proxy(row, peer, &endpoint.addresses, 1).await?;
            latency::throughput(&Way::new(proxy.address, row.protocol, Sessions::Fresh)?, self.size.active).await
        })
        .await
    }

    /// The p99 straight to the endpoint at this rate, in microseconds: of quiet windows, and the better of two short
    /// tries, since a stray program disturbs one of them easily.
    pub(crate) async fn quickest_direct(&self, row: Row, rate: f64) -> Result<f64> {
        let mut quickest = f64::INFINITY;
        for _ in 0..2 {
            let p99 = self.direct_latency(row, rate, TRY).await?.figure(Figure::QuietP99);
            quickest = quickest.min(p99.unwrap_or(f64::INFINITY));
        }
        Ok(quickest)
    }

    /// Times at a fixed rate straight to the endpoint, which speaks no TLS and HTTP/1.1 at most.
    pub(crate) async fn direct_latency(&self, row: Row, rate: f64, time: Duration) -> Result<Measurement> {
        within(async {
            let endpoint = self.start_endpoint(row.endpoint(), 1).await?;
            let way = Way::new(endpoint.addresses[0], row.protocol.spoken_directly(), Sessions::Fresh)?;
            latency::measure(None, &way, Schedule { rate, connections: self.size.active, time }).await
        })
        .await
    }

    async fn start_endpoint(&self, kind: Kind, addresses: usize) -> Result<Endpoint> {
        let program = std::env::current_exe().context("cannot tell where the running program is")?;
        let kind = kind.to_possible_value().context("every kind of endpoint has a name")?;
        let port = reserve_port()?;
        let addresses = loopback_addresses(addresses, port);
        let bind = if addresses.len() > 1 { format!("0.0.0.0:{port}") } else { addresses[0].to_string() };
        let launch = Launch::new(program)
            .name("endpoint")
            .args(["serve", "--kind", kind.get_name(), "--bind", &bind])
            .pinned([self.cores.load]);
        let process = Process::start(&self.workspace, launch).await?;
        Ok(Endpoint { _process: process, addresses })
    }

    async fn start_proxy(&self, row: Row, peer: &Peer, endpoints: &[SocketAddr], workers: usize) -> Result<Running> {
        let cores = [self.cores.proxy, self.cores.load];
        let setup = Setup::new(row, endpoints.to_vec(), workers)?;
        peer.start(&self.workspace, &setup, &cores[..workers.min(2)]).await
    }

    fn watched(&self, proxy: &Running, workers: usize) -> Watched {
        Watched { pid: proxy.process.pid(), clock: self.clock, core: (workers == 1).then_some(self.cores.proxy) }
    }
}

/// One process that listens on all of its addresses.
struct Endpoint {
    /// Ends with this.
    _process: Process,
    addresses: Vec<SocketAddr>,
}

/// 127.0.0.1 for one; 127.1.0.0 and what follows for more: all of 127.0.0.0/8 is at hand on Linux.
fn loopback_addresses(count: usize, port: u16) -> Vec<SocketAddr> {
    if count == 1 {
        return vec![SocketAddr::from(([127, 0, 0, 1], port))];
    }
    let hosts = (1..=250).flat_map(|third| (1..=250).map(move |fourth| [127, 1, third, fourth]));
    hosts.take(count).map(|host| SocketAddr::from((host, port))).collect()
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, work).await.with_context(|| format!("not done within {PATIENCE:?}"))?
}
