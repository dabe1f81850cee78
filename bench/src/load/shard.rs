//! What one process does of a run: its users, told when to speak, and the check of what they were promised.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use backend::frame::Msg;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval_at, sleep, timeout_at},
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
/// How long all of that may take, and …
const ASKING: Duration = Duration::from_secs(60);
/// … for each conversation more.
const ASKING_EACH: Duration = Duration::from_millis(10);
/// How often it is looked whether everybody has what was said.
const LOOK: Duration = Duration::from_millis(20);
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
    /// Conversations that could not be asked for, so that nobody knows, and why one could not.
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

    fn unasked(&mut self, why: impl Into<String>) {
        self.unasked += 1;
        self.why_unasked.get_or_insert_with(|| why.into());
    }

    fn broken(&mut self, problems: impl Iterator<Item = String>) {
        for problem in problems {
            self.broken_promises += 1;
            if self.problems.len() < PROBLEMS {
                self.problems.push(problem);
            }
        }
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
    let over = watch::Sender::new(false);
    let shared =
        Shared { plan: Arc::clone(&plan), tally: Arc::clone(&tally), origin: Instant::now(), over: over.subscribe() };
    let journal = Journal::default();
    let work = async {
        if plan.over.is_http() {
            request(&shared, &numbers, part).await?;
            return Ok(Checked::default());
        }
        let left = talk(&shared, &numbers, part, secret, &journal, over).await?;
        end(&shared, left, &journal).await
    };
    let checked = tokio::select! {
        outcome = work => outcome?,
        () = look_on(&shared, &journal, tell) => unreachable!("looking on has no end"),
    };
    let mut tally = std::mem::take(&mut *locked(&tally));
    // Those who leave when all is over are no part of it, and neither is a step that was not whole.
    let steps = (plan.arriving() + plan.time()).as_secs_f64() / tally.step;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a run has some hundred steps")]
    tally.steps.truncate(steps.floor().max(1.0) as usize);
    Ok(Outcome { tally, checked })
}

/// From when on processor time of this process is counted.
struct Processor {
    time: f64,
    at: Instant,
}

impl Processor {
    fn now() -> Self {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self { time: Duration::try_from(spent).unwrap_or_default().as_secs_f64(), at: Instant::now() }
    }

    /// The share of a processor that was used since then.
    fn share(&self) -> f64 {
        let now = Self::now();
        (now.time - self.time) / (now.at - self.at).as_secs_f64().max(0.001)
    }
}

async fn look_on(shared: &Shared, journal: &Journal, mut tell: impl FnMut(Tick)) {
    let mut seconds = interval_at((shared.origin + TICK).into(), TICK);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ended = Duration::ZERO;
    loop {
        seconds.tick().await;
        let tick = {
            let now = shared.now();
            let mut tally = locked(&shared.tally);
            // The end of the step that has just passed.
            let end = now.saturating_sub(TICK / 2);
            tally.end_step(ended, end);
            ended = end;
            tally.tick(now)
        };
        if !shared.plan.check {
            // Nobody will look into it, and it would grow as long as the run is.
            drop(journal.set_back(&Journal::default()));
        }
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
    let weights = plan.talkers(part.of).into_iter().map(super::plan::as_float).collect();
    let due = plan.schedule.part(part.number, weights);
    Box::new(due.map(move |due| (begin + due, (action, None))))
}

/// Everybody talks, as long as the plan says.
async fn talk(
    shared: &Shared,
    numbers: &[usize],
    part: Part,
    secret: &Secret,
    journal: &Journal,
    over: watch::Sender<bool>,
) -> Result<Vec<Left>> {
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
        let user = User {
            number,
            phone,
            shared: shared.clone(),
            orders: received,
            here: Arc::clone(&here),
            arrives: plan.arrives(number),
        };
        users.spawn(user.live());
        reach.push(Reach { orders, here });
    }
    let mut talkers: Vec<usize> = (0..numbers.len()).filter(|place| plan.talks(numbers[*place])).collect();
    // Neighbours are in one room, and would all speak at once.
    fastrand::shuffle(&mut talkers);
    dispatch(shared, moments(shared, numbers, part), &reach, &talkers).await?;
    drop(reach);
    until_all_have_it(shared).await;
    over.send_replace(true);
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
    let processor = Processor::now();
    let mut due = pacer::start(shared.origin, moments)?;
    let mut turn = 0;
    while let Some((due, (action, user))) = due.recv().await {
        if action == Action::Say {
            locked(&shared.tally).due(due);
        }
        let user = user.or_else(|| next_talker(reach, talkers, &mut turn));
        let told = user.is_some_and(|user| reach[user].orders.try_send(Order { due, action }).is_ok());
        match action {
            _ if told => {}
            Action::Say => shared.unanswered(due, Some("a user is too far behind")),
            _ => locked(&shared.tally).trouble("not done", "a user is too far behind"),
        }
    }
    locked(&shared.tally).busiest = processor.share();
    Ok(())
}

