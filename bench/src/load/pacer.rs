//! Says when something is due, from a thread of its own: what the load's event loop has to do does not make it late.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::thread::{ClockId, NanosleepRelativeResult, clock_nanosleep_relative};
use tokio::sync::mpsc;

/// What is due and was not taken yet. When the load is behind by more than that, being told late makes it no later.
const ROOM: usize = 65_536;
/// The longest sleep: how long the thread may outlive whoever listened.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Gives each of these out at its time after `origin`. They must be in order.
pub(super) fn start<T: Send + 'static>(
    origin: Instant,
    moments: impl Iterator<Item = (Duration, T)> + Send + 'static,
) -> Result<mpsc::Receiver<(Duration, T)>> {
    let (sender, receiver) = mpsc::channel(ROOM);
    thread::Builder::new()
        .name("pacer".into())
        .spawn(move || {
            for (due, what) in moments {
                if !wait_until(origin + due, &sender) || sender.blocking_send((due, what)).is_err() {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

/// False if nobody listens any more.
fn wait_until<T>(instant: Instant, sender: &mpsc::Sender<T>) -> bool {
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if sender.is_closed() {
            return false;
        }
        sleep(left.min(LONGEST_SLEEP));
    }
}

/// Finer than timers of the runtime, which have a grain of a millisecond.
fn sleep(time: Duration) {
    let Ok(time) = time.try_into() else { return };
    match clock_nanosleep_relative(ClockId::Monotonic, &time) {
        NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) | NanosleepRelativeResult::Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_told_in_order_and_not_before_its_time() {
        let origin = Instant::now();
        let moments = (0..200_u64).map(|number| (Duration::from_micros(number * 500), number));
        let mut due = start(origin, moments).unwrap();
        let mut told = Vec::new();
        while let Some((at, number)) = due.recv().await {
            assert!(origin.elapsed() >= at);
            told.push(number);
        }
        assert_eq!(told, (0..200).collect::<Vec<_>>());
    }
}
