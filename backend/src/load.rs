//! How busy the process is, for `/load`, the agent's line and the header of ORCA: what an edge may weigh its picks with.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use http::HeaderValue;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{clock::now, server::Server};

/// How often rates are taken.
const INTERVAL: Duration = Duration::from_secs(1);
/// Share of an interval in what is told as weight, so that a busy second does not move everybody: its trace is gone after
/// ten of them.
const SMOOTHING: f64 = 0.2;

/// Counters, and rates over the last interval.
#[derive(Debug, Default)]
pub(crate) struct Load {
    connections: Arc<AtomicU64>,
    stored: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds from store to push, the worst since the last sample.
    lag_ms: AtomicU64,
    rates: Mutex<Rates>,
    /// The value of the header, made anew with the rates; none in the first second.
    orca: Mutex<Option<HeaderValue>>,
}

/// How much of the process is used, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Utilisation {
    /// CPU time, smoothed over some seconds.
    pub(crate) cpu: f64,
    /// Sessions of those that may be.
    pub(crate) app: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    cpu: f64,
    cpu_smoothed: f64,
    memory: f64,
    stored: f64,
    failed: f64,
    lag_ms: u64,
}

/// Counts an HTTP connection for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Load {
    pub(crate) fn connection(&self) -> Counted {
        self.connections.fetch_add(1, Relaxed);
        Counted(Arc::clone(&self.connections))
    }

    pub(crate) fn stored(&self) {
        self.stored.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// A message stored at this time is being pushed now.
    pub(crate) fn delivering(&self, stored_at: u64) {
        self.lag_ms.fetch_max(now().saturating_sub(stored_at), Relaxed);
    }

    pub(crate) fn utilisation(&self, server: &Server) -> Utilisation {
        Utilisation { cpu: self.rates().cpu_smoothed, app: share(server.sessions(), server.config.max_sessions) }
    }

    /// The value of `endpoint-load-metrics`: an `OrcaLoadReport` (`xds.data.orca.v3`) as JSON behind the word `JSON`, as
    /// Envoy reads it (`source/common/orca/orca_parser.h`, `kEndpointLoadMetricsHeader` and `kHeaderFormatPrefixJson`).
    /// gRFC A51 has the meaning of the fields, and another header, for gRPC.
    pub(crate) fn orca(&self) -> Option<HeaderValue> {
        self.orca.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rates(&self) -> Rates {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of `/load`; docs/protocol.md has the meaning of each field.
    pub(crate) fn report(&self, server: &Server) -> Value {
        let rates = self.rates();
        let sessions = server.sessions();
        json!({
            "node": server.config.node,
            "conns": self.connections.load(Relaxed) + u64::try_from(sessions).unwrap_or(u64::MAX),
            "sessions": sessions,
            "max_sessions": server.config.max_sessions,
            "cpu": rates.cpu,
            "mem": rates.memory,
            "app": rounded(share(sessions, server.config.max_sessions)),
            "mps": rates.stored,
            "eps": rates.failed,
            "lag_ms": rates.lag_ms,
            "pushed": server.delivery.pushed.get(),
            "pushes_dropped": server.delivery.dropped.get(),
            "draining": server.draining(),
        })
    }
}

/// Takes the rates until the server leaves.
pub(crate) async fn sample(server: Arc<Server>) {
    let load = &server.load;
    let cores = available_parallelism().map_or(1.0, |cores| u32::try_from(cores.get()).map_or(1.0, f64::from));
    let mut last = (Instant::now(), cpu_seconds(), 0, 0);
    loop {
        tokio::select! {
            () = server.leaving.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let taken = (Instant::now(), cpu_seconds(), load.stored.load(Relaxed), load.failed.load(Relaxed));
        let elapsed = (taken.0 - last.0).as_secs_f64();
        let cpu = rounded((taken.1 - last.1) / elapsed / cores);
        let before = load.rates().cpu_smoothed;
        let rates = Rates {
            cpu,
            cpu_smoothed: before + (cpu - before) * SMOOTHING,
            memory: rounded(memory()),
            stored: rounded(rate(taken.2 - last.2, elapsed)),
            failed: rounded(rate(taken.3 - last.3, elapsed)),
            lag_ms: load.lag_ms.swap(0, Relaxed),
        };
        *load.rates.lock().unwrap_or_else(PoisonError::into_inner) = rates;
        let app = share(server.sessions(), server.config.max_sessions);
        *load.orca.lock().unwrap_or_else(PoisonError::into_inner) = HeaderValue::try_from(orca(rates, app)).ok();
        last = taken;
    }
}

fn orca(rates: Rates, app: f64) -> String {
    let report = json!({
        "cpu_utilization": rates.cpu,
        "mem_utilization": rates.memory,
        "application_utilization": rounded(app),
        "rps_fractional": rates.stored,
        "eps": rates.failed,
    });
    format!("JSON {report}")
}

fn rate(count: u64, seconds: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds
}

fn share(part: usize, whole: usize) -> f64 {
    let number = |count| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(part) / number(whole.max(1))
}

/// Three decimals are more than anybody weighs with.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// CPU time of this process, all threads, user and system.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
}

/// Resident memory of this process as a share of the machine's; 0 where `/proc` does not tell.
fn memory() -> f64 {
    let resident = kilobytes("/proc/self/status", "VmRSS:");
    let total = kilobytes("/proc/meminfo", "MemTotal:");
    resident.zip(total).map_or(0.0, |(resident, total)| resident / total)
}

fn kilobytes(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_some_memory_and_some_time() {
        assert!(memory() > 0.0 && memory() < 1.0);
        assert!(cpu_seconds() > 0.0);
    }
}
