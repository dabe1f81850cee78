//! What one compilation works on: a cluster as it is now, and the clients it is compiled for.

use std::{sync::Arc, time::Duration};

use crate::{
    bounded_load::BalanceFactor,
    endpoint::{Endpoint, Locality},
    group::Limits,
    hashed::HashTables,
    maglev::TableSize,
    peak_ewma::LatencyCell,
    ring_hash::RingSize,
    steering::{self, Steering},
};

/// A cluster at one moment: configuration, health and round-trip times put together, already checked.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// An endpoint whose locality is not in `localities` is never picked.
    pub endpoints: Vec<Endpoint>,
    pub localities: Vec<Locality>,
    /// For tunnels, which live for hours.
    pub policy: Policy,
    /// For requests, which live for milliseconds.
    pub request_policy: Policy,
    pub steering: Steering,
    /// What all localities may hold together.
    pub limits: Limits,
    /// What the localities of one priority may hold together, by [`Locality::priority`].
    pub priority_limits: Vec<(u32, Limits)>,
    /// Those of the views of this cluster before, or new ones.
    pub tables: HashTables,
}

impl ClusterView {
    /// Leases that sums have to be corrected for: those that were taken before anything asked for sums, and those on
    /// endpoints that bounded load may not pick. While there are some, compile anew on every control tick, and compare:
    /// the corrections are those of the compilation.
    pub fn unsettled(&self) -> u64 {
        let bounded = steering::every_policy(self).any(Policy::needs_sums);
        let is_summed =
            |locality: &Locality| bounded || !self.limits.is_unlimited() || self.limits_of(locality.priority).is_some();
        let summed: Vec<bool> = self.localities.iter().map(is_summed).collect();
        if !summed.contains(&true) {
            return 0;
        }
        let leases = |endpoint: &Endpoint| u64::from(endpoint.load.leases());
        let is_held = |endpoint: &&Endpoint| summed.get(usize::from(endpoint.locality.0)) == Some(&true);
        let held: u64 = self.endpoints.iter().filter(is_held).map(leases).sum();
        let groups = self.localities.iter().zip(&summed).filter(|(_, summed)| **summed);
        let counted: u64 = groups.map(|(locality, _)| u64::from(locality.group.connections())).sum();
        let apart = self.endpoints.iter().filter(|endpoint| !endpoint.standing.takes_new() || endpoint.degraded);
        let apart: u64 = if bounded { apart.map(leases).sum() } else { 0 };
        held.abs_diff(counted) + apart
    }

    /// The limits that the localities of this priority have together, if any.
    pub(crate) fn limits_of(&self, priority: u32) -> Option<Limits> {
        let limits = self.priority_limits.iter().find(|(limited, _)| *limited == priority).map(|(_, limits)| *limits);
        limits.filter(|limits| !limits.is_unlimited())
    }

    /// The same view on counts of its own, for a look that must neither count nor use anything up.
    pub(crate) fn detached(&self) -> Self {
        let mut view = self.clone();
        for endpoint in &mut view.endpoints {
            endpoint.load = Arc::new(endpoint.load.copied());
        }
        for locality in &mut view.localities {
            locality.group = Arc::new(locality.group.copied());
        }
        view
    }
}

/// How an endpoint is chosen among those of one tier that may take a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// In turn, smoothly in proportion to weight.
    RoundRobin,
    /// The lowest (leases + 1) / weight of all. Looks at every endpoint.
    LeastConnections,
    /// One draw in proportion to weight; no count is looked at.
    Random,
    /// The lowest (leases + 1) / weight of `choices` that are drawn in proportion to weight: 2 to 16, and anything else
    /// counts as the nearest of these.
    P2c { choices: u8 },
    /// The lowest latency × (leases + 1) / weight of `choices` that are drawn as for P2C. For requests; where a tunnel is
    /// picked by it, the latency is that of the connects.
    PeakEwma { choices: u8, latency: Latency },
    /// Of `choices` that are drawn as for P2C, the lowest latency among those that are not busy: whose requests in flight are
    /// not above this share of those drawn (the hot-cold rule of Prequal).
    Prequal { choices: u8, hot_above_percent: u8, report_age: Duration, latency: Latency },
    /// By the client's key, in a table that all edges build alike and that moves least when members change.
    Maglev { size: TableSize, balance: Option<BalanceFactor> },
    /// By the client's key, on a ring.
    RingHash { size: RingSize, balance: Option<BalanceFactor> },
}

/// How latency is learnt and forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Latency {
    /// After this time about a third of a peak is left.
    pub decay: Duration,
    /// What an endpoint is taken for that nothing was measured of.
    pub default: Duration,
    /// What a failure counts as, if it was not slower than that anyway.
    pub failure_penalty: Duration,
}

impl Default for Latency {
    /// Linkerd's figures.
    fn default() -> Self {
        Self { decay: LatencyCell::DECAY, default: LatencyCell::DEFAULT_RTT, failure_penalty: LatencyCell::PENALTY }
    }
}

impl Policy {
    /// Power of two choices, the default for tunnels.
    pub const P2C: Self = Self::P2c { choices: 2 };

    /// The word that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::Random => "random",
            Self::P2c { .. } => "p2c",
            Self::PeakEwma { .. } => "peak-ewma",
            Self::Prequal { .. } => "prequal",
            Self::Maglev { .. } => "maglev",
            Self::RingHash { .. } => "ring-hash",
        }
    }

    /// Whether it sends by the client's key.
    pub fn goes_by_key(self) -> bool {
        matches!(self, Self::Maglev { .. } | Self::RingHash { .. })
    }

    /// How it learns latency, if it goes by that.
    pub fn latency(self) -> Option<Latency> {
        match self {
            Self::PeakEwma { latency, .. } | Self::Prequal { latency, .. } => Some(latency),
            _ => None,
        }
    }

    /// How long it counts what an endpoint reports of its load, if it goes by that.
    pub fn report_age(self) -> Option<Duration> {
        match self {
            Self::Prequal { report_age, .. } => Some(report_age),
            _ => None,
        }
    }

    /// Whether it needs to know what a tier holds in all.
    pub(crate) fn needs_sums(self) -> bool {
        matches!(self, Self::Maglev { balance: Some(_), .. } | Self::RingHash { balance: Some(_), .. })
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::P2C
    }
}

/// The clients that a plan is compiled for: all that share a rule and a place.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassView<'a> {
    /// The rule that these clients match, a position in [`Steering::rules`], as [`Steering::first_match`] found it.
    pub rule: Option<usize>,
    /// Kilometres from these clients to each locality, in the order of [`ClusterView::localities`]. Missing entries and
    /// those that are no distance (negative, not finite) are unknown; an empty slice is unknown throughout.
    pub distances_km: &'a [Option<f64>],
}
