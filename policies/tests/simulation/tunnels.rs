//! Clients that are connected, each until its time is over.

use std::{cmp::Ordering, collections::BinaryHeap};

use policies::Pick;

use crate::edge::place;

/// The connected clients, by when they leave.
#[derive(Default)]
pub(crate) struct Tunnels(BinaryHeap<Tunnel>);

struct Tunnel {
    until: f64,
    pick: Pick,
}

impl Tunnels {
    pub(crate) fn add(&mut self, pick: Pick, until: f64) {
        self.0.push(Tunnel { until, pick });
    }

    /// Those whose time is over give their leases back.
    pub(crate) fn leave(&mut self, now: f64) {
        while self.0.peek().is_some_and(|tunnel| tunnel.until <= now) {
            self.0.pop();
        }
    }

    /// All that these endpoints have break off.
    pub(crate) fn break_off(&mut self, at: impl Fn(usize) -> bool) -> usize {
        let before = self.0.len();
        self.0.retain(|tunnel| !at(place(&tunnel.pick)));
        before - self.0.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The heap's greatest is the one that leaves first.
impl Ord for Tunnel {
    fn cmp(&self, other: &Self) -> Ordering {
        other.until.total_cmp(&self.until)
    }
}

impl PartialOrd for Tunnel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Tunnel {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Tunnel {}
