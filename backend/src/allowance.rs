//! How much a client may ask for: a token bucket.
//!
//! In a session it goes into debt: what does not fit is refused with the time after which it will, and counts all the same.
//! So a client that waits as it is told gets on, and one that goes on regardless sinks until it is closed. Over HTTP there
//! is nothing to close, and what is refused does not count. Time enters as an argument.

use std::num::NonZeroU32;

use tokio::time::{Duration, Instant};

/// How many seconds' worth of requests may come at once, and how many of refused ones more end the session.
const BURST: f64 = 2.0;

#[derive(Debug)]
pub(crate) struct Allowance {
    /// Requests a second; none is no limit.
    rate: Option<NonZeroU32>,
    /// Requests that may come now; below 0 those that should not have come.
    level: f64,
    at: Instant,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// Too fast; it may come again after this time.
    Later(Duration),
    /// Too fast for too long.
    Enough,
}

impl Allowance {
    pub(crate) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        let level = rate.map_or(0.0, |rate| f64::from(rate.get()) * BURST);
        Self { rate, level, at: now }
    }

    /// Asks for something that counts even if it is refused.
    pub(crate) fn ask(&mut self, now: Instant) -> Verdict {
        let Some(rate) = self.fill(now) else { return Verdict::Fine };
        self.level -= 1.0;
        if self.level >= 0.0 {
            Verdict::Fine
        } else if self.level >= -(rate * BURST) {
            Verdict::Later(Duration::from_secs_f64((1.0 - self.level) / rate))
        } else {
            Verdict::Enough
        }
    }

    /// Takes as much as this many requests, at most all that may ever come at once, or says when it may come.
    pub(crate) fn take(&mut self, requests: u32, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.fill(now) else { return Ok(()) };
        let wanted = f64::from(requests).min(rate * BURST);
        if self.level < wanted {
            return Err(Duration::from_secs_f64((wanted - self.level) / rate));
        }
        self.level -= wanted;
        Ok(())
    }

    /// What has come in since it was looked at last. The rate, if there is one.
    fn fill(&mut self, now: Instant) -> Option<f64> {
        let rate = f64::from(self.rate?.get());
        self.level = (self.level + now.duration_since(self.at).as_secs_f64() * rate).min(rate * BURST);
        self.at = now;
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_timing_gets_more_than_the_rate_and_one_burst(
            rate in 1_u32..50, pauses in proptest::collection::vec(0_u64..400, 1..300),
        ) {
            let begin = Instant::now();
            let mut allowance = Allowance::new(NonZeroU32::new(rate), begin);
            let (mut now, mut fine) = (begin, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                fine += u32::from(allowance.ask(now) == Verdict::Fine);
            }
            let fair = f64::from(rate) * (BURST + (now - begin).as_secs_f64());
            prop_assert!(f64::from(fine) <= fair + 1e-6, "{} of {}", fine, fair);
        }

        #[test]
        fn who_waits_as_told_is_served(rate in 1_u32..50, bursts in proptest::collection::vec(0_usize..120, 1..20)) {
            let mut now = Instant::now();
            let mut allowance = Allowance::new(NonZeroU32::new(rate), now);
            for burst in bursts {
                let mut wait = None;
                for _ in 0..burst {
                    match allowance.ask(now) {
                        Verdict::Fine => {}
                        Verdict::Later(after) => {
                            wait = Some(after);
                            break;
                        }
                        Verdict::Enough => prop_assert!(false, "it stopped at the first refusal"),
                    }
                }
                if let Some(after) = wait {
                    // A microsecond, because the wait is told in whole nanoseconds.
                    now += after + Duration::from_micros(1);
                    prop_assert_eq!(allowance.ask(now), Verdict::Fine);
                }
            }
        }
    }

    #[test]
    fn what_is_too_much_at_once_waits_for_all_there_is_and_a_refusal_costs_nothing() {
        let now = Instant::now();
        let mut allowance = Allowance::new(NonZeroU32::new(10), now);
        assert_eq!(allowance.take(256, now), Ok(()));
        for _ in 0..100 {
            assert_eq!(allowance.take(5, now), Err(Duration::from_millis(500)));
        }
        assert_eq!(allowance.take(256, now), Err(Duration::from_secs(2)));
        assert_eq!(allowance.take(5, now + Duration::from_millis(500)), Ok(()));
        assert_eq!(Allowance::new(None, now).take(256, now), Ok(()));
    }

    #[test]
    fn who_goes_on_regardless_is_closed_and_without_a_rate_nobody_is() {
        let now = Instant::now();
        let mut allowance = Allowance::new(NonZeroU32::new(1), now);
        let verdicts: Vec<_> = (0..5).map(|_| allowance.ask(now)).collect();
        let later = |seconds| Verdict::Later(Duration::from_secs(seconds));
        assert_eq!(verdicts, [Verdict::Fine, Verdict::Fine, later(2), later(3), Verdict::Enough]);
        let mut free = Allowance::new(None, now);
        assert!((0..10_000).all(|_| free.ask(now) == Verdict::Fine));
    }
}
