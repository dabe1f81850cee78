//! The edge, and what it says about itself: `/readyz`, `/metrics`, `warbler explain`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::harness::{Launch, Process, Workspace, binary, eventually, http};

/// How long the edge may take for what it does by itself: a few probes, or noticing a changed file.
const SOON: Duration = Duration::from_secs(15);

/// A running edge.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) process: Process,
    /// Its configuration.
    pub(crate) file: PathBuf,
    pub(crate) admin: SocketAddr,
}

impl Edge {
    pub(crate) async fn start(workspace: &Workspace, file: PathBuf) -> Result<Self> {
        let launch = Launch::new(binary("warbler")?).args(["run", "--config"]).arg(&file);
        let process = Process::start(workspace, launch).await?;
        let admin = process.address("admin", 0)?;
        Ok(Self { process, file, admin })
    }

    /// The first address of a listener.
    pub(crate) fn listener(&self, name: &str) -> Result<SocketAddr> {
        self.process.address(&format!("listeners.{name}"), 0)
    }

    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&self) -> Result<()> {
        let yes =
            async || http::get(self.admin, "/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(());
        eventually(SOON, "the edge is ready", yes).await
    }

    /// Waits until a metric has a value that fits.
    pub(crate) async fn wait_for(
        &self,
        metric: &str,
        labels: &[(&str, &str)],
        fits: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let what = format!("{metric} with {labels:?} as it should be");
        eventually(SOON, &what, async || self.metric(metric, labels).await.ok().flatten().filter(|value| fits(*value)))
            .await
    }

    /// The value of the first series of a metric with all these labels; `None` while there is none.
    pub(crate) async fn metric(&self, metric: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let page = http::get(self.admin, "/metrics").await?;
        ensure!(page.status == 200, "/metrics answered {}", page.status);
        Ok(page.text().lines().find_map(|line| value_of(line, metric, labels)))
    }

    /// What `warbler explain` says about a client.
    pub(crate) async fn explain(&self, workspace: &Workspace, client: IpAddr) -> Result<String> {
        let launch = Launch::new(binary("warbler")?)
            .name("explain")
            .args(["explain", "--config"])
            .arg(&self.file)
            .args(["--from", &client.to_string(), "--listener", "im", "--path", "/ws"]);
        let said = Process::run(workspace, launch, SOON).await?;
        ensure!(said.code() == 0, "`warbler explain` ended with {}: {}", said.status, said.stderr);
        Ok(said.stdout)
    }

    /// Follows the file: what the edge has published so far.
    pub(crate) async fn generation(&self) -> Result<f64> {
        self.metric("warbler_config_generation", &[]).await?.context("the edge does not say its generation")
    }
}

/// The value of a line of Prometheus text, if it is of this metric and has these labels. Values of labels that are
/// asked for here need no escapes.
fn value_of(line: &str, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(metric)?;
    let (own, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let has = |(name, value): &(&str, &str)| own.split(',').any(|label| label == format!("{name}=\"{value}\""));
    labels.iter().all(has).then(|| value.trim().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, labels: &[(&str, &str)], want: Option<f64>) {
        let found = value_of(line, "up", labels);
        assert!(found.map(f64::to_bits) == want.map(f64::to_bits), "{line}: {found:?}");
    }

    #[test]
    fn a_series_is_found_by_its_name_and_labels() {
        check("up 3", &[], Some(3.0));
        check(r#"up{cluster="im",endpoint="127.0.0.1:7"} 1"#, &[("endpoint", "127.0.0.1:7")], Some(1.0));
        check(r#"up{cluster="im",endpoint="127.0.0.1:70"} 1"#, &[("endpoint", "127.0.0.1:7")], None);
        check(r#"up_at{cluster="im"} 1"#, &[], None);
        check("# HELP up help", &[], None);
    }
}
