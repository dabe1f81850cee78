//! What each worker decided lately: its last 4096 picks, so that an operator can ask why a client went where it went.
//!
//! A pick is noted by the thread that makes it, in a ring of its own, in 128 bytes and without an allocation: about 20 ns, of
//! which the lock is more than half. The lock of a ring is held for one copy by its worker, and by whoever asks for a batch
//! of a few dozen comparisons; workers never meet on it.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policies::{Considered, EndpointIx, Kind, NoPick, Reason, Tick, Tried};

use crate::cluster::Cell;

/// Picks that each worker keeps.
pub const KEPT: usize = 4096;
/// Entries that a reader looks at under one lock: under a microsecond.
const BATCH: usize = 64;

/// One pick as it was made. What is known by position belongs to the plan or the roster of that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// As in the access log.
    pub connection: u64,
    at_nanos: u64,
    /// Of the worker, before the pick.
    pub dice: u64,
    key: u64,
    pub considered: Considered,
    generation: u32,
    pub plan: u32,
    pub roster: u32,
    pin: u32,
    tried: [u32; 2],
    rule: u16,
    port: u16,
    /// IPv4 as mapped addresses; unspecified where nobody was picked.
    address: Ipv6Addr,
    pub cell: Cell,
    pub kind: Kind,
    tier_and_key: TierAndKey,
    pub outcome: Result<Reason, NoPick>,
}

const _: () = assert!(size_of::<Decision>() <= 128, "4096 of them are half a MiB a worker");

/// For numbers that may be absent: no position reaches it.
const NONE: u32 = u32::MAX;
const NO_RULE: u16 = u16::MAX;

/// The tier in seven bits, and whether there was a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TierAndKey(u8);

/// What a pick is noted with.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    pub connection: u64,
    pub at: Tick,
    pub dice: u64,
    pub key: Option<u64>,
    pub pin: Option<EndpointIx>,
    pub tried: &'a Tried,
    pub considered: Considered,
    pub generation: u64,
    pub plan: u32,
    pub roster: u32,
    pub rule: Option<u16>,
    pub cell: Cell,
    pub kind: Kind,
    pub outcome: Result<Chosen, NoPick>,
}

/// Where a pick went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub address: SocketAddr,
    /// 0 is the preferred one.
    pub tier: u8,
    pub reason: Reason,
}

impl Decision {
    pub fn new(note: &Note<'_>) -> Decision {
        let mut tried = [NONE; 2];
        // A third endpoint that failed ends the trip: no pick comes after it.
        for (place, endpoint) in tried.iter_mut().zip(note.tried.iter()) {
            *place = endpoint.0;
        }
        let (address, port, tier) = match note.outcome {
            Ok(Chosen { address: SocketAddr::V4(v4), tier, .. }) => (v4.ip().to_ipv6_mapped(), v4.port(), tier),
            Ok(Chosen { address: SocketAddr::V6(v6), tier, .. }) => (*v6.ip(), v6.port(), tier),
            Err(_) => (Ipv6Addr::UNSPECIFIED, 0, 0),
        };
        Decision {
            connection: note.connection,
            // Enough for five centuries.
            at_nanos: u64::try_from(note.at.0.as_nanos()).unwrap_or(u64::MAX),
            dice: note.dice,
            key: note.key.unwrap_or_default(),
            considered: note.considered,
            generation: u32::try_from(note.generation).unwrap_or(u32::MAX),
            plan: note.plan,
            roster: note.roster,
            pin: note.pin.map_or(NONE, |pin| pin.0),
            tried,
            rule: note.rule.unwrap_or(NO_RULE),
            port,
            address,
            cell: note.cell,
            kind: note.kind,
            tier_and_key: TierAndKey(tier.min(0x7f) | u8::from(note.key.is_some()) << 7),
            outcome: note.outcome.map(|chosen| chosen.reason),
        }
    }

    pub fn at(&self) -> Tick {
        Tick(Duration::from_nanos(self.at_nanos))
    }

    pub fn generation(&self) -> u64 {
        self.generation.into()
    }

    pub fn key(&self) -> Option<u64> {
        (self.tier_and_key.0 & 0x80 != 0).then_some(self.key)
    }

    /// The endpoint that stickiness remembered, whether the client got it or not.
    pub fn pin(&self) -> Option<EndpointIx> {
        (self.pin != NONE).then_some(EndpointIx(self.pin))
    }

    /// The endpoints that had failed this client before.
    pub fn tried(&self) -> Tried {
        let mut tried = Tried::new();
        for ix in self.tried.into_iter().filter(|ix| *ix != NONE) {
            tried.push(EndpointIx(ix));
        }
        tried
    }

    pub fn rule(&self) -> Option<u16> {
        (self.rule != NO_RULE).then_some(self.rule)
    }

    pub fn chosen(&self) -> Result<Chosen, NoPick> {
        let reason = self.outcome?;
        let address = SocketAddr::new(self.address.to_canonical(), self.port);
        Ok(Chosen { address, tier: self.tier_and_key.0 & 0x7f, reason })
    }
}

/// The rings of all threads that pick.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Vec<Arc<Ring>>>);

impl Decisions {
    /// A ring for one more thread.
    pub fn join(&self) -> Arc<Ring> {
        let ring = Arc::new(Ring::new());
        self.rings().push(ring.clone());
        ring
    }

