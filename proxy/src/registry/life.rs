//! Signs of life of a tunnel's endpoint, as the sweeper reads them from byte counters: no clock a message, no timer a
//! tunnel.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::Signals;

/// What is noted of one tunnel between two rounds of the sweeper.
#[derive(Debug)]
pub struct Life {
    began: Instant,
    early_close: Duration,
    /// Zero: silence is not looked at.
    silence_ms: u32,
    /// How long the client has waited for the endpoint's next byte; zero when it does not wait.
    waiting_ms: AtomicU32,
    /// The byte counts that were seen last. Their low halves are enough to see a change.
    to_endpoint: AtomicU32,
    to_client: AtomicU32,
    /// A success or an early close has been counted.
    judged: AtomicBool,
    silence_told: AtomicBool,
}

/// What a round of the sweeper saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The tunnel has outlived the time in which its end would have been early.
    Lives,
    /// The client has waited too long. Said once of a tunnel.
    Silent,
}

impl Life {
    pub(super) fn new(signals: Signals) -> Life {
        let silence = signals.silence.unwrap_or_default();
        Life {
            began: Instant::now(),
            early_close: signals.early_close.unwrap_or_default(),
            silence_ms: u32::try_from(silence.as_millis()).unwrap_or(u32::MAX),
            waiting_ms: AtomicU32::new(0),
            to_endpoint: AtomicU32::new(0),
            to_client: AtomicU32::new(0),
            judged: AtomicBool::new(false),
            silence_told: AtomicBool::new(false),
        }
    }

    /// An end at this moment would be early.
    pub fn is_young(&self) -> bool {
        self.lasted(Instant::now()) < self.early_close
    }

    /// Something that the client sent has no answer, as far as the last round saw.
    pub fn is_awaited(&self) -> bool {
        self.waiting_ms.load(Relaxed) > 0
    }

    /// True once: whoever asks first counts how the tunnel did.
    pub fn judge_once(&self) -> bool {
        !self.judged.swap(true, Relaxed)
    }

    /// One round, `elapsed_ms` after the one before.
    pub(super) fn sweep(&self, (to_endpoint, to_client): (u64, u64), now: Instant, elapsed_ms: u32) -> Option<Sign> {
        if self.silence_ms > 0 {
            let waiting = self.note_bytes(low_half(to_endpoint), low_half(to_client), elapsed_ms);
            if waiting >= self.silence_ms {
                return (!self.silence_told.swap(true, Relaxed)).then_some(Sign::Silent);
            }
            if waiting > 0 {
                return None;
            }
        }
        let lives = self.lasted(now) >= self.early_close;
        (lives && !self.judged.load(Relaxed) && self.judge_once()).then_some(Sign::Lives)
    }

    /// How long the client has waited now.
    fn note_bytes(&self, to_endpoint: u32, to_client: u32, elapsed_ms: u32) -> u32 {
        let sent = self.to_endpoint.swap(to_endpoint, Relaxed) != to_endpoint;
        let answered = self.to_client.swap(to_client, Relaxed) != to_client;
        let waited = self.waiting_ms.load(Relaxed);
        let waiting = match (answered, sent || waited > 0) {
            // Within one round the order is not known: the answer counts.
            (true, _) | (_, false) => 0,
            // From the round on that saw it sent: rather too little than too much.
            (false, true) if waited == 0 => 1,
            (false, true) => waited.saturating_add(elapsed_ms),
        };
        self.waiting_ms.store(waiting, Relaxed);
        waiting
    }

    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only a change is looked for")]
fn low_half(bytes: u64) -> u32 {
    bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(early_close: u64, silence: u64) -> Life {
        let seconds = |count| (count > 0).then(|| Duration::from_secs(count));
        Life::new(Signals { early_close: seconds(early_close), silence: seconds(silence), ..Signals::default() })
    }

    /// Rounds a second apart: what they say of these byte counts.
    fn rounds(life: &Life, counts: &[(u64, u64)]) -> Vec<Option<Sign>> {
        let round =
            |(second, bytes): (u64, &(u64, u64))| life.sweep(*bytes, life.began + Duration::from_secs(second), 1000);
        (1..).zip(counts).map(round).collect()
    }

    #[test]
    fn a_tunnel_lives_once_it_has_outlived_its_youth() {
        let life = life(2, 0);
        assert!(life.is_young());
        assert_eq!(rounds(&life, &[(0, 0); 4]), [None, Some(Sign::Lives), None, None]);
        assert!(!life.judge_once());
    }

    #[test]
    fn without_a_limit_a_tunnel_lives_at_once() {
        let life = life(0, 0);
        assert!(!life.is_young());
        assert_eq!(rounds(&life, &[(0, 0); 2]), [Some(Sign::Lives), None]);
    }

    #[test]
    fn a_tunnel_that_was_judged_by_its_end_is_not_judged_again() {
        let life = life(2, 0);
        assert!(life.judge_once());
        assert_eq!(rounds(&life, &[(0, 0); 3]), [None; 3]);
    }

    #[test]
    fn an_endpoint_that_owes_an_answer_for_too_long_is_silent_once() {
        let life = life(1, 3);
        let counts = [(5, 0), (5, 0), (5, 0), (9, 0), (9, 0), (9, 0)];
        assert_eq!(rounds(&life, &counts), [None, None, None, Some(Sign::Silent), None, None]);
        assert!(life.is_awaited());
    }

    #[test]
    fn an_endpoint_that_is_owed_nothing_may_be_silent() {
        let life = life(1, 3);
        let counts = [(0, 7), (0, 7), (0, 7), (0, 7), (0, 7)];
        assert_eq!(rounds(&life, &counts), [Some(Sign::Lives), None, None, None, None]);
    }

    #[test]
    fn each_answer_ends_the_wait() {
        let life = life(1, 3);
        let counts = [(5, 0), (5, 0), (5, 1), (9, 1), (9, 1), (9, 2), (9, 2)];
        assert_eq!(rounds(&life, &counts), [None, None, Some(Sign::Lives), None, None, None, None]);
        assert!(!life.is_awaited());
    }
}
