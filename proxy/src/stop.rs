//! What SIGTERM does: say so, wait, close the doors, ask everybody to leave, and cut who is left at the deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::control::Signals;
use crate::events;
use crate::leave::{Order, Who};
use crate::registry::{Command, LeaveReason};
use crate::state::{Phase, State};

/// How often to look whether everybody has gone.
const LOOK: Duration = Duration::from_millis(50);
/// How long connections that were cut have to write their events.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Of the time to the deadline, the share within which everybody must have been asked.
const ASK_WITHIN: f64 = 0.8;

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    AllLeft,
    SomeCut,
}

/// Asks the control loop to close the listeners, and where to answer.
pub type CloseDoors = oneshot::Sender<()>;

/// The polite way; probes, health and steering go on meanwhile. A second SIGTERM, or SIGINT, ends it at once.
pub async fn gently(
    state: &Arc<State>,
    doors: mpsc::Sender<CloseDoors>,
    orders: &mpsc::Sender<Order>,
    signals: &mut Signals,
) -> Stopped {
    events::stop_began("SIGTERM", state.registry.connections());
    let settings = state.snapshot.load().config.stop.clone();
    let deadline = Instant::now() + settings.deadline;
    // `/readyz` fails from here on, while new connections are still served.
    state.enter(Phase::Leaving);
    tokio::select! {
        () = sleep(settings.grace) => {}
        _ = signals.terminate.recv() => return now(state, "second SIGTERM").await,
        _ = signals.interrupt.recv() => return now(state, "SIGINT").await,
    }
    let (closed, doors_are_closed) = oneshot::channel();
    if doors.send(closed).await.is_ok() {
        // The control loop closes them and answers.
        doors_are_closed.await.unwrap_or(());
    }
    state.enter(Phase::Draining);
    let asked_by = Instant::now() + deadline.saturating_duration_since(Instant::now()).mul_f64(ASK_WITHIN);
    let order = Order { who: Who::Everybody, reason: LeaveReason::Stop, asked_by: Some(asked_by) };
    // The pacer ends with the process only.
    orders.send(order).await.unwrap_or(());
    tokio::select! {
        () = everybody_has_gone(state) => {
            events::stop_ended(0);
            Stopped::AllLeft
        }
        () = tokio::time::sleep_until(deadline) => cut_the_rest(state).await,
        _ = signals.terminate.recv() => now(state, "second SIGTERM").await,
        _ = signals.interrupt.recv() => now(state, "SIGINT").await,
    }
}

/// The other way: everything is cut.
pub async fn now(state: &State, signal: &str) -> Stopped {
    events::stop_began(signal, state.registry.connections());
    cut_the_rest(state).await
}

async fn everybody_has_gone(state: &State) {
    while state.registry.connections() > 0 {
        sleep(LOOK).await;
    }
}

async fn cut_the_rest(state: &State) -> Stopped {
    let mut cut = 0;
    state.registry.for_each(|entry| {
        entry.tell(Command::Cut(LeaveReason::Stop));
        events::cut_at_deadline(entry.id, entry.endpoint().map(|endpoint| endpoint.address));
        cut += 1;
    });
    // Their tasks see the command and write their events; what does not get to it ends with the process.
    tokio::time::timeout(LAST_WORDS, everybody_has_gone(state)).await.ok();
    events::stop_ended(cut);
    if cut == 0 { Stopped::AllLeft } else { Stopped::SomeCut }
}
