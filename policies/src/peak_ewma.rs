//! What an endpoint's answers cost in time, so that a slow endpoint is left at once and forgiven slowly: peak EWMA.
//!
//! A sample above the cost becomes the cost at once; a lower one moves it, the more the longer the last sample is ago; and
//! with no samples at all the cost falls, so that an endpoint which was avoided is tried again. Finagle invented it, tower
//! and Linkerd use it. The comparison of two endpoints, `cost · (in flight + 1) / weight`, belongs to the policy.
//!
//! Only requests belong here. How long a tunnel lives says nothing about its server, nor does the time of a long poll.
//!
//! One difference: Finagle and tower store the fallen cost whenever somebody reads it, so that how much the next sample
//! counts depends on how often picks looked. Here a read writes nothing. Picks of many workers then share the cache
//! line instead of fighting for it, and the cost depends on the samples alone. It is never under Finagle's: theirs stops
//! falling at the first sample above it, ours mixes that sample with what was there.

use std::time::Duration;

use crate::{
    stamped::{Stamped, StampedCell, micros, millis},
    tick::Tick,
};

/// The latency of one endpoint as a cost in microseconds, fed by every worker. Eight bytes, without locks.
#[derive(Debug, Clone, Default)]
pub struct LatencyCell(StampedCell);

impl LatencyCell {
    /// The decay of Finagle, tower and Linkerd. A cost that nothing renews is halved every `decay · ln 2`, here 6.9 s.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// What an endpoint is taken to cost before its first answer (Linkerd). Low enough to be tried soon, and not zero: zero
    /// stays zero however many requests are in flight, and the newcomer would be stampeded.
    pub const DEFAULT_RTT: Duration = Duration::from_millis(30);

    /// What a failed request counts as, at least (Linkerd's load biaser).
    pub const PENALTY: Duration = Duration::from_secs(5);

    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the time that one answer took.
    ///
    /// `now` may be a little behind what other workers passed: the sample counts, and the clock of the cell stays.
    pub fn observe(&self, sample: Duration, now: Tick, decay: Duration) {
        let (sample, now) = (micros(sample), millis(now));
        self.0.update(|before| before.raised_by(sample, now, decay));
    }

    /// Takes a failed request, which counts as `penalty` or as the time that it took, if that was longer.
    ///
    /// Failing is often faster than working. Were its time counted, the broken endpoint would look like the best one and
    /// draw all traffic into a sinkhole.
    pub fn observe_failure(&self, took: Duration, now: Tick, decay: Duration, penalty: Duration) {
        self.observe(took.max(penalty), now, decay);
    }

    /// The cost at this moment in microseconds: finite, not negative, and `default_rtt` where there is no sample yet.
    #[inline]
    pub fn cost(&self, now: Tick, decay: Duration, default_rtt: Duration) -> f32 {
        self.0.load().map_or_else(|| micros(default_rtt), |cost| cost.fallen(millis(now), decay))
    }
}

