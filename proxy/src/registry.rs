//! Who is connected, and how to ask them to leave.
//!
//! Every downstream connection has one [`Entry`], shared by its task, the registry and nobody else. It carries the live
//! byte counters and one command slot. Everything that makes connections leave (a stop, a removed listener or
//! endpoint, the idle sweeper) puts a [`Command`] there and wakes the task; nobody else touches a connection's socket.
//!
//! One shard a worker, so that workers do not meet on a lock. The lock is held for a few instructions: readers copy
//! entries out in small batches.

mod life;
mod slot;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slab::Slab;

pub use self::life::{Life, Sign};
use self::slot::Slot;
use crate::cluster::EndpointState;
use crate::config::Signals;
use crate::listener::ListenerIdentity;

/// How many entries are copied out of a shard under one lock.
const BATCH: usize = 256;
/// How many places of a shard are looked at under one lock, empty ones too.
const SCAN: usize = 4 * BATCH;

/// Why a connection is asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LeaveReason {
    /// The process stops.
    Stop = 1,
    /// A reload took the listener away.
    ListenerRemoved = 2,
    /// A reload took the endpoint away.
    EndpointRemoved = 3,
    /// No byte either way for the idle time.
    Idle = 4,
    /// The endpoint drains: its agent or an operator wants it empty.
    EndpointDraining = 5,
    /// The endpoint is down, and its cluster cuts then.
    EndpointDown = 6,
}

impl LeaveReason {
    const ALL: [LeaveReason; 6] = [
        LeaveReason::Stop,
        LeaveReason::ListenerRemoved,
        LeaveReason::EndpointRemoved,
        LeaveReason::Idle,
        LeaveReason::EndpointDraining,
        LeaveReason::EndpointDown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            LeaveReason::Stop => "stop",
            LeaveReason::ListenerRemoved => "listener-removed",
            LeaveReason::EndpointRemoved => "endpoint-removed",
            LeaveReason::Idle => "idle",
            LeaveReason::EndpointDraining => "endpoint-draining",
            LeaveReason::EndpointDown => "endpoint-down",
        }
    }

    /// The WebSocket close code (RFC 6455 section 7.4, IANA registry): 1012 tells clients to reconnect, 1001 that this
    /// end goes away.
    pub fn close_code(self) -> u16 {
        match self {
            LeaveReason::Stop
            | LeaveReason::EndpointRemoved
            | LeaveReason::EndpointDraining
            | LeaveReason::EndpointDown => 1012,
            LeaveReason::ListenerRemoved | LeaveReason::Idle => 1001,
        }
    }

    fn from_code(code: u8) -> Option<LeaveReason> {
        LeaveReason::ALL.into_iter().find(|reason| *reason as u8 == code)
    }
}

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Say goodbye properly, then close.
    Leave(LeaveReason),
    /// Close now.
    Cut(LeaveReason),
}

impl Command {
    fn code(self) -> u8 {
        match self {
            Command::Leave(reason) => reason as u8,
            Command::Cut(reason) => reason as u8 | slot::FINAL,
        }
    }

    fn from_code(code: u8) -> Option<Command> {
        let reason = LeaveReason::from_code(code & !slot::FINAL)?;
        Some(if code & slot::FINAL == 0 { Command::Leave(reason) } else { Command::Cut(reason) })
    }
}

/// What the slot is made of.
mod primitives {
    pub(super) use std::sync::atomic::AtomicU8;

    pub(super) use atomic_waker::AtomicWaker;
}

/// One downstream connection.
pub struct Entry {
    pub id: u64,
    pub listener: Arc<ListenerIdentity>,
    /// Set once, when the connection became a tunnel.
    endpoint: OnceLock<Arc<EndpointState>>,
    /// Set with the endpoint, if outliers are looked for among its cluster.
    life: OnceLock<Life>,
    to_endpoint: AtomicU64,
    to_client: AtomicU64,
    /// Milliseconds without a byte after which the sweeper asks a tunnel to leave; 0 for connections that mind their
    /// own time (HTTP).
    idle_limit_ms: AtomicU32,
    /// The sweeper's own notes: the byte count it saw last, and for how long it has not changed.
    swept_bytes: AtomicU64,
    quiet_ms: AtomicU32,
    slot: Slot,
    /// TCP trips and HTTP requests that have begun.
    trips: AtomicU32,
}

