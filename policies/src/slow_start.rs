//! Slow start: an endpoint that has just come up gets its share little by little.
//!
//! A server that starts has cold caches and no connections. By connections it looks like the best choice there is, so
//! everybody would go there at once. A ramp lowers how often it is drawn, and how fast it may take new connections, and
//! raises both to the whole within a window.
//!
//! It scales the chance to be drawn and not the cost that is compared: an endpoint that was lowered twice would stay
//! empty. Only `least-connections`, which draws nobody, has it in its cost. Hash tables do not know it, for it would move
//! keys away and back. What an endpoint has already stays where it is.

use std::time::Duration;

use crate::tick::Tick;

/// How a ramp rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// From coming up to the whole share. Zero is no slow start.
    pub window: Duration,
    /// 1.0 rises in a straight line, more rises faster at first. Envoy's name and default: 1.0. Anything but a positive
    /// number counts as that.
    pub aggression: f64,
    /// The share that it starts with, in percent, 1 to 100. Envoy's default: 10.
    pub least_percent: u8,
}

impl SlowStart {
    /// Envoy's default for [`SlowStart::least_percent`].
    pub const LEAST_PERCENT: u8 = 10;

    /// How far an endpoint has come that is up since `since`; `None` is one that has been up for ever.
    ///
    /// Envoy's formula: `max(least, (max(t, 1 s) / window) ^ (1 / aggression))`.
    pub fn ramp(&self, since: Option<Tick>, now: Tick) -> Ramp {
        let Some(since) = since else { return Ramp::WHOLE };
        let age = now.since(since).max(Duration::from_secs(1));
        if age >= self.window {
            return Ramp::WHOLE;
        }
        let aggression = if self.aggression > 0.0 { self.aggression } else { 1.0 };
        let risen = (age.as_secs_f64() / self.window.as_secs_f64()).powf(1.0 / aggression);
        Ramp::of(risen.max(f64::from(self.least_percent.clamp(1, 100)) / 100.0))
    }
}

/// A share of the whole, in thousandths, never zero: an endpoint that nobody is ever sent to would never warm up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ramp(u16);

impl Ramp {
    pub const WHOLE: Self = Self(1000);

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1000 by the clamp")]
    fn of(share: f64) -> Self {
        Self((share * 1000.0).round().clamp(1.0, 1000.0) as u16)
    }

    /// 1 to 1000.
    pub fn per_mille(self) -> u16 {
        self.0
    }
}

impl Default for Ramp {
    fn default() -> Self {
        Self::WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SlowStart =
        SlowStart { window: Duration::from_secs(60), aggression: 1.0, least_percent: SlowStart::LEAST_PERCENT };

    fn after(slow_start: SlowStart, seconds: u64) -> u16 {
        let (up, now) = (Tick(Duration::from_secs(100)), Tick(Duration::from_secs(100 + seconds)));
        slow_start.ramp(Some(up), now).per_mille()
    }

    /// Envoy, arch_overview/upstream/load_balancing/slow_start: with a window of 60 s and aggression 1 the share is the
    /// share of the window, from 10 % on.
    #[test]
    fn the_line_starts_at_ten_percent_and_ends_with_the_window() {
        let curve: Vec<u16> = [0, 1, 6, 15, 30, 45, 59, 60, 1000].map(|seconds| after(MINUTE, seconds)).into();
        assert_eq!(curve, [100, 100, 100, 250, 500, 750, 983, 1000, 1000]);
    }

    #[test]
    fn aggression_lifts_the_curve_in_the_middle() {
        let check = |aggression, at_half| assert_eq!(after(SlowStart { aggression, ..MINUTE }, 30), at_half);
        // 0.5 ^ (1 / aggression).
        check(0.5, 250);
        check(1.0, 500);
        check(2.0, 707);
        check(f64::NAN, 500);
        check(-1.0, 500);
    }

    #[test]
    fn without_a_window_and_for_those_that_were_always_there_nothing_is_held_back() {
        assert_eq!(after(SlowStart { window: Duration::ZERO, ..MINUTE }, 0), 1000);
        assert_eq!(MINUTE.ramp(None, Tick::default()), Ramp::WHOLE);
    }
}
