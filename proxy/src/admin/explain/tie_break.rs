//! What a policy compared, and why the winner won, in one line.

use std::fmt::Write;

use policies::{Considered, EndpointIx, Policy, Reason};
use serde::{Deserialize, Serialize};

use crate::config::diagnostic::counted;

/// One candidate as the pick saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compared {
    pub endpoint: String,
    pub connections: u32,
    pub weight: u16,
}

/// What there is to say it by.
pub struct TieBreak<'a> {
    /// `None`: not known any more.
    pub policy: Option<Policy>,
    pub has_key: bool,
    pub considered: &'a [Compared],
    /// Who was picked, and why there.
    pub winner: Option<(&'a str, Reason)>,
}

/// The candidates by name, in the order in which the policy came to them.
pub fn compared(considered: &Considered, name: impl Fn(EndpointIx) -> String) -> Vec<Compared> {
    let compared = |look: policies::Look| Compared {
        endpoint: name(look.endpoint),
        connections: look.leases,
        weight: look.weight.get(),
    };
    considered.iter().map(compared).collect()
}

impl TieBreak<'_> {
    pub fn line(&self) -> String {
        let Some((winner, reason)) = self.winner else { return self.nobody() };
        if reason == Reason::Sticky {
            return format!("{winner} is where the client was a moment ago, and it takes new clients");
        }
        match self.policy {
            Some(Policy::P2c { .. }) => self.drawn(winner),
            Some(Policy::PeakEwma { .. }) => self.fastest_drawn(winner),
            Some(Policy::Prequal { .. }) => {
                format!("{winner} was the fastest of those drawn that were not busy{}", self.with_count_of(winner))
            }
            Some(Policy::LeastConnections) => format!(
                "{winner} had the lowest (connections + 1) / weight of all, dice among equals{}",
                self.with_count_of(winner)
            ),
            Some(Policy::RoundRobin) => format!("it was the turn of {winner}{}", self.passed_over(winner)),
            Some(Policy::Random) => format!("{winner} was drawn, in proportion to weight{}", self.passed_over(winner)),
            Some(Policy::Maglev { .. } | Policy::RingHash { .. }) if self.has_key => {
                format!("the client's key leads to {winner} in the table{}", self.passed_over(winner))
            }
            Some(Policy::Maglev { .. } | Policy::RingHash { .. }) => {
                format!("the client has no key: dice led to {winner} in the table{}", self.passed_over(winner))
            }
            None => format!("{}; {winner} was picked", self.counts()),
        }
    }

    fn nobody(&self) -> String {
        match self.considered {
            [] => "no candidate was looked at".to_owned(),
            _ => format!("{}; none could take the client", self.counts()),
        }
    }

    /// Two or more were drawn, and the cheapest has it.
    fn drawn(&self, winner: &str) -> String {
        let measure = "the lowest (connections + 1) / weight of these";
        let others = self.considered.iter().filter(|compared| compared.endpoint != winner);
        let [ours, ..] = &self.count_of(winner)[..] else { return format!("{winner} was drawn") };
        match others.map(|other| cost(other).total_cmp(&cost(ours))).min() {
            None => format!("{}; nobody else was drawn", self.counts()),
            Some(std::cmp::Ordering::Less) => {
                format!("{}; {winner} has {measure}, of those that could take the client", self.counts())
            }
            Some(std::cmp::Ordering::Equal) => {
                format!("{}; {winner} has {measure}, and was drawn before its equals", self.counts())
            }
            Some(std::cmp::Ordering::Greater) => format!("{}; {winner} has {measure}", self.counts()),
        }
    }

    /// As [`drawn`](Self::drawn), but by latencies, which are not kept: who was passed over for what is not known.
    fn fastest_drawn(&self, winner: &str) -> String {
        let counts = self.counts();
        match self.considered.iter().any(|compared| compared.endpoint != winner) {
            true => format!(
                "{counts}; {winner} had the lowest latency × (connections + 1) / weight of those that could take the client"
            ),
            false => format!("{counts}; nobody else was drawn"),
        }
    }

    /// `a had 12 connections for weight 1, b had 14 for weight 1`.
    fn counts(&self) -> String {
        let mut text = String::new();
        let mut told: Vec<&str> = Vec::new();
        for Compared { endpoint, connections, weight } in self.considered {
            // Drawn twice is looked at twice.
            if told.contains(&endpoint.as_str()) {
                continue;
            }
            let (comma, noun) = match (told.is_empty(), connections) {
                (true, 1) => ("", " connection"),
                (true, _) => ("", " connections"),
                (false, _) => (", ", ""),
            };
            told.push(endpoint);
            // Writing to a string does not fail.
            write!(text, "{comma}{endpoint} had {connections}{noun} for weight {weight}").unwrap_or(());
        }
        if text.is_empty() { "what was compared is not known".to_owned() } else { text }
    }

    fn with_count_of(&self, winner: &str) -> String {
        match &self.count_of(winner)[..] {
            [.., Compared { connections, weight, .. }] => {
                format!(": {} for weight {weight}", counted(*connections as usize, "connection"))
            }
            [] => String::new(),
        }
    }

    fn count_of(&self, winner: &str) -> Vec<&Compared> {
        self.considered.iter().filter(|compared| compared.endpoint == winner).collect()
    }

    fn passed_over(&self, winner: &str) -> String {
        let mut passed: Vec<&str> = Vec::new();
        for Compared { endpoint, .. } in self.considered {
            if endpoint != winner && !passed.contains(&endpoint.as_str()) {
                passed.push(endpoint);
            }
        }
        if passed.is_empty() { String::new() } else { format!("; {} could not take the client", passed.join(", ")) }
    }
}

