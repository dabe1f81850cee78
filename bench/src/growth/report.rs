//! The outcome: one table for each variation, everything else as JSON.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Sample, Variation};
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
    variations: Vec<Variation>,
    /// Name and version of each proxy.
    proxies: Vec<(&'static str, String)>,
    samples: Vec<Sample>,
}

impl Report {
    pub(super) fn new(
        rounds: u32,
        size: Size,
        variations: Vec<Variation>,
        peers: &[Peer],
        samples: Vec<Sample>,
    ) -> Self {
        let proxies = peers.iter().map(|peer| (peer.name(), peer.version.clone())).collect();
        let (date, command, machine) = (today(), command_line(), Machine::this());
        Self { date, command, machine, rounds, size, variations, proxies, samples }
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the report is no JSON")? + "\n")
    }

    pub(super) fn markdown(&self) -> String {
        let versions: String = self.proxies.iter().map(|(name, version)| format!("- {name}: `{version}`\n")).collect();
        let tables: Vec<String> = self.variations.iter().map(|variation| self.table(*variation)).collect();
        let Size { messages, requests, active, new_connections, .. } = self.size;
        format!(
            "## Growth

{headline}

{versions}
Medians of {rounds} rounds, the smallest and the largest in parentheses. Measured as in the comparison: {messages} messages,
{requests} requests, {active} of them in flight, {new_connections} new tunnels. CPU is by message, request or tunnel.

{tables}",
            headline = self.machine.headline(&self.date, &self.command),
            rounds = self.rounds,
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
        for &row in variation.rows() {
            for (peer, _) in &self.proxies {
                let found: Vec<Option<(Figure, Spread)>> =
                    cases.iter().map(|case| self.spread(variation, case, row, peer)).collect();
                if found.iter().any(Option::is_some) {
                    // Writing to a string does not fail.
                    _ = writeln!(table, "| `{row}` {peer} | {} | {} |", cells(&found), growth(&found));
                }
            }
        }
        format!("{table}\n{}\n", variation.remark())
    }

    fn spread(&self, variation: Variation, case: &str, row: Row, peer: &str) -> Option<(Figure, Spread)> {
        let of = |sample: &&Sample| {
            sample.variation == variation && sample.case == case && sample.row == row && sample.peer == peer
        };
        let figure = self.samples.iter().find(of)?.figure;
        Some((figure, Spread::of(self.samples.iter().filter(of).map(|sample| sample.value))?))
    }
}

fn cells(found: &[Option<(Figure, Spread)>]) -> String {
    let cell = |found: &Option<(Figure, Spread)>| match found {
        Some((figure, Spread { low, median, high })) => {
            format!("**{}** ({}–{})", figure.show(*median), digits(*low), digits(*high))
        }
        None => "–".into(),
    };
    found.iter().map(cell).collect::<Vec<_>>().join(" | ")
}

fn growth(found: &[Option<(Figure, Spread)>]) -> String {
    match found {
        [Some((_, first)), .., Some((_, last))] => format!("{:.2}", last.median / first.median),
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
            variations: vec![Variation::Workers],
            proxies: vec![("warbler", "0".into())],
            samples,
        };
        let text = report.markdown();
        assert!(text.contains("| | 1 | 2 | last / first |"), "{text}");
        let line = "| `message/tcp` warbler | **8.00 µs** (7.00–9.00) | **9.00 µs** (8.00–10.00) | 1.12 |";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("`connect/tcp`"), "nothing was measured of it: {text}");
    }
}
