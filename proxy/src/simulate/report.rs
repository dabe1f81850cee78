//! What came of a simulation, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::moves::FromTo;
pub use super::moves::Moves;
use crate::config::units::Period;
use crate::trace::Lines;

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// That came, with those whom the load added.
    pub clients: u64,
    /// From the first arrival to the last.
    pub seconds: f64,
    pub seed: u64,
    pub load: f64,
    /// What the trace consisted of; none if the clients were made up.
    pub lines: Option<Lines>,
    /// One for each configuration.
    pub runs: Vec<Run>,
    /// With two configurations: who goes elsewhere with the second.
    pub moves: Option<Moves>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub config: String,
    /// Between two points of `connections`.
    pub sample_seconds: f64,
    /// Clients for which no route leads to a cluster.
    pub unrouted: u64,
    pub clusters: Vec<ClusterRun>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClusterRun {
    pub name: String,
    pub clients: u64,
    /// Clients whose locality failed under them, and who came again.
    pub reconnects: u64,
    /// By reason, as the metric `warbler_picks_total`.
    pub picks: BTreeMap<&'static str, u64>,
    /// By reason, as the metric `warbler_pick_failures_total`, and `connect-failed`.
    pub refused: BTreeMap<&'static str, u64>,
    /// From the client to the edge and on to the locality, as predicted.
    pub rtt_ms: Option<Percentiles>,
    /// Clients of whom it cannot be predicted: they, their locality or the edge have no location.
    pub rtt_unknown: u64,
    pub localities: Vec<LocalityRun>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub p50: usize,
    pub p90: usize,
    pub p99: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct LocalityRun {
    pub name: String,
    pub arrivals: u64,
    /// Of all arrivals of the cluster, 0 to 1.
    pub share: f64,
    pub peak: u64,
    pub mean: f64,
    /// As declared, or the sum of `max-connections` if every endpoint has it.
    pub capacity: Option<u64>,
    /// For how long all of it was in use.
    pub full_seconds: f64,
    pub rtt_ms: Option<Percentiles>,
    /// Over time; see `sample_seconds`.
    pub connections: Vec<u64>,
    pub endpoints: Vec<EndpointRun>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointRun {
    pub address: String,
    pub weight: u16,
    pub arrivals: u64,
    /// Of all arrivals of the cluster, 0 to 1.
    pub share: f64,
    pub peak: u64,
    pub mean: f64,
    pub max_connections: Option<u64>,
    /// For how long it was at `max-connections`.
    pub full_seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} clients in {}, seed {}", self.clients, rounded(self.seconds), self.seed)?;
        if (self.load - 1.0).abs() > f64::EPSILON {
            write!(f, ", load {}x", self.load)?;
        }
        if let Some(lines) = self.lines {
            write!(f, " ({} lines skipped, {} broken)", lines.skipped, lines.broken)?;
        }
        for run in &self.runs {
            write!(f, "\n\n{run}")?;
        }
        match &self.moves {
            Some(moves) => write!(f, "\n\n{moves}"),
            None => Ok(()),
        }
    }
}

/// To a tenth of a second, and from ten seconds on to a whole one.
pub(super) fn rounded(seconds: f64) -> Period {
    let fitting = if seconds < 10.0 { (seconds * 10.0).round() / 10.0 } else { seconds.round() };
    Period(std::time::Duration::from_secs_f64(fitting))
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.config)?;
        if self.unrouted > 0 {
            write!(f, ": no route for {} clients", self.unrouted)?;
        }
        for cluster in self.clusters.iter().filter(|cluster| cluster.clients > 0) {
            write!(f, "\n{cluster}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ClusterRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {}: {} clients", self.name, self.clients)?;
        if self.reconnects > 0 {
            write!(f, ", {} came again after a failure", self.reconnects)?;
        }
        for (reason, count) in &self.picks {
            write!(f, ", {count} {reason}")?;
        }
        for (reason, count) in &self.refused {
            write!(f, ", {count} refused ({reason})")?;
        }
        match self.rtt_ms {
            Some(Percentiles { p50, p90, p99 }) => {
                write!(f, "\npredicted round trip: half within {p50} ms, 90 % within {p90} ms, 99 % within {p99} ms")?;
                if self.rtt_unknown > 0 {
                    write!(f, " (unknown for {})", self.rtt_unknown)?;
                }
            }
            None => write!(f, "\npredicted round trip: unknown, for want of locations")?,
        }
        write!(
            f,
            "\n\n  {:<30} {:>10} {:>7} {:>9} {:>10} {:>9} {:>9} {:>8}",
            "locality, endpoint", "arrivals", "share", "peak", "mean", "limit", "full for", "rtt p50"
        )?;
        for locality in &self.localities {
            write!(f, "\n{locality}")?;
            for endpoint in &locality.endpoints {
                write!(f, "\n{endpoint}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for LocalityRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {:<30} {:>10} {:>6.1}% {:>9} {:>10.1} {:>9} {:>9} {:>8}",
            self.name,
            self.arrivals,
            self.share * 100.0,
            self.peak,
            self.mean,
            or_dash(self.capacity),
            full_for(self.full_seconds),
            self.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{} ms", rtt.p50)),
        )
    }
}

impl fmt::Display for EndpointRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "    {:<28} {:>10} {:>6.1}% {:>9} {:>10.1} {:>9} {:>9}",
            self.address,
            self.arrivals,
            self.share * 100.0,
            self.peak,
            self.mean,
            or_dash(self.max_connections),
            full_for(self.full_seconds),
        )
    }
}

fn or_dash(limit: Option<u64>) -> String {
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

fn full_for(seconds: f64) -> String {
    if seconds > 0.0 { rounded(seconds).to_string() } else { "-".to_owned() }
}

/// Rows of a from-to table that people get to see; JSON has all of them.
const ROWS: usize = 20;

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |clients: u64| if self.clients == 0 { 0.0 } else { clients as f64 * 100.0 / self.clients as f64 };
        writeln!(f, "{} of {} clients ({:.2} %) have to go elsewhere", self.moved, self.clients, self.share * 100.0)?;
        writeln!(f, "  another locality: {} ({:.2} %)", self.other_locality, percent(self.other_locality))?;
        write!(
            f,
            "  another endpoint with the same dice: {} ({:.2} %)",
            self.other_endpoint,
            percent(self.other_endpoint)
        )?;
        table(f, "from locality", &self.localities)?;
        table(f, "from endpoint", &self.endpoints)
    }
}

fn table(f: &mut fmt::Formatter<'_>, heading: &str, rows: &[FromTo]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    write!(f, "\n\n  {heading:<30} {:<30} {:>10}", "to", "clients")?;
    for row in rows.iter().take(ROWS) {
        write!(f, "\n  {:<30} {:<30} {:>10}", row.from, row.to, row.clients)?;
    }
    match rows.len().checked_sub(ROWS) {
        Some(more @ 1..) => write!(f, "\n  and {more} more; --json has all of them"),
        _ => Ok(()),
    }
}
