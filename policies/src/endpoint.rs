//! Endpoints and the localities they stand in, as one snapshot shows them.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use crate::{accept_rate::AcceptRate, group::Group, load::Load, slow_start::Ramp};

/// The position of an endpoint in [`ClusterView::endpoints`](crate::ClusterView::endpoints). It means nothing in another
/// snapshot; what outlives snapshots is the endpoint's [`Load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIx(pub u32);

/// The position of a locality in [`ClusterView::localities`](crate::ClusterView::localities).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalityIx(pub u16);

/// One address that can take clients, with what is known of it.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// What `explain` shows, for example `10.0.0.1:5222`. Hash tables go by it, so it is the same on every edge.
    pub name: Arc<str>,
    pub locality: LocalityIx,
    pub weight: Weight,
    /// The weight that hash tables are built with: as configured, so that no agent and no hour moves keys. `None` is
    /// `weight`.
    pub table_weight: Option<Weight>,
    /// Leases the endpoint may hold at most; `None` is no limit.
    pub max_connections: Option<NonZeroU32>,
    /// New connections that it may get in a second; `None` is no limit.
    pub accept_rate: Option<AcceptRate>,
    /// How far it has come in its slow start.
    pub ramp: Ramp,
    /// It says itself that it does not work well: it gets clients only when the healthy ones cannot carry all of them.
    pub degraded: bool,
    pub standing: Standing,
    pub load: Arc<Load>,
}

/// A region or zone: endpoints that are equally near.
#[derive(Debug, Clone, Default)]
pub struct Locality {
    pub name: Arc<str>,
    /// Lower is preferred, where steering asks for it.
    pub priority: u32,
    /// The band of the round-trip time from this edge, as [`BandState`](crate::BandState) decided it: 0 is nearest.
    /// `None` is unknown, and comes after every known band.
    pub rtt_band: Option<u8>,
    /// The figure behind the band, in milliseconds. For `explain` alone; no pick reads it.
    pub rtt_ms: Option<f64>,
    /// How much of the new clients that steering sends here may come; the rest goes to the next tier.
    pub share: Share,
    /// Connections that it is built for, where the spill-over goes by capacity.
    pub capacity: Option<NonZeroU32>,
    /// Where leases are summed up, if anything asks for the sum.
    pub group: Arc<Group>,
}

/// A share of new clients in whole percent, 0 to 100. Zero takes a locality out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u8);

impl Share {
    pub const ALL: Self = Self(100);
    pub const NONE: Self = Self(0);

    /// `None` for more than a hundred.
    pub fn percent(percent: u8) -> Option<Self> {
        (percent <= 100).then_some(Self(percent))
    }

    pub fn as_percent(self) -> u8 {
        self.0
    }

    /// What is left of this share when `percent` of it is taken away. Never nothing where there was something: only an
    /// operator takes a locality out of service.
    pub fn without(self, percent: u8) -> Self {
        let left = u16::from(self.0) * u16::from(100 - percent.min(100)) / 100;
        let least = u16::from(self.0.min(1));
        Self(u8::try_from(left.max(least)).unwrap_or(100))
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::ALL
    }
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
    fn a_share_that_is_lowered_again_and_again_never_becomes_nothing_by_itself() {
        assert_eq!(Share::ALL.without(30).as_percent(), 70);
        assert_eq!(Share::percent(50).map(|half| half.without(50).as_percent()), Some(25));
        assert_eq!(Share::ALL.without(100).as_percent(), 1);
        assert_eq!(Share::NONE.without(10), Share::NONE);
        assert_eq!(Share::percent(101), None);
    }

    #[test]
    fn a_weight_is_never_zero() {
        assert_eq!(Weight::new(0), None);
        assert_eq!(Weight::new(7).map(Weight::get), Some(7));
        assert_eq!(Weight::default().get(), 1);
    }
}
