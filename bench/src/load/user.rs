//! One simulated user: a phone that comes, speaks when it is told to, hears, goes and comes back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep_until};

use super::{plan::Plan, tally::Tally, trace::Action};
use crate::{
    harness::locked,
    im::{Event, Phone},
};

/// Orders of a user that wait. A user that is behind by more is told no more: what was due then is unanswered.
pub(super) const ORDERS: usize = 4096;
/// Bytes in which a message says when it was due. The rest of it is filler.
const STAMP: usize = 8;

/// What all users of a process share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) plan: Arc<Plan>,
    pub(super) tally: Arc<Mutex<Tally>>,
    /// The beginning of the run: everything is counted from here.
    pub(super) origin: Instant,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// What a user is told to do, and when that was due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) due: Duration,
    pub(super) action: Action,
    /// It did not wait for anything but the load itself, so that being late with it is the load's doing.
    pub(super) was_free: bool,
}

/// A user who lives.
#[derive(Debug)]
pub(super) struct User {
    pub(super) number: usize,
    pub(super) phone: Phone,
    pub(super) shared: Shared,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Whether it is to be online by its own will: nobody else is told to speak.
    pub(super) here: Arc<AtomicBool>,
    /// When it comes; whoever obeys a trace waits for its orders.
    pub(super) arrives: Option<Duration>,
}

/// What of a user is left when all is said.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) number: usize,
    pub(super) phone: Phone,
}

#[derive(Debug, Default)]
struct Mind {
    /// Messages without an acknowledgement, and when they were due.
    waiting: HashMap<Bytes, Duration>,
    /// The next change of its own will: going, or coming back.
    changes: Option<Instant>,
    /// It goes as soon as nothing of its own is waiting.
    going: bool,
    said: usize,
    /// The server of its session.
    node: Option<String>,
}

impl User {
    /// Lives until there are no more orders and everything is acknowledged, or has had its time.
    pub(super) async fn live(mut self) -> Left {
        let mut mind = Mind { changes: self.arrives.map(|at| self.shared.origin + at), ..Mind::default() };
        let mut deadline = None;
        loop {
            let change = mind.changes.filter(|_| deadline.is_none());
            tokio::select! {
                order = self.orders.recv(), if deadline.is_none() => match order {
                    Some(order) => self.obey(order, &mut mind).await,
                    None => deadline = Some(Instant::now() + self.shared.plan.patience()),
                },
                event = self.phone.next() => self.note(event, &mut mind),
                () = at(change) => self.change(&mut mind),
                () = at(deadline) => mind.give_up(&self.shared),
            }
            if mind.going && mind.waiting.is_empty() && deadline.is_none() {
                self.go(&mut mind).await;
            }
            if deadline.is_some() && mind.waiting.is_empty() {
                self.set_node(None, &mut mind);
                return Left { number: self.number, phone: self.phone };
            }
        }
    }

    async fn obey(&mut self, order: Order, mind: &mut Mind) {
        let now = self.shared.now();
        match order.action {
            Action::Say => {
                locked(&self.shared.tally).late.record(now.saturating_sub(order.due));
                self.say(order.due, mind);
            }
            Action::Login => self.phone.go_online(),
            Action::Leave => self.leave(mind).await,
            Action::Cut => {
                self.phone.vanish();
                self.set_node(None, mind);
            }
            // Of HTTP, where there are no users.
            Action::Request => {}
        }
    }

    fn say(&mut self, due: Duration, mind: &mut Mind) {
        let plan = &self.shared.plan;
        // In the middle of the range for it, so that the share is right from the first messages on.
        let rooms_before = super::plan::as_float(mind.said) * plan.in_rooms + 0.5;
        let in_room = (rooms_before + plan.in_rooms).floor() > rooms_before.floor();
        let conv = if in_room { plan.room(self.number) } else { plan.pair(self.number) };
        mind.said += 1;
        // Whoever is away and has something to say comes back for it.
        self.phone.go_online();
        match self.phone.submit(&conv, body(due, plan.body)) {
            Ok(id) => _ = mind.waiting.insert(id, due),
            Err(full) => {
                let mut tally = locked(&self.shared.tally);
                tally.unanswered(due, self.shared.now());
                tally.trouble("not sent", full.to_string());
            }
        }
    }

