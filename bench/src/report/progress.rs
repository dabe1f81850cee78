//! How far a run is, and how long it will take: guesses of each step, corrected by how long those before took.

use std::time::Duration;

use tokio::time::Instant;

use crate::output;

/// A guess from one or two steps is worse than the one made beforehand.
const STEPS_BEFORE_CORRECTION: usize = 3;

#[derive(Debug)]
pub(crate) struct Progress {
    since: Instant,
    all: usize,
    done: usize,
    guessed_all: Duration,
    guessed_done: Duration,
}

impl Progress {
    /// Says what is to be done, and about how long it takes.
    pub(crate) fn start(guesses: impl Iterator<Item = Duration> + Clone) -> Self {
        let (all, guessed_all) = (guesses.clone().count(), guesses.sum());
        output::talk(format!("{all} measurements, about {}", rounded(guessed_all)));
        Self { since: Instant::now(), all, done: 0, guessed_all, guessed_done: Duration::ZERO }
    }

    /// Says what was done.
    pub(crate) fn step(&mut self, guess: Duration, what: &str) {
        self.done += 1;
        self.guessed_done += guess;
        let left = rounded(self.left(self.since.elapsed()));
        output::talk(format!("[{}/{}] {what}, about {left} left", self.done, self.all));
    }

    fn left(&self, taken: Duration) -> Duration {
        let guessed = self.guessed_all.saturating_sub(self.guessed_done);
        if self.done < STEPS_BEFORE_CORRECTION || self.guessed_done.is_zero() {
            return guessed;
        }
        guessed.mul_f64(taken.as_secs_f64() / self.guessed_done.as_secs_f64())
    }
}

/// Minutes, or seconds when it is less than two of them.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_corrected_by_what_was_done() {
        let second = Duration::from_secs(1);
        let mut progress = Progress::start(std::iter::repeat_n(second, 10));
        progress.step(second, "one");
        assert_eq!(progress.left(second * 5), second * 9, "not by one alone");
        progress.step(second, "two");
        progress.step(second, "three");
        assert_eq!(progress.left(second * 6), second * 14);
    }

    #[test]
    fn times_are_told_in_minutes_or_seconds() {
        assert_eq!([rounded(Duration::from_secs(90)), rounded(Duration::from_secs(540))], ["90 s", "9 min"]);
    }
}
