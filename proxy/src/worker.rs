//! A worker: one thread, its accept loops, its dice, its pool of upstream connections.
//!
//! Workers share the snapshot pointer and the counters of endpoints, and nothing else on the data path. Each is a
//! pingora service with one thread and a runtime of its own, so a connection lives on one thread from accept to end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use policies::{Cursors, Dice};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Name;
use crate::connection::{self, Accepted};
use crate::decisions::{Decision, Decisions, Ring};
use crate::events;
use crate::http::phases::Phases;
use crate::listener::{ListenerPlan, ListenerSlot};
use crate::state::State;
use crate::sys;
use crate::trip::{Kind, Origin, Outcome, Trip};

/// How long accepting rests when descriptors ran out. Connections that end meanwhile give some back.
const REST: Duration = Duration::from_millis(100);

/// A timer that ends before all others wakes a runtime to look at its clock: an `eventfd` written and a turn of the loop,
/// for each deadline of each new connection. One that always ends sooner keeps them asleep.
const TICK: Duration = Duration::from_millis(500);

/// Commands that may wait for a worker: a reload of hundreds of listeners fits.
pub const COMMANDS: usize = 1024;

/// What the control thread asks of a worker.
pub enum WorkerCommand {
    Open { socket: SocketKey, listener: std::net::TcpListener },
    Close { socket: SocketKey },
}

/// One address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    pub slot: ListenerSlot,
    pub index: usize,
}

/// What the tasks of one worker share.
pub struct Worker {
    pub ix: usize,
    pub state: Arc<State>,
    /// Owns the pool of upstream connections, hence one for the life of the worker.
    pub http: Arc<HttpProxy<Phases>>,
}

/// The worker as pingora runs it.
pub struct WorkerService {
    name: String,
    worker: Arc<Worker>,
    commands: Mutex<mpsc::Receiver<WorkerCommand>>,
}

impl WorkerService {
    pub fn new(
        ix: usize,
        state: Arc<State>,
        conf: &Arc<ServerConf>,
        commands: mpsc::Receiver<WorkerCommand>,
    ) -> WorkerService {
        let mut http = HttpProxy::new(Phases, conf.clone());
        // Left to our own hook, whose answer is ours.
        let mut options = pingora::apps::HttpServerOptions::default();
        options.allow_connect_method_proxying = true;
        http.server_options = Some(options);
        http.handle_init_modules();
        let worker = Arc::new(Worker { ix, state, http: Arc::new(http) });
        WorkerService { name: format!("worker-{ix}"), worker, commands: Mutex::new(commands) }
    }
}

#[async_trait]
impl Service for WorkerService {
    async fn start_service(&mut self, _fds: Option<ListenFds>, _shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        tokio::spawn(tick());
        let mut open: HashMap<SocketKey, CancellationToken> = HashMap::new();
        let mut commands = self.commands.lock().await;
        while let Some(command) = commands.recv().await {
            match command {
                WorkerCommand::Open { socket, listener } => {
                    let stop = CancellationToken::new();
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            tokio::spawn(accept_loop(self.worker.clone(), socket.slot, listener, stop.clone()));
                            open.insert(socket, stop);
                        }
                        Err(error) => events::socket_lost(&error),
                    }
                }
                WorkerCommand::Close { socket } => {
                    if let Some(stop) = open.remove(&socket) {
                        stop.cancel();
                    }
                }
            }
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// See [`TICK`].
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
    }
}

async fn accept_loop(worker: Arc<Worker>, slot: ListenerSlot, listener: TcpListener, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((tcp, peer)) => {
                worker.goes_on(slot);
                worker.admit(slot, tcp, peer);
            }
            Err(error) if sys::is_exhaustion(&error) => worker.rest(slot, &error).await,
            Err(error) => events::accept_failed(&worker.name_of(slot), &error),
        }
    }
    worker.serve_queue(slot, listener);
}

