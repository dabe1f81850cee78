//! The outcome: one table for each variation, everything else as JSON.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Sample, Variation, variation};
use crate::{
    measure::{
        Row, Size,
        figure::{Figure, digits},
        peer::Peer,
    },
    report::{Machine, Spread, command_line, today},
};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    date: String,
    command: String,
    machine: Machine,
    rounds: u32,
    size: Size,
    /// Messages by second where latency is measured.
    rate: f64,
    variations: Vec<Variation>,
    /// Name and version of each proxy.
    proxies: Vec<(&'static str, String)>,
    samples: Vec<Sample>,
}

impl Report {
    pub(super) fn new(
        rounds: u32,
        size: Size,
        rate: f64,
        variations: Vec<Variation>,
        peers: &[Peer],
        samples: Vec<Sample>,
    ) -> Self {
        let proxies = peers.iter().map(|peer| (peer.name(), peer.version.clone())).collect();
        let (date, command, machine) = (today(), command_line(), Machine::this());
        Self { date, command, machine, rounds, size, rate, variations, proxies, samples }
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the report is no JSON")? + "\n")
    }

    pub(super) fn markdown(&self) -> String {
        let versions: String = self.proxies.iter().map(|(name, version)| format!("- {name}: `{version}`\n")).collect();
        let tables: Vec<String> = self.variations.iter().map(|variation| self.table(*variation)).collect();
        let Size { connections, messages, requests, active, new_connections, bulk_mib, mass, time, .. } = self.size;
        format!(
            "## Growth

{headline}

{versions}
Medians of {rounds} rounds, the smallest and the largest in parentheses. Measured as in the comparison: {messages} messages,
{requests} requests, {active} of them in flight, {new_connections} new tunnels, {bulk_mib} MiB to download, and, where their number is
not what varies, {connections} idle tunnels and {mass} that close at once. CPU is by message, request or tunnel. Latency is of the whole
way through the proxy, and not only what it adds, with {rate} messages by second for {time:?}.

{tables}",
            headline = self.machine.headline(&self.date, &self.command),
            rounds = self.rounds,
            rate = self.rate,
            tables = tables.join("\n"),
        )
    }

    fn table(&self, variation: Variation) -> String {
        let cases: Vec<&str> = variation.cases().iter().map(|case| case.name).collect();
        let mut table = format!(
            "### {variation}\n\n| | {} | last / first |\n|---|{}---|\n",
            cases.join(" | "),
            "---|".repeat(cases.len())
        );
        let lines = variation.rows().flat_map(|row| variation::figures(row).iter().map(move |figure| (row, *figure)));
        for (row, figure) in lines {
            for (peer, _) in &self.proxies {
                let found: Vec<Option<Spread>> =
                    cases.iter().map(|case| self.spread(variation, case, row, figure, peer)).collect();
                if found.iter().any(Option::is_some) {
                    let (cells, growth, title) = (cells(figure, &found), growth(&found), figure.title());
                    // Writing to a string does not fail.
                    _ = writeln!(table, "| `{row}` {peer}: {title} | {cells} | {growth} |");
                }
            }
        }
        format!("{table}\n{}\n", variation.remark())
    }

    fn spread(&self, variation: Variation, case: &str, row: Row, figure: Figure, peer: &str) -> Option<Spread> {
        let of = |sample: &&Sample| {
            let Sample { variation: its, case: at, row: of, figure: what, peer: who, .. } = sample;
            (*its, *at, *of, *what, *who) == (variation, case, row, figure, peer)
        };
        Spread::of(self.samples.iter().filter(of).map(|sample| sample.value))
    }
}

fn cells(figure: Figure, found: &[Option<Spread>]) -> String {
    let cell = |found: &Option<Spread>| match found {
        Some(Spread { low, median, high }) => {
            format!("**{}** ({}–{})", figure.show(*median), digits(*low), digits(*high))
        }
        None => "–".into(),
    };
    found.iter().map(cell).collect::<Vec<_>>().join(" | ")
}

fn growth(found: &[Option<Spread>]) -> String {
    match found {
        [Some(first), .., Some(last)] => format!("{:.2}", last.median / first.median),
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Conditions;
    use std::time::Duration;

    #[test]
    fn a_table_has_every_case_and_says_how_much_the_last_is_of_the_first() {
        let row = Row::named("message/tcp").unwrap()[0];
        let sample = |case, round, value| Sample {
            round,
            variation: Variation::Workers,
            case,
            row,
            peer: "warbler",
            figure: Figure::Cpu,
            value,
            unit: "µs",
            conditions: Conditions::default(),
        };
        let size = Size {
            connections: 0,
            messages: 200_000,
            requests: 60_000,
            active: 100,
            new_connections: 12_000,
            bulk_mib: 0,
            mass: 0,
            rest: Duration::ZERO,
            time: Duration::ZERO,
        };
        let samples = vec![sample("1", 1, 7.0), sample("2", 1, 8.0), sample("1", 2, 9.0), sample("2", 2, 10.0)];
        let report = Report {
            date: "today".into(),
            command: "warbler-bench growth".into(),
            machine: Machine::this(),
            rounds: 2,
            size,
            rate: 10_000.0,
            variations: vec![Variation::Workers],
            proxies: vec![("warbler", "0".into())],
            samples,
        };
        let text = report.markdown();
        assert!(text.contains("| | 1 | 2 | last / first |"), "{text}");
        let line = "| `message/tcp` warbler: CPU | **8.00 µs** (7.00–9.00) | **9.00 µs** (8.00–10.00) | 1.12 |";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("`connect/tcp`"), "nothing was measured of it: {text}");
    }
}
