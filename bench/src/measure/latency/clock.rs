//! Waking up at an instant, and not up to a millisecond later, which is how fine tokio's own timers are.
//!
//! A timer descriptor of the kernel and no spinning: the load shares its core with the endpoint, which has to run.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    io::{Errno, read},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::{io::unix::AsyncFd, task::yield_now, time::Instant};

pub(super) struct Clock {
    timer: AsyncFd<OwnedFd>,
}

impl Clock {
    pub(super) fn new() -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("the kernel gives no timer")?;
        #[expect(
            deprecated,
            reason = "an `OwnedFd` is one descriptor from beginning to end, which is all that is asked"
        )]
        let timer = AsyncFd::new(timer).context("a timer cannot be waited for")?;
        Ok(Self { timer })
    }

    /// Returns at the instant, or at once when it has passed; others on this thread run in any case.
    pub(super) async fn until(&self, instant: Instant) -> Result<()> {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            yield_now().await;
            return Ok(());
        }
        self.set(left)?;
        loop {
            let mut ready = self.timer.readable().await.context("a timer cannot be waited for")?;
            match read(ready.get_inner(), &mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error).context("a timer cannot be read"),
            }
        }
    }

    fn set(&self, left: Duration) -> Result<()> {
        let it_value = Timespec::try_from(left).context("a time too long for a timer")?;
        let it_interval = Timespec::try_from(Duration::ZERO).context("zero is a time")?;
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })
            .context("a timer cannot be set")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::eventually;

    #[tokio::test]
    async fn it_wakes_at_the_instant_and_not_before() {
        let clock = Clock::new().unwrap();
        // A busy machine may be late, not always; tokio's own timers would be, by up to a millisecond.
        let finer = eventually(Duration::from_secs(20), "a wake-up finer than a millisecond", async || {
            let instant = Instant::now() + Duration::from_micros(300);
            clock.until(instant).await.unwrap();
            assert!(Instant::now() >= instant);
            (instant.elapsed() < Duration::from_micros(700)).then_some(())
        });
        finer.await.unwrap();
        clock.until(Instant::now()).await.unwrap();
    }
}
