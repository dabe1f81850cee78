//! What is measured in a drill, out of what phones wrote down.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    crowd::Said,
    scene::{Mark, Phase},
};
use crate::im::{Entry, Happening};

/// No more steps of time than a picture can show.
const MOST_STEPS: u32 = 240;
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// Times from when a message was due until it was acknowledged, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    /// `None` when nothing was said.
    pub(super) fn of(times: impl Iterator<Item = Duration>) -> Result<Option<Self>> {
        // Microseconds up to ten minutes, to three digits.
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).context("no histogram")?;
        for time in times {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are far below 2^52")]
        let millis = |value: u64| value as f64 / 1000.0;
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        let count = histogram.len();
        Ok((count > 0).then(|| Self { count, p50: at(0.5), p99: at(0.99), max: millis(histogram.max()) }))
    }
}

/// Of each part of a drill that something was said in.
pub(super) fn latencies(said: &[Said], marks: &[Mark]) -> Result<BTreeMap<Phase, Latency>> {
    let mut found = BTreeMap::new();
    for phase in [Phase::Before, Phase::During, Phase::After] {
        let times = said.iter().filter(|said| phase_at(marks, said.due) == Some(phase)).map(|said| said.took);
        found.extend(Latency::of(times)?.map(|latency| (phase, latency)));
    }
    Ok(found)
}

/// `None` before the first mark.
fn phase_at(marks: &[Mark], at: Instant) -> Option<Phase> {
    marks.iter().take_while(|mark| mark.at <= at).last().map(|mark| mark.phase)
}

/// How many of a kind there were from `since` on.
pub(super) fn count(entries: &[Entry], since: Instant, what: &Happening) -> usize {
    entries.iter().filter(|entry| entry.at >= since && entry.what == *what).count()
}

/// When a server took logins, by its own clock.
pub(super) fn logins(entries: &[Entry], node: &str) -> Vec<Duration> {
    let at_node = |entry: &Entry| match &entry.what {
        Happening::LoggedIn { node: at, server_time } if at == node => Some(*server_time),
        _ => None,
    };
    entries.iter().filter_map(at_node).collect()
}

