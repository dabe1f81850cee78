//! What is measured, and how one measurement goes.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    Settings,
    load::{self, Client},
    peer::{Peer, Running},
};
use crate::{
    harness::{CpuClock, Launch, Process, Workspace, sample},
    serve::Kind,
};

/// Connections that come and go before a figure is taken, so that what a proxy makes once is not in it.
const WARM_UP_CONNECTIONS: u32 = 20;
/// One in this many messages and requests comes before the clock starts.
const WARM_UP_SHARE: u32 = 20;
/// Memory has settled when this many looks in a row differ by less than [`SETTLED`].
const SETTLED_LOOKS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Half a percent.
const SETTLED: f64 = 0.005;
/// Memory that moves for longer is taken as it is.
const SETTLED_WITHIN: Duration = Duration::from_secs(6);

/// One row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    IdleTcp,
    IdleWebSocket,
    MessageTcp,
    MessageWebSocket,
    Request,
}

impl Work {
    pub(super) const ALL: [Self; 5] =
        [Self::IdleTcp, Self::IdleWebSocket, Self::MessageTcp, Self::MessageWebSocket, Self::Request];

    /// The endpoint behind the proxy.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::IdleTcp | Self::MessageTcp => Kind::TcpEcho,
            Self::IdleWebSocket | Self::MessageWebSocket => Kind::WsEcho,
            Self::Request => Kind::Http,
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::IdleTcp | Self::IdleWebSocket => "KiB",
            Self::MessageTcp | Self::MessageWebSocket | Self::Request => "µs",
        }
    }

    /// Measures a fresh proxy before a fresh endpoint.
    pub(super) async fn measure(self, settings: &Settings, workspace: &Workspace, peer: &Peer) -> Result<f64> {
        let endpoint = start_endpoint(workspace, self.kind(), settings.load_core).await?;
        let proxy = peer.start(workspace, self.kind(), endpoint.address("listen", 0)?, settings.proxy_core).await?;
        let size = settings.size;
        match self {
            Self::IdleTcp | Self::IdleWebSocket => self.memory_per_tunnel(&proxy, size.connections).await,
            Self::MessageTcp | Self::MessageWebSocket => {
                self.cpu_per_exchange(&proxy, size.messages, size.active).await
            }
            Self::Request => self.cpu_per_exchange(&proxy, size.requests, size.active).await,
        }
    }

    /// KiB of user memory for each tunnel that has carried one message and is silent.
    async fn memory_per_tunnel(self, proxy: &Running, connections: u32) -> Result<f64> {
        drop(self.connect(proxy.address, WARM_UP_CONNECTIONS).await?);
        let before = settled_memory(proxy).await?;
        let mut tunnels = self.connect(proxy.address, connections).await?;
        let after = settled_memory(proxy).await?;
        // A proxy that closed some of them would look thrifty.
        load::exchange_all(&mut tunnels, 1).await.context("an idle tunnel did not survive")?;
        Ok((after - before) / 1024.0 / f64::from(connections))
    }

    /// Microseconds of CPU for each message (there and back) or request.
    async fn cpu_per_exchange(self, proxy: &Running, exchanges: u32, active: u32) -> Result<f64> {
        let mut clients = self.connect(proxy.address, active).await?;
        let each = exchanges.div_ceil(active);
        load::exchange_all(&mut clients, each.div_ceil(WARM_UP_SHARE)).await?;
        let before = proxy.cpu_time()?;
        load::exchange_all(&mut clients, each).await?;
        let used = proxy.cpu_time()?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e6 / f64::from(each * active))
    }

    async fn connect(self, address: SocketAddr, count: u32) -> Result<Vec<Client>> {
        load::connect_all(self.kind(), address, count).await
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IdleTcp => "user memory per idle TCP tunnel",
            Self::IdleWebSocket => "user memory per idle WebSocket tunnel",
            Self::MessageTcp => "CPU per 200-byte message over TCP, there and back",
            Self::MessageWebSocket => "CPU per 200-byte message over WebSocket, there and back",
            Self::Request => "CPU per small HTTP/1.1 request, keep-alive",
        })
    }
}

async fn start_endpoint(workspace: &Workspace, kind: Kind, core: usize) -> Result<Process> {
    let program = std::env::current_exe().context("cannot tell where the running program is")?;
    let kind = kind.to_possible_value().context("every kind of endpoint has a name")?;
    Process::start(
        workspace,
        Launch::new(program).name("endpoint").args(["serve", "--kind", kind.get_name()]).pinned([core]),
    )
    .await
}

/// The proxy's memory in bytes once it has stopped moving.
async fn settled_memory(proxy: &Running) -> Result<f64> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut looks: Vec<f64> = Vec::new();
    loop {
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
        looks.push(proxy.memory()? as f64);
        let last = &looks[looks.len().saturating_sub(SETTLED_LOOKS)..];
        let (low, high) = last.iter().fold((f64::MAX, 0_f64), |(low, high), &look| (low.min(look), high.max(look)));
        if last.len() == SETTLED_LOOKS && high - low <= high * SETTLED || Instant::now() > deadline {
            return Ok(looks[looks.len() - 1]);
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Running {
    /// CPU time of all the proxy's processes.
    fn cpu_time(&self) -> Result<Duration> {
        {
            let clock = CpuClock::of_this_machine();
            self.processes()?.into_iter().map(|pid| clock.cpu_time(pid)).sum()
        }
    }

    /// User memory (PSS) of all the proxy's processes, in bytes.
    fn memory(&self) -> Result<u64> {
        self.processes()?.into_iter().map(sample::proportional_memory).sum()
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let main = self.process.pid();
        Ok(std::iter::once(main).chain(sample::children(main)?).collect())
    }
}
