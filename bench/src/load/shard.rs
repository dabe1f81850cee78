//! What one process does of a run: its users, told when to speak, and the check of what they were promised.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

use super::{
    pacer,
    plan::{Part, Plan},
    requests::Connection,
    tally::{Tally, Tick},
    trace::Action,
    user::{Left, ORDERS, Order, Shared, User},
};
use crate::{
    harness::{locked, raise_open_files},
    im::{
        Journal, Phone, Secret,
        checker::{self, Verdict},
    },
};

/// Conversations that are asked for at a time when all is said.
const AT_ONCE: usize = 32;
/// How long each of them may take, over as many connections as that takes.
const ASKING: Duration = Duration::from_secs(60);
/// What is left of broken promises in a report.
const PROBLEMS: usize = 20;
/// How often somebody is told how it goes.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// What came of a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) checked: Checked,
}

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checked {
    /// That of the conversations of which every promise was kept.
    pub(crate) verdict: Verdict,
    /// Acknowledged messages that are not stored.
    pub(crate) lost: usize,
    pub(crate) broken_promises: usize,
    /// The first of them, in words.
    pub(crate) problems: Vec<String>,
    /// Conversations that could not be asked for, and why one could not.
    pub(crate) unasked: usize,
    pub(crate) why_unasked: Option<String>,
}

impl Checked {
    pub(crate) fn merge(&mut self, other: Self) {
        self.verdict = self.verdict.and(other.verdict);
        self.lost += other.lost;
        self.broken_promises += other.broken_promises;
        self.problems.extend(other.problems);
        self.problems.truncate(PROBLEMS);
        self.unasked += other.unasked;
        self.why_unasked = self.why_unasked.take().or(other.why_unasked);
    }
}

/// Whoever can be told something.
#[derive(Debug)]
struct Reach {
    orders: mpsc::Sender<Order>,
    here: Arc<AtomicBool>,
}

/// Does a part of a plan from now on, and tells how it goes every second.
pub(super) async fn run(plan: Arc<Plan>, secret: &Secret, part: Part, tell: impl FnMut(Tick)) -> Result<Outcome> {
    let numbers = plan.users_of(part);
    raise_open_files(numbers.len() as u64 + 200)?;
    let tally = Arc::new(Mutex::new(Tally::new(plan.step())));
    let shared = Shared { plan: Arc::clone(&plan), tally: Arc::clone(&tally), origin: Instant::now() };
    let journal = Journal::default();
    let work = async {
        if plan.over.is_http() {
            request(&shared, &numbers, part).await?;
            return Ok(Checked::default());
        }
        let left = talk(&shared, &numbers, part, secret, &journal).await?;
        Ok::<_, anyhow::Error>(end(&shared, left, &journal).await)
    };
    let checked = tokio::select! {
        outcome = work => outcome?,
        () = watch(&shared, tell) => unreachable!("watching has no end"),
    };
    let mut tally = std::mem::take(&mut *locked(&tally));
    tally.cpu = processor_time();
    tally.cpu_of_one = tally.cpu;
    // Those who leave when all is over are no part of it, and neither is a step that was not whole.
    let steps = (plan.arriving() + plan.time()).as_secs_f64() / tally.step;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a run has some hundred steps")]
    tally.steps.truncate(steps.floor().max(1.0) as usize);
    Ok(Outcome { tally, checked })
}

/// Processor time of this process so far, in seconds.
fn processor_time() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default().as_secs_f64()
}

async fn watch(shared: &Shared, mut tell: impl FnMut(Tick)) {
    let mut seconds = interval_at((shared.origin + TICK).into(), TICK);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        let tick = {
            let now = shared.now();
            let mut tally = locked(&shared.tally);
            // The end of the step that has just passed.
            tally.end_step(now.saturating_sub(TICK / 2));
            tally.tick(now)
        };
        tell(tick);
    }
}

/// When something is due, what, and for whom if that is known.
type Moment = (Duration, (Action, Option<usize>));

/// What is due for these users, in the order of time.
fn moments(shared: &Shared, numbers: &[usize], part: Part) -> Box<dyn Iterator<Item = Moment> + Send> {
    let plan = &shared.plan;
    if let Some(trace) = &plan.trace {
        let place = |number: usize| numbers.binary_search(&number).ok();
        let own: Vec<_> =
            trace.iter().filter_map(|entry| Some((entry.due(), (entry.action, Some(place(entry.user)?))))).collect();
        return Box::new(own.into_iter());
    }
    let action = if plan.over.is_http() { Action::Request } else { Action::Say };
    let begin = plan.arriving();
    let due = plan.schedule.part(part.number as u64, part.of as u64);
    Box::new(due.map(move |due| (begin + due, (action, None))))
}