/// The most of these times in any stretch as long as `window`, wherever it begins, from `since` on.
pub(super) fn most_within(window: Duration, times: &[Duration], since: Duration) -> usize {
    let mut times: Vec<Duration> = times.iter().copied().filter(|time| *time >= since).collect();
    times.sort();
    let mut first = 0;
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        while times[first] + window <= *time {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// What it was like, step by step.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Series {
    /// Seconds that a step takes.
    pub(super) step: f64,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Step {
    /// How many are online at its end.
    pub(super) online: usize,
    /// Logins at each server, in the order of the servers.
    pub(super) logins: Vec<usize>,
    pub(super) refused: usize,
    pub(super) failed: usize,
    pub(super) broken: usize,
    /// Messages that were due in it, and how long they took, in milliseconds.
    pub(super) said: usize,
    pub(super) p50: Option<f64>,
    pub(super) max: Option<f64>,
}

impl Series {
    /// From `start` to `end`.
    pub(super) fn new(
        start: Instant,
        end: Instant,
        nodes: &[String],
        entries: &[Entry],
        said: &[Said],
    ) -> Result<Self> {
        let scale = Scale { start, step: ((end - start) / MOST_STEPS).max(SHORTEST_STEP) };
        let count = scale.place(end).map_or(1, |last| last + 1);
        let mut steps = vec![Step { logins: vec![0; nodes.len()], ..Step::default() }; count];
        for entry in entries {
            if let Some(step) = scale.place(entry.at).and_then(|found| steps.get_mut(found)) {
                step.count(&entry.what, nodes);
            }
        }
        count_online(&mut steps, entries.iter().filter(|entry| entry.at < start));
        let mut times: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
        for said in said {
            if let Some(found) = scale.place(said.due) {
                times.entry(found).or_default().push(said.took);
            }
        }
        for (found, times) in times {
            if let Some(step) = steps.get_mut(found) {
                step.time(times)?;
            }
        }
        Ok(Self { step: scale.step.as_secs_f64(), steps })
    }
}

impl Step {
    fn count(&mut self, what: &Happening, nodes: &[String]) {
        match what {
            Happening::LoggedIn { node, .. } => {
                if let Some(at) = nodes.iter().position(|known| known == node) {
                    self.logins[at] += 1;
                }
            }
            Happening::Refused => self.refused += 1,
            Happening::Failed => self.failed += 1,
            Happening::Broke => self.broken += 1,
        }
    }

    fn time(&mut self, times: Vec<Duration>) -> Result<()> {
        self.said = times.len();
        let latency = Latency::of(times.into_iter())?;
        self.p50 = latency.map(|latency| latency.p50);
        self.max = latency.map(|latency| latency.max);
        Ok(())
    }
}

/// Whoever was online before, and who came and went in each step.
fn count_online<'a>(steps: &mut [Step], before: impl Iterator<Item = &'a Entry>) {
    let mut online: usize = 0;
    for entry in before {
        match entry.what {
            Happening::LoggedIn { .. } => online += 1,
            Happening::Broke => online = online.saturating_sub(1),
            Happening::Refused | Happening::Failed => {}
        }
    }
    for step in steps {
        online = (online + step.logins.iter().sum::<usize>()).saturating_sub(step.broken);
        step.online = online;
    }
}

/// How time becomes steps.
#[derive(Debug, Clone, Copy)]
struct Scale {
    start: Instant,
    step: Duration,
}

impl Scale {
    /// `None` before the start.
    fn place(self, at: Instant) -> Option<usize> {
        let since = at.checked_duration_since(self.start)?;
        usize::try_from(since.as_nanos() / self.step.as_nanos().max(1)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(start: Instant, millis: u64, node: &str) -> Entry {
        let server_time = Duration::from_millis(1_000_000 + millis);
        let what = Happening::LoggedIn { node: node.into(), server_time };
        Entry { at: start + Duration::from_millis(millis), user: "alice".into(), what }
    }

    #[test]
    fn the_peak_is_that_of_the_worst_second_wherever_it_begins() {
        let start = Instant::now();
        let times = [0, 900, 950, 1000, 1850, 1899, 3000];
        let mut entries: Vec<_> = times.iter().map(|&millis| login(start, millis, "a")).collect();
        entries.push(login(start, 1000, "b"));
        let second = Duration::from_secs(1);
        let peak = |node, since| most_within(second, &logins(&entries, node), Duration::from_millis(since));
        assert_eq!((peak("a", 0), peak("b", 0), peak("c", 0)), (5, 1, 0));
        assert_eq!(peak("a", 1_001_500), 2);
    }

    #[test]
    fn latency_is_told_apart_by_what_went_on_when_a_message_was_due() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mark = |seconds, phase| Mark { at: at(seconds), phase, text: String::new() };
        let marks = [mark(1, Phase::Before), mark(3, Phase::During), mark(5, Phase::After)];
        let said = |seconds, millis| Said { due: at(seconds), took: Duration::from_millis(millis) };
        let found =
            latencies(&[said(0, 9000), said(1, 10), said(2, 20), said(3, 4000), said(4, 3000)], &marks).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[&Phase::Before].count, found[&Phase::During].count), (2, 2));
        assert!((found[&Phase::During].max - 4000.0).abs() < 4.0, "{found:?}");
    }

    #[test]
    fn a_series_has_everything_that_happened_in_its_time() {
        let start = Instant::now();
        let broke = Entry { at: start + Duration::from_secs(3), user: "alice".into(), what: Happening::Broke };
        let entries = [login(start, 0, "a"), login(start, 2500, "b"), broke];
        let from = start + Duration::from_secs(2);
        let said = [Said { due: from + Duration::from_millis(250), took: Duration::from_millis(7) }];
        let nodes = ["a".to_owned(), "b".to_owned()];
        let series = Series::new(from, from + Duration::from_secs(2), &nodes, &entries, &said).unwrap();
        assert_eq!(series.steps.len(), 21);
        assert_eq!(series.steps.iter().map(|step| step.online).collect::<Vec<_>>()[4..11], [1, 2, 2, 2, 2, 2, 1]);
        assert_eq!((series.steps[5].logins.clone(), series.steps[10].broken, series.steps[2].said), (vec![0, 1], 1, 1));
    }
}