impl Worker {
    /// Checks the limits, before anything is set up for the connection, and starts to serve it.
    fn admit(self: &Arc<Self>, slot: ListenerSlot, tcp: TcpStream, peer: SocketAddr) {
        let snapshot = self.state.snapshot_for(slot);
        let Some(plan) = snapshot.listener_for(slot).cloned() else { return };
        self.state.metrics.accepted(plan.name());
        if let Some(why) = self.over_limit(&plan, &snapshot.config) {
            return self.refuse(&plan, peer, why);
        }
        let registered = self.state.registry.register(self.ix, plan.identity.clone());
        let accepted = Accepted { worker: self.clone(), snapshot, plan, tcp, peer, registered };
        tokio::spawn(connection::serve(accepted));
    }

    /// Who was in the queue when the listener closed was promised an answer by the kernel.
    fn serve_queue(self: &Arc<Self>, slot: ListenerSlot, listener: TcpListener) {
        // Straight from the socket: the runtime's own accept may say "not now" while the queue is full.
        let Ok(listener) = listener.into_std() else { return };
        loop {
            match listener.accept() {
                Ok((tcp, peer)) => match tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)) {
                    Ok(tcp) => self.admit(slot, tcp, peer),
                    Err(error) => events::accept_failed(&self.name_of(slot), &error),
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock || sys::is_exhaustion(&error) => return,
                Err(error) => events::accept_failed(&self.name_of(slot), &error),
            }
        }
    }

    fn refuse(&self, plan: &ListenerPlan, peer: SocketAddr, why: &'static str) {
        events::refused(&self.state, plan.name(), why);
        let connection = self.state.registry.next_id();
        let origin = Origin { listener: plan.name().clone(), client: peer, peer, connection };
        Trip::new(self.state.clone(), Kind::Connection, origin).fail(Outcome::Refused, why);
    }

    fn over_limit(&self, plan: &ListenerPlan, config: &crate::config::Config) -> Option<&'static str> {
        if self.state.registry.connections() >= self.state.max_connections(config.edge.max_connections) {
            return Some("max-connections");
        }
        let listener_full =
            plan.config.max_connections.is_some_and(|max| plan.identity.open.load(Relaxed) >= max.get());
        listener_full.then_some("listener-max-connections")
    }

    fn name_of(&self, slot: ListenerSlot) -> Name {
        self.state.snapshot_for(slot).listener_for(slot).map(|plan| plan.name().clone()).unwrap_or_default()
    }

    /// Descriptors ran out: stop taking more until some have come back. Said once, however often it is tried.
    async fn rest(&self, slot: ListenerSlot, error: &std::io::Error) {
        let name = self.name_of(slot);
        if !self.state.out_of_descriptors.swap(true, Relaxed) {
            events::accept_paused(&self.state, &name, error);
        }
        tokio::time::sleep(REST).await;
    }

    /// A connection was accepted: if descriptors had run out, some have come back.
    fn goes_on(&self, slot: ListenerSlot) {
        let state = &self.state;
        // Read before it is written: workers do not take this line of memory from each other on every accept.
        if state.out_of_descriptors.load(Relaxed) && state.out_of_descriptors.swap(false, Relaxed) {
            events::accept_resumed(&self.name_of(slot));
        }
    }
}

/// What a pick needs of the worker it happens on.
pub struct Local {
    pub dice: WorkerDice,
    pub cursors: Cursors,
    ring: Option<Arc<Ring>>,
}

impl Local {
    /// Notes a pick that this worker made.
    pub fn note(&mut self, decisions: &Decisions, decision: Decision) {
        self.ring.get_or_insert_with(|| decisions.join()).note(decision);
    }
}

/// The worker's source of random numbers.
pub struct WorkerDice(fastrand::Rng);

impl WorkerDice {
    /// Dice that go on as those did whose state this was.
    pub fn standing_at(state: u64) -> WorkerDice {
        WorkerDice(fastrand::Rng::with_seed(state))
    }

    /// What it takes to throw the same again.
    pub fn state(&self) -> u64 {
        self.0.get_seed()
    }
}

impl Dice for WorkerDice {
    fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local {
        dice: WorkerDice(fastrand::Rng::new()),
        cursors: Cursors::new(fastrand::u64(..)),
        ring: None,
    });
}

/// Runs `work` with this worker's dice and counters.
pub fn with_local<T>(work: impl FnOnce(&mut Local) -> T) -> T {
    LOCAL.with_borrow_mut(work)
}
