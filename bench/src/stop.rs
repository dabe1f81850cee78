//! Being asked to stop: what was started is then ended by its owner instead of being left behind.

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be listened for.
pub(crate) async fn asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Works until done or asked to stop. The work is dropped then, and with it every process that it started.
///
/// # Errors
/// When the work fails, or was asked to stop.
pub(crate) async fn unless_asked<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        outcome = work => outcome,
        asked = asked() => {
            asked?;
            bail!("stopped before it was done")
        }
    }
}
