//! warbler beside nginx and HAProxy: the same work, the same core, taking turns.
//!
//! Why turns and not one after the other: a machine's speed drifts (clock, neighbours, temperature), and a proxy
//! measured in a good minute looks better than it is. Every round measures every proxy once, in another order, and
//! medians over the rounds are reported, with the spread beside them.
//!
//! Always true: one worker per proxy, bound to one core; load and endpoints on another; only the proxy's processes are
//! counted; every measurement has a fresh proxy and a fresh endpoint, so no leftover of an earlier one is in it.

mod load;
mod peer;
mod report;
mod work;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::{
    harness::{Workspace, raise_open_files, sample},
    output,
};
use peer::Peer;
use report::Report;
use work::Work;

/// What to compare, with what, and where the outcome goes.
#[derive(Debug, Clone)]
pub struct Settings {
    pub size: Size,
    pub proxy_core: usize,
    pub load_core: usize,
    /// `None`: the one beside the running program.
    pub warbler: Option<PathBuf>,
    pub nginx: PathBuf,
    pub haproxy: PathBuf,
    pub save: Option<PathBuf>,
    pub write: Option<PathBuf>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    pub rounds: u32,
    /// Idle tunnels for the memory figures.
    pub connections: u32,
    /// Messages for each CPU figure of a tunnel.
    pub messages: u32,
    pub requests: u32,
    /// Connections that carry messages or requests, one in flight on each.
    pub active: u32,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    round: u32,
    work: Work,
    peer: String,
    /// In the unit of the work.
    value: f64,
}

/// Measures everything, prints the report, and saves and writes it where the settings say.
///
/// # Errors
/// When none of the proxies is there, one of them does not do its work, or a file cannot be written. Nothing is
/// written then.
pub async fn run(settings: Settings) -> Result<()> {
    // Found now, a file that cannot be written does not cost the whole run.
    let section = settings.write.as_deref().map(report::Section::open).transpose()?;
    take_place(&settings)?;
    let workspace = Workspace::new()?;
    let peers = peer::present(&settings, &workspace).await?;
    if peers.is_empty() {
        bail!("none of the proxies is there: nothing to compare");
    }
    let samples = measure_all(&settings, &workspace, &peers).await?;
    let report = Report::new(settings.size, &peers, samples);
    output::data(report.markdown());
    if let Some(file) = &settings.save {
        fs::write(file, report.json()?).with_context(|| format!("cannot write {}", file.display()))?;
        output::talk(format!("saved: {}", file.display()));
    }
    if let Some(section) = section {
        section.write(&report.markdown())?;
        output::talk(format!("written: {}", section.file().display()));
    }
    Ok(())
}

/// Moves this thread, which makes the load, to its core.
fn take_place(settings: &Settings) -> Result<()> {
    let cores = std::thread::available_parallelism().context("cannot count the cores")?.get();
    ensure!(cores >= 2, "one core cannot hold proxy and load apart: a comparison needs two");
    ensure!(
        settings.proxy_core != settings.load_core,
        "proxy and load need a core each, not both core {}",
        settings.load_core
    );
    // A proxy has two for each tunnel; the rest is for what it has anyway.
    raise_open_files(2 * u64::from(settings.size.connections.max(settings.size.active)) + 500)?;
    sample::pin_this_thread(settings.load_core)
}

async fn measure_all(settings: &Settings, workspace: &Workspace, peers: &[Peer]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 1..=settings.size.rounds {
        for work in Work::ALL {
            for peer in turn(peers, round).filter(|peer| peer.speaks(work.kind())) {
                let value = work.measure(settings, workspace, peer).await;
                let value = value.with_context(|| format!("{}: {work}", peer.name()))?;
                output::talk(format!("round {round}: {work}: {}: {value:.2} {}", peer.name(), work.unit()));
                samples.push(Sample { round, work, peer: peer.name().into(), value });
            }
        }
    }
    Ok(samples)
}

/// The proxies, each round starting with the next.
fn turn(peers: &[Peer], round: u32) -> impl Iterator<Item = &Peer> {
    let first = round as usize % peers.len();
    peers[first..].iter().chain(&peers[..first])
}
