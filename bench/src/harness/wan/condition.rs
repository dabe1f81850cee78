//! What one direction of a way is like, and what that means for a piece of the stream.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Payload of a TCP segment on a path with Ethernet's 1500 bytes: the unit in which bytes are lost.
pub(super) const SEGMENT: usize = 1460;
/// Beyond the round trip: the shortest retransmission time-out of Linux.
pub(super) const FIRST_TIMEOUT: Duration = Duration::from_millis(200);
/// A retransmission that is lost, too, waits twice as long; so often at most. With 200 ms that is a stall of 12.6 s.
const DOUBLINGS: u32 = 6;
/// Read size.
const PIECE: usize = 16 << 10;
/// How much a throttled way reads at once, in time: a change of the rate is felt so much later.
const THROTTLED_PIECE: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards where the relay relays to.
    Out,
    /// Towards who connected.
    Back,
}

/// One direction. The default hands everything on at once.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Way {
    /// How much later bytes arrive.
    pub delay: Duration,
    /// Up to so much more, evenly drawn. A later piece never overtakes an earlier one.
    pub jitter: Duration,
    /// The chance of a segment of 1460 bytes to be lost, 0 to 1: the stream then stalls for the round trip and 200 ms,
    /// and for twice as long each time that the repetition is lost, too.
    pub loss: f64,
    /// How much goes through; as much as there is unless set.
    pub bytes_per_second: Option<u64>,
    /// Nothing goes through, and nobody is told.
    pub silent: bool,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, jitter, loss, bytes_per_second, silent } = self;
        write!(f, "delay {delay:?}, jitter {jitter:?}, loss {:.2}%, rate ", loss * 100.0)?;
        match bytes_per_second {
            Some(rate) => write!(f, "{rate}")?,
            None => f.write_str("none")?,
        }
        f.write_str(if *silent { ", silent" } else { "" })
    }
}

impl Way {
    /// How many bytes to read at once.
    pub(super) fn piece(&self) -> usize {
        let Some(rate) = self.bytes_per_second else { return PIECE };
        let bytes = u128::from(rate) * THROTTLED_PIECE.as_millis() / 1000;
        usize::try_from(bytes).unwrap_or(PIECE).clamp(1, PIECE)
    }

    /// How long these bytes occupy the way; the next ones wait behind them.
    pub(super) fn occupied_by(&self, bytes: usize) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a piece and a rate are far below 2^52")]
        let seconds = self.bytes_per_second.map_or(0.0, |rate| bytes as f64 / rate.max(1) as f64);
        Duration::from_secs_f64(seconds)
    }

    /// When bytes that are on the way since `sent` arrive, if nothing was before them. `other_way` has the delay of the
    /// acknowledgements, for which a sender waits before it repeats.
    pub(super) fn arrival(&self, sent: Instant, bytes: usize, other_way: Duration) -> Instant {
        let timeout = self.delay + other_way + FIRST_TIMEOUT;
        let stalls = (0..bytes.div_ceil(SEGMENT)).map(|_| self.stall(timeout)).max().unwrap_or_default();
        sent + self.delay + self.jitter.mul_f64(fastrand::f64()) + stalls
    }

    /// How long one segment is held up by being lost, perhaps several times.
    fn stall(&self, timeout: Duration) -> Duration {
        let losses = (0..DOUBLINGS).take_while(|_| fastrand::f64() < self.loss).count();
        (0..).take(losses).map(|doubling: u32| timeout * 2_u32.pow(doubling)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_doubles_the_wait_and_six_are_the_most() {
        let second = Duration::from_secs(1);
        assert_eq!(Way::default().stall(second), Duration::ZERO);
        assert_eq!(Way { loss: 1.0, ..Way::default() }.stall(second), second * 63);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_after_the_delay_and_within_the_jitter() {
        let (delay, jitter) = (Duration::from_millis(40), Duration::from_millis(10));
        let (way, now) = (Way { delay, jitter, ..Way::default() }, Instant::now());
        for _ in 0..100 {
            let arrival = way.arrival(now, 10_000, Duration::ZERO);
            assert!(arrival >= now + delay && arrival <= now + delay + jitter);
        }
    }

    #[test]
    fn a_slow_way_is_read_in_small_pieces() {
        let way = |rate| Way { bytes_per_second: Some(rate), ..Way::default() };
        assert_eq!(Way::default().piece(), PIECE);
        assert_eq!(way(100_000).piece(), 2000);
        assert_eq!(way(1).piece(), 1);
        assert_eq!(way(u64::MAX).piece(), PIECE);
        assert_eq!(way(100_000).occupied_by(2000), THROTTLED_PIECE);
    }
}
