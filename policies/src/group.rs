//! What the endpoints of one locality hold together, and the limits on that.
//!
//! Summing up the counts of thousands of endpoints for each pick would cost more than the pick. So where a sum is asked
//! for (a limit of a cluster or a priority, the fair share of bounded load), each lease also counts in the group of the
//! locality that it was picked in. There it stays until it ends, also when a reload moves the endpoint elsewhere.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

/// Counts of one locality. They belong to its identity (cluster and name) and outlive snapshots.
///
/// Sequentially consistent, unlike other counts: of two workers that enter different groups under one limit at the same
/// moment, at least one has to see both.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Group {
    connections: AtomicU32,
    pending: AtomicU32,
}

impl Group {
    pub fn new() -> Self {
        Self::default()
    }

    /// Leases that were taken through this group and not given back.
    pub fn connections(&self) -> u32 {
        self.connections.load(SeqCst)
    }

    /// Those of them whose endpoint has not accepted yet.
    pub fn pending(&self) -> u32 {
        self.pending.load(SeqCst)
    }

    /// The same counts in a group of its own, for a look that must not count.
    pub(crate) fn copied(&self) -> Self {
        Self { connections: AtomicU32::new(self.connections()), pending: AtomicU32::new(self.pending()) }
    }
}

/// One lease counted in a group; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    group: Arc<Group>,
    pending: bool,
}

impl Held {
    pub(crate) fn enter(group: &Arc<Group>) -> Self {
        group.connections.fetch_add(1, SeqCst);
        group.pending.fetch_add(1, SeqCst);
        Self { group: Arc::clone(group), pending: true }
    }

    pub(crate) fn connected(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.group.pending.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connected();
        self.group.connections.fetch_sub(1, SeqCst);
    }
}

/// What a cluster, or the localities of one priority, may hold at most (Envoy calls it a circuit breaker).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels and requests at a time.
    pub max_connections: Option<NonZeroU32>,
    /// Of these, how many may wait for an endpoint to accept.
    pub max_pending: Option<NonZeroU32>,
}

impl Limits {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits with the groups whose sum they are on.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) groups: Box<[Arc<Group>]>,
    /// Leases that were taken before anything asked for sums, and so are in no group.
    pub(crate) uncounted: u32,
    pub(crate) limits: Limits,
}

impl Bound {
    /// Whether one more would fit.
    pub(crate) fn has_room(&self) -> bool {
        self.sums_are_within(|sum, max| sum < max)
    }

    /// Whether those that are counted fit. Asked after entering: of several workers that enter at once, none is let in
    /// past the limit, and at worst one too many is sent away.
    pub(crate) fn is_kept(&self) -> bool {
        self.sums_are_within(|sum, max| sum <= max)
    }

    fn sums_are_within(&self, fits: impl Fn(u32, u32) -> bool) -> bool {
        let within = |max: Option<NonZeroU32>, before: u32, count: fn(&Group) -> u32| {
            max.is_none_or(|max| {
                let sum = self.groups.iter().fold(before, |sum, group| sum.saturating_add(count(group)));
                fits(sum, max.get())
            })
        };
        within(self.limits.max_connections, self.uncounted, Group::connections)
            && within(self.limits.max_pending, 0, Group::pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_dropped_and_is_pending_until_it_is_connected() {
        let group = Arc::new(Group::new());
        let mut first = Held::enter(&group);
        let second = Held::enter(&group);
        assert_eq!((group.connections(), group.pending()), (2, 2));
        first.connected();
        first.connected();
        assert_eq!((group.connections(), group.pending()), (2, 1));
        drop(first);
        drop(second);
        assert_eq!((group.connections(), group.pending()), (0, 0));
    }

    #[test]
    fn a_bound_is_on_the_sum_of_its_groups() {
        let groups = [Arc::new(Group::new()), Arc::new(Group::new())];
        let limits = Limits { max_connections: NonZeroU32::new(3), max_pending: NonZeroU32::new(2) };
        let bound = Bound { groups: groups.clone().into(), uncounted: 0, limits };
        let mut held: Vec<Held> = groups.iter().map(Held::enter).collect();
        assert!(bound.is_kept() && !bound.has_room(), "two wait, and no third may");
        held.iter_mut().for_each(Held::connected);
        assert!(bound.has_room());
        held.push(Held::enter(&groups[0]));
        assert!(bound.is_kept() && !bound.has_room(), "three are connected or connecting");
        held.push(Held::enter(&groups[1]));
        assert!(!bound.is_kept());
        let later = Bound { uncounted: 3, limits: Limits { max_pending: None, ..limits }, ..bound };
        held.clear();
        assert!(later.is_kept() && !later.has_room(), "three came before the limit did");
    }
}
