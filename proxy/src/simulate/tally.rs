//! What is counted while a simulation runs.

use super::report::Percentiles;

/// Connections on one endpoint, or on all of a locality.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge {
    pub(super) arrivals: u64,
    pub(super) now: u64,
    pub(super) peak: u64,
    /// What it takes at most; `None` is no limit.
    pub(super) capacity: Option<u64>,
    full_since: Option<u64>,
    full_us: u64,
    /// Connections times microseconds, up to `seen`.
    held_us: u128,
    seen: u64,
}

impl Gauge {
    pub(super) fn new(capacity: Option<u64>) -> Gauge {
        Gauge { capacity, ..Gauge::default() }
    }

    pub(super) fn came(&mut self, now: u64) {
        self.pass(now);
        self.arrivals += 1;
        self.now += 1;
        self.peak = self.peak.max(self.now);
        if self.capacity.is_some_and(|capacity| self.now >= capacity) {
            self.full_since.get_or_insert(now);
        }
    }

    pub(super) fn left(&mut self, now: u64) {
        self.pass(now);
        self.now -= 1;
        if let Some(since) = self.full_since.take_if(|_| self.capacity.is_some_and(|capacity| self.now < capacity)) {
            self.full_us += now - since;
        }
    }

    /// Microseconds at its capacity.
    pub(super) fn full_us(&self, end: u64) -> u64 {
        self.full_us + self.full_since.map_or(0, |since| end - since)
    }

    /// Connections on average, over a run that ends then.
    pub(super) fn mean(&self, end: u64) -> f64 {
        let held = self.held_us + u128::from(self.now) * u128::from(end - self.seen);
        if end == 0 { self.now as f64 } else { held as f64 / end as f64 }
    }

    fn pass(&mut self, now: u64) {
        self.held_us += u128::from(self.now) * u128::from(now - self.seen);
        self.seen = now;
    }
}

/// Predicted round trips, in steps of a millisecond.
#[derive(Debug, Clone)]
pub(super) struct RoundTrips {
    counts: Vec<u64>,
    pub(super) unknown: u64,
}

/// Anything longer counts as this; the longest that the prior predicts is about 650 ms.
const LONGEST_MS: u16 = 2_000;

impl RoundTrips {
    pub(super) fn new() -> RoundTrips {
        RoundTrips { counts: vec![0; usize::from(LONGEST_MS) + 1], unknown: 0 }
    }

    pub(super) fn add(&mut self, ms: Option<f32>) {
        match ms {
            Some(ms) => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the table")]
                let step = ms.round().clamp(0.0, f32::from(LONGEST_MS)) as usize;
                self.counts[step] += 1;
            }
            None => self.unknown += 1,
        }
    }

    pub(super) fn add_all(&mut self, other: &RoundTrips) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(here, there)| *here += there);
        self.unknown += other.unknown;
    }

    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let all: u64 = self.counts.iter().sum();
        let at = |percent: u64| {
            let wanted = (all * percent).div_ceil(100);
            let mut below = 0;
            let reached = |count: &u64| {
                below += count;
                below >= wanted
            };
            self.counts.iter().position(reached).unwrap_or_default()
        };
        (all > 0).then(|| Percentiles { p50: at(50), p90: at(90), p99: at(99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_knows_its_peak_its_mean_and_how_long_it_was_full() {
        let mut gauge = Gauge::new(Some(2));
        gauge.came(0);
        gauge.came(1_000);
        gauge.left(3_000);
        gauge.came(7_000);
        assert_eq!((gauge.arrivals, gauge.now, gauge.peak), (3, 2, 2));
        assert_eq!(gauge.full_us(10_000), 2_000 + 3_000);
        // One connection for 1 ms, two for 2, one for 4, two for 3.
        assert!((gauge.mean(10_000) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_those_of_the_list() {
        let mut trips = RoundTrips::new();
        assert_eq!(trips.percentiles(), None);
        (1..=100).for_each(|ms: u16| trips.add(Some(f32::from(ms))));
        trips.add(None);
        assert_eq!(trips.percentiles(), Some(Percentiles { p50: 50, p90: 90, p99: 99 }));
        assert_eq!(trips.unknown, 1);
    }
}
