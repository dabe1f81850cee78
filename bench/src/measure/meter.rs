//! Looking at a proxy from outside: what it used of CPU and memory, and whether somebody disturbed it meanwhile.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::harness::{CpuClock, ProcessorTime, sample};

/// Memory has settled when this many looks in a row differ by less than [`SETTLED`].
const SETTLED_LOOKS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Half a percent.
const SETTLED: f64 = 0.005;
/// Memory that moves for longer is taken as it is.
const SETTLED_WITHIN: Duration = Duration::from_secs(6);
/// Without a load, a proxy that used less than a hundredth of this pause is at rest.
const REST: Duration = Duration::from_millis(20);
const REST_WITHIN: Duration = Duration::from_secs(2);
/// A core's time is counted in ticks, which are up to 10 ms, and one may be too many at either end.
const TICK_ERROR: Duration = Duration::from_millis(20);

/// The processes of a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(super) pid: u32,
    pub(super) clock: CpuClock,
    /// The core that it has for itself; `None` when it shares its cores with the load.
    pub(super) core: Option<usize>,
}

/// How a measurement went.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Conditions {
    /// On the clock on the wall.
    pub(crate) seconds: f64,
    /// The part of the machine that another virtual machine took, 0 to 1.
    pub(crate) stolen: f64,
    /// The part of the proxy's core that others than the proxy used, at least: kernel threads count, too.
    pub(crate) others: f64,
    /// The part of the time in which the proxy ran: far below 1 where the load was the limit.
    pub(crate) busy: f64,
    /// How late the load itself was, in microseconds: p99. Only where there is a fixed rate.
    pub(crate) late: Option<f64>,
}

/// From [`Meter::start`] to [`Meter::stop`]. The proxy has to be at rest at both: a running thread's time is behind.
pub(super) struct Meter {
    watched: Option<Watched>,
    cpu: Duration,
    machine: ProcessorTime,
    core: Option<ProcessorTime>,
    since: Instant,
}

/// What was used in between.
pub(super) struct Spent {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    pub(super) conditions: Conditions,
}

impl Watched {
    /// A process that shares its cores with others.
    pub(crate) fn alone(pid: u32) -> Self {
        Self { pid, clock: CpuClock::of_this_machine(), core: None }
    }

    /// User memory (PSS) of all the proxy's processes, in bytes.
    pub(super) fn memory(self) -> Result<f64> {
        let bytes = self.processes()?.into_iter().map(sample::proportional_memory).sum::<Result<u64>>()?;
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
        Ok(bytes as f64)
    }

    /// The memory once it has stopped moving.
    pub(crate) async fn settled_memory(self) -> Result<f64> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut looks: Vec<f64> = Vec::new();
        loop {
            looks.push(self.memory()?);
            let last = &looks[looks.len().saturating_sub(SETTLED_LOOKS)..];
            let (low, high) = last.iter().fold((f64::MAX, 0_f64), |(low, high), &look| (low.min(look), high.max(look)));
            if last.len() == SETTLED_LOOKS && high - low <= high * SETTLED || Instant::now() > deadline {
                return Ok(looks[looks.len() - 1]);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// CPU time of all the proxy's processes. None of the proxies ends threads while it is measured, so none of the time
    /// is lost with one.
    fn cpu_time(self) -> Result<Duration> {
        self.processes()?.into_iter().map(|pid| self.clock.cpu_time(pid)).sum()
    }

    /// Waits until the proxy has done what the load left to do.
    async fn at_rest(self) -> Result<()> {
        let deadline = Instant::now() + REST_WITHIN;
        let mut before = self.cpu_time()?;
        while Instant::now() < deadline {
            sleep(REST).await;
            let now = self.cpu_time()?;
            if now.saturating_sub(before) < REST / 100 {
                break;
            }
            before = now;
        }
        Ok(())
    }

    fn processes(self) -> Result<Vec<u32>> {
        Ok(std::iter::once(self.pid).chain(sample::children(self.pid)?).collect())
    }
}

impl Meter {
    /// Without a proxy it tells of the machine alone.
    pub(super) async fn start(watched: Option<Watched>) -> Result<Self> {
        if let Some(watched) = watched {
            watched.at_rest().await?;
        }
        Self::read(watched)
    }

    fn read(watched: Option<Watched>) -> Result<Self> {
        Ok(Self {
            watched,
            cpu: watched.map_or(Ok(Duration::ZERO), Watched::cpu_time)?,
            machine: ProcessorTime::of_all()?,
            core: watched.and_then(|watched| watched.core).map(ProcessorTime::of_core).transpose()?,
            since: Instant::now(),
        })
    }

    pub(super) async fn stop(self) -> Result<Spent> {
        // Before the rest, which is no part of the work.
        let wall = self.since.elapsed();
        if let Some(watched) = self.watched {
            watched.at_rest().await?;
        }
        let after = Self::read(self.watched)?;
        let cpu = after.cpu.saturating_sub(self.cpu);
        let whole = (after.since - self.since).as_secs_f64();
        let others = match (self.core, after.core) {
            (Some(before), Some(after)) => {
                after.since(before).busy.saturating_sub(cpu + TICK_ERROR).as_secs_f64() / whole
            }
            _ => 0.0,
        };
        let conditions = Conditions {
            seconds: wall.as_secs_f64(),
            stolen: after.machine.since(self.machine).stolen_share(),
            others,
            busy: cpu.as_secs_f64() / wall.as_secs_f64(),
            late: None,
        };
        Ok(Spent { cpu, wall, conditions })
    }
}

impl Spent {
    /// Microseconds of CPU for each of so many.
    pub(super) fn micros_by(&self, count: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / as_float(count)
    }

    /// So many by second of the clock on the wall.
    pub(super) fn rate_of(&self, count: usize) -> f64 {
        as_float(count) / self.wall.as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^52")]
pub(super) fn as_float(count: usize) -> f64 {
    count as f64
}
