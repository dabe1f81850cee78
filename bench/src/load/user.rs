//! One simulated user: a phone that comes, speaks when it is told to, hears, goes and comes back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backend::frame::Msg;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::{plan::Plan, tally::Tally, trace::Action};
use crate::{
    harness::locked,
    im::{Event, Phone},
};

/// Orders of a user that wait. A user that is behind by more is told no more: what was due then is unanswered.
pub(super) const ORDERS: usize = 4096;
/// Bytes in which a message says when it was due. The rest of it is filler.
pub(crate) const STAMP: usize = 8;

/// What all users of a process share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) plan: Arc<Plan>,
    pub(super) tally: Arc<Mutex<Tally>>,
    /// The beginning of the run: everything is counted from here.
    pub(super) origin: Instant,
    /// Whether all is said and heard, or the time for it is over.
    pub(super) over: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Until when answers are waited for.
    pub(super) fn deadline(&self) -> tokio::time::Instant {
        (self.origin + self.plan.deadline()).into()
    }

    /// Counts a message that was due then as one that is not acknowledged, and says why if that is not plain.
    pub(super) fn unanswered(&self, due: Duration, why: Option<&str>) {
        let mut tally = locked(&self.tally);
        tally.unanswered(due, self.now(), self.plan.patience());
        if let Some(why) = why {
            tally.trouble("not sent", why);
        }
    }

    /// Counts a request that was due then as one without an answer.
    pub(super) fn failed_request(&self, due: Duration, why: &str) {
        let mut tally = locked(&self.tally);
        tally.failed_request(due, self.now(), self.plan.patience());
        tally.trouble("failed request", why);
    }
}

/// What a user is told to do, and when that was due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) due: Duration,
    pub(super) action: Action,
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
    /// It got no session and does not try again: it can be asked for nothing.
    pub(super) gave_up: bool,
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
    /// Until when it did nothing else than to leave: what was due before is not late by the load's doing.
    left_until: Duration,
    gave_up: bool,
}

impl User {
    /// Lives until everybody has what was said, or the time for it is over: whoever has nothing to say any more still
    /// listens, or the pushes that took longest would be in no figure.
    pub(super) async fn live(mut self) -> Left {
        let mut mind = Mind { changes: self.arrives.map(|at| self.shared.origin + at), ..Mind::default() };
        let mut over = self.shared.over.clone();
        let mut told_all = false;
        loop {
            let change = mind.changes.filter(|_| !told_all);
            tokio::select! {
                order = self.orders.recv(), if !told_all => match order {
                    Some(order) => self.obey(order, &mut mind).await,
                    None => told_all = true,
                },
                event = self.phone.next() => self.note(event, &mut mind),
                () = at(change) => self.change(&mut mind),
                () = sleep_until(self.shared.deadline()), if !mind.waiting.is_empty() => mind.give_up(&self.shared),
                // Whoever would say it is gone: over as well.
                () = until(&mut over) => break,
            }
            if mind.going && mind.waiting.is_empty() && !told_all {
                self.go(&mut mind).await;
            }
        }
        mind.give_up(&self.shared);
        self.set_node(None, &mut mind);
        Left { number: self.number, phone: self.phone, gave_up: mind.gave_up }
    }

    async fn obey(&mut self, order: Order, mind: &mut Mind) {
        let now = self.shared.now();
        match order.action {
            Action::Say => {
                if order.due >= mind.left_until {
                    locked(&self.shared.tally).late.record(now.saturating_sub(order.due));
                }
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
        let in_room = plan.to_room(self.number, mind.said);
        let conv = if in_room { plan.room(self.number) } else { plan.pair(self.number) };
        mind.said += 1;
        // Whoever is away and has something to say comes back for it.
        self.phone.go_online();
        match self.phone.submit(&conv, body(due, plan.body)) {
            Ok(id) => _ = mind.waiting.insert(id, due),
            Err(full) => self.shared.unanswered(due, Some(&full.to_string())),
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
            Event::Acknowledged { id, conv, duplicate, .. } => {
                let Some(due) = mind.waiting.remove(&id) else { return };
                let others = self.shared.plan.others_in(self.number, &conv);
                let mut tally = locked(&self.shared.tally);
                tally.counts.repeated += u64::from(duplicate);
                tally.counts.pushes_expected += others;
                tally.acknowledged(due, now);
            }
            Event::Pushed(message) => {
                let right = self.shared.plan.are_in(&message.conv, self.number, &message.sender);
                let mut tally = locked(&self.shared.tally);
                if !right {
                    tally.counts.strayed += 1;
                    let Msg { conv, seq, sender, .. } = &message;
                    let user = &self.phone.user;
                    tally.trouble("strayed", format!("message {seq} of {sender} in {conv} was pushed to {user}"));
                }
                tally.counts.pushed += 1;
                tally.step_at(now).pushed += 1;
                if let Some(due) = due_of(&message.body) {
                    tally.pushes.record(now.saturating_sub(due));
                }
            }
            Event::Refused { id, conv, code } => {
                let Some(due) = mind.waiting.remove(&id) else { return };
                let mut tally = locked(&self.shared.tally);
                tally.refused(due, now, self.shared.plan.patience());
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
                mind.gave_up = true;
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
        mind.left_until = self.shared.now();
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
        for (_, due) in self.waiting.drain() {
            shared.unanswered(due, None);
        }
    }
}

/// Waits until it is so, or nobody will say it.
async fn until(so: &mut watch::Receiver<bool>) {
    _ = so.wait_for(|so| *so).await;
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
    // Shorter ones are refused on the command line.
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
