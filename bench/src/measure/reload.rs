//! Reloads that go on while something else is measured.

use std::{convert::Infallible, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::peer::Running;
use crate::harness::{Signal, Workspace, eventually, http};

const EVERY: Duration = Duration::from_millis(200);
/// How long a reload may take to count.
const SOON: Duration = Duration::from_secs(10);

/// Reloads warbler again and again, with a change that changes nothing for its clients, until the work is done.
pub(super) async fn during<T>(
    workspace: &Workspace,
    proxy: &mut Running,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let plain = fs::read_to_string(workspace.path(&proxy.file)).context("a configuration that is not there")?;
    let before = generation(proxy).await?;
    let outcome = tokio::select! {
        outcome = work => outcome?,
        broken = reload_for_ever(workspace, proxy, &plain) => return broken.map(|never| match never {}),
    };
    let done = generation(proxy).await? - before;
    ensure!(done > 0, "the work was done before the first reload: measure more");
    Ok(outcome)
}

async fn reload_for_ever(workspace: &Workspace, proxy: &mut Running, plain: &str) -> Result<Infallible> {
    let mut rate = 200;
    loop {
        // Any other rate than before will do: nobody drains here.
        rate = 200 + (rate + 1) % 100;
        sleep(EVERY).await;
        let before = generation(proxy).await?;
        workspace.replace(&proxy.file, format!("{plain}\n[drain]\nrate = \"{rate}/s\"\n"))?;
        proxy.process.signal(Signal::HUP)?;
        let seen = eventually(SOON, "a configuration that counts", async || {
            generation(proxy).await.ok().filter(|now| *now > before)
        });
        seen.await.with_context(|| proxy.process.last_lines())?;
    }
}

async fn generation(proxy: &Running) -> Result<u64> {
    let status = http::get(proxy.process.address("admin", 0)?, "/api/v1/status").await?.json()?;
    status.get("generation").and_then(Value::as_u64).context("the status has no generation")
}
