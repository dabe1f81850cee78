//! `[clusters.NAME.outlier]` and `clusters.NAME.retry-budget` as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Placed;
use crate::config::units::{Percent, Period};

/// Which endpoints get no new clients for a while because they fail those that they have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawOutlier {
    /// `true`: failures of clients eject nobody.
    pub off: Placed<bool>,
    /// Failures in a row, without a success between, that eject an endpoint at once; 0 never does, 1000 at most.
    pub consecutive: Placed<i64>,
    /// Between two comparisons of success rates; each without an ejection makes the next one shorter.
    pub interval: Placed<Period>,
    /// How long the first ejection lasts; the second in a row lasts twice as long, and so on.
    pub base_ejection: Placed<Period>,
    /// How long an ejection lasts at most, `jitter` aside. The default is lengthened to a longer `base-ejection`.
    pub max_ejection: Placed<Period>,
    /// Share of the endpoints that may be ejected at a time; one in any case, but never the last. "0%" ejects nobody and
    /// only counts.
    pub max_ejected: Placed<Percent>,
    /// Share of its time by which an ejection may last longer, so that endpoints and edges do not come back in step.
    pub jitter: Placed<Percent>,
    /// Connections that are not accepted, or not in time, are failures.
    pub connect_failure: Placed<bool>,
    /// TLS handshakes that fail are failures.
    pub tls_failure: Placed<bool>,
    /// Upgrades that get a 5xx, no HTTP, or nothing in time are failures.
    pub refused_upgrade: Placed<bool>,
    /// A tunnel that the endpoint ends sooner than this is a failure, unless it had brought an answer (TCP) or was closed
    /// as WebSockets are. "0s" turns it off.
    pub early_close: Placed<Period>,
    /// A tunnel in which a client waits this long for the endpoint's next byte is a failure. "0s" turns it off.
    pub silence: Placed<Period>,
    /// Requests that get 502, 503, 504, a broken answer or none in time are failures.
    pub gateway_errors: Placed<bool>,
    /// Requests that get any other status of class 5xx are failures, too.
    pub server_errors: Placed<bool>,
    /// Ejects endpoints whose success rate is far below that of the others.
    pub success_rate: RawSuccessRate,
    /// Ejects endpoints that fail too much of what they get.
    pub failure_percentage: RawFailurePercentage,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawSuccessRate {
    /// `false`: success rates are not compared.
    pub enforce: Placed<bool>,
    /// Endpoints that must have the volume, 3 to 10000.
    pub hosts: Placed<i64>,
    /// Outcomes in the interval that an endpoint needs to be compared, 1 to 1000000.
    pub volume: Placed<i64>,
    /// Standard deviations below the average from which an endpoint is ejected, 0.1 to 10.
    pub deviations: Placed<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawFailurePercentage {
    /// `true`: endpoints are held to `threshold`.
    pub enforce: Placed<bool>,
    /// Share of failures from which an endpoint is ejected, "1%" to "100%".
    pub threshold: Placed<Percent>,
    /// Endpoints that must have the volume, 1 to 10000.
    pub hosts: Placed<i64>,
    /// Outcomes in the interval that an endpoint needs to be judged, 1 to 1000000.
    pub volume: Placed<i64>,
}

/// How many clients may be on a further try at a time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawRetryBudget {
    /// Further tries at a time, as a share of the cluster's tunnels and requests.
    pub share: Placed<Percent>,
    /// So many are allowed however little there is, 0 to 1000000.
    pub min: Placed<i64>,
}
