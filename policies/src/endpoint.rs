//! Endpoints and the localities they stand in, as one snapshot shows them.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use crate::load::Load;

/// The position of an endpoint in [`ClusterView::endpoints`](crate::ClusterView::endpoints). It means nothing in another
/// snapshot; what outlives snapshots is the endpoint's [`Load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIx(pub u32);

/// The position of a locality in [`ClusterView::localities`](crate::ClusterView::localities).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalityIx(pub u16);

/// One address that can take clients, with what is known of it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What `explain` shows, for example `10.0.0.1:5222`.
    pub name: Arc<str>,
    pub locality: LocalityIx,
    pub weight: Weight,
    /// Leases the endpoint may hold at most; `None` is no limit.
    pub max_connections: Option<NonZeroU32>,
    pub standing: Standing,
    pub load: Arc<Load>,
}

/// A region or zone: endpoints that are equally near.
#[derive(Debug, Clone)]
pub struct Locality {
    pub name: Arc<str>,
    /// Lower is preferred, where steering asks for it.
    pub priority: u32,
    /// The band of the round-trip time from this edge, as [`BandState`](crate::BandState) decided it: 0 is nearest.
    /// `None` is unknown, and comes after every known band.
    pub rtt_band: Option<u8>,
    /// The figure behind the band, in milliseconds. For `explain` alone; no pick reads it.
    pub rtt_ms: Option<f64>,
}

/// How much of the traffic an endpoint should carry, relative to its neighbours: 1 to 65535, 1 by default.
///
/// There is no zero. nginx, HAProxy and Envoy disagree on what it means (refused, drained, ignored), and what an operator
/// wants by it has a name here: [`Standing::Draining`] or [`Standing::Maintenance`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// `None` for zero.
    pub fn new(weight: u16) -> Option<Self> {
        NonZeroU16::new(weight).map(Self)
    }

    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(NonZeroU16::MIN)
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({})", self.0)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an endpoint may get. In the order of severity: of several votes the greatest, which is the worst, counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Takes new connections.
    #[default]
    Up,
    /// In doubt: nothing new, save in panic.
    Suspect,
    /// Leaving: nothing new, not even in panic. What it has stays and is asked to leave.
    Draining,
    /// Out of service by an operator: nothing new, not even in panic.
    Maintenance,
    /// Failed: nothing new, save in panic.
    Down,
}

impl Standing {
    /// Every standing, in the order of severity.
    pub const ALL: [Self; 5] = [Self::Up, Self::Suspect, Self::Draining, Self::Maintenance, Self::Down];

    /// Whether new connections come here in ordinary times.
    pub fn takes_new(self) -> bool {
        self == Self::Up
    }

    /// Whether new connections come here when so many endpoints fail that health is no longer believed. Draining and
    /// maintenance are somebody's wish and not a guess about health, so panic does not override them.
    pub fn takes_in_panic(self) -> bool {
        match self {
            Self::Up | Self::Suspect | Self::Down => true,
            Self::Draining | Self::Maintenance => false,
        }
    }

    /// The word that metrics and people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_votes_the_worst_counts() {
        let votes = [Standing::Suspect, Standing::Maintenance, Standing::Up, Standing::Draining];
        assert_eq!(votes.into_iter().max(), Some(Standing::Maintenance));
        assert!(Standing::ALL.is_sorted());
    }

    #[test]
    fn only_up_takes_new_and_panic_respects_the_operator() {
        let takes = |may: fn(Standing) -> bool| Standing::ALL.into_iter().filter(|&s| may(s)).collect::<Vec<_>>();
        assert_eq!(takes(Standing::takes_new), [Standing::Up]);
        assert_eq!(takes(Standing::takes_in_panic), [Standing::Up, Standing::Suspect, Standing::Down]);
    }

    #[test]
    fn a_weight_is_never_zero() {
        assert_eq!(Weight::new(0), None);
        assert_eq!(Weight::new(7).map(Weight::get), Some(7));
        assert_eq!(Weight::default().get(), 1);
    }
}