    /// What is kept of a connection, oldest first.
    pub fn of(&self, connection: u64) -> Vec<Decision> {
        let rings = self.rings().clone();
        let mut found: Vec<Decision> = rings.iter().flat_map(|ring| ring.of(connection)).collect();
        found.sort_by_key(|decision| decision.at_nanos);
        found
    }

    fn rings(&self) -> MutexGuard<'_, Vec<Arc<Ring>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last picks of one worker.
#[derive(Debug)]
pub struct Ring(Mutex<Slots>);

#[derive(Debug)]
struct Slots {
    /// Fills up to [`KEPT`], and from then on the oldest is replaced.
    entries: Vec<Decision>,
    next: usize,
}

impl Ring {
    fn new() -> Ring {
        Ring(Mutex::new(Slots { entries: Vec::new(), next: 0 }))
    }

    pub fn note(&self, decision: Decision) {
        let Slots { entries, next } = &mut *self.slots();
        if entries.is_empty() {
            // The whole room at once, and each page of it written: no pick after the first allocates, and memory does not
            // seem to grow with the clients of the first minutes.
            *entries = vec![decision; KEPT];
            entries.clear();
        }
        match entries.get_mut(*next) {
            Some(oldest) => *oldest = decision,
            None => entries.push(decision),
        }
        *next = (*next + 1) % KEPT;
    }

    /// Picks that are made meanwhile may or may not be among them; each that is, is whole.
    fn of(&self, connection: u64) -> Vec<Decision> {
        let mut found = Vec::new();
        for start in (0..KEPT).step_by(BATCH) {
            // So that nothing is allocated under the lock.
            found.reserve(BATCH);
            let slots = self.slots();
            let Some(rest) = slots.entries.get(start..) else { break };
            found.extend(rest.iter().take(BATCH).filter(|decision| decision.connection == connection));
        }
        found
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    fn decision(connection: u64, outcome: Result<Chosen, NoPick>) -> Decision {
        let mut tried = Tried::new();
        tried.push(EndpointIx(5));
        Decision::new(&Note {
            connection,
            at: Tick(Duration::from_nanos(connection)),
            dice: connection,
            key: Some(connection),
            pin: None,
            tried: &tried,
            considered: Considered::default(),
            generation: connection,
            plan: 3,
            roster: 4,
            rule: Some(2),
            cell: Cell::Country(*b"DE"),
            kind: Kind::Request,
            outcome,
        })
    }

    fn refused(connection: u64) -> Decision {
        decision(connection, Err(NoPick::AllFull))
    }

    #[test]
    fn what_was_noted_is_read_back() {
        for address in ["10.0.0.7:5222", "[2001:db8::7]:5222"] {
            let chosen = Chosen { address: address.parse().unwrap(), tier: 1, reason: Reason::Spill };
            let read = decision(9, Ok(chosen));
            assert_eq!(read.chosen(), Ok(chosen));
            assert_eq!((read.key(), read.pin(), read.rule(), read.generation()), (Some(9), None, Some(2), 9));
            assert_eq!(read.at(), Tick(Duration::from_nanos(9)));
            assert!(read.tried().contains(EndpointIx(5)) && read.tried().len() == 1);
        }
        assert_eq!(refused(1).chosen(), Err(NoPick::AllFull));
    }

    #[test]
    fn a_ring_keeps_the_last_picks_of_its_worker_and_never_grows() {
        let decisions = Decisions::default();
        let (ring, other) = (decisions.join(), decisions.join());
        other.note(refused(1));
        let room = other.slots().entries.capacity();
        for connection in 2..2 + KEPT as u64 {
            ring.note(refused(connection));
        }
        assert_eq!(decisions.of(2).len(), 1, "all places are taken, and none twice");
        ring.note(refused(KEPT as u64 + 2));
        assert_eq!(decisions.of(2), []);
        assert_eq!(decisions.of(3), [refused(3)]);
        assert_eq!(decisions.of(1), [refused(1)], "another worker's ring is its own");
        let slots = ring.slots();
        assert_eq!((slots.entries.len(), slots.entries.capacity()), (KEPT, room));
    }

    #[test]
    fn the_picks_of_a_connection_come_oldest_first_whoever_made_them() {
        let decisions = Decisions::default();
        let rings = [decisions.join(), decisions.join()];
        for at in [3_u64, 1, 2] {
            let mut made = refused(7);
            made.at_nanos = at;
            rings[usize::from(at == 2)].note(made);
        }
        let at: Vec<u64> = decisions.of(7).iter().map(|decision| decision.at_nanos).collect();
        assert_eq!(at, [1, 2, 3]);
    }

    #[test]
    fn a_reader_beside_the_worker_never_sees_half_an_entry() {
        let decisions = Decisions::default();
        let ring = decisions.join();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..40_000_u64 {
                    let mut made = refused(7);
                    (made.at_nanos, made.dice, made.key) = (round, round, round);
                    ring.note(made);
                }
                over.store(true, Relaxed);
            });
            while !over.load(Relaxed) {
                let whole = |made: &Decision| made.at_nanos == made.dice && made.dice == made.key;
                assert!(decisions.of(7).iter().all(whole));
            }
        });
        assert_eq!(decisions.of(7).len(), KEPT);
    }
}
