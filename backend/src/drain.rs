//! Sessions are asked to go elsewhere, so many a second, and told goodbye when the time is over.
//!
//! A process that closes everybody at once makes everybody come back at once, to the others. So the pace is set here:
//! each session is told at its turn with `RECONNECT`, and a client that understands it is gone before the end.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{frame::Reconnect, server::Server};

/// How long a client that was told may wait by its own dice, so that those of one moment do not stay together.
const SPREAD: Duration = Duration::from_secs(1);

/// How sessions are asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Sessions that are told in a second.
    pub rate: NonZeroU32,
    /// How long they may take in all, from the first one told to the close of those that are left. Zero closes all at
    /// once and tells nobody.
    pub deadline: Duration,
}

impl Pace {
    /// When a session is told, counted from the first.
    fn turn(self, number: usize) -> Duration {
        Duration::from_secs(1).saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)) / self.rate.get()
    }
}

impl Default for Pace {
    /// 200 a second for at most 30 s.
    fn default() -> Self {
        let rate = NonZeroU32::MIN.saturating_add(199);
        Self { rate, deadline: Duration::from_secs(30) }
    }
}

/// A drain by an operator, while the process goes on: nobody new, a grace for those who look at `/readyz`, then
/// `RECONNECT`, at last the close.
pub(crate) async fn by_operator(server: &Server, pace: Pace) {
    tracing::info!(sessions = server.sessions(), ?pace, "draining");
    sleep(server.config.stop_grace).await;
    ask_to_leave(server, pace).await;
    tracing::info!(left = server.sessions(), "drained, who is left is closed");
    server.delivery.all_leave();
}

/// Asks every session to leave and returns when all have left, or at the deadline.
pub(crate) async fn ask_to_leave(server: &Server, pace: Pace) {
    if pace.deadline.is_zero() {
        return;
    }
    let begin = Instant::now();
    let deadline = begin + pace.deadline;
    let telling = async {
        for (number, link) in server.delivery.links().iter().enumerate() {
            sleep_until(begin + pace.turn(number)).await;
            server.delivery.ask_to_reconnect(link, hint(deadline - Instant::now()));
        }
        server.empty().await;
    };
    tokio::select! {
        _over = timeout_at(deadline, telling) => {}
        () = server.empty() => {}
    }
}

/// Where to go is not known here, and no other process remembers the session.
fn hint(left: Duration) -> Reconnect {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    Reconnect {
        reason: "drain".into(),
        after_ms: 0,
        spread_ms: millis(SPREAD.min(left)),
        deadline_ms: millis(left),
        prefer: Vec::new(),
        resume_ok: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_at_the_rate() {
        let pace = Pace { rate: NonZeroU32::new(200).unwrap(), ..Pace::default() };
        assert_eq!(pace.turn(0), Duration::ZERO);
        assert_eq!(pace.turn(1), Duration::from_millis(5));
        assert_eq!(pace.turn(12_000), Duration::from_secs(60));
    }
}
