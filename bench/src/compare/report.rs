//! The outcome: medians as a Markdown table, everything else as JSON.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Sample, Size, peer::Peer, work::Work};
use crate::serve::Kind;

const BEGIN: &str = "<!-- compare: begin (written by `warbler-bench compare --write`) -->";
const END: &str = "<!-- compare: end -->";
const NEW_FILE: &str = "# Performance\n\nWhat was measured, on which machine, and how to repeat it.\n\n";

/// Differences between rounds above this share of the median make a figure doubtful.
const DOUBTFUL: f64 = 0.25;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    date: String,
    command: String,
    machine: Machine,
    size: Size,
    proxies: Vec<Described>,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    peer: Peer,
    configurations: Vec<(Kind, String)>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    memory_gib: u64,
}

impl Report {
    pub(super) fn new(size: Size, peers: &[Peer], samples: Vec<Sample>) -> Self {
        let proxies = peers.iter().map(Described::of).collect();
        Self { date: today(), command: command_line(), machine: Machine::this(), size, proxies, samples }
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the report is no JSON")? + "\n")
    }

    /// The report for people.
    pub(super) fn markdown(&self) -> String {
        let Size { rounds, connections, messages, requests, active } = self.size;
        let Machine { processor, cores, kernel, memory_gib } = &self.machine;
        format!(
            "## Comparison with nginx and HAProxy

{date}, on {processor} ({cores} cores), {memory_gib} GiB, {kernel}. Repeat it with `{command}`.

{versions}
{table}
Medians of {rounds} interleaved rounds, the smallest and the largest in parentheses; less is better in every row. Each
proxy has one worker on a core of its own; load and endpoint share another, and only the proxy's processes are counted.
Memory is user memory (PSS) in KiB (1024 bytes) by {connections} tunnels that have carried one message and are silent;
the kernel's socket buffers are not in it. CPU is user and kernel time: {messages} messages and {requests} requests over
{active} connections, one in flight on each.
{doubts}
<details><summary>The configurations that were compared</summary>

{configurations}</details>
",
            date = self.date,
            command = self.command,
            versions = self.versions(),
            table = self.table(),
            doubts = self.doubts(),
            configurations = self.configurations(),
        )
    }

    fn versions(&self) -> String {
        self.proxies.iter().map(|proxy| format!("- {}: `{}`\n", proxy.peer.name(), proxy.peer.version)).collect()
    }

    fn table(&self) -> String {
        let names: Vec<&str> = self.proxies.iter().map(|proxy| proxy.peer.name()).collect();
        let mut table = format!(
            "| | {} | warbler / the better other |\n|---|{}---|\n",
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for work in Work::ALL {
            let cells: Vec<String> = names.iter().map(|name| self.cell(work, name)).collect();
            let ratio = self.ratio(work).map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
            // Writing to a string does not fail.
            _ = writeln!(table, "| {work} | {} | {ratio} |", cells.join(" | "));
        }
        table
    }

    fn cell(&self, work: Work, peer: &str) -> String {
        let Some(spread) = self.spread(work, peer) else { return "–".into() };
        let Spread { low, median, high } = spread;
        format!("**{median:.2} {unit}** ({low:.2}–{high:.2})", unit = work.unit())
    }

    fn spread(&self, work: Work, peer: &str) -> Option<Spread> {
        Spread::of(
            self.samples
                .iter()
                .filter(|sample| sample.work == work && sample.peer == peer)
                .map(|sample| sample.value)
                .collect(),
        )
    }

    fn ratio(&self, work: Work) -> Option<f64> {
        let median = |proxy: &Described| self.spread(work, proxy.peer.name()).map(|spread| spread.median);
        let (warbler, others): (Vec<_>, Vec<_>) = self.proxies.iter().partition(|proxy| proxy.peer.is_warbler());
        let best = others.into_iter().filter_map(median).min_by(f64::total_cmp)?;
        Some(median(warbler.first()?)? / best)
    }

    /// Says which figures moved too much between rounds to be trusted.
    fn doubts(&self) -> String {
        let mut doubts = String::new();
        for work in Work::ALL {
            for proxy in &self.proxies {
                let name = proxy.peer.name();
                if self.spread(work, name).is_some_and(|spread| spread.high - spread.low > spread.median * DOUBTFUL) {
                    _ = writeln!(doubts, "\nDoubtful, the rounds differ by more than a quarter: {work}, {name}.");
                }
            }
        }
        doubts
    }

    fn configurations(&self) -> String {
        let mut text = String::new();
        for proxy in &self.proxies {
            let language = if proxy.peer.is_warbler() { "toml" } else { "text" };
            for (kind, configuration) in &proxy.configurations {
                _ = writeln!(
                    text,
                    "{}, {}:\n\n```{language}\n{}\n```\n",
                    proxy.peer.name(),
                    title(*kind),
                    configuration.trim_end()
                );
            }
        }
        text
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::TcpEcho => "TCP",
        Kind::WsEcho => "WebSocket",
        Kind::Http => "HTTP",
    }
}

impl Described {
    fn of(peer: &Peer) -> Self {
        let endpoint = ([127, 0, 0, 1], 9000).into();
        let kinds = [Kind::TcpEcho, Kind::WsEcho, Kind::Http].into_iter().filter(|kind| peer.speaks(*kind));
        let configurations = kinds.map(|kind| (kind, peer.configuration(kind, 8000, endpoint))).collect();
        Self { peer: peer.clone(), configurations }
    }
}

#[derive(Debug, Clone, Copy)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { low, median, high })
    }
}

