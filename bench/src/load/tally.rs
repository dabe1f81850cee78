//! What is counted and timed during a run: by one process, and then added up over all.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::times::{Coarse, Fine};

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Seconds of each part of the series.
    pub(crate) step: f64,
    pub(crate) steps: Vec<Step>,
    pub(crate) counts: Counts,
    /// From when a message was due until it was acknowledged. One that never was counts with at least as long as a
    /// client waits: whoever refuses quickly is not quick.
    pub(crate) acks: Fine,
    /// From when a message was due until somebody else had it.
    pub(crate) pushes: Fine,
    /// From the beginning of a connect until the session was there.
    pub(crate) logins: Fine,
    /// From when a request was due until its answer was there; one that failed counts as such a message does.
    pub(crate) requests: Fine,
    /// From when something was due until the load did it: the load's own lateness.
    pub(crate) late: Fine,
    /// Sessions, or answers to requests, by country (empty: none was asked for) and server.
    pub(crate) places: BTreeMap<String, BTreeMap<String, u64>>,
    /// An example of each kind of trouble.
    pub(crate) troubles: BTreeMap<String, String>,
    /// Who is online now, by server; not part of what is left in the end.
    #[serde(skip)]
    pub(crate) online: BTreeMap<String, u64>,
    /// Until acknowledged or answered, since the last look at how it goes.
    #[serde(skip)]
    pub(crate) recent: Coarse,
    /// The share of a processor that the busiest process of the load had while things were due.
    pub(crate) busiest: f64,
}

/// Servers of one country that are told apart. Whoever names itself anew with each answer does not fill the memory.
const MOST_NODES: usize = 1000;
/// All servers beyond.
const OTHERS: &str = "others";

/// How often things happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Messages or requests that were due.
    pub(crate) due: u64,
    pub(crate) acknowledged: u64,
    /// Of these, sent more than once and stored once.
    pub(crate) repeated: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Not acknowledged when the run ended.
    pub(crate) unanswered: u64,
    pub(crate) pushed: u64,
    /// Pushes that there would be if everybody were always online and nothing got lost.
    pub(crate) pushes_expected: u64,
    /// Pushes of conversations in which the receiver or the sender is not.
    pub(crate) strayed: u64,
    pub(crate) logins: u64,
    /// Of these, sessions that went on where they had ended.
    pub(crate) resumed: u64,
    /// Logins and upgrades that were answered with a no.
    pub(crate) turned_away: u64,
    /// Logins that failed in another way.
    pub(crate) failed_logins: u64,
    /// Sessions that ended without the client's doing.
    pub(crate) broken: u64,
    /// Sessions that ended because the server asked for it.
    pub(crate) moved: u64,
    /// Clients that stayed away for good.
    pub(crate) gave_up: u64,
    /// Answers to requests by their status.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub(crate) failed_requests: u64,
}

/// A short part of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) due: u64,
    /// Acknowledged or answered, by when that was.
    pub(crate) done: u64,
    pub(crate) pushed: u64,
    pub(crate) logins: u64,
    /// What went wrong: sessions that broke, refused and failed logins, failed requests.
    pub(crate) wrong: u64,
    /// Connections with a session, by server, at its end.
    pub(crate) online: BTreeMap<String, u64>,
    /// Until acknowledged or answered, by when it was due.
    pub(crate) times: Coarse,
}

/// How it goes, for whoever watches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) seconds: f64,
    /// Since the beginning.
    pub(crate) due: u64,
    pub(crate) done: u64,
    pub(crate) pushed: u64,
    pub(crate) online: u64,
    pub(crate) wrong: u64,
    /// Times since the tick before.
    pub(crate) recent: Coarse,
}

impl Tick {
    /// That of another process, at the same time or so.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.due += other.due;
        self.done += other.done;
        self.pushed += other.pushed;
        self.online += other.online;
        self.wrong += other.wrong;
        self.recent.merge(&other.recent);
    }
}

impl Tally {
    /// Nothing yet, for a run of this time, in steps of this length.
    pub(crate) fn new(step: Duration) -> Self {
        Self { step: step.as_secs_f64(), ..Self::default() }
    }

    /// The part of the run at this time since its beginning.
    pub(crate) fn step_at(&mut self, at: Duration) -> &mut Step {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a run has some hundred steps")]
        let place = (at.as_secs_f64() / self.step) as usize;
        if place >= self.steps.len() {
            self.steps.resize_with(place + 1, Step::default);
        }
        &mut self.steps[place]
    }

    pub(crate) fn due(&mut self, due: Duration) {
        self.counts.due += 1;
        self.step_at(due).due += 1;
    }

