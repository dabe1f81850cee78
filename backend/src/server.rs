//! What all connections of one process share, and how they are asked to leave.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Config, delivery::Delivery, fault::Faults, load::Load, metrics::Metrics, store::Store};

pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) delivery: Delivery,
    pub(crate) load: Load,
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

    /// Returns when there is no WebSocket connection.
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

    /// A place for one more WebSocket connection, given back when it is dropped; `None` when all are taken.
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

/// One WebSocket connection's share of [`Config::max_sessions`].
pub(crate) struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.sessions.fetch_sub(1, Relaxed) == 1 {
            self.0.last_left.notify_waiters();
        }
    }
}
