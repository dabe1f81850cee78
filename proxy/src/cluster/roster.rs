//! Who the endpoints of a plan were, so that what was noted by position can be told by name.
//!
//! Health, weights and counts make new plans every second or so, while the list of endpoints changes with a reload or an
//! answer of DNS alone. So plans with the same list share one roster, and a few past ones are remembered.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Name;

/// Rosters that a cluster remembers, its present one included.
const KEPT: usize = 16;
/// Seats in all past rosters of a cluster; large clusters remember fewer. 64 Ki seats are 4 MiB.
const SEATS: usize = 65_536;

/// Counts rosters of the whole process, so that a number names one of one cluster.
static MADE: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Roster {
    pub id: u32,
    /// By `EndpointIx`.
    pub seats: Box<[Seat]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub address: SocketAddr,
    /// As people know it.
    pub name: Arc<str>,
    pub locality: Name,
}

/// The rosters of one cluster, latest last.
#[derive(Debug, Default)]
pub struct Rosters(Mutex<VecDeque<Arc<Roster>>>);

impl Rosters {
    /// The latest roster if it has these seats, else a new one.
    pub fn enter(&self, seats: Vec<Seat>) -> Arc<Roster> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = kept.back().filter(|latest| *latest.seats == *seats) {
            return latest.clone();
        }
        let id = MADE.fetch_add(1, Relaxed).wrapping_add(1);
        let roster = Arc::new(Roster { id, seats: seats.into() });
        kept.push_back(roster.clone());
        let seats = |kept: &VecDeque<Arc<Roster>>| kept.iter().map(|roster| roster.seats.len()).sum::<usize>();
        while kept.len() > KEPT || kept.len() > 1 && seats(&kept) > SEATS {
            kept.pop_front();
        }
        roster
    }

    pub fn find(&self, id: u32) -> Option<Arc<Roster>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|roster| roster.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(ports: std::ops::Range<u16>) -> Vec<Seat> {
        let seat = |port| Seat { address: ([10, 0, 0, 1], port).into(), name: "e".into(), locality: "here".into() };
        ports.map(seat).collect()
    }

    #[test]
    fn the_same_endpoints_again_are_the_same_roster_and_others_are_remembered_for_a_while() {
        let rosters = Rosters::default();
        let first = rosters.enter(seats(0..3));
        assert_eq!(rosters.enter(seats(0..3)).id, first.id);
        let second = rosters.enter(seats(0..4));
        assert_ne!(second.id, first.id);
        assert_eq!(rosters.find(first.id).unwrap().seats.len(), 3);
        for end in 5..5 + 16 {
            rosters.enter(seats(0..end));
        }
        assert!(rosters.find(first.id).is_none());
    }

    #[test]
    fn huge_rosters_are_remembered_in_a_bounded_number_and_the_latest_always() {
        let rosters = Rosters::default();
        let ids: Vec<u32> = (0..4).map(|n| rosters.enter(seats(n..n + 30_000)).id).collect();
        assert_eq!(ids.iter().filter(|id| rosters.find(**id).is_some()).count(), 2);
        assert!(rosters.find(ids[3]).is_some());
    }
}