    fn note(&mut self, event: Event, mind: &mut Mind) {
        let now = self.shared.now();
        match event {
            Event::LoggedIn { node, resumed, took } => {
                let mut tally = locked(&self.shared.tally);
                tally.counts.logins += 1;
                tally.counts.resumed += u64::from(resumed);
                tally.logins.record(took);
                tally.step_at(now).logins += 1;
                tally.place(self.shared.plan.country(self.number), &node);
                drop(tally);
                self.here.store(!mind.going, Ordering::Relaxed);
                self.set_node(Some(node), mind);
            }
            Event::Acknowledged { id, duplicate, .. } => {
                let Some(due) = mind.waiting.remove(&id) else { return };
                let mut tally = locked(&self.shared.tally);
                tally.counts.repeated += u64::from(duplicate);
                tally.acknowledged(due, now);
            }
            Event::Pushed(message) => {
                let mut tally = locked(&self.shared.tally);
                tally.counts.pushed += 1;
                tally.step_at(now).pushed += 1;
                if let Some(due) = due_of(&message.body) {
                    tally.pushes.record(now.saturating_sub(due));
                }
            }
            Event::Refused { id, conv, code } => {
                mind.waiting.remove(&id);
                let mut tally = locked(&self.shared.tally);
                tally.counts.refused += 1;
                tally.trouble("message refused", format!("{conv}: {code:?}"));
            }
            Event::NotLoggedIn(error) => {
                let mut tally = locked(&self.shared.tally);
                let kind = if error.is_refusal() { "turned away" } else { "failed login" };
                let count =
                    if error.is_refusal() { &mut tally.counts.turned_away } else { &mut tally.counts.failed_logins };
                *count += 1;
                tally.step_at(now).wrong += 1;
                tally.trouble(kind, error.to_string());
            }
            Event::Broke(error) => {
                let mut tally = locked(&self.shared.tally);
                tally.counts.broken += 1;
                tally.step_at(now).wrong += 1;
                tally.trouble("broken", error.to_string());
                drop(tally);
                self.set_node(None, mind);
            }
            Event::Moved => {
                locked(&self.shared.tally).counts.moved += 1;
                self.set_node(None, mind);
            }
            Event::GaveUp { why } => {
                let mut tally = locked(&self.shared.tally);
                tally.counts.gave_up += 1;
                tally.step_at(now).wrong += 1;
                tally.trouble("gave up", why);
                drop(tally);
                self.here.store(false, Ordering::Relaxed);
                self.set_node(None, mind);
            }
            Event::Closed { conv, code } => {
                locked(&self.shared.tally).trouble("conversation refused", format!("{conv}: {code:?}"));
            }
            Event::CaughtUp => {}
        }
    }

    /// Comes, or begins to go.
    fn change(&mut self, mind: &mut Mind) {
        let habits = &self.shared.plan.habits;
        mind.changes = None;
        if mind.node.is_some() || mind.going {
            mind.going = true;
            self.here.store(false, Ordering::Relaxed);
        } else {
            self.phone.go_online();
            mind.changes = habits.session.map(|mean| Instant::now() + exponential(mean));
        }
    }

    /// Goes, in order or because the network does.
    async fn go(&mut self, mind: &mut Mind) {
        mind.going = false;
        let habits = self.shared.plan.habits;
        if fastrand::f64() < habits.cut {
            self.phone.vanish();
            self.set_node(None, mind);
        } else {
            self.leave(mind).await;
        }
        mind.changes = Some(Instant::now() + exponential(habits.away));
    }

    async fn leave(&mut self, mind: &mut Mind) {
        if let Err(error) = self.phone.leave().await {
            locked(&self.shared.tally).trouble("left in disorder", format!("{error:#}"));
        }
        self.set_node(None, mind);
    }

    /// Counts it at the server where it is.
    fn set_node(&self, node: Option<String>, mind: &mut Mind) {
        let mut tally = locked(&self.shared.tally);
        let gone = std::mem::replace(&mut mind.node, node);
        tally.moved(gone.as_deref(), mind.node.as_deref());
    }
}

impl Mind {
    /// Counts what waits as unanswered, with the time that it has waited so far: leaving it out would make the slowest
    /// messages vanish.
    fn give_up(&mut self, shared: &Shared) {
        let now = shared.now();
        let mut tally = locked(&shared.tally);
        for (_, due) in self.waiting.drain() {
            tally.unanswered(due, now);
        }
    }
}

/// Waits until then, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// A time of this mean in seconds, exponentially distributed: however long it has lasted, it ends as likely as before.
/// An hour at most.
fn exponential(mean: f64) -> Duration {
    Duration::from_secs_f64((-mean * (1.0 - fastrand::f64()).ln()).clamp(0.0, 3600.0))
}

fn body(due: Duration, length: usize) -> Bytes {
    let mut body = vec![b'x'; length.max(STAMP)];
    body[..STAMP].copy_from_slice(&u64::try_from(due.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    body.into()
}

fn due_of(body: &[u8]) -> Option<Duration> {
    body.first_chunk().map(|stamp| Duration::from_nanos(u64::from_be_bytes(*stamp)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_when_it_was_due() {
        let due = Duration::from_nanos(1_234_567_891);
        assert_eq!(due_of(&body(due, 200)), Some(due));
        assert_eq!((body(due, 200).len(), body(due, 0).len(), due_of(b"short")), (200, STAMP, None));
    }

    #[test]
    fn lengths_of_sessions_have_their_mean() {
        let all: Duration = (0..20_000).map(|_| exponential(2.0)).sum();
        let mean = all.as_secs_f64() / 20_000.0;
        // Its standard deviation is 2/√20000, a seventieth.
        assert!((1.9..2.1).contains(&mean), "{mean}");
    }
}
