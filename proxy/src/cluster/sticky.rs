//! Which endpoint each client of a cluster had, so that one that comes back soon gets it again.
//!
//! An endpoint is remembered by its address: plans come and go, and what the address means is looked up in the plan of
//! the moment. The table is bounded. It is cut into parts with a lock each, held for one look-up, so workers seldom meet;
//! what is full forgets the client that was not seen for longest.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use hashlink::LinkedHashMap;
use policies::Tick;

use crate::config::Stickiness;

/// Parts of a table at most, and the clients that a part is at least for: small tables are one part, so that their limit
/// is exact and the oldest of all is forgotten first.
const PARTS: usize = 64;
const PART_LEAST: usize = 256;

/// Stickiness of one cluster over reloads: its table while the files ask for one, and what came of the look-ups.
#[derive(Default)]
pub struct Sticky {
    table: ArcSwapOption<Table>,
    counts: Counts,
}

/// What came of a client's look-up. A closed set: it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The client got the endpoint that it had.
    Hit,
    /// Nothing is known of the client, or no longer.
    Miss,
    /// The endpoint that it had cannot take it: gone, not up, full, tried, or outside a strict rule.
    Unavailable,
    /// The client has none of the sources of `hash-on`.
    NoKey,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    unavailable: AtomicU64,
    no_key: AtomicU64,
    evicted: AtomicU64,
}

impl Sticky {
    /// Makes the table what the files say. A new limit or time keeps the clients that fit.
    pub fn fit(&self, settings: Option<Stickiness>, now: Tick) {
        let table = self.table.load_full();
        match (settings, table) {
            (None, None) => {}
            (None, Some(_)) => self.table.store(None),
            (Some(settings), Some(table)) if table.settings == settings => {}
            (Some(settings), before) => {
                let table = match before {
                    None => Table::new(settings, RandomState::new()),
                    Some(before) => Table::after(&before, settings, now),
                };
                self.table.store(Some(Arc::new(table)));
            }
        }
    }

    /// Where a client was, if that is not too long ago.
    pub fn find(&self, key: u64, now: Tick) -> Option<SocketAddr> {
        self.table.load().as_ref()?.find(key, now)
    }

    /// A client is connected.
    pub fn began(&self, key: u64, address: SocketAddr, now: Tick) {
        if let Some(table) = &*self.table.load() {
            self.counts.evicted.fetch_add(table.began(key, address, now), Relaxed);
        }
    }

    /// A connection that began ended.
    pub fn ended(&self, key: u64, address: SocketAddr, now: Tick) {
        if let Some(table) = &*self.table.load() {
            self.counts.evicted.fetch_add(table.ended(key, address, now), Relaxed);
        }
    }

    /// Forgets whom there is no more reason to remember, in one part of the table: the next, each time.
    pub fn expire(&self, now: Tick) {
        if let Some(table) = &*self.table.load() {
            table.expire(now);
        }
    }

