//! When something is due: at a rate that is constant or grows evenly, whatever the target does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// So many a second, from the beginning to the end of a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    /// A second, at the beginning.
    pub(crate) from: f64,
    /// A second, at the end.
    pub(crate) to: f64,
    /// In seconds.
    pub(crate) time: f64,
}

impl Schedule {
    /// How many in all: the area under the rate.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate times a time is a small count")]
    pub(crate) fn count(&self) -> u64 {
        (f64::midpoint(self.from, self.to) * self.time).floor() as u64
    }

    /// When the one of this number, counted from 0, is due. Each has its instant; none waits for another.
    ///
    /// By t seconds `from` t + (`to` − `from`) t² / (2 `time`) are due, solved for t: in the form that divides by a sum,
    /// which does not cancel digits and holds for a constant rate, too.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    pub(crate) fn due(&self, number: u64) -> Duration {
        let number = number as f64;
        let growth = (self.to - self.from) / self.time;
        let root = (self.from * self.from + 2.0 * growth * number).max(0.0).sqrt();
        let sum = self.from + root;
        let seconds = if sum > 0.0 { 2.0 * number / sum } else { 0.0 };
        Duration::from_secs_f64(seconds.min(self.time))
    }

    /// What is due of this part, when each has as much of it as it weighs: all parts together are the whole.
    pub(crate) fn part(self, part: usize, weights: Vec<f64>) -> impl Iterator<Item = Duration> + Send {
        let mut dealt = vec![0; weights.len()];
        let is_own = move |_: &u64| {
            let next = furthest_behind(&weights, &dealt);
            dealt[next] += 1;
            next == part
        };
        (0..self.count()).filter(is_own).map(move |number| self.due(number))
    }
}

/// Whose turn it is: the one that is furthest behind its share of what was dealt, as smooth round-robin has it. Whoever
/// weighs nothing gets nothing.
pub(super) fn furthest_behind(weights: &[f64], dealt: &[usize]) -> usize {
    let behind = |at: &usize| (super::plan::as_float(dealt[*at]) + 1.0) / weights[*at];
    (0..weights.len()).min_by(|one, other| behind(one).total_cmp(&behind(other))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Duration, want: f64) {
        assert!((found.as_secs_f64() - want).abs() < 1e-6, "{found:?} is not {want} s");
    }

    #[test]
    fn a_constant_rate_has_equal_distances() {
        let schedule = Schedule { from: 100.0, to: 100.0, time: 10.0 };
        assert_eq!(schedule.count(), 1000);
        for number in [0, 1, 500, 999] {
            near(schedule.due(number), number as f64 / 100.0);
        }
    }

    #[test]
    fn a_ramp_grows_evenly() {
        // From nothing to 200 a second: half of the 1000 are due after 10/√2 seconds.
        let schedule = Schedule { from: 0.0, to: 200.0, time: 10.0 };
        assert_eq!(schedule.count(), 1000);
        near(schedule.due(500), 10.0 / 2_f64.sqrt());
        near(schedule.due(1000), 10.0);
        // And down again.
        let schedule = Schedule { from: 200.0, to: 0.0, time: 10.0 };
        near(schedule.due(500), 10.0 - 10.0 / 2_f64.sqrt());
        let all: Vec<Duration> = schedule.part(0, vec![1.0]).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn parts_are_the_whole() {
        let schedule = Schedule { from: 10.0, to: 30.0, time: 5.0 };
        let of = |part| schedule.part(part, vec![3.0, 0.0, 1.0]).collect::<Vec<_>>();
        let mut parts: Vec<Duration> = (0..3).flat_map(of).collect();
        parts.sort();
        assert_eq!(parts, schedule.part(0, vec![1.0]).collect::<Vec<_>>());
        assert_eq!([of(0).len(), of(1).len(), of(2).len()], [75, 0, 25]);
    }
}