    /// A message that was due then is acknowledged now.
    pub(crate) fn acknowledged(&mut self, due: Duration, now: Duration) {
        self.counts.acknowledged += 1;
        self.acks.record(now.saturating_sub(due));
        self.done(due, now);
    }

    /// A request that was due then is answered now.
    pub(crate) fn answered(&mut self, status: u16, due: Duration, now: Duration) {
        *self.counts.answers.entry(status).or_default() += 1;
        self.requests.record(now.saturating_sub(due));
        self.done(due, now);
    }

    /// A request that was due then has a no for an answer. As with all that fails, its time counts as `least` at least.
    pub(crate) fn denied(&mut self, status: u16, due: Duration, now: Duration, least: Duration) {
        *self.counts.answers.entry(status).or_default() += 1;
        let took = self.failed(due, now, least);
        self.requests.record(took);
    }

    /// A message that was due then is not acknowledged, and will not be.
    pub(crate) fn unanswered(&mut self, due: Duration, now: Duration, least: Duration) {
        self.counts.unanswered += 1;
        let took = self.failed(due, now, least);
        self.acks.record(took);
    }

    /// A message that was due then is refused for good.
    pub(crate) fn refused(&mut self, due: Duration, now: Duration, least: Duration) {
        self.counts.refused += 1;
        let took = self.failed(due, now, least);
        self.acks.record(took);
    }

    /// A request that was due then has no answer.
    pub(crate) fn failed_request(&mut self, due: Duration, now: Duration, least: Duration) {
        self.counts.failed_requests += 1;
        let took = self.failed(due, now, least);
        self.requests.record(took);
    }

    /// The time that something counts with that failed: as long as it took, and `least` at least.
    fn failed(&mut self, due: Duration, now: Duration, least: Duration) -> Duration {
        let took = now.saturating_sub(due).max(least);
        self.step_at(now).wrong += 1;
        self.step_at(due).times.record(took);
        self.recent.record(took);
        took
    }

    /// Whether everything that was said has an outcome.
    pub(crate) fn is_settled(&self) -> bool {
        let Counts { due, acknowledged, refused, unanswered, .. } = self.counts;
        acknowledged + refused + unanswered >= due
    }

    fn done(&mut self, due: Duration, now: Duration) {
        let took = now.saturating_sub(due);
        self.step_at(now).done += 1;
        self.step_at(due).times.record(took);
        self.recent.record(took);
    }

    /// How it goes, since the last time this was asked.
    pub(crate) fn tick(&mut self, at: Duration) -> Tick {
        let counts = &self.counts;
        Tick {
            seconds: at.as_secs_f64(),
            due: counts.due,
            done: counts.acknowledged + counts.answers.values().sum::<u64>(),
            pushed: counts.pushed,
            online: self.online.values().sum(),
            wrong: counts.turned_away + counts.failed_logins + counts.broken + counts.failed(),
            recent: std::mem::take(&mut self.recent),
        }
    }

    pub(crate) fn place(&mut self, country: &str, node: &str) {
        let nodes = self.places.entry(country.into()).or_default();
        let node = if nodes.len() < MOST_NODES || nodes.contains_key(node) { node } else { OTHERS };
        *nodes.entry(node.into()).or_default() += 1;
    }

    /// Somebody is no longer at one server, and at another one.
    pub(crate) fn moved(&mut self, from: Option<&str>, to: Option<&str>) {
        if let Some(count) = from.and_then(|from| self.online.get_mut(from)) {
            *count -= 1;
        }
        if let Some(to) = to {
            *self.online.entry(to.into()).or_default() += 1;
        }
    }

    /// Notes who is online at the end of a step, and of those since the last time for which nobody did.
    pub(crate) fn end_step(&mut self, since: Duration, at: Duration) {
        let online = self.online.clone();
        let mut missed = since;
        while missed < at {
            let step = self.step_at(missed);
            if step.online.is_empty() {
                step.online.clone_from(&online);
            }
            missed += Duration::from_secs_f64(self.step);
        }
        self.step_at(at).online = online;
    }

    pub(crate) fn trouble(&mut self, kind: &str, what: impl Into<String>) {
        self.troubles.insert(kind.into(), what.into());
    }

    /// Adds what another process saw of the same run.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.steps.len() < other.steps.len() {
            self.steps.resize_with(other.steps.len(), Step::default);
        }
        for (own, others) in self.steps.iter_mut().zip(&other.steps) {
            own.merge(others);
        }
        self.counts.merge(&other.counts);
        self.acks.merge(&other.acks);
        self.pushes.merge(&other.pushes);
        self.logins.merge(&other.logins);
        self.requests.merge(&other.requests);
        self.late.merge(&other.late);
        for (country, nodes) in &other.places {
            add(self.places.entry(country.clone()).or_default(), nodes);
        }
        self.troubles.extend(other.troubles.clone());
        self.busiest = self.busiest.max(other.busiest);
    }
}

