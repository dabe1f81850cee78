//! The outcome: targets and medians as Markdown tables, everything else as JSON.

mod configurations;
mod doubts;

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Rates,
    samples::{Samples, Side},
    targets::{self, TARGETS, Target},
    verdict::Judgement,
};
use crate::{
    harness::CpuClock,
    measure::{
        Row, Size, Stage,
        figure::{Figure, digits},
        peer::Peer,
        row::Measure,
    },
    report::{Machine, Spread, command_line, today},
};
use configurations::Configuration;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    date: String,
    command: String,
    machine: Machine,
    rounds: u32,
    size: Size,
    #[serde(skip)]
    clock: CpuClock,
    rates: Vec<(Row, f64)>,
    pub(super) rows: Vec<Row>,
    proxies: Vec<Described>,
    pub(super) samples: Samples,
}

#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    peer: Peer,
    configurations: Vec<Configuration>,
}

impl Report {
    pub(super) fn new(
        rounds: u32,
        stage: &Stage,
        rows: Vec<Row>,
        peers: &[Peer],
        rates: Rates,
        samples: Samples,
    ) -> Self {
        let described = |peer: &Peer| Described { peer: peer.clone(), configurations: configurations::of(peer, &rows) };
        let proxies = peers.iter().map(described).collect();
        let rates = rows.iter().filter_map(|row| Some((*row, *rates.get(row)?))).collect();
        let (date, command, machine) = (today(), command_line(), Machine::this());
        Self { date, command, machine, rounds, size: stage.size, clock: stage.clock, rates, rows, proxies, samples }
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the report is no JSON")? + "\n")
    }

    /// The report for people, with a link to the picture if there is one.
    pub(super) fn markdown(&self, picture: Option<&str>) -> String {
        format!(
            "## Comparison with nginx and HAProxy

{headline}

{versions}
{targets}{picture}### Every figure

{table}
{method}
{doubts}
{configurations}",
            headline = self.machine.headline(&self.date, &self.command),
            versions = self.versions(),
            targets = self.targets(),
            picture = picture.map_or_else(String::new, |link| format!(
                "![Every figure as a multiple of the better other]({link})\n\n"
            )),
            table = self.table(),
            method = self.method(),
            doubts = self.doubts(),
            configurations = self.configurations(),
        )
    }

    fn versions(&self) -> String {
        self.proxies.iter().map(|proxy| format!("- {}: `{}`\n", proxy.peer.name(), proxy.peer.version)).collect()
    }

    /// One line for each target.
    fn targets(&self) -> String {
        let judged: Vec<Judgement> = TARGETS.into_iter().filter_map(|target| self.judged(target)).collect();
        if judged.is_empty() {
            return String::new();
        }
        let mut text = "### Targets\n\n| | | target | measured | |\n|---|---|---|---|---|\n".to_owned();
        for Judgement { target, measured, verdict } in judged {
            let measured = measured.map_or_else(|| "–".into(), |spread| in_words(&target, spread));
            // Writing to a string does not fail.
            _ = writeln!(
                text,
                "| `{}` | {}: {} | {target} | {measured} | {verdict} |",
                target.row,
                target.row.title(),
                target.figure.title(),
            );
        }
        text + "\n"
    }

    /// What is said of a target; `None` when its row was not measured.
    pub(super) fn judged(&self, target: Target) -> Option<Judgement> {
        self.rows.contains(&target.row).then(|| Judgement::of(target, &self.samples))
    }

