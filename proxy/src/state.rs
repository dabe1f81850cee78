//! What outlives a configuration: the one object that workers and the control thread share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use policies::Tick;
use tokio::sync::Notify;

use crate::access_log::AccessLog;
use crate::cluster::ClusterState;
use crate::config::Name;
use crate::decisions::Decisions;
use crate::listener::ListenerSlot;
use crate::log::LogFilter;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::snapshot::Snapshot;
use crate::tls::Tickets;
use crate::tunnel;

pub struct State {
    pub snapshot: ArcSwap<Snapshot>,
    pub registry: Arc<Registry>,
    pub metrics: Metrics,
    pub access_log: AccessLog,
    pub clock: Clock,
    pub tickets: Tickets,
    /// The last picks of each worker.
    pub decisions: Decisions,
    pub log_filter: LogFilter,
    /// The main configuration file.
    pub config_path: PathBuf,
    /// Descriptors that this process may open.
    pub descriptors: usize,
    /// Health, RTT bands or an answer of DNS changed: plans are to be compiled anew.
    pub steering_changed: Notify,
    /// An endpoint failed a client: outliers are to be looked for soon.
    pub outlier_due: Notify,
    clusters: Mutex<BTreeMap<Name, Arc<ClusterState>>>,
    last_reload: Mutex<ReloadResult>,
    /// What was said lately, and of whom.
    said: Mutex<BTreeMap<&'static str, BTreeMap<Box<str>, Instant>>>,
    addresses: Mutex<BTreeMap<String, Vec<String>>>,
    /// Snapshots that connections of removed listeners are served by until they have left.
    retired: Mutex<BTreeMap<ListenerSlot, Arc<Snapshot>>>,
    phase: AtomicU8,
    /// Accepting is paused because descriptors ran out.
    pub out_of_descriptors: AtomicBool,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Running = 1,
    /// Told to stop, and still accepting so that whatever is in front notices.
    Leaving = 2,
    /// Listeners are closed; connections are asked to leave.
    Draining = 3,
}

/// How the last attempt to read the files ended.
#[derive(Debug, Clone, Default)]
pub struct ReloadResult {
    pub at: Option<std::time::SystemTime>,
    pub trigger: &'static str,
    /// The report of a refused configuration, as `warbler check` prints it.
    pub refused: Option<String>,
    /// What changed, by effect.
    pub changes: Vec<String>,
    /// Changed keys that take effect at the next start only.
    pub at_next_start: Vec<String>,
}

