//! Waiting for a fact instead of waiting for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The first pause between two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Asks `look` again and again until it says `Some`. A look that hangs is cut off at the deadline too.
///
/// # Errors
/// When `within` has passed: the error says `what` was waited for.
pub async fn eventually<T>(within: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    while let Ok(seen) = timeout_at(deadline, look()).await {
        if let Some(fact) = seen {
            return Ok(fact);
        }
        if Instant::now() + pause > deadline {
            break;
        }
        sleep_until(Instant::now() + pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    bail!("not seen within {within:?}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fact_is_seen_as_soon_as_it_is_true() {
        let mut looks = 0;
        let seen = eventually(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            (looks == 3).then_some("seen")
        });
        assert_eq!(seen.await.unwrap(), "seen");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fact_that_never_comes_is_named_in_the_error() {
        let never = eventually(Duration::from_secs(1), "the moon", async || None::<()>).await;
        assert_eq!(never.unwrap_err().to_string(), "not seen within 1s: the moon");
        let hanging = eventually(Duration::from_secs(1), "an answer", std::future::pending::<Option<()>>).await;
        assert_eq!(hanging.unwrap_err().to_string(), "not seen within 1s: an answer");
    }
}