    /// One line for each figure.
    fn table(&self) -> String {
        let names: Vec<&str> = self.proxies.iter().map(|proxy| proxy.peer.name()).collect();
        let mut table = format!(
            "| | | {} | warbler / the better other | target | |\n|---|---|{}---|---|---|\n",
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for (row, figure) in self.figures() {
            let sides = self.proxies.iter().map(|proxy| Side::Proxy(proxy.peer.product()));
            let cells: Vec<String> = sides.map(|side| self.cell(row, figure, side)).collect();
            let judged: Vec<Judgement> = targets::of(row, figure).filter_map(|target| self.judged(target)).collect();
            let join = |texts: Vec<String>| texts.join("<br>");
            _ = writeln!(
                table,
                "| `{row}` | {}: {} | {} | {} | {} | {} |",
                row.title(),
                figure.title(),
                cells.join(" | "),
                self.ratio(row, figure).map_or_else(|| "–".into(), |ratio| ratio_in_words(&ratio)),
                join(judged.iter().map(|judged| judged.target.to_string()).collect()),
                join(judged.iter().map(|judged| judged.verdict.to_string()).collect()),
            );
        }
        table
    }

    /// All figures of which there is a sample, in the order of the rows.
    pub(super) fn figures(&self) -> impl Iterator<Item = (Row, Figure)> {
        let all = self.rows.iter().flat_map(|row| row.figures().iter().map(|figure| (*row, *figure)));
        all.filter(|(row, figure)| self.samples.has(*row, *figure))
    }

    /// Warbler against the better of the others, round by round.
    pub(super) fn ratio(&self, row: Row, figure: Figure) -> Option<Spread> {
        Spread::of(self.samples.ratios(row, figure, &Side::OTHERS))
    }

    fn cell(&self, row: Row, figure: Figure, side: Side) -> String {
        let Some(Spread { low, median, high }) = self.samples.spread(row, figure, side) else { return "–".into() };
        format!("**{}** ({}–{})", figure.show(median), digits(low), digits(high))
    }

    fn method(&self) -> String {
        let Self { rounds, size, .. } = self;
        let clock = match self.clock {
            CpuClock::Scheduler => "the scheduler's count (`/proc/PID/task/*/schedstat`)",
            CpuClock::Ticks => "clock ticks of 10 ms, since this kernel has no scheduler statistics",
        };
        let mut text = format!(
            "Medians of {rounds} interleaved rounds, the smallest and the largest in parentheses. A ratio is made within \
             a round,\nand the median of the ratios is told; where more is better (rates, bytes, what is given back), a \
             ratio above 1 is.\nEach proxy has one worker on a core of its own; load and endpoint share another, and only \
             the proxy's processes are\ncounted, user and kernel time, by {clock}. The endpoint speaks neither TLS nor \
             HTTP/2.\n\n"
        );
        for (measure, line) in lines(size) {
            if self.rows.iter().any(|row| row.measure == measure) {
                _ = writeln!(text, "- {line}");
            }
        }
        let rates: Vec<String> = self.rates.iter().map(|(row, rate)| format!("`{row}` {rate:.0}")).collect();
        if !rates.is_empty() {
            _ = writeln!(text, "- Messages by second: {}.", rates.join(", "));
        }
        text + VERDICTS
    }
}

/// What each measure is, in the words of the report.
fn lines(size: &Size) -> [(Measure, String); 7] {
    let Size { connections, messages, requests, active, new_connections, bulk_mib, mass, rest, time } = size;
    [
        (
            Measure::Idle,
            format!(
                "**Memory** is user memory (PSS) in KB (1000 bytes) by {connections} tunnels that have carried one message \
                 and are silent; the kernel's socket buffers are not in it."
            ),
        ),
        (Measure::Message, format!("**Messages**: {messages} over {active} connections, one in flight on each.")),
        (
            Measure::Connect,
            format!(
                "**New tunnels**: {new_connections}, 32 at a time, each with one message there and back, then closed in \
                 order by the client; for WebSocket with the upgrade. TLS is 1.3 with X25519, AES-256-GCM and an ECDSA P-256 \
                 certificate; the load checks that every handshake was full, or resumed by a ticket. Rates are what the \
                 load's core allowed where the proxy was not busy all the time (below)."
            ),
        ),
        (
            Measure::Request,
            format!(
                "**Requests**: {requests}, {active} at a time; over HTTP/1.1 each on its connection, over HTTP/2 ten on each."
            ),
        ),
        (
            Measure::Latency,
            format!(
                "**Added time**: what a quantile through the proxy is above the same quantile straight to the endpoint \
                 (without TLS, over HTTP/1.1), which is measured in the same round. For {time:?} messages are due at a fixed \
                 rate, evenly over {active} connections, and their time counts from then, however late they were sent. The \
                 rate is the same for all: half of what the slowest proxy reached in a closed loop before the first round; where \
                 load and endpoint alone were not on time with that (p99 within 250 µs), halved until they were. `--rate` sets it. \
                 A neighbour that takes a core for milliseconds is most of a p99 here, and no proxy's doing. *Quiet windows* are \
                 what the target is for: the run is cut into windows of 50 ms (longer, if 300 messages take longer), each has \
                 its p99, and the lower quartile of these is taken. What a proxy does to one message in a hundred is in it; \
                 what it does less often than in three windows of four is only in the p99 and p99.9 of the whole run."
            ),
        ),
        (
            Measure::Bulk,
            format!(
                "**Downloads**: {bulk_mib} MiB over 4 connections (a quarter of it with TLS), every byte compared. MB are \
                 10⁶ bytes. HAProxy splices (`splice-auto`, `splice-response`), which TLS does not allow; nginx has its own \
                 sizes of buffers, also of TLS (`ssl_buffer_size`)."
            ),
        ),
        (
            Measure::GivenBack,
            format!(
                "**Given back**: {mass} tunnels that have carried a message are closed at once; {rest:?} later, the part of \
                 the memory they had taken that is free again, and what is left over. A proxy that had taken less than 1 MB \
                 has no share."
            ),
        ),
    ]
}

const VERDICTS: &str = "
The median decides whether a target is met, with two exceptions. Below three rounds nothing is said. Where some rounds
meet a target and others miss it, it is *too noisy to tell* if the rounds of one side differ by more than a quarter of
their median, or if in one of them other virtual machines took more than 5 % of the machine, others than the proxy more
than 10 % of its core, or the load was late by more than 1 ms (p99).
";

fn in_words(target: &Target, spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    if target.is_ratio() {
        // One digit more than usual: limits are near enough for it to matter.
        return format!("**{median:.3}** ({low:.3}–{high:.3})");
    }
    format!("**{}** ({}–{})", target.figure.show(median), digits(low), digits(high))
}

fn ratio_in_words(ratio: &Spread) -> String {
    let Spread { low, median, high } = ratio;
    format!("**{median:.2}** ({low:.2}–{high:.2})")
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::samples::tests::rounds, *};
    use std::time::Duration;

