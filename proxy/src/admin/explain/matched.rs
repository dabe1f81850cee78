//! The rule or the entry of the map that a client matches, in words.

use std::fmt;

use policies::{ClientPlace, LocalityIx, LocalityOrder};
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterPlan;
use crate::config::RuleOrigin;

#[derive(Debug, Serialize, Deserialize)]
pub struct Matched {
    /// Counted from 1 as it stands in the file; none if it is an entry of the map.
    pub rule: Option<usize>,
    /// The key of the map, as it is written.
    pub map: Option<String>,
    /// What it has in common with the client: `country DE`.
    pub by: String,
    /// Where it sends its clients. None at all: to nowhere if it is strict, else as if it were not there.
    pub localities: Vec<String>,
    /// Whether the localities are tried in this order.
    pub as_written: bool,
    /// What comes after them, before any other.
    pub fallback: Vec<String>,
    /// Whether nothing else follows.
    pub strict: bool,
}

impl Matched {
    /// `None` if no rule of this position is there, or if it does not match this client.
    pub(super) fn new(cluster: &ClusterPlan, rule: usize, client: &ClientPlace) -> Option<Matched> {
        let rule = cluster.config.rules.get(rule)?;
        let names = |localities: &[LocalityIx]| {
            localities.iter().map(|locality| cluster.locality_name(*locality).to_string()).collect()
        };
        let (nth, key) = match &rule.origin {
            RuleOrigin::Rule(nth) => (Some(*nth), None),
            RuleOrigin::Map(key) => (None, Some(key.to_string())),
        };
        Some(Matched {
            rule: nth,
            map: key,
            by: rule.terms.matched(client)?.to_string(),
            localities: names(&rule.terms.localities),
            as_written: rule.terms.order == LocalityOrder::AsWritten,
            fallback: names(&rule.terms.fallback),
            strict: rule.terms.strict,
        })
    }
}

/// `rule 3 by country DE: frankfurt, then paris, and nothing else (strict)`
impl fmt::Display for Matched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rule, &self.map) {
            (Some(nth), _) => write!(f, "rule {nth}")?,
            (None, Some(key)) => write!(f, "map {key}")?,
            (None, None) => {}
        }
        let between = if self.as_written { ", then " } else { ", " };
        let then = if self.fallback.is_empty() { "" } else { ", then " };
        write!(f, " by {}: {}{then}{}", self.by, self.localities.join(between), self.fallback.join(between))?;
        f.write_str(match (self.localities.is_empty(), self.strict) {
            (true, true) => "refused (strict)",
            (true, false) => "steered as if it were not there",
            (false, true) => ", and nothing else (strict)",
            (false, false) => ", then all others",
        })
    }
}
