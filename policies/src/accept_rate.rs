//! How many new connections an endpoint takes in a second.
//!
//! When a server of ten thousand phones dies, the others can hold them all and still fall over the logins. The rate of
//! new connections is the limit in a reconnect storm, not their number, so it is a limit of its own.
//!
//! The generic cell rate algorithm (ITU-T I.371): one number, the moment at which the next connection would be on time.
//! It is one atomic word, shared by all workers, with nothing to refill and no timer.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{slow_start::Ramp, tick::Tick};

/// New connections per second, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AcceptRate {
    /// Nanoseconds from one connection to the next.
    interval: NonZeroU64,
    burst: u32,
}

impl AcceptRate {
    /// `None` unless this is a positive number of connections per second. Up to a tenth of a second's worth, and one at
    /// least, may come at once, so no second has more than 1.1 times the rate.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and casts from float saturate"
    )]
    pub fn per_second(rate: f64) -> Option<Self> {
        if !(rate.is_finite() && rate > 0.0) {
            return None;
        }
        let interval = NonZeroU64::new((1e9 / rate) as u64).unwrap_or(NonZeroU64::MIN);
        Some(Self { interval, burst: ((rate / 10.0) as u32).max(1) })
    }

    /// The rate of an endpoint that is still warming up.
    pub fn slowed(self, ramp: Ramp) -> Self {
        let per_mille = u64::from(ramp.per_mille());
        let interval = self.interval.get().saturating_mul(1000) / per_mille;
        let burst = (u64::from(self.burst) * per_mille / 1000).max(1);
        Self {
            interval: NonZeroU64::new(interval).unwrap_or(self.interval),
            burst: u32::try_from(burst).unwrap_or(self.burst),
        }
    }

    /// Connections per second.
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    pub fn as_per_second(self) -> f64 {
        1e9 / self.interval.get() as f64
    }

    /// How far ahead of its time the next connection may be.
    fn tolerance(self) -> u64 {
        self.interval.get().saturating_mul(u64::from(self.burst - 1))
    }
}

/// When the next connection would be on time. It belongs to the endpoint's identity.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    next: AtomicU64,
}

impl Clone for Pace {
    fn clone(&self) -> Self {
        Self { next: AtomicU64::new(self.next.load(Relaxed)) }
    }
}

impl Pace {
    /// Whether a connection would be let in now. Takes nothing.
    pub(crate) fn admits(&self, rate: AcceptRate, now: Tick) -> bool {
        self.next.load(Relaxed).saturating_sub(nanos(now)) <= rate.tolerance()
    }

    /// Lets one connection in, if it is not too early. However many workers ask at once, the rate is kept.
    pub(crate) fn take(&self, rate: AcceptRate, now: Tick) -> bool {
        let now = nanos(now);
        let later = |next: u64| {
            (next.saturating_sub(now) <= rate.tolerance()).then(|| next.max(now).saturating_add(rate.interval.get()))
        };
        self.next.fetch_update(Relaxed, Relaxed, later).is_ok()
    }

    /// How long until a connection would be let in.
    pub(crate) fn wait(&self, rate: AcceptRate, now: Tick) -> Duration {
        let ahead = self.next.load(Relaxed).saturating_sub(nanos(now));
        Duration::from_nanos(ahead.saturating_sub(rate.tolerance()))
    }
}

fn nanos(tick: Tick) -> u64 {
    u64::try_from(tick.0.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Tick {
        Tick(Duration::from_millis(millis))
    }

    fn rate(per_second: f64) -> AcceptRate {
        AcceptRate::per_second(per_second).unwrap()
    }

    #[test]
    fn a_tenth_of_a_second_may_come_at_once_and_then_one_by_one() {
        let (pace, rate) = (Pace::default(), rate(50.0));
        let let_in = (0..100).filter(|_| pace.take(rate, at(1000))).count();
        assert_eq!(let_in, 5);
        assert!(!pace.admits(rate, at(1000)));
        assert_eq!(pace.wait(rate, at(1000)), Duration::from_millis(20));
        assert!(!pace.take(rate, at(1019)));
        assert!(pace.admits(rate, at(1020)) && pace.take(rate, at(1020)) && !pace.take(rate, at(1020)));
    }

    #[test]
    fn a_rate_under_ten_lets_in_one_at_a_time() {
        let (pace, rate) = (Pace::default(), rate(0.5));
        assert!(pace.take(rate, at(0)) && !pace.take(rate, at(1999)) && pace.take(rate, at(2000)));
    }

    #[test]
    fn time_that_nobody_used_is_not_saved_up() {
        let (pace, rate) = (Pace::default(), rate(100.0));
        assert!(pace.take(rate, at(0)));
        assert_eq!((0..1000).filter(|_| pace.take(rate, at(3_600_000))).count(), 10);
    }

    #[test]
    fn a_ramp_slows_the_rate_and_the_burst() {
        let tenth = crate::SlowStart { window: Duration::from_secs(100), aggression: 1.0, least_percent: 10 };
        let slowed = rate(1000.0).slowed(tenth.ramp(Some(at(0)), at(0)));
        assert!((slowed.as_per_second() - 100.0).abs() < 0.001);
        let pace = Pace::default();
        assert_eq!((0..1000).filter(|_| pace.take(slowed, at(1))).count(), 10);
        assert_eq!(rate(7.0).slowed(Ramp::WHOLE), rate(7.0));
    }

    #[test]
    fn what_is_no_rate_is_none() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(AcceptRate::per_second(wrong), None);
        }
        assert!(AcceptRate::per_second(1e300).is_some() && AcceptRate::per_second(1e-300).is_some());
    }

    #[test]
    fn many_threads_at_once_never_pass_the_rate() {
        let (pace, rate) = (Pace::default(), rate(1000.0));
        let let_in: usize = std::thread::scope(|scope| {
            let worker = || scope.spawn(|| (0..10_000).filter(|_| pace.take(rate, at(5))).count());
            let workers: Vec<_> = (0..4).map(|_| worker()).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(let_in, 100);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_its_rate_and_a_tenth(
            per_second in 1.0_f64..500.0,
            mut arrivals in prop::collection::vec(0_u64..5_000, 1..2000),
        ) {
            arrivals.sort_unstable();
            let (pace, rate) = (Pace::default(), rate(per_second));
            let let_in: Vec<u64> = arrivals.into_iter().filter(|&millis| pace.take(rate, at(millis))).collect();
            for (ix, &first) in let_in.iter().enumerate() {
                let within = let_in[ix..].iter().take_while(|&&millis| millis < first + 1000).count();
                prop_assert!(within as f64 <= per_second * 1.1 + 1.0, "{within} in a second of {per_second}");
            }
        }
    }
}
