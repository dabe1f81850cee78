//! What all connections of one process share, and how they are asked to leave.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, delivery::Delivery, fault::Faults, http::Allowances, load::Load, metrics::Metrics,
    proxy_protocol::Believed, store::Store,
};

/// How long a check that the store takes writes waits for its commit: shorter than what a prober waits for the answer.
const WRITABLE: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) delivery: Delivery,
    pub(crate) load: Load,
    /// How much each user may change over the HTTP API.
    pub(crate) allowances: Allowances,
    pub(crate) metrics: Metrics,
    /// Cancelled when everybody has to leave.
    pub(crate) leaving: CancellationToken,
    draining: AtomicBool,
    sessions: AtomicUsize,
    last_left: Notify,
    tasks: TaskTracker,
}

impl Server {
    pub(crate) fn new(config: Config, store: Arc<dyn Store>, faults: Arc<Faults>, metrics: Metrics) -> Self {
        Self {
            allowances: Allowances::new(config.limits.requests_per_second),
            config,
            store,
            faults,
            delivery: Delivery::new(metrics.pushes.clone(), metrics.pushes_dropped.clone()),
            load: Load::default(),
            metrics,
            leaving: CancellationToken::new(),
            draining: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            last_left: Notify::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs a task that a stop waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Whether a proxy with this address is believed when it says for whom it speaks.
    pub(crate) fn believes(&self, proxy: IpAddr) -> Believed {
        let named = self.config.ports.proxy_from.iter().any(|network| network.contains(&proxy.to_canonical()));
        if named { Believed::Yes } else { Believed::No }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Nobody new, and `/readyz` says so; whether that was so before.
    pub(crate) fn drain(&self) -> bool {
        self.draining.swap(true, Relaxed)
    }

    /// Why the process cannot serve whoever comes, apart from a drain.
    pub(crate) async fn unready(&self) -> Option<String> {
        if !self.faults.ready() {
            return Some("an injected fault".into());
        }
        match timeout(WRITABLE, self.store.check_writable()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("store: {error}")),
            Err(_elapsed) => Some(format!("store: no commit within {WRITABLE:?}")),
        }
    }

    /// Returns when there is no connection for sessions.
    pub(crate) async fn empty(&self) {
        loop {
            // Made before the look, so that nobody leaves between the two unheard.
            let left = self.last_left.notified();
            if self.sessions() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Listeners close, sessions say goodbye.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
        self.delivery.all_leave();
        self.tasks.close();
    }

    /// All tasks have ended.
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// A place for one more connection for a session, given back when it is dropped; `None` when all are taken.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let place = |taken| (taken < self.config.max_sessions).then_some(taken + 1);
        self.sessions.fetch_update(Relaxed, Relaxed, place).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("node", &self.config.node).field("sessions", &self.sessions()).finish()
    }
}

/// One connection's share of [`Config::max_sessions`].
pub(crate) struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.sessions.fetch_sub(1, Relaxed) == 1 {
            self.0.last_left.notify_waiters();
        }
    }
}