impl Entry {
    fn new(id: u64, listener: Arc<ListenerIdentity>) -> Entry {
        Entry {
            id,
            listener,
            endpoint: OnceLock::new(),
            life: OnceLock::new(),
            to_endpoint: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            idle_limit_ms: AtomicU32::new(0),
            swept_bytes: AtomicU64::new(0),
            quiet_ms: AtomicU32::new(0),
            slot: Slot::default(),
            trips: AtomicU32::new(0),
        }
    }

    /// Makes this a tunnel to `endpoint` that is asked to leave after `idle` without a byte, and is `watched` for signs of
    /// life.
    pub fn becomes_tunnel(&self, endpoint: Arc<EndpointState>, idle: Duration, watched: Option<Signals>) {
        if let Some(signals) = watched {
            self.life.set(Life::new(signals)).ok();
        }
        // A connection becomes a tunnel once; a second call would be a bug of ours and changes nothing.
        self.endpoint.set(endpoint).ok();
        self.idle_limit_ms.store(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX), Relaxed);
        // Picked before the endpoint was taken away or drained, connected after its tunnels were asked to leave. One that
        // is down may have been picked in panic, after that: its tunnel stays.
        match self.endpoint().and_then(|endpoint| endpoint.leaving()) {
            Some(LeaveReason::EndpointDown) | None => {}
            Some(reason) => self.tell(Command::Leave(reason)),
        }
    }

    pub fn endpoint(&self) -> Option<&Arc<EndpointState>> {
        self.endpoint.get()
    }

    /// The signs of life of a tunnel that is watched.
    pub fn life(&self) -> Option<&Life> {
        self.life.get()
    }

    pub fn is_tunnel(&self) -> bool {
        self.endpoint.get().is_some()
    }

    /// Only the connection's own task counts, so no atomic addition is needed.
    pub fn count_to_endpoint(&self, bytes: usize) {
        self.to_endpoint.store(self.to_endpoint.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub fn count_to_client(&self, bytes: usize) {
        self.to_client.store(self.to_client.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// Bytes relayed so far: to the endpoint, to the client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_endpoint.load(Relaxed), self.to_client.load(Relaxed))
    }

    /// Puts a command into the slot and wakes the task. A cut replaces a leave, never the other way round.
    pub fn tell(&self, command: Command) {
        self.slot.tell(command.code());
    }

    pub fn command(&self) -> Option<Command> {
        Command::from_code(self.slot.command())
    }

    /// What this connection was told, if anything. Its task is woken by the next command, for which `listens` is its note.
    pub fn poll_command(&self, cx: &Context<'_>, listens: &mut bool) -> Option<Command> {
        Command::from_code(self.slot.listen(cx.waker(), listens))
    }

    /// Resolves at the next command, or at once when there is one.
    pub async fn commanded(&self) -> Command {
        self.until(Some).await
    }

    /// Resolves when the connection is cut.
    pub async fn cut(&self) -> LeaveReason {
        self.until(|command| if let Command::Cut(reason) = command { Some(reason) } else { None }).await
    }

    async fn until<T>(&self, wanted: impl Fn(Command) -> Option<T>) -> T {
        std::future::poll_fn(|cx| {
            // Others of the same task may have listened since, under a waker of their own.
            let command = self.poll_command(cx, &mut false);
            command.and_then(&wanted).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// A trip has begun, which will have an event of its own.
    pub fn trip_begins(&self) {
        self.trips.fetch_add(1, Relaxed);
    }

    pub fn trips(&self) -> u32 {
        self.trips.load(Relaxed)
    }

    /// One round of the sweeper, `elapsed_ms` after the one before: whether the idle limit has been reached.
    fn has_gone_idle(&self, elapsed_ms: u32) -> bool {
        let limit = self.idle_limit_ms.load(Relaxed);
        if limit == 0 {
            return false;
        }
        let (up, down) = self.bytes();
        let bytes = up + down;
        if self.swept_bytes.swap(bytes, Relaxed) != bytes {
            self.quiet_ms.store(0, Relaxed);
            return false;
        }
        let quiet = self.quiet_ms.load(Relaxed).saturating_add(elapsed_ms);
        self.quiet_ms.store(quiet, Relaxed);
        quiet >= limit
    }
}

/// All connections of the process.
pub struct Registry {
    shards: Box<[Mutex<Slab<Arc<Entry>>>]>,
    next_id: AtomicU64,
    connections: AtomicUsize,
}

/// A connection's place in the registry; dropping it takes the connection out.
pub struct Registered {
    registry: Arc<Registry>,
    shard: usize,
    key: usize,
    entry: Arc<Entry>,
}

impl Registry {
    pub fn new(workers: usize) -> Registry {
        Registry {
            shards: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            next_id: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
        }
    }

    pub fn register(self: &Arc<Self>, worker: usize, listener: Arc<ListenerIdentity>) -> Registered {
        let entry = Arc::new(Entry::new(self.next_id(), listener));
        let shard = worker % self.shards.len();
        let key = self.lock(shard).insert(entry.clone());
        self.connections.fetch_add(1, Relaxed);
        entry.listener.open.fetch_add(1, Relaxed);
        Registered { registry: self.clone(), shard, key, entry }
    }

    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// A number that no other connection of this process has.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Downstream connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Calls `visit` for each connection. Those that come or go meanwhile may be missed or seen.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        let mut batch = Vec::with_capacity(BATCH);
        for shard in 0..self.shards.len() {
            let mut next = 0;
            loop {
                let more = self.copy_batch(shard, &mut next, &mut batch);
                batch.drain(..).for_each(|entry| visit(&entry));
                if !more {
                    break;
                }
            }
        }
    }

    /// Asks every tunnel that was quiet for its idle limit to leave, and tells what each shows of its endpoint's life; to be
    /// called every `elapsed`.
    pub fn sweep(&self, elapsed: Duration, mut tell: impl FnMut(&EndpointState, Sign)) {
        let now = Instant::now();
        let elapsed_ms = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
        self.for_each(|entry| {
            if entry.has_gone_idle(elapsed_ms) {
                entry.tell(Command::Leave(LeaveReason::Idle));
            }
            let sign = entry.life().and_then(|life| life.sweep(entry.bytes(), now, elapsed_ms));
            if let (Some(sign), Some(endpoint)) = (sign, entry.endpoint()) {
                tell(endpoint, sign);
            }
        });
    }

    /// Whether there is more to come.
    fn copy_batch(&self, shard: usize, next: &mut usize, batch: &mut Vec<Arc<Entry>>) -> bool {
        let slab = self.lock(shard);
        let end = slab.capacity().min(*next + SCAN);
        while batch.len() < BATCH && *next < end {
            batch.extend(slab.get(*next).cloned());
            *next += 1;
        }
        *next < slab.capacity()
    }

    fn lock(&self, shard: usize) -> std::sync::MutexGuard<'_, Slab<Arc<Entry>>> {
        // The slab is never left half changed, so a panic elsewhere does not spoil it.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl std::ops::Deref for Registered {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut slab = self.registry.lock(self.shard);
        slab.remove(self.key);
        // After a storm the shard gives its memory back.
        if slab.capacity() > 1024 && slab.len() < slab.capacity() / 4 {
            slab.shrink_to_fit();
        }
        drop(slab);
        self.entry.listener.open.fetch_sub(1, Relaxed);
        self.registry.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Arc<ListenerIdentity> {
        Arc::new(ListenerIdentity::new(crate::listener::ListenerSlot(0), "l".into()))
    }

    fn registered(registry: &Arc<Registry>) -> Registered {
        registry.register(0, listener())
    }

    #[test]
    fn an_entry_leaves_the_registry_with_its_connection() {
        let registry = Arc::new(Registry::new(2));
        let first = registered(&registry);
        let second = registry.register(1, listener());
        assert_eq!(registry.connections(), 2);
        drop(first);
        let mut seen = Vec::new();
        registry.for_each(|entry| seen.push(entry.id));
        assert_eq!(seen, [second.id]);
    }

    #[test]
    fn a_cut_replaces_a_leave_and_nothing_replaces_a_cut() {
        let registry = Arc::new(Registry::new(1));
        let connection = registered(&registry);
        assert_eq!(connection.command(), None);
        connection.tell(Command::Leave(LeaveReason::Stop));
        assert_eq!(connection.command(), Some(Command::Leave(LeaveReason::Stop)));
        connection.tell(Command::Cut(LeaveReason::Stop));
        connection.tell(Command::Leave(LeaveReason::Idle));
        assert_eq!(connection.command(), Some(Command::Cut(LeaveReason::Stop)));
    }

    #[test]
    fn more_entries_than_a_batch_are_all_visited() {
        let registry = Arc::new(Registry::new(1));
        let all: Vec<_> = (0..3 * BATCH + 7).map(|_| registered(&registry)).collect();
        let mut seen = 0;
        registry.for_each(|_| seen += 1);
        assert_eq!(seen, all.len());
    }
}
