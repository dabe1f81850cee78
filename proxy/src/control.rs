//! The control thread: everything that is not a client's bytes.
//!
//! One pingora service with one thread runs the admin side, probes, DNS, reloads, the sweeper, the pacer and the stop.
//! Nothing here is on the data path; what it decides reaches the workers as a new snapshot or as a command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use policies::Tick;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::admin;
use crate::cluster::outlier;
use crate::controls;
use crate::events;
use crate::leave::{self, ORDERS, Order};
use crate::reload::{Reloader, forget_unused};
use crate::sockets::Prepared;
use crate::state::{Phase, State};
use crate::stop::{self, CloseDoors, Stopped};
use crate::watch::Watch;

/// Changes of health or addresses within this time become one new snapshot.
const COALESCE: Duration = Duration::from_millis(50);
/// The beat of the sweeper and, at most, of RTT bands.
const BEAT: Duration = Duration::from_secs(1);

/// A request to read the files again, and where to answer.
pub type ReloadRequest = oneshot::Sender<Result<u64, String>>;

/// How the process ended, for its exit code.
#[derive(Default)]
pub struct Exit {
    code: AtomicU8,
    over: Notify,
}

impl Exit {
    pub fn with(&self, code: u8) {
        self.code.store(code, Relaxed);
        self.over.notify_one();
    }

    pub async fn over(&self) {
        self.over.notified().await;
    }

    pub fn code(&self) -> u8 {
        self.code.load(Relaxed)
    }
}

/// The control thread as pingora runs it.
pub struct ControlService {
    start: Mutex<Option<Start>>,
}

/// What the control thread begins with.
pub struct Start {
    pub state: Arc<State>,
    pub reloader: Reloader,
    pub prepared: Prepared,
    pub orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    pub admin: admin::Bound,
    pub exit: Arc<Exit>,
}

pub fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(ORDERS)
}

impl ControlService {
    pub fn new(start: Start) -> ControlService {
        ControlService { start: Mutex::new(Some(start)) }
    }
}

#[async_trait]
impl Service for ControlService {
    async fn start_service(&mut self, _fds: Option<ListenFds>, _shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        let Some(start) = self.start.lock().await.take() else { return };
        let exit = start.exit.clone();
        if let Err(error) = run(start).await {
            tracing::error!(%error, "the control thread cannot go on");
            exit.with(1);
        }
    }

    fn name(&self) -> &str {
        "control"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

async fn run(start: Start) -> std::io::Result<()> {
    let Start { state, mut reloader, prepared, orders: (order, orders), admin, exit } = start;
    let mut signals = Signals::new()?;
    reloader.begin(&state, prepared).await;
    tokio::spawn(leave::pace(state.clone(), orders));
    let (ask_reload, mut reload_asked) = mpsc::channel::<ReloadRequest>(16);
    let admin_addresses = admin.addresses();
    admin.serve(&state, &ask_reload)?;
    let (mut watch, mut files_settled) = Watch::start();
    watch.follow(&reloader.watched());
    state.enter(Phase::Running);
    admin::ready::announce(&state, &admin_addresses);

    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let how = loop {
        tokio::select! {
            Some(()) = files_settled.recv() => {
                reloader.reload_if_changed(&state).await;
                watch.follow(&reloader.watched());
            }
            Some(answer) = reload_asked.recv() => {
                // Who asked may have hung up; the reload counts all the same.
                answer.send(reloader.reload(&state, "api").await).ok();
                watch.follow(&reloader.watched());
            }
            _ = signals.hangup.recv() => {
                state.access_log.reopen();
                // The result is in the log, the metrics and the status.
                reloader.reload(&state, "SIGHUP").await.ok();
                watch.follow(&reloader.watched());
            }
            () = state.steering_changed.notified() => {
                sleep(COALESCE).await;
                reloader.resteer(&state).await;
            }
            () = state.outlier_due.notified() => {
                sleep(COALESCE).await;
                judge_outliers(&state);
            }
            _ = beat.tick() => on_beat(&state),
            _ = signals.terminate.recv() => break How::Gently,
            _ = signals.interrupt.recv() => break How::Now,
        }
    };
    // Whoever asks for a reload from here on is told at once that there is none.
    drop(reload_asked);
    let stopped = match how {
        How::Gently => {
            let (doors, mut close_doors) = mpsc::channel::<CloseDoors>(1);
            let stopping = stop::gently(&state, doors, &order, &mut signals);
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    stopped = &mut stopping => break stopped,
                    Some(closed) = close_doors.recv() => {
                        reloader.close_listeners(&state).await;
                        // A stop that was hurried meanwhile no longer listens.
                        closed.send(()).unwrap_or(());
                    }
                    () = state.steering_changed.notified() => {
                        sleep(COALESCE).await;
                        reloader.resteer(&state).await;
                    }
                    _ = beat.tick() => on_beat(&state),
                }
            }
        }
        How::Now => stop::now(&state, "SIGINT").await,
    };
    exit.with(match stopped {
        Stopped::AllLeft => 0,
        Stopped::SomeCut => 1,
    });
    // pingora ends the process now, this thread included.
    std::future::pending().await
}

enum How {
    Gently,
    Now,
}

fn on_beat(state: &State) {
    state.registry.sweep(BEAT, |endpoint, sign| outlier::saw(state, endpoint, sign));
    state.forget_retired();
    let now = state.clock.now();
    controls::end_due(state, now);
    judge_outliers(state);
    end_votes(state, now);
    let snapshot = state.snapshot.load_full();
    let now = state.clock.now();
    let mut changed = false;
    for cluster in &snapshot.clusters {
        changed |= cluster.follow_rtts(&snapshot.config.edge, now);
        changed |= cluster.shed(now) | cluster.is_warming_up() | cluster.is_settling();
        cluster.state.sticky.expire(now);
    }
    if changed {
        state.steering_changed.notify_one();
    }
    forget_unused(state, &snapshot);
}

fn judge_outliers(state: &State) {
    let snapshot = state.snapshot.load_full();
    snapshot.clusters.iter().for_each(|cluster| outlier::judge(state, cluster));
}

/// Votes that were cast until a time end there.
fn end_votes(state: &State, now: Tick) {
    let clusters: Vec<_> = state.clusters().values().cloned().collect();
    for endpoint in clusters.iter().flat_map(|cluster| cluster.endpoints()) {
        if endpoint.vote(|votes| votes.expire(now)) {
            events::standing_changed(state, &endpoint);
            state.steering_changed.notify_one();
        }
    }
}

/// The signals that the process understands.
pub struct Signals {
    pub terminate: Signal,
    pub interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