impl Step {
    fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.done += other.done;
        self.pushed += other.pushed;
        self.logins += other.logins;
        self.wrong += other.wrong;
        add(&mut self.online, &other.online);
        self.times.merge(&other.times);
    }
}

impl Counts {
    /// What was due and did not come to what it was for.
    pub(crate) fn failed(&self) -> u64 {
        let denied = self.answers.iter().filter(|(status, _)| is_no(**status)).map(|(_, count)| count);
        self.refused + self.unanswered + self.failed_requests + denied.sum::<u64>()
    }

    fn merge(&mut self, other: &Self) {
        let Self {
            due,
            acknowledged,
            repeated,
            refused,
            unanswered,
            pushed,
            pushes_expected,
            strayed,
            logins,
            resumed,
            turned_away,
            failed_logins,
            broken,
            moved,
            gave_up,
            answers,
            failed_requests,
        } = other;
        self.due += due;
        self.acknowledged += acknowledged;
        self.repeated += repeated;
        self.refused += refused;
        self.unanswered += unanswered;
        self.pushed += pushed;
        self.pushes_expected += pushes_expected;
        self.strayed += strayed;
        self.logins += logins;
        self.resumed += resumed;
        self.turned_away += turned_away;
        self.failed_logins += failed_logins;
        self.broken += broken;
        self.moved += moved;
        self.gave_up += gave_up;
        self.failed_requests += failed_requests;
        add(&mut self.answers, answers);
    }
}

/// Whether an answer to a request is that there is none now: from a server or edge in trouble, or with too much to do.
/// Others (a page that does not exist) are answers as good as any.
pub(crate) fn is_no(status: u16) -> bool {
    status >= 500 || status == 429
}

/// Adds counts by name.
fn add<K: Ord + Clone>(own: &mut BTreeMap<K, u64>, others: &BTreeMap<K, u64>) {
    for (name, count) in others {
        *own.entry(name.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_are_one_that_saw_everything() {
        let step = Duration::from_secs(1);
        let (mut one, mut parts) = (Tally::new(step), [Tally::new(step), Tally::new(step)]);
        for number in 0..1000_u64 {
            let (due, took) = (Duration::from_millis(number * 5), Duration::from_micros(number * 7));
            let part = usize::try_from(number % 2).unwrap();
            let node = format!("im-{}", number % 3);
            for tally in [&mut one, &mut parts[part]] {
                tally.due(due);
                tally.acknowledged(due, due + took);
                tally.recent = Coarse::default();
                tally.place("DE", &node);
                *tally.step_at(due).online.entry(node.clone()).or_default() += 1;
            }
        }
        let mut merged = Tally::new(step);
        for part in parts {
            let text = serde_json::to_string(&part).unwrap();
            merged.merge(&serde_json::from_str(&text).unwrap());
        }
        assert_eq!(merged, one);
    }

    /// Once a target that refused everything at once was faster than one that did its work.
    #[test]
    fn what_fails_at_once_is_not_quick() {
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
        let mut tally = Tally::new(second);
        tally.unanswered(ms, ms, second);
        tally.refused(ms, 2 * ms, second);
        tally.unanswered(ms, 3 * second, second);
        tally.failed_request(ms, ms, second);
        tally.denied(503, ms, 2 * ms, second);
        assert_eq!((tally.acks.count_above(second - ms), tally.requests.count_above(second - ms)), (3, 2));
        assert!(tally.acks.quantile_ms(1.0) > Some(2900.0), "it counts with what it waited if that was longer");
        assert_eq!((tally.counts.failed(), tally.steps[0].times.count()), (5, 5));
    }

    #[test]
    fn names_of_servers_have_an_end_and_missed_steps_are_filled() {
        let mut tally = Tally::new(Duration::from_secs(1));
        (0..2 * MOST_NODES).for_each(|number| tally.place("", &number.to_string()));
        assert_eq!((tally.places[""].len(), tally.places[""][OTHERS]), (MOST_NODES + 1, MOST_NODES as u64));
        tally.moved(None, Some("im-1"));
        tally.end_step(Duration::ZERO, Duration::from_millis(500));
        tally.end_step(Duration::from_millis(500), Duration::from_millis(3500));
        assert!(tally.steps.len() == 4 && tally.steps.iter().all(|step| step.online["im-1"] == 1), "{:?}", tally.steps);
    }
}