/// Everybody talks, as long as the plan says.
async fn talk(shared: &Shared, numbers: &[usize], part: Part, secret: &Secret, journal: &Journal) -> Result<Vec<Left>> {
    let plan = &shared.plan;
    let tls = plan.tls()?;
    let mut users = JoinSet::new();
    let mut reach = Vec::new();
    for &number in numbers {
        let (orders, received) = mpsc::channel(ORDERS);
        let here = Arc::new(AtomicBool::new(false));
        let mut phone = Phone::new(&plan.user(number), plan.door(number, tls.as_ref()), secret, journal)
            .backing_off(plan.habits.back_off());
        phone.join(&plan.pair(number));
        phone.join(&plan.room(number));
        let arrives = Duration::from_secs_f64(super::plan::as_float(number) / plan.arrivals);
        let user = User {
            number,
            phone,
            shared: shared.clone(),
            orders: received,
            here: Arc::clone(&here),
            arrives: plan.trace.is_none().then_some(arrives),
        };
        users.spawn(user.live());
        reach.push(Reach { orders, here });
    }
    let silent = |place: usize| super::plan::as_float(place) + 0.5 < super::plan::as_float(reach.len()) * plan.silent;
    // Who is silent is spread evenly over pairs and rooms.
    let mut order: Vec<usize> = (0..reach.len()).collect();
    fastrand::shuffle(&mut order);
    let talkers: Vec<usize> =
        order.into_iter().enumerate().filter(|(at, _)| !silent(*at)).map(|(_, user)| user).collect();
    dispatch(shared, moments(shared, numbers, part), &reach, &talkers).await?;
    drop(reach);
    let mut left = Vec::new();
    while let Some(user) = users.join_next().await {
        left.push(user.context("a user broke off")?);
    }
    Ok(left)
}

/// Tells users what is due when it is, whoever is slow.
async fn dispatch(
    shared: &Shared,
    moments: impl Iterator<Item = Moment> + Send + 'static,
    reach: &[Reach],
    talkers: &[usize],
) -> Result<()> {
    let mut due = pacer::start(shared.origin, moments)?;
    let mut turn = 0;
    while let Some((due, (action, user))) = due.recv().await {
        let Some(user) = user.or_else(|| next_talker(reach, talkers, &mut turn)) else { continue };
        if action == Action::Say {
            locked(&shared.tally).due(due);
        }
        if reach[user].orders.try_send(Order { due, action, was_free: true }).is_err() {
            let mut tally = locked(&shared.tally);
            tally.unanswered(due, shared.now());
            tally.trouble("not sent", "a user is too far behind");
        }
    }
    Ok(())
}

/// The next one who is there, or, if nobody is, whose turn it is.
fn next_talker(reach: &[Reach], talkers: &[usize], turn: &mut usize) -> Option<usize> {
    for _ in 0..talkers.len() {
        *turn = (*turn + 1) % talkers.len();
        if reach[talkers[*turn]].here.load(Ordering::Relaxed) {
            return Some(talkers[*turn]);
        }
    }
    talkers.get(*turn).copied()
}

/// When all is said: asks for every conversation once, holds it against what was promised, and lets everybody leave.
async fn end(shared: &Shared, left: Vec<Left>, journal: &Journal) -> Checked {
    let mut checked = Checked::default();
    let mut ends = stream::iter(left).map(|left| end_one(&shared.plan, left, journal)).buffer_unordered(AT_ONCE);
    while let Some(one) = ends.next().await {
        checked.merge(one);
    }
    checked
}

async fn end_one(plan: &Plan, left: Left, journal: &Journal) -> Checked {
    let Left { number, mut phone } = left;
    let mut checked = Checked::default();
    for conv in plan.answers_for(number).into_iter().filter(|_| plan.check) {
        match phone.history(&conv, ASKING).await {
            Ok(history) => match checker::check(&conv, &history, journal) {
                Ok(verdict) => checked.verdict = checked.verdict.and(verdict),
                Err(broken) => {
                    checked.lost += broken.lost();
                    checked.broken_promises += broken.problems.len();
                    checked.problems.extend(broken.problems.iter().take(PROBLEMS).map(ToString::to_string));
                }
            },
            Err(error) => {
                checked.unasked += 1;
                checked.why_unasked = Some(format!("{error:#}"));
            }
        }
    }
    // Whoever cannot leave in order has been counted, or is of no account any more.
    _ = phone.leave().await;
    checked
}

