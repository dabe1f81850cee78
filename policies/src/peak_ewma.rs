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

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    dice::{high, low},
    tick::Tick,
};

/// The latency of one endpoint as a cost in microseconds, fed by every worker.
///
/// The upper half is the cost as an `f32`, the lower half the time of the last sample in milliseconds. Both change in one
/// atomic step, relaxed, as they order no other memory. Zero is "no sample yet": every stored cost is above it.
#[derive(Debug, Default)]
pub struct LatencyCell(AtomicU64);

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
        let sample = micros(sample);
        let now = millis(now);
        let moved = |packed| Some(Reading::unpack(packed).moved_by(sample, now, decay).pack());
        // A closure that never answers `None` cannot fail; both cases hold what was there before.
        let (Ok(_before) | Err(_before)) = self.0.fetch_update(Relaxed, Relaxed, moved);
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
        let reading = Reading::unpack(self.0.load(Relaxed));
        if reading.is_none() { micros(default_rtt) } else { reading.cost * reading.kept(millis(now), decay) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Microseconds.
    cost: f32,
    /// Milliseconds, of which the count starts anew every 49.7 days.
    stamp: u32,
}

/// A nanosecond: what a sample costs at least, so that a stored cost is never zero.
const LEAST_COST: f32 = 1e-3;

/// How far a sample can be behind the last one. Whatever seems older than the stamp by no more than this is late;
/// everything else is new.
///
/// Half of the count's range would be the usual border, but an endpoint may well be silent for 25 days, and must not keep
/// its old cost for the next 25. After more than 49.7 days it looks younger than it is, and falls once more within the
/// usual time.
const LATEST: u32 = 60_000;

impl Reading {
    fn unpack(packed: u64) -> Self {
        Self { cost: f32::from_bits(high(packed)), stamp: low(packed) }
    }

    fn pack(self) -> u64 {
        u64::from(self.cost.to_bits()) << 32 | u64::from(self.stamp)
    }

    fn is_none(self) -> bool {
        self.cost < LEAST_COST
    }

    fn moved_by(self, sample: f32, now: u32, decay: Duration) -> Self {
        let sample = sample.max(LEAST_COST);
        if self.is_none() {
            return Self { cost: sample, stamp: now };
        }
        let cost = if sample > self.cost {
            sample
        } else {
            let kept = self.kept(now, decay);
            self.cost * kept + sample * (1.0 - kept)
        };
        Self { cost: cost.max(LEAST_COST), stamp: if self.is_late(now) { self.stamp } else { now } }
    }

    /// How much of the cost is left: 1 at once, 1/e after `decay`.
    #[inline]
    fn kept(self, now: u32, decay: Duration) -> f32 {
        let elapsed = if self.is_late(now) { 0 } else { now.wrapping_sub(self.stamp) };
        // Without a decay everything is forgotten by the next millisecond; the smallest number keeps 0 / 0 away.
        let decay_ms = (decay.as_secs_f32() * 1e3).max(f32::MIN_POSITIVE);
        (-f32_of(elapsed) / decay_ms).exp()
    }

    #[inline]
    fn is_late(self, now: u32) -> bool {
        (1..=LATEST).contains(&self.stamp.wrapping_sub(now))
    }
}

#[inline]
fn micros(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e6
}

/// Milliseconds since the epoch, counted round: a second is a whole number of them, so no wrap loses one.
#[inline]
fn millis(at: Tick) -> u32 {
    low(at.0.as_secs()).wrapping_mul(1000).wrapping_add(at.0.subsec_millis())
}

/// The nearest `f32`. Above 2^24 ms, which is 4.6 hours, it is off by less than one part in 2^24.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "an age needs no more than 24 bits")]
fn f32_of(number: u32) -> f32 {
    number as f32
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
                    prop_assert!(cost >= 0.0 && cost <= micros(highest).max(LEAST_COST) * 1.001, "{cost}");
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
