//! What the processes on one data directory tell each other: whom they see.
//!
//! Best effort, and apart from everything durable: a thread of its own writes and reads a file of its own
//! ([`file::Board`]) every [`TURN`], all changes since the last turn in one transaction, so that a crowd that logs in at
//! once is a few transactions. Whatever is wrong with the file is logged once and counted; messages do not notice.
//!
//! A process knows of *everybody* who is seen elsewhere, not only of those whom somebody watches here: about a hundred bytes
//! for each, and whoever begins to watch is answered from memory, without a look into a file that may be slow.
//!
//! Always true: what a process has told holds for no longer than [`LEASE`] without it, and what it has heard no longer
//! than that without the board.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{clock::now, delivery::Delivery, frame::PresenceState, server::Server};

mod file;

use file::{Board, BoardError};

/// How often a process tells and hears. A change is known elsewhere within two of these, and its own process writes at
/// most five times a second. A turn without news takes 0.02 ms, one that tells 5000 changes 30 ms (development build).
const TURN: Duration = Duration::from_millis(200);
/// How often a process says that it is still there, when it has nothing else to say.
const RENEWAL: Duration = Duration::from_secs(2);
/// How long a process is believed without that: four renewals may be late.
const LEASE: Duration = Duration::from_secs(10);
/// Rest after a turn failed.
const REST: Duration = Duration::from_secs(1);
/// How long a stop waits for the last turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a user is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) user: String,
    pub(crate) state: PresenceState,
    /// Since when, Unix time in milliseconds; 0 if that is not known.
    pub(crate) time: u64,
}

/// How users are seen at other processes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Those who may be seen differently.
    pub(crate) shown: Vec<Shown>,
    /// Whoever is not among them is offline everywhere else.
    pub(crate) complete: bool,
}

/// The exchange with other processes, until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Nothing is ever sent: that it is gone is the request.
    stop: mpsc::SyncSender<Infallible>,
    thread: thread::JoinHandle<()>,
}

impl Exchange {
    /// Begins to tell and to hear.
    ///
    /// # Errors
    /// When there can be no thread; what is wrong with the board is no error.
    pub(crate) fn start(server: Arc<Server>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let thread = thread::Builder::new().name("presence".into()).spawn(move || Turns::new(&server).run(&stopped))?;
        Ok(Self { stop, thread })
    }

    /// Tells the others that nobody is here any more.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the thread of presence panicked"),
            Err(_elapsed) => tracing::warn!("the other processes will learn late that this one has stopped"),
        }
    }
}

struct Turns<'a> {
    server: &'a Server,
    board: Board,
    /// When the last turn succeeded.
    heard: Instant,
    failing: bool,
}

impl<'a> Turns<'a> {
    fn new(server: &'a Server) -> Self {
        let board = Board::new(&server.config.data, &server.config.node, server.metrics.presence_writes.clone());
        Self { server, board, heard: Instant::now(), failing: false }
    }

    fn run(mut self, stopped: &mpsc::Receiver<Infallible>) {
        loop {
            match self.turn() {
                Ok(news) => self.succeeded(news),
                Err(error) => self.failed(&error),
            }
            let rest = if self.failing { REST } else { TURN };
            if stopped.recv_timeout(rest) == Err(mpsc::RecvTimeoutError::Disconnected) {
                break;
            }
        }
        if let Err(error) = self.board.leave(&self.delivery().untold()) {
            self.failed(&error);
        }
    }

    fn turn(&mut self) -> Result<News, BoardError> {
        let delivery = self.delivery();
        if self.board.has_joined() {
            match self.board.exchange(&delivery.untold()) {
                Err(error @ (BoardError::TakenForDead | BoardError::Replaced)) => {
                    tracing::info!(reason = %error, "telling the other processes anew who is here");
                }
                exchanged => return exchanged,
            }
        }
        self.board.join(|| delivery.seen_here())
    }

    fn delivery(&self) -> &'a Delivery {
        &self.server.delivery
    }

    fn succeeded(&mut self, news: News) {
        if self.failing {
            tracing::info!("the other processes are heard again");
        }
        (self.failing, self.heard) = (false, Instant::now());
        let complete = news.complete;
        let changes = self.delivery().hear(news);
        if !complete {
            let (lag, now) = (&self.server.metrics.presence_lag, now());
            changes
                .iter()
                .for_each(|&since| lag.observe(Duration::from_millis(now.saturating_sub(since)).as_secs_f64()));
        }
    }

    fn failed(&mut self, error: &BoardError) {
        self.server.metrics.presence_failures.inc();
        if !self.failing {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "presence does not reach the other processes, nor theirs this one");
        }
        self.failing = true;
        // Everybody is told anew when the board can be used, so nothing has to be kept for then.
        drop(self.delivery().untold());
        if self.heard.elapsed() >= LEASE {
            self.delivery().hear(News { shown: Vec::new(), complete: true });
        }
    }
}
