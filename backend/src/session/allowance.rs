//! How much a session may ask for: a token bucket that goes into debt.
//!
//! What does not fit is refused with the time after which it will, and counts all the same. So a client that waits as it
//! is told gets on, and one that goes on regardless sinks until it is closed. Time enters as an argument.

use std::num::NonZeroU32;

use tokio::time::{Duration, Instant};

/// How many seconds' worth of requests may come at once, and how many of refused ones more end the session.
const BURST: f64 = 2.0;

#[derive(Debug)]
pub(super) struct Allowance {
    /// Requests a second; none is no limit.
    rate: Option<NonZeroU32>,
    /// Requests that may come now; below 0 those that should not have come.
    level: f64,
    at: Instant,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Too fast; it may come again after this time.
    Later(Duration),
    /// Too fast for too long.
    Enough,
}

impl Allowance {
    pub(super) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        let level = rate.map_or(0.0, |rate| f64::from(rate.get()) * BURST);
        Self { rate, level, at: now }
    }

    pub(super) fn ask(&mut self, now: Instant) -> Verdict {
        let Some(rate) = self.rate else { return Verdict::Fine };
        let rate = f64::from(rate.get());
        self.level = (self.level + now.duration_since(self.at).as_secs_f64() * rate).min(rate * BURST) - 1.0;
        self.at = now;
        if self.level >= 0.0 {
            Verdict::Fine
        } else if self.level >= -(rate * BURST) {
            Verdict::Later(Duration::from_secs_f64((1.0 - self.level) / rate))
        } else {
            Verdict::Enough
        }
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
