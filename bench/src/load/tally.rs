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
    /// From when a message was due until it was acknowledged.
    pub(crate) acks: Fine,
    /// From when a message was due until somebody else had it.
    pub(crate) pushes: Fine,
    /// From the beginning of a connect until the session was there.
    pub(crate) logins: Fine,
    /// From when a request was due until its answer was there.
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
    /// Processor time of the load, in seconds, the sum of all processes and the most of one.
    pub(crate) cpu: f64,
    pub(crate) cpu_of_one: f64,
}

/// How often things happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Messages or requests that were due.
    pub(crate) due: u64,
    pub(crate) acknowledged: u64,
    /// Of these, sent more than once and stored once.
    pub(crate) repeated: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Not acknowledged, or not answered, when the run ended. Their time until then is in the histograms.
    pub(crate) unanswered: u64,
    pub(crate) pushed: u64,
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

    /// A message that was due then is not acknowledged, and the run ends.
    pub(crate) fn unanswered(&mut self, due: Duration, now: Duration) {
        self.counts.unanswered += 1;
        self.acks.record(now.saturating_sub(due));
        self.step_at(due).times.record(now.saturating_sub(due));
    }

    /// A request that was due then has no answer.
    pub(crate) fn failed_request(&mut self, due: Duration, now: Duration, why: String) {
        self.counts.failed_requests += 1;
        self.requests.record(now.saturating_sub(due));
        self.step_at(due).times.record(now.saturating_sub(due));
        self.step_at(now).wrong += 1;
        self.trouble("failed request", why);
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
            wrong: counts.turned_away + counts.failed_logins + counts.broken + counts.failed_requests,
            recent: std::mem::take(&mut self.recent),
        }
    }

    pub(crate) fn place(&mut self, country: &str, node: &str) {
        *self.places.entry(country.into()).or_default().entry(node.into()).or_default() += 1;
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

    /// Notes who is online at the end of a step.
    pub(crate) fn end_step(&mut self, at: Duration) {
        let online = self.online.clone();
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
        self.cpu += other.cpu;
        self.cpu_of_one = self.cpu_of_one.max(other.cpu_of_one);
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
    fn merge(&mut self, other: &Self) {
        let Self {
            due,
            acknowledged,
            repeated,
            refused,
            unanswered,
            pushed,
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
}