/// Requests, as long as the plan says.
async fn request(shared: &Shared, numbers: &[usize], part: Part) -> Result<()> {
    let plan = &shared.plan;
    let tls = plan.tls()?;
    let (idle, mut free) = mpsc::channel(numbers.len().max(1));
    let mut connections = JoinSet::new();
    let mut orders = Vec::new();
    for (place, &number) in numbers.iter().enumerate() {
        let (sender, received) = mpsc::channel(ORDERS);
        let idle = plan.trace.is_none().then(|| idle.clone());
        let door = plan.door(number, tls.as_ref());
        let connection = Connection { number, place, door, shared: shared.clone(), orders: received, idle };
        connections.spawn(connection.live());
        orders.push(sender);
    }
    drop(idle);
    let mut due = pacer::start(shared.origin, moments(shared, numbers, part))?;
    // Until when requests waited for a connection: what was due before is not late by the load's doing.
    let mut waited_until = Duration::ZERO;
    while let Some((due, (action, user))) = due.recv().await {
        locked(&shared.tally).due(due);
        let place = match user {
            Some(user) => Some(user),
            None => match free.try_recv() {
                Ok(place) => Some(place),
                // The request waits for a free connection, and its time runs.
                Err(_) => {
                    let place = free.recv().await;
                    waited_until = shared.now();
                    place
                }
            },
        };
        let Some(place) = place else { break };
        let was_free = user.is_none() && due >= waited_until;
        if orders[place].try_send(Order { due, action, was_free }).is_err() {
            locked(&shared.tally).failed_request(due, shared.now(), "a connection is too far behind".into());
        }
    }
    drop(orders);
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection broke off")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{sync::watch, time::sleep};

    use super::*;
    use crate::{
        im::stub::Stub,
        load::{
            plan::{Over, tests::plan},
            schedule::Schedule,
            trace::Entry,
        },
    };

    const WHOLE: Part = Part { number: 0, of: 1 };

    async fn load(plan: Plan) -> Outcome {
        run(Arc::new(plan), &Secret::random(), WHOLE, |_| ()).await.unwrap()
    }

    #[tokio::test]
    async fn a_stall_shows_in_all_messages_that_were_due_meanwhile() {
        let stalled = watch::Sender::new(false);
        let stub = Stub::start(stalled.subscribe()).await;
        let rate = 200.0;
        let schedule = Schedule { from: rate, to: rate, time: 4.0 };
        let plan = Plan { target: stub.address, over: Over::Tcp, schedule, check: false, ..plan() };
        let begin = plan.arriving() + Duration::from_millis(1500);
        let stall = async {
            sleep(begin).await;
            let from = Instant::now();
            stalled.send_replace(true);
            sleep(Duration::from_secs(1)).await;
            stalled.send_replace(false);
            from.elapsed()
        };
        let (Outcome { tally, .. }, stall) = tokio::join!(load(plan), stall);
        assert_eq!((tally.counts.due, tally.counts.acknowledged, tally.counts.unanswered), (800, 800, 0));
        // What was due more than 100 ms before the end of the stall took more than that, however quick the server is.
        let long = Duration::from_millis(100);
        let late = tally.acks.count_above(long) as f64;
        let due = rate * (stall - long).as_secs_f64();
        assert!(late > due * 0.97, "{late} are late, and {due} were due in the stall");
        assert!(late < 600.0, "{late} of 800 are late: not only those of the stall");
    }

    #[tokio::test]
    async fn what_is_never_answered_counts_with_the_time_that_it_waited() {
        let stalled = watch::Sender::new(false);
        let stub = Stub::start(stalled.subscribe()).await;
        let schedule = Schedule { from: 100.0, to: 100.0, time: 1.0 };
        let plan = Plan { target: stub.address, over: Over::Tcp, schedule, check: false, patience: 1.0, ..plan() };
        let begin = plan.arriving() + Duration::from_millis(500);
        let stall = async {
            sleep(begin).await;
            stalled.send_replace(true);
        };
        let start = Instant::now();
        let (Outcome { tally, .. }, ()) = tokio::join!(load(plan), stall);
        assert!(start.elapsed() < Duration::from_secs(20), "it ends by itself");
        assert_eq!(tally.counts.acknowledged + tally.counts.unanswered, 100);
        assert!(tally.counts.unanswered >= 45, "{:?}", tally.counts);
        assert!(tally.acks.count_above(Duration::from_millis(900)) >= 45);
    }

    #[tokio::test]
    async fn users_of_a_trace_do_what_it_says() {
        let stub = Stub::start(watch::channel(false).1).await;
        let entry = |at, user, action| Entry { at, user, action };
        let trace = vec![
            entry(0.0, 0, Action::Login),
            entry(0.1, 1, Action::Login),
            entry(0.2, 0, Action::Say),
            entry(0.3, 1, Action::Cut),
            entry(0.4, 1, Action::Login),
            entry(0.5, 1, Action::Say),
            entry(0.6, 0, Action::Leave),
        ];
        let schedule = Schedule { from: 0.0, to: 0.0, time: 0.6 };
        let plan = Plan {
            target: stub.address,
            over: Over::Tcp,
            users: 2,
            schedule,
            check: false,
            trace: Some(trace),
            ..plan()
        };
        let counts = load(plan).await.tally.counts;
        assert_eq!((counts.due, counts.acknowledged, counts.logins, counts.broken), (2, 2, 3, 0));
    }
}