    pub fn count(&self, lookup: Lookup) {
        let count = match lookup {
            Lookup::Hit => &self.counts.hits,
            Lookup::Miss => &self.counts.misses,
            Lookup::Unavailable => &self.counts.unavailable,
            Lookup::NoKey => &self.counts.no_key,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Clients that are remembered; `None` while the files ask for no stickiness.
    pub fn entries(&self) -> Option<usize> {
        self.table.load().as_ref().map(|table| table.len())
    }

    /// What happened since the process started, by the labels of metrics.
    pub fn results(&self) -> [(&'static str, u64); 5] {
        let Counts { hits, misses, unavailable, no_key, evicted } = &self.counts;
        [("hit", hits), ("miss", misses), ("unavailable", unavailable), ("no-key", no_key), ("evicted", evicted)]
            .map(|(result, count)| (result, count.load(Relaxed)))
    }
}

/// The clients themselves. Pure: time is an argument.
struct Table {
    settings: Stickiness,
    parts: Box<[Part]>,
    /// Most clients in one part.
    part_limit: usize,
    /// Keys come from clients, who could choose them to meet in one part or slot.
    secret: RandomState,
    next_to_expire: AtomicUsize,
}

/// A part, on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Part(Mutex<Clients>);

/// In the order in which they were seen last. By the hash of their key with the table's secret, which is not hashed again.
type Clients = LinkedHashMap<u64, Client, BuildHasherDefault<AsItIs>>;

#[derive(Debug, Clone, Copy)]
struct Client {
    address: SocketAddr,
    /// Connections open now, as far as they began in this entry.
    open: u32,
    /// When a connection last began or ended.
    seen: Tick,
}

impl Table {
    fn new(settings: Stickiness, secret: RandomState) -> Table {
        let limit = settings.max_entries.get();
        let parts = (limit / PART_LEAST).clamp(1, PARTS);
        // Rounded down to a power of two, and the limit of a part as well: together they never hold more than the limit.
        let parts = 1 << parts.ilog2();
        Table {
            settings,
            parts: (0..parts).map(|_| Part::default()).collect(),
            part_limit: limit / parts,
            secret,
            next_to_expire: AtomicUsize::new(0),
        }
    }

    /// With the clients of a table with other settings, the latest of them if not all fit.
    fn after(before: &Table, settings: Stickiness, now: Tick) -> Table {
        // What is known of a key is its hash, so the secret stays.
        let table = Table::new(settings, before.secret.clone());
        let mut all: Vec<(u64, Client)> = Vec::with_capacity(before.len());
        for part in &before.parts {
            all.extend(lock(part).iter().map(|(hash, client)| (*hash, *client)));
        }
        all.sort_by_key(|(_, client)| client.seen);
        for (hash, client) in all {
            table.insert(&mut lock(table.part_of(hash)), hash, client, now);
        }
        table
    }

    fn find(&self, key: u64, now: Tick) -> Option<SocketAddr> {
        let (hash, clients) = self.part(key);
        let client = clients.get(&hash)?;
        (!self.has_expired(client, now)).then_some(client.address)
    }

    /// How many clients had to be forgotten for it.
    fn began(&self, key: u64, address: SocketAddr, now: Tick) -> u64 {
        let (hash, mut clients) = self.part(key);
        match clients.get_mut(&hash) {
            Some(client) if client.address == address => {
                client.open = client.open.saturating_add(1);
                client.seen = now;
            }
            Some(client) => *client = Client { address, open: 1, seen: now },
            None => return self.insert(&mut clients, hash, Client { address, open: 1, seen: now }, now),
        }
        clients.to_back(&hash);
        0
    }

    /// As [`Table::began`]. A client that has gone to another endpoint meanwhile stays with that one.
    fn ended(&self, key: u64, address: SocketAddr, now: Tick) -> u64 {
        let (hash, mut clients) = self.part(key);
        match clients.get_mut(&hash) {
            Some(client) if client.address == address => {
                client.open = client.open.saturating_sub(1);
                client.seen = now;
            }
            Some(client) if self.has_expired(client, now) => *client = Client { address, open: 0, seen: now },
            Some(_) => return 0,
            // Forgotten while it was connected: the table is too small, or new.
            None => return self.insert(&mut clients, hash, Client { address, open: 0, seen: now }, now),
        }
        clients.to_back(&hash);
        0
    }

    fn insert(&self, clients: &mut Clients, hash: u64, client: Client, now: Tick) -> u64 {
        let mut evicted = 0;
        while clients.len() >= self.part_limit
            && let Some((_, oldest)) = clients.pop_front()
        {
            evicted += u64::from(!self.has_expired(&oldest, now));
        }
        clients.insert(hash, client);
        evicted
    }

    fn expire(&self, now: Tick) {
        let part = self.next_to_expire.fetch_add(1, Relaxed) & (self.parts.len() - 1);
        lock(&self.parts[part]).retain(|_, client| !self.has_expired(client, now));
    }

    /// A client with an open connection is known for as long as that lasts.
    fn has_expired(&self, client: &Client, now: Tick) -> bool {
        client.open == 0 && now.since(client.seen) >= self.settings.ttl
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    fn part(&self, key: u64) -> (u64, MutexGuard<'_, Clients>) {
        let hash = self.secret.hash_one(key);
        (hash, lock(self.part_of(hash)))
    }

    /// By bits from the middle: the map takes its own from both ends.
    fn part_of(&self, hash: u64) -> &Part {
        let middle = (hash >> 32) as usize;
        &self.parts[middle & (self.parts.len() - 1)]
    }
}

fn lock(part: &Part) -> MutexGuard<'_, Clients> {
    // Held for a few instructions and never across a call that may panic half-way through a change.
    part.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For keys that are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `u64` is hashed here; for anything else this is a poor hash, but one.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TTL: u64 = 300;

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn settings(max_entries: usize) -> Stickiness {
        Stickiness { ttl: Duration::from_secs(TTL), max_entries: NonZeroUsize::new(max_entries).unwrap() }
    }

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn sticky(max_entries: usize) -> Sticky {
        let sticky = Sticky::default();
        sticky.fit(Some(settings(max_entries)), at(0));
        sticky
    }

    fn evicted(sticky: &Sticky) -> u64 {
        sticky.results()[4].1
    }

    #[test]
    fn a_client_is_known_until_its_time_after_the_last_end() {
        let sticky = sticky(10);
        assert_eq!(sticky.find(1, at(0)), None);
        sticky.began(1, endpoint(1), at(0));
        // Connected for longer than the time: known all along.
        assert_eq!(sticky.find(1, at(10 * TTL)), Some(endpoint(1)));
        sticky.ended(1, endpoint(1), at(10 * TTL));
        assert_eq!(sticky.find(1, at(11 * TTL - 1)), Some(endpoint(1)));
        assert_eq!(sticky.find(1, at(11 * TTL)), None);
    }

    #[test]
    fn of_two_connections_the_last_to_end_counts() {
        let sticky = sticky(10);
        sticky.began(1, endpoint(1), at(0));
        sticky.began(1, endpoint(1), at(1));
        sticky.ended(1, endpoint(1), at(2));
        assert_eq!(sticky.find(1, at(5 * TTL)), Some(endpoint(1)));
        sticky.ended(1, endpoint(1), at(5 * TTL));
        assert_eq!(sticky.find(1, at(6 * TTL)), None);
    }

    #[test]
    fn a_client_that_moved_stays_where_it_went() {
        let sticky = sticky(10);
        sticky.began(1, endpoint(1), at(0));
        sticky.began(1, endpoint(2), at(1));
        sticky.ended(1, endpoint(1), at(2));
        assert_eq!(sticky.find(1, at(3)), Some(endpoint(2)));
        sticky.ended(1, endpoint(2), at(3));
        assert_eq!(sticky.find(1, at(3 + TTL)), None);
        // The other end of a connection that outlived everything known of its client.
        sticky.ended(1, endpoint(1), at(4 + TTL));
        assert_eq!(sticky.find(1, at(5 + TTL)), Some(endpoint(1)));
    }

    #[test]
    fn a_full_table_forgets_whom_it_saw_longest_ago() {
        let sticky = sticky(3);
        for key in 1..=3 {
            sticky.began(key, endpoint(1), at(key));
            sticky.ended(key, endpoint(1), at(key));
        }
        sticky.began(1, endpoint(1), at(4));
        sticky.began(4, endpoint(1), at(5));
        assert_eq!((sticky.entries(), evicted(&sticky)), (Some(3), 1));
        let known: Vec<u64> = (1..=4).filter(|key| sticky.find(*key, at(6)).is_some()).collect();
        assert_eq!(known, [1, 3, 4]);
    }

    #[test]
    fn who_has_expired_makes_room_and_is_not_evicted() {
        let sticky = sticky(2);
        for key in [1, 2] {
            sticky.began(key, endpoint(1), at(0));
            sticky.ended(key, endpoint(1), at(0));
        }
        sticky.began(3, endpoint(1), at(TTL));
        assert_eq!((sticky.entries(), evicted(&sticky)), (Some(2), 0));
        sticky.expire(at(TTL));
        assert_eq!(sticky.entries(), Some(1));
        sticky.expire(at(9 * TTL));
        assert_eq!(sticky.entries(), Some(1), "still connected");
    }

    #[test]
    fn new_settings_keep_the_latest_clients_and_none_forget_them() {
        let sticky = sticky(10_000);
        for key in 0..5_000 {
            sticky.began(key, endpoint(1), at(key));
        }
        sticky.fit(Some(settings(100)), at(5_000));
        assert_eq!(sticky.entries(), Some(100));
        assert!((4_900..5_000).all(|key| sticky.find(key, at(5_000)) == Some(endpoint(1))));
        sticky.ended(4_999, endpoint(1), at(5_000));
        assert_eq!(sticky.find(4_999, at(5_000 + TTL)), None, "a connection that began before ends after");
        sticky.fit(None, at(5_000));
        assert_eq!((sticky.entries(), sticky.find(4_998, at(5_000))), (None, None));
    }

    proptest! {
        /// Whatever happens, in whatever order: the limit holds, nobody is known too long, and the address is the one that
        /// the client was last seen at.
        #[test]
        fn the_table_keeps_its_limit_and_its_time(
            limit in 1usize..600,
            steps in proptest::collection::vec((0u64..700, 0u16..4, any::<bool>(), 0u64..20), 1..1500),
        ) {
            let sticky = sticky(limit);
            let mut open: Vec<(u64, SocketAddr)> = Vec::new();
            let mut last = std::collections::HashMap::new();
            let mut now = 0;
            for (key, port, begins, passes) in steps {
                now += passes;
                if begins {
                    sticky.began(key, endpoint(port), at(now));
                    open.push((key, endpoint(port)));
                    last.insert(key, now);
                } else if let Some((key, address)) = open.pop() {
                    sticky.ended(key, address, at(now));
                    last.insert(key, now);
                }
                prop_assert!(sticky.entries().unwrap() <= limit);
            }
            let connected = |key: u64| open.iter().any(|(open, _)| *open == key);
            for key in 0..700 {
                if sticky.find(key, at(now)).is_some() {
                    prop_assert!(connected(key) || now - last[&key] < TTL);
                }
            }
            // Once everybody has left and the time is over, nobody is known.
            for (key, address) in open.drain(..) {
                sticky.ended(key, address, at(now));
            }
            (0..PARTS).for_each(|_| sticky.expire(at(now + TTL)));
            prop_assert_eq!(sticky.entries(), Some(0));
        }
    }
}