impl Machine {
    fn this() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = field(&cpu, "model name").unwrap_or_else(|| "an unnamed processor".into());
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes =
            field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        Self {
            processor,
            // Not `available_parallelism`: this thread is bound to one of them.
            cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()),
            memory_gib: (kilobytes + (1 << 19)) >> 20,
        }
    }
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn today() -> String {
    let said = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    said.map_or_else(|_| "at an unknown date".into(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The command line with the program's plain name.
fn command_line() -> String {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    format!("warbler-bench {arguments}")
}

/// The marked part of a Markdown file, found before a run and replaced after it.
#[derive(Debug)]
pub(super) struct Section {
    file: PathBuf,
    before: String,
    after: String,
}

impl Section {
    /// Finds the section. A file that does not exist is made by [`write`](Self::write).
    pub(super) fn open(file: &Path) -> Result<Self> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{NEW_FILE}{BEGIN}\n{END}\n"),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let Some((before, after)) = parts else {
            bail!(
                "{} has no section to write into: put these two lines where it belongs:\n{BEGIN}\n{END}",
                file.display()
            );
        };
        Ok(Self { file: file.to_owned(), before: before.to_owned(), after: after.to_owned() })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn write(&self, section: &str) -> Result<()> {
        let text = format!("{}{BEGIN}\n\n{section}\n{END}{}", self.before, self.after);
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Workspace;

    #[test]
    fn a_median_is_the_middle_of_the_rounds() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert!(
            (spread.low - 1.0).abs() < 1e-9 && (spread.median - 2.0).abs() < 1e-9 && (spread.high - 3.0).abs() < 1e-9
        );
        assert!((Spread::of(vec![1.0, 2.0]).unwrap().median - 1.5).abs() < 1e-9);
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn only_the_marked_section_of_a_file_is_replaced() {
        let workspace = Workspace::new().unwrap();
        let file = workspace.path("performance.md");
        Section::open(&file).unwrap().write("first").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("above\n{text}below\n")).unwrap();
        Section::open(&file).unwrap().write("second").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("above\n# Performance") && text.ends_with("below\n"), "{text}");
        assert!(text.contains("second") && !text.contains("first"), "{text}");
    }

    #[test]
    fn a_file_without_the_section_is_left_alone() {
        let workspace = Workspace::new().unwrap();
        let file = workspace.write("notes.md", "mine").unwrap();
        assert!(Section::open(&file).unwrap_err().to_string().contains("no section"));
    }
}