impl State {
    #[expect(clippy::too_many_arguments, reason = "one call, at the start of the process; each is a different part")]
    pub fn new(
        snapshot: Arc<Snapshot>,
        registry: Arc<Registry>,
        metrics: Metrics,
        access_log: AccessLog,
        clock: Clock,
        tickets: Tickets,
        log_filter: LogFilter,
        config_path: PathBuf,
        descriptors: usize,
        clusters: BTreeMap<Name, Arc<ClusterState>>,
    ) -> State {
        State {
            snapshot: ArcSwap::new(snapshot),
            registry,
            metrics,
            access_log,
            clock,
            tickets,
            decisions: Decisions::default(),
            log_filter,
            config_path,
            descriptors,
            steering_changed: Notify::new(),
            outlier_due: Notify::new(),
            clusters: Mutex::new(clusters),
            last_reload: Mutex::default(),
            said: Mutex::default(),
            addresses: Mutex::default(),
            retired: Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            out_of_descriptors: AtomicBool::new(false),
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Running,
            2 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Whether a line that would come again and again is to be said now of this one, mostly a cluster: once a minute.
    pub fn says_again(&self, what: &'static str, of: &str) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.entry(what).or_default();
        let due = said.get(of).is_none_or(|last| last.elapsed() >= PAUSE);
        if due {
            // Clusters come and go, and are not remembered for it.
            said.retain(|_, last| last.elapsed() < PAUSE);
            said.insert(of.into(), Instant::now());
        }
        due
    }

    /// What a connection of this listener is served by: the current snapshot, or the last one that had the listener.
    pub fn snapshot_for(&self, slot: ListenerSlot) -> Arc<Snapshot> {
        let current = self.snapshot.load_full();
        if current.listener_for(slot).is_some() {
            return current;
        }
        self.retired().get(&slot).cloned().unwrap_or(current)
    }

    /// Keeps the last snapshot of a listener that is removed, while it has connections.
    pub fn retire(&self, slot: ListenerSlot, snapshot: Arc<Snapshot>) {
        self.retired().insert(slot, snapshot);
    }

    /// Lets go of snapshots whose connections have left.
    pub fn forget_retired(&self) {
        let current = self.snapshot.load();
        self.retired().retain(|slot, snapshot| {
            let open = snapshot.listener(*slot).is_some_and(|plan| plan.identity.open.load(Relaxed) > 0);
            open && current.listener(*slot).is_none()
        });
    }

    fn retired(&self) -> MutexGuard<'_, BTreeMap<ListenerSlot, Arc<Snapshot>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clusters by name, configured ones and those whose endpoints still have connections.
    pub fn clusters(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<ClusterState>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound addresses of each listener.
    pub fn addresses(&self) -> BTreeMap<String, Vec<String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn listens_on(&self, addresses: BTreeMap<String, Vec<String>>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    pub fn last_reload(&self) -> ReloadResult {
        self.last_reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn reload_ended(&self, result: ReloadResult) {
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner) = result;
    }

    /// Downstream connections in all that this process takes: as configured, else what descriptors allow. Two a
    /// connection (client and endpoint), some for listeners, probes, logs and the admin side, and for the pipes of each
    /// worker, but no more than an eighth: whoever gets none copies.
    pub fn max_connections(&self, configured: Option<std::num::NonZeroUsize>) -> usize {
        const RESERVED: usize = 256;
        let pipes = (tunnel::PIPE_DESCRIPTORS * self.registry.workers()).min(self.descriptors / 8);
        let possible = self.descriptors.saturating_sub(RESERVED + pipes) / 2;
        configured.map_or(possible, |configured| configured.get().min(possible)).max(1)
    }
}

/// Time since the process started, as `policies` takes it.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn now(&self) -> Tick {
        Tick(self.0.elapsed())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{OpenFiles, load_text};

    /// A state for tests of rooms that need one: a configuration of one listener, no sockets, no tasks.
    pub(crate) fn state() -> Arc<State> {
        let text = "[log]\naccess = \"off\"\n[listeners.l]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
                    [clusters.c.localities.x]\nendpoints = [{ address = \"127.0.0.1:1\" }]\n";
        let config = load_text("t.toml", text, OpenFiles::No).unwrap().config;
        let access_log = AccessLog::open(&config.log.access).unwrap();
        let snapshot = Snapshot {
            generation: 1,
            config: Arc::new(config),
            clusters: Vec::new(),
            listeners: Vec::new(),
            geo: Arc::default(),
        };
        Arc::new(State::new(
            Arc::new(snapshot),
            Arc::new(Registry::new(1)),
            Metrics::new().unwrap(),
            access_log,
            Clock::start(),
            Tickets::new().unwrap(),
            LogFilter::none(),
            PathBuf::from("t.toml"),
            20_000,
            BTreeMap::new(),
        ))
    }

    #[test]
    fn a_line_about_one_cluster_does_not_hide_that_of_another() {
        let state = state();
        assert!(state.says_again("retry-budget", "im"));
        assert!(state.says_again("retry-budget", "web"));
        assert!(state.says_again("outlier-spared", "im"));
        assert!(!state.says_again("retry-budget", "im") && !state.says_again("retry-budget", "web"));
    }

    #[test]
    fn connections_are_limited_by_descriptors_too() {
        let state = state();
        let possible = (20_000 - 256 - 2 * 64) / 2;
        assert_eq!(state.max_connections(None), possible);
        assert_eq!(state.max_connections(std::num::NonZeroUsize::new(50)), 50);
        assert_eq!(state.max_connections(std::num::NonZeroUsize::new(50_000)), possible);
    }
}