impl Stamped {
    fn raised_by(self, sample: f32, now: u32, decay: Duration) -> Self {
        if sample > self.value { self.with(sample, now) } else { self.blended(sample, 1.0, now, decay) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DECAY: Duration = LatencyCell::DECAY;
    const DEFAULT_RTT: Duration = LatencyCell::DEFAULT_RTT;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Tick {
        Tick(Duration::from_millis(ms))
    }

    fn cost_ms(cell: &LatencyCell, now: Tick) -> f32 {
        cell.cost(now, DECAY, DEFAULT_RTT) / 1000.0
    }

    #[track_caller]
    fn near(got: f32, want: f32) {
        assert!((got - want).abs() <= want.abs() * 1e-4 + 1e-6, "{got} is not near {want}");
    }

    #[test]
    fn before_the_first_sample_the_cost_is_the_default_whatever_the_time() {
        let cell = LatencyCell::new();
        near(cost_ms(&cell, at(0)), 30.0);
        near(cost_ms(&cell, at(1_000_000)), 30.0);
    }

    #[test]
    fn a_higher_sample_becomes_the_cost_at_once() {
        let cell = LatencyCell::new();
        cell.observe(ms(10), at(0), DECAY);
        cell.observe(ms(500), at(1), DECAY);
        near(cost_ms(&cell, at(1)), 500.0);
    }

    #[test]
    fn a_cost_that_nothing_renews_is_halved_every_decay_times_ln_2() {
        let cell = LatencyCell::new();
        cell.observe(ms(800), at(1_000), DECAY);
        for (halvings, want) in [(0, 800.0), (1, 400.0), (2, 200.0), (3, 100.0)] {
            // 10 s · ln 2 is 6931.5 ms.
            near(cost_ms(&cell, at(1_000 + 13_863 * halvings / 2)), want);
        }
    }

    #[test]
    fn a_lower_sample_counts_by_the_time_since_the_last_one() {
        let cell = LatencyCell::new();
        cell.observe(ms(800), at(0), DECAY);
        cell.observe(ms(0), at(0), DECAY);
        near(cost_ms(&cell, at(0)), 800.0);
        // One decay later 1/e of the cost is left, and the sample has the rest.
        cell.observe(ms(100), at(10_000), DECAY);
        let kept = (-1.0_f32).exp();
        near(cost_ms(&cell, at(10_000)), 800.0 * kept + 100.0 * (1.0 - kept));
    }

    #[test]
    fn how_often_somebody_looks_changes_nothing() {
        let (watched, alone) = (LatencyCell::new(), LatencyCell::new());
        for cell in [&watched, &alone] {
            cell.observe(ms(800), at(0), DECAY);
        }
        for now in 0..5_000 {
            cost_ms(&watched, at(now));
        }
        for cell in [&watched, &alone] {
            cell.observe(ms(50), at(5_000), DECAY);
        }
        near(cost_ms(&watched, at(5_000)), cost_ms(&alone, at(5_000)));
    }

    #[test]
    fn a_failure_costs_the_penalty_or_the_time_that_it_took() {
        let cell = LatencyCell::new();
        cell.observe_failure(ms(1), at(0), DECAY, LatencyCell::PENALTY);
        near(cost_ms(&cell, at(0)), 5_000.0);
        cell.observe_failure(ms(60_000), at(0), DECAY, LatencyCell::PENALTY);
        near(cost_ms(&cell, at(0)), 60_000.0);
    }

    #[test]
    fn the_clock_of_the_cell_wraps_without_a_jump() {
        let wrap = 1_u64 << 32;
        let cell = LatencyCell::new();
        cell.observe(ms(800), at(wrap - 3_000), DECAY);
        near(cost_ms(&cell, at(wrap + 7_000)), 800.0 * (-1.0_f32).exp());
        cell.observe(ms(900), at(wrap + 7_000), DECAY);
        near(cost_ms(&cell, at(wrap + 17_000)), 900.0 * (-1.0_f32).exp());
    }

    #[test]
    fn a_silence_of_weeks_is_old_and_not_late() {
        let day = 86_400_000;
        let cell = LatencyCell::new();
        cell.observe(ms(800), at(0), DECAY);
        for days in [1, 24, 25, 40, 49] {
            near(cost_ms(&cell, at(days * day)), 0.0);
        }
    }

    #[test]
    fn a_late_sample_counts_and_moves_no_clock_back() {
        let cell = LatencyCell::new();
        cell.observe(ms(100), at(60_000), DECAY);
        near(cost_ms(&cell, at(59_000)), 100.0);
        cell.observe(ms(40), at(59_000), DECAY);
        near(cost_ms(&cell, at(60_000)), 100.0);
        cell.observe(ms(700), at(59_000), DECAY);
        near(cost_ms(&cell, at(60_000)), 700.0);
        near(cost_ms(&cell, at(70_000)), 700.0 * (-1.0_f32).exp());
    }

    proptest! {
        #[test]
        fn no_samples_times_or_decays_make_a_cost_that_is_no_number(
            samples in prop::collection::vec((any::<Duration>(), any::<Duration>(), any::<Duration>()), 1..50),
        ) {
            let cell = LatencyCell::new();
            let mut highest = Duration::ZERO;
            for (sample, now, decay) in samples {
                for decay in [decay, Duration::ZERO, Duration::MAX] {
                    cell.observe(sample, Tick(now), decay);
                    highest = highest.max(sample);
                    let cost = cell.cost(Tick(now), decay, DEFAULT_RTT);
                    prop_assert!(cost >= 0.0 && cost <= micros(highest).max(1e-3) * 1.001, "{cost}");
                }
            }
        }
    }

    #[test]
    fn workers_that_observe_at_once_lose_no_peak_and_make_no_nonsense() {
        let cell = LatencyCell::new();
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let cell = &cell;
                scope.spawn(move || {
                    for step in 0..20_000 {
                        cell.observe(ms(10 + worker), at(step / 100), DECAY);
                        let cost = cost_ms(cell, at(step / 100));
                        assert!((9.0..=1000.1).contains(&cost), "{cost}");
                    }
                    cell.observe(ms(1000 - worker), at(200), DECAY);
                });
            }
        });
        near(cost_ms(&cell, at(200)), 1000.0);
    }
}
