//! Localities and endpoints that fail during a simulation.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use super::SimulateError;
use crate::config::Config;
use crate::config::units::Period;

/// A locality or an endpoint that is down for a while: `fra`, `im/fra`, `10.1.0.4:5222`, `fra@600s..1200s`, `fra@10m..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Only in this cluster.
    pub cluster: Option<String>,
    /// The name of a locality, or the address of an endpoint as the files write it.
    pub what: String,
    /// Since the first arrival.
    pub from: Duration,
    /// `None`: to the end.
    pub until: Option<Duration>,
}

impl FromStr for Outage {
    type Err = String;

    fn from_str(text: &str) -> Result<Outage, String> {
        let (place, window) = text.split_once('@').map_or((text, None), |(place, window)| (place, Some(window)));
        let (cluster, what) = place.split_once('/').map_or((None, place), |(cluster, name)| (Some(cluster), name));
        if what.is_empty() || cluster == Some("") {
            return Err(format!("`{text}` names no locality: write `fra`, `im/fra` or `fra@10m..20m`"));
        }
        let (from, until) = window.map_or(Ok((Duration::ZERO, None)), read_window)?;
        if until.is_some_and(|until| until <= from) {
            return Err(format!("`{text}` ends before it begins"));
        }
        Ok(Outage { cluster: cluster.map(str::to_owned), what: what.to_owned(), from, until })
    }
}

fn read_window(text: &str) -> Result<(Duration, Option<Duration>), String> {
    let (from, until) =
        text.split_once("..").ok_or_else(|| format!("`{text}` is no time: write `10m..20m` or `10m..`"))?;
    let read = |text: &str| text.parse::<Period>().map(|period| period.0).map_err(|error| error.to_string());
    let from = if from.is_empty() { Duration::ZERO } else { read(from)? };
    Ok((from, if until.is_empty() { None } else { Some(read(until)?) }))
}

impl Outage {
    /// Whether it strikes an endpoint of this cluster.
    pub fn strikes(&self, cluster: &str, locality: &str, endpoint: &str) -> bool {
        (self.what == locality || self.what == endpoint) && self.cluster.as_deref().is_none_or(|name| name == cluster)
    }

    /// # Errors
    /// When none of the configurations has such a locality or endpoint.
    pub fn check<'c>(&self, configs: impl Iterator<Item = &'c Config>) -> Result<(), SimulateError> {
        let mut known = BTreeSet::new();
        for cluster in configs.flat_map(|config| &config.clusters) {
            for locality in &cluster.localities {
                let addresses = locality.endpoints.iter().map(|endpoint| endpoint.address.to_string());
                if addresses.into_iter().any(|address| self.strikes(&cluster.name, &locality.name, &address)) {
                    return Ok(());
                }
                known.insert(format!("{}/{}", cluster.name, locality.name));
            }
        }
        let name = match &self.cluster {
            Some(cluster) => format!("{cluster}/{}", self.what),
            None => self.what.clone(),
        };
        Err(SimulateError::Nowhere { name, known: known.into_iter().collect::<Vec<_>>().join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_a_locality_and_perhaps_a_cluster_and_a_time() {
        let seconds = Duration::from_secs;
        let check = |text: &str, (cluster, what): (Option<&str>, &str), from, until| {
            let want = Outage { cluster: cluster.map(str::to_owned), what: what.to_owned(), from, until };
            assert_eq!(text.parse::<Outage>(), Ok(want), "{text}");
        };
        check("fra", (None, "fra"), seconds(0), None);
        check("im/fra", (Some("im"), "fra"), seconds(0), None);
        check("fra@600s..20m", (None, "fra"), seconds(600), Some(seconds(1200)));
        check("im/fra@10m..", (Some("im"), "fra"), seconds(600), None);
        check("[::1]:5222@1s..", (None, "[::1]:5222"), seconds(1), None);
        check("fra@..10s", (None, "fra"), seconds(0), Some(seconds(10)));
    }

    #[test]
    fn a_slip_is_explained() {
        let check = |text: &str, want: &str| assert_eq!(text.parse::<Outage>(), Err(want.to_owned()));
        check("@1s..2s", "`@1s..2s` names no locality: write `fra`, `im/fra` or `fra@10m..20m`");
        check("fra@5s", "`5s` is no time: write `10m..20m` or `10m..`");
        check("fra@5..", "`5` is not a duration: the unit is missing (ns, us, ms, s, m, h, d)");
        check("fra@2s..1s", "`fra@2s..1s` ends before it begins");
    }
}
