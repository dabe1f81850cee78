//! What a reader should know before believing a figure.

use std::fmt::Write;

use super::Report;
use crate::{
    compare::{samples::Side, verdict::WIDE},
    measure::figure::Figure,
};

/// A proxy that ran for less of the time waited for the load.
const BUSY: f64 = 0.85;

impl Report {
    /// Which figures moved too much between rounds, which measurements were disturbed, and whose rates were the load's.
    pub(super) fn doubts(&self) -> String {
        let mut text = String::new();
        let parts = [
            ("The rounds differ by more than a quarter of the median", self.wide()),
            ("Disturbed", self.disturbed()),
            ("The proxy waited for the load, so a rate is only the least that it can do", self.waited()),
        ];
        for (what, found) in parts {
            if !found.is_empty() {
                _ = writeln!(text, "{what}: {}.\n", found.join("; "));
            }
        }
        text
    }

    fn sides(&self) -> impl Iterator<Item = Side> {
        self.proxies.iter().map(|proxy| Side::Proxy(proxy.peer.product()))
    }

    fn wide(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (row, figure) in self.figures() {
            let wide = |side: &Side| self.samples.spread(row, figure, *side).is_some_and(|one| one.width() > WIDE);
            let names: Vec<String> = self.sides().filter(wide).map(|side| side.to_string()).collect();
            if !names.is_empty() {
                found.push(format!("`{row}` {} ({})", figure.title(), names.join(", ")));
            }
        }
        found
    }

    fn disturbed(&self) -> Vec<String> {
        let mut found = Vec::new();
        for &row in &self.rows {
            let Some(&figure) = row.figures().iter().find(|figure| self.samples.has(row, **figure)) else { continue };
            for side in self.sides().chain([Side::Direct]) {
                let doubts: Vec<String> =
                    self.samples.conditions(row, figure, side).filter_map(|one| one.disturbance()).collect();
                if let Some(first) = doubts.first() {
                    found.push(format!("`{row}` {side}, {} rounds, such as: {first}", doubts.len()));
                }
            }
        }
        found
    }

    fn waited(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (row, figure) in self.figures().filter(|(_, figure)| *figure == Figure::Rate) {
            for side in self.sides() {
                let busy = self.samples.conditions(row, figure, side).map(|one| one.busy).reduce(f64::max);
                if let Some(busy) = busy.filter(|busy| *busy < BUSY) {
                    found.push(format!("`{row}` {side} ({:.0} % busy)", busy * 100.0));
                }
            }
        }
        found
    }
}
