//! The p99 of a machine that others share, as it is while they are quiet.
//!
//! A neighbour that takes a core for some milliseconds delays every message of that time, through any proxy, and by far
//! more than a proxy adds: the p99 of a whole run tells of neighbours. They come and go, so the run is cut into windows,
//! each of which has its own p99, and the lower quartile of these is taken. What a proxy does to one message in a
//! hundred is in every window and stays in the figure; what it does less often than in three windows of four does not,
//! and is only in the p99 and p99.9 of the whole run.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Answer, histogram_of, micros};

/// Long against a message, short against the pause between two disturbances.
const SHORTEST: Duration = Duration::from_millis(50);
/// A window with fewer has no p99 worth the name.
const FEWEST: usize = 300;

/// The lower quartile of the windows' p99, in microseconds.
pub(super) fn p99(answers: &[Answer]) -> Result<f64> {
    let mut in_order = answers.to_vec();
    in_order.sort_unstable_by_key(|(due, _)| *due);
    let windows =
        windows(&in_order).map(|window| Ok(micros(&histogram_of(window.iter().map(|(_, time)| *time))?, 0.99)));
    let mut quantiles = windows.collect::<Result<Vec<f64>>>()?;
    quantiles.sort_unstable_by(f64::total_cmp);
    quantiles.get(quantiles.len().saturating_sub(1) / 4).copied().context("no message counts: measure for longer")
}

/// Windows with as many answers each, at least [`FEWEST`] and those of [`SHORTEST`]; a rest that fills none is left out,
/// unless there is nothing else.
fn windows(in_order: &[Answer]) -> impl Iterator<Item = &[Answer]> {
    let span = in_order.first().zip(in_order.last()).map_or(Duration::ZERO, |((first, _), (last, _))| *last - *first);
    let most = (span.as_micros() / SHORTEST.as_micros()).max(1);
    let each = in_order.len().div_ceil(usize::try_from(most).unwrap_or(usize::MAX)).max(FEWEST).min(in_order.len());
    in_order.chunks_exact(each.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// One each 100 µs, for two seconds.
    fn run(time: impl Fn(u64) -> Duration) -> Vec<Answer> {
        let start = Instant::now();
        (0..20_000).map(|number| (start + Duration::from_micros(100 * number), time(number))).collect()
    }

    fn check(answers: &[Answer], want: f64) {
        let found = p99(answers).unwrap();
        assert!((found - want).abs() < want / 100.0, "{found} and not {want}");
    }

    #[test]
    fn a_neighbour_that_takes_the_machine_now_and_then_is_not_in_it() {
        // 20 ms in each 200.
        let disturbed = run(|number| Duration::from_micros(if number % 2000 < 200 { 9000 } else { 100 }));
        check(&disturbed, 100.0);
        let whole = histogram_of(disturbed.into_iter().map(|(_, time)| time)).unwrap();
        assert!(micros(&whole, 0.99) > 8000.0, "the p99 of the whole run has it");
    }

    #[test]
    fn what_a_proxy_does_to_one_message_in_fifty_is() {
        check(&run(|number| Duration::from_micros(if number % 50 == 0 { 700 } else { 100 })), 700.0);
    }

    #[test]
    fn a_proxy_that_is_slow_in_one_window_of_two_is_told_from_its_quicker_half_at_least() {
        check(&run(|number| Duration::from_micros(if number % 8000 < 4000 { 300 } else { 200 })), 200.0);
    }

    #[test]
    fn the_order_of_the_answers_does_not_matter() {
        let mut answers = run(|number| Duration::from_micros(100 + number / 100));
        let before = p99(&answers).unwrap();
        answers.reverse();
        check(&answers, before);
    }

    #[test]
    fn few_answers_are_one_window_and_none_are_an_error() {
        let few: Vec<Answer> = run(|_| Duration::from_micros(100)).into_iter().take(7).collect();
        check(&few, 100.0);
        assert!(p99(&[]).unwrap_err().to_string().contains("longer"));
    }
}