fn cost(compared: &Compared) -> f64 {
    (f64::from(compared.connections) + 1.0) / f64::from(compared.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: Policy, has_key: bool, considered: &[(&str, u32, u16)], winner: &str, want: &str) {
        let compared = |(endpoint, connections, weight): &(&str, u32, u16)| Compared {
            endpoint: (*endpoint).to_owned(),
            connections: *connections,
            weight: *weight,
        };
        let considered: Vec<Compared> = considered.iter().map(compared).collect();
        let winner = (!winner.is_empty()).then_some((winner, Reason::Preferred));
        let said = TieBreak { policy: Some(policy), has_key, considered: &considered, winner }.line();
        assert_eq!(said, want);
    }

    #[test]
    fn two_choices_tell_the_counts_and_the_comparison() {
        let p2c = Policy::P2C;
        check(
            p2c,
            false,
            &[("a", 12, 1), ("b", 14, 1)],
            "a",
            "a had 12 connections for weight 1, b had 14 for weight 1; \
             a has the lowest (connections + 1) / weight of these",
        );
        check(
            p2c,
            false,
            &[("a", 1, 1), ("b", 3, 2)],
            "a",
            "a had 1 connection for weight 1, b had 3 for weight 2; \
             a has the lowest (connections + 1) / weight of these, and was drawn before its equals",
        );
        check(
            p2c,
            false,
            &[("a", 0, 1), ("b", 3, 1)],
            "b",
            "a had 0 connections for weight 1, b had 3 for weight 1; \
             b has the lowest (connections + 1) / weight of these, of those that could take the client",
        );
        check(p2c, false, &[("a", 2, 1), ("a", 2, 1)], "a", "a had 2 connections for weight 1; nobody else was drawn");
        check(p2c, false, &[("a", 2, 1)], "", "a had 2 connections for weight 1; none could take the client");
        check(p2c, false, &[], "", "no candidate was looked at");
    }

    #[test]
    fn every_policy_has_its_own_reason() {
        let seen = [("a", 2, 1), ("b", 3, 1)];
        check(Policy::RoundRobin, false, &seen[1..], "b", "it was the turn of b");
        check(Policy::RoundRobin, false, &seen, "b", "it was the turn of b; a could not take the client");
        check(Policy::Random, false, &seen[1..], "b", "b was drawn, in proportion to weight");
        let least = "b had the lowest (connections + 1) / weight of all, dice among equals: 3 connections for weight 1";
        check(Policy::LeastConnections, false, &seen[1..], "b", least);
        let maglev = Policy::Maglev { size: policies::TableSize::default(), balance: None };
        check(maglev, true, &seen[..1], "a", "the client's key leads to a in the table");
        check(maglev, false, &seen[..1], "a", "the client has no key: dice led to a in the table");
        let latency = policies::Latency::default();
        let peak_ewma = Policy::PeakEwma { choices: 2, latency };
        check(peak_ewma, false, &seen[..1], "a", "a had 2 connections for weight 1; nobody else was drawn");
        // Latency decides: more connections and a greater weight say nothing about who could take the client.
        check(
            peak_ewma,
            false,
            &[("a", 12, 1), ("b", 5, 1)],
            "a",
            "a had 12 connections for weight 1, b had 5 for weight 1; a had the lowest latency × (connections + 1) / \
             weight of those that could take the client",
        );
    }
}
