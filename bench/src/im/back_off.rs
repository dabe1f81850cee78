//! How long a client waits before it connects again.

use std::time::Duration;

/// Exponential back-off with full jitter: before the try after `n` tries in vain, a random time from nothing up to
/// `first` × 2ⁿ, and never more than `longest`.
///
/// Random from nothing on, and not around a growing time, because clients that were cut off together must not come back
/// together, and because this does the least work of the known ways in all (Marc Brooker, "Exponential Backoff And
/// Jitter", AWS Architecture Blog, 2015: "Full Jitter"). SDKs of IM services draw from 1 s to 10 s, and let the server
/// set base, factor and jitter.
///
/// It begins anew after a session that has lasted for `longest` at least. A login alone is no reason: a server that
/// takes logins and then fails is to be left alone like one that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The most before the first try.
    pub first: Duration,
    /// The most before any.
    pub longest: Duration,
}

impl BackOff {
    /// As long as clients of a real service wait: up to 1 s at first, up to a minute after many tries.
    pub const REAL: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

    fn wait(self, tries: u32) -> Duration {
        let most = self.first.saturating_mul(2_u32.saturating_pow(tries)).min(self.longest);
        most.mul_f64(fastrand::f64())
    }
}

/// Tries since the last session that lasted.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// How long to wait before another one.
    pub(super) fn next_wait(&mut self, back_off: BackOff) -> Duration {
        let wait = back_off.wait(self.0);
        self.0 = self.0.saturating_add(1);
        wait
    }

    /// A session has ended.
    pub(super) fn session_lasted(&mut self, lasted: Duration, back_off: BackOff) {
        if lasted >= back_off.longest {
            self.0 = 0;
        }
    }
}

impl Default for BackOff {
    /// Up to 200 ms: where nothing else is asked for time is short and clients are few.
    fn default() -> Self {
        let short = Duration::from_millis(200);
        Self { first: short, longest: short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_longer_with_each_try_in_vain_and_never_longer_than_the_longest() {
        let back_off = BackOff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };
        for tries in 0..100 {
            let most = Duration::from_millis(100 << tries.min(5)).min(Duration::from_secs(2));
            assert!(back_off.wait(tries) <= most);
        }
        let far = || (0..1000).map(|_| back_off.wait(10)).collect::<Vec<_>>();
        let (least, most) = (far().into_iter().min(), far().into_iter().max());
        assert!(least < Some(Duration::from_millis(200)) && most > Some(Duration::from_millis(1800)), "full jitter");
    }

    #[test]
    fn it_begins_anew_after_a_session_that_lasted_and_not_after_a_login_alone() {
        let back_off = BackOff { first: Duration::from_millis(1), longest: Duration::from_secs(8) };
        let mut tries = Tries(20);
        tries.session_lasted(Duration::from_secs(7), back_off);
        assert!((0..100).any(|_| tries.next_wait(back_off) > Duration::from_secs(1)));
        tries.session_lasted(Duration::from_secs(8), back_off);
        assert!(tries.next_wait(back_off) <= Duration::from_millis(1));
        assert!(tries.next_wait(back_off) <= Duration::from_millis(2));
    }
}