/// Waits until everything that was said has an outcome and was pushed to all who are to have it, or its time is over.
/// Whoever was away gets it in another way: then the time is over.
async fn until_all_have_it(shared: &Shared) {
    let deadline = shared.deadline();
    loop {
        let (settled, pushed) = {
            let tally = locked(&shared.tally);
            (tally.is_settled(), tally.counts.pushed >= tally.counts.pushes_expected)
        };
        let now = tokio::time::Instant::now();
        // Whoever is leaving has a little more, to say what came of its messages.
        if settled && (pushed || now >= deadline) || now >= deadline + shared.plan.patience() {
            return;
        }
        sleep(LOOK).await;
    }
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

/// When all is said: asks for every conversation once, holds it against what was promised, and lets everybody leave. All
/// of it has one end, and whoever waits for its turn goes on with heartbeats.
async fn end(shared: &Shared, left: Vec<Left>, journal: &Journal) -> Result<Checked> {
    let mut checked = Checked::default();
    let askers = askers(&shared.plan, &left);
    let count = u32::try_from(askers.len()).unwrap_or(u32::MAX);
    let deadline = tokio::time::Instant::now() + ASKING + ASKING_EACH * count;
    let mut to_ask: Vec<Vec<String>> = vec![Vec::new(); left.len()];
    for (conv, asker) in askers {
        match asker {
            Some(place) => to_ask[place].push(conv),
            None => checked.unasked(format!("nobody of {conv} has a session")),
        }
    }
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut ends = JoinSet::new();
    for (left, convs) in left.into_iter().zip(to_ask) {
        let (plan, journal, turns) = (Arc::clone(&shared.plan), journal.clone(), Arc::clone(&turns));
        ends.spawn(async move { end_one(&plan, left, &convs, &journal, &turns, deadline).await });
    }
    while let Some(one) = ends.join_next().await {
        checked.merge(one.context("a check broke off")?);
    }
    Ok(checked)
}

/// Who asks for each conversation, by its place: the first of those in it who has not given up. None if nothing is to be
/// checked.
fn askers(plan: &Plan, left: &[Left]) -> BTreeMap<String, Option<usize>> {
    let mut askers = BTreeMap::new();
    for (place, user) in left.iter().enumerate().filter(|_| plan.check) {
        for conv in [plan.pair(user.number), plan.room(user.number)] {
            let asker = askers.entry(conv).or_insert(None);
            *asker = asker.or((!user.gave_up).then_some(place));
        }
    }
    askers
}

async fn end_one(
    plan: &Plan,
    left: Left,
    convs: &[String],
    journal: &Journal,
    turns: &Semaphore,
    deadline: tokio::time::Instant,
) -> Checked {
    let Left { number, mut phone, .. } = left;
    let mut checked = Checked::default();
    let time_left = || deadline.saturating_duration_since(tokio::time::Instant::now());
    let turn = tokio::select! {
        turn = turns.acquire() => turn.ok(),
        () = phone.listen(time_left()) => None,
    };
    for conv in convs {
        if turn.is_none() || time_left().is_zero() {
            checked.unasked("the check took too long");
            continue;
        }
        match phone.history(conv, time_left()).await {
            Ok(history) => check_one(plan, number, conv, &history, journal, &mut checked),
            Err(error) => checked.unasked(format!("{error:#}")),
        }
    }
    if turn.is_some() {
        // Whoever cannot leave in order has been counted, or is of no account any more.
        _ = timeout_at(deadline, phone.leave()).await;
    }
    checked
}

/// Holds a conversation, as this user got it, against what was promised, and against who is in it: another process may
/// know of what does not belong here.
fn check_one(plan: &Plan, number: usize, conv: &str, history: &[Msg], journal: &Journal, checked: &mut Checked) {
    let strangers = history.iter().filter(|message| !plan.are_in(conv, number, &message.sender));
    let stray = |message: &Msg| format!("{} is not in {conv} and has said message {}", message.sender, message.seq);
    checked.broken(strangers.map(stray));
    match checker::check(conv, history, journal) {
        Ok(verdict) => checked.verdict = checked.verdict.and(verdict),
        Err(broken) => {
            checked.lost += broken.lost();
            checked.broken(broken.problems.iter().map(ToString::to_string));
        }
    }
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
    let processor = Processor::now();
    let mut due = pacer::start(shared.origin, moments(shared, numbers, part))?;
    while let Some((due, (action, user))) = due.recv().await {
        locked(&shared.tally).due(due);
        let place = match user {
            Some(user) => Some(user),
            // The request waits for a free connection, and its time runs. At the end nothing waits any more.
            None => timeout_at(shared.deadline(), free.recv()).await.ok().flatten(),
        };
        let Some(place) = place else {
            shared.failed_request(due, "no connection was free until the end");
            continue;
        };
        if orders[place].try_send(Order { due, action }).is_err() {
            shared.failed_request(due, "a connection is too far behind");
        }
    }
    locked(&shared.tally).busiest = processor.share();
    drop(orders);
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection broke off")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        let plan = Plan { target: stub.address, over: Over::Tcp, schedule, check: false, patience: 4.0, ..plan() };
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
        // A standstill of this machine stretches the stall beyond what is due at all.
        let due = rate * (stall - long).as_secs_f64().min(2.4);
        assert!(late > due * 0.97, "{late} are late, and {due} were due in the stall");
        // Not all of them, or it would not be those of the stall; a busy machine makes others late, too.
        assert!(tally.acks.quantile_ms(0.01) < Some(100.0), "{late} of 800 are late, of a stall of {stall:?}");
    }

    #[tokio::test]
    async fn what_is_never_answered_counts_with_the_time_that_it_waited() {
        let stalled = watch::Sender::new(false);
        let stub = Stub::start(stalled.subscribe()).await;
        let schedule = Schedule { from: 100.0, to: 100.0, time: 1.0 };
        let plan = Plan { target: stub.address, over: Over::Tcp, schedule, check: false, patience: 1.0, ..plan() };
        let (begin, length) = (plan.arriving(), plan.time());
        let origin = Instant::now();
        let stall = async {
            sleep(begin + length / 2).await;
            stalled.send_replace(true);
            // What was due later cannot be answered, however late the stall came.
            origin.elapsed()
        };
        let (Outcome { tally, .. }, stalled_at) = tokio::join!(load(plan), stall);
        assert!(origin.elapsed() < Duration::from_secs(20), "it ends by itself");
        assert_eq!(tally.counts.acknowledged + tally.counts.unanswered, 100);
        let due_later = 100.0 * (begin + length).saturating_sub(stalled_at).as_secs_f64() - 2.0;
        assert!(tally.counts.unanswered as f64 >= due_later, "{:?}, and {due_later} were due later", tally.counts);
        assert!(tally.acks.count_above(Duration::from_millis(990)) as f64 >= due_later);
    }

    /// A target that hangs once held requests up one after the other, long after the last one was due.
    #[tokio::test]
    async fn requests_to_a_target_that_hangs_have_one_end() {
        let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = hangs.local_addr().unwrap();
        let schedule = Schedule { from: 100.0, to: 100.0, time: 1.0 };
        let start = Instant::now();
        let tally = load(Plan { target, over: Over::Http, users: 2, schedule, patience: 1.0, ..plan() }).await.tally;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!((tally.counts.due, tally.counts.failed_requests), (100, 100));
        assert_eq!(tally.requests.count_above(Duration::from_millis(990)), 100, "none of them was quick");
    }

    /// Once all failed within a millisecond, which was faster than any target that works.
    #[tokio::test]
    async fn a_target_that_is_gone_is_not_quick() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let schedule = Schedule { from: 100.0, to: 100.0, time: 1.0 };
        let tally = load(Plan { target: gone, over: Over::Http, schedule, patience: 1.0, ..plan() }).await.tally;
        assert_eq!((tally.counts.failed_requests, tally.counts.failed()), (100, 100));
        assert!(tally.requests.quantile_ms(0.01) > Some(990.0), "{:?}", tally.requests.quantile_ms(0.01));
    }

    #[test]
    fn another_one_asks_for_whoever_has_given_up() {
        let plan = Plan { users: 8, ..plan() };
        let journal = Journal::default();
        let left = |number, gave_up| Left {
            number,
            phone: Phone::new(&plan.user(number), plan.door(number, None), &Secret::random(), &journal),
            gave_up,
        };
        // The first of a room has, and a whole pair.
        let all: Vec<Left> = (0..8).map(|number| left(number, [0, 2, 3].contains(&number))).collect();
        let askers = askers(&plan, &all);
        assert_eq!((askers[&plan.room(0)], askers[&plan.pair(0)], askers[&plan.pair(2)]), (Some(1), Some(1), None));
        assert_eq!((askers[&plan.room(4)], askers.len()), (Some(4), 6));
    }

    #[test]
    fn what_another_process_has_said_into_a_room_is_found() {
        let plan = Plan { users: 8, ..plan() };
        let mut checked = Checked::default();
        let message = |seq: u64, user: usize| Msg {
            conv: plan.room(0),
            seq,
            sender: plan.user(user),
            client_msg_id: plan.user(user).into_bytes().into(),
            ..Msg::default()
        };
        let history = [message(1, 3), message(2, 4)];
        check_one(&plan, 0, &plan.room(0), &history, &Journal::default(), &mut checked);
        let told = format!("{} is not in {} and has said message 2", plan.user(4), plan.room(0));
        assert_eq!((checked.broken_promises, checked.problems), (1, vec![told]));
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
            patience: 2.0,
            trace: Some(trace),
            ..plan()
        };
        let counts = load(plan).await.tally.counts;
        assert_eq!((counts.due, counts.acknowledged, counts.logins, counts.broken), (2, 2, 3, 0));
    }
}