    /// A report of these samples, for all rows.
    pub(crate) fn report(samples: Samples) -> Report {
        let size = Size {
            connections: 2000,
            messages: 40_000,
            requests: 20_000,
            active: 100,
            new_connections: 3000,
            bulk_mib: 4096,
            mass: 4000,
            rest: Duration::from_secs(5),
            time: Duration::from_secs(4),
        };
        Report {
            date: "today".into(),
            command: "warbler-bench compare".into(),
            machine: Machine::this(),
            rounds: 3,
            size,
            clock: CpuClock::Scheduler,
            rates: vec![(Row::named("latency/tcp").unwrap()[0], 1234.0)],
            rows: Row::chosen(&[]),
            proxies: Vec::new(),
            samples,
        }
    }

    #[test]
    fn every_target_is_a_line_with_what_was_measured_and_a_verdict() {
        let three = [[6.0, 8.0, 12.0], [7.0, 8.0, 12.0], [9.0, 8.0, 12.0]];
        let text = report(rounds("message/tcp", Figure::Cpu, &three)).markdown(None);
        let line = "| `message/tcp` | 200-byte message over TCP, there and back: CPU | ≤ 0.95 × the better | **0.875** \
                    (0.750–1.125) |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| `bulk/tcp` | download over TCP: bytes by CPU second | ≥ 1.00 × HAProxy | – | not"));
        assert!(text.contains("`latency/tcp` 1234") && !text.contains("!["), "{text}");
    }
}
