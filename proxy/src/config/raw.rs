//! What the files say, each value with its place; nothing here is known to be right.
//!
//! These structs are the grammar: which keys a table may have, and of what type. `deny_unknown_fields` stands on every
//! one of them. The doc comments are what editors show (they become the JSON Schema), so they speak to operators.
//! There is no `flatten`, `untagged` or `tag`: each of them loses the place of what is inside it.
//!
//! Every default is in [`defaults`], and what is left `None` here has no value until `check` finds one
//! (the number of CPUs, the host name) or is truly optional.

pub mod affinity;
pub mod cluster;
pub mod defaults;
pub mod health;
pub mod listener;
pub mod outlier;
pub mod placed;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::affinity::{RawStickiness, RawTokenKeys, RawUserToken};
pub use self::cluster::{
    RawCluster, RawEndpoint, RawLocality, RawP2c, RawRtt, RawRule, RawUpstreamTcp, RawUpstreamTls,
};
pub use self::health::{RawAgentCheck, RawHealth, RawProbeTiming};
pub use self::listener::{RawCertificate, RawListener, RawListenerTcp, RawListenerTls, RawRoute, RawTimeouts};
pub use self::outlier::{RawFailurePercentage, RawOutlier, RawRetryBudget, RawSuccessRate};
pub use self::placed::{OneOrMany, Placed};
use super::units::{Percent, Period, Rate};

/// A configuration of warbler, or a part of one that another file includes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[schemars(title = "warbler configuration")]
pub struct RawFile {
    /// Further files, relative to the folder of this one. The last part of a path may contain `*` and `?`. Only the
    /// main file includes others.
    pub include: Vec<Placed<String>>,
    /// This process as a whole.
    pub edge: Option<Placed<RawEdge>>,
    /// Where operators and Prometheus ask.
    pub admin: Option<Placed<RawAdmin>>,
    /// The log, and the line for each finished connection and request.
    pub log: Option<Placed<RawLog>>,
    /// How endpoint names are resolved.
    pub dns: Option<Placed<RawDns>>,
    /// Where clients are.
    pub geoip: Option<Placed<RawGeoIp>>,
    /// What SIGTERM does.
    pub stop: Option<Placed<RawStop>>,
    /// How connections are asked to leave, by a stop or by a reload that removes their listener or endpoint.
    pub drain: Option<Placed<RawDrain>>,
    /// Where clients connect, by name.
    pub listeners: BTreeMap<Placed<String>, RawListener>,
    /// The servers behind, by name.
    pub clusters: BTreeMap<Placed<String>, RawCluster>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawEdge {
    /// What this process calls itself: in its ready line, its status, and `warbler_edge_info`. The host name by default.
    pub name: Option<Placed<String>>,
    /// Where this process stands: latitude and longitude in degrees. Needed to estimate round trips not yet measured.
    pub location: Option<Placed<[f64; 2]>>,
    /// Networks whose PROXY headers and forwarded fields are believed.
    pub trusted_proxies: Vec<Placed<String>>,
    /// Worker threads. The number of CPUs by default.
    pub workers: Option<Placed<i64>>,
    /// Downstream connections in all. What the descriptor limit allows by default.
    pub max_connections: Option<Placed<i64>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawAdmin {
    /// Addresses for /metrics, /healthz, /readyz and /api/v1; read-only save with the token.
    pub bind: Vec<Placed<String>>,
    /// Unix socket (mode 0600) for the command line; it may change things.
    pub socket: Option<Placed<String>>,
    /// File with the bearer token that allows changes over TCP.
    pub token_file: Option<Placed<String>>,
    /// Names accepted in the `Host` header besides IP addresses and `localhost`.
    pub hosts: Vec<Placed<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawLog {
    /// How much is logged: `error`, `warn`, `info`, `debug`, `trace` or `off`, and per module `warn,proxy=debug`.
    pub level: Placed<String>,
    /// One JSON object per line, or text for people.
    pub format: LogFormat,
    /// Where the line for each finished connection and request goes: `stdout`, `off`, or a file.
    pub access: Placed<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawDns {
    /// Servers to ask, `IP` or `IP:port`. Those of /etc/resolv.conf if empty.
    pub resolvers: Vec<Placed<String>>,
    /// How long one look-up may take.
    pub timeout: Placed<Period>,
    /// Shortest time between two look-ups of a name, whatever TTL the answer has.
    pub min_ttl: Placed<Period>,
    /// Longest time between two look-ups of a name, whatever TTL the answer has.
    pub max_ttl: Placed<Period>,
    /// An answer that has lost more than this share of a name's addresses is held back, and alarmed. "100%" believes all.
    pub max_loss: Placed<Percent>,
    /// How often in a row such an answer must come before it is believed, 1 to 100.
    pub believe_after: Placed<i64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawGeoIp {
    /// MMDB files; the first one that knows a fact about an address says it.
    pub databases: Vec<Placed<String>>,
    /// File of networks and their place; wins over the databases.
    pub overrides: Option<Placed<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawStop {
    /// How long connections are still accepted while /readyz already fails, so that whatever is in front stops sending.
    pub grace: Placed<Period>,
    /// From SIGTERM to the end; what is left then is cut and listed.
    pub deadline: Placed<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawDrain {
    /// How many connections are asked to leave in a time.
    pub rate: Placed<Rate>,
    /// How long a client that was told goodbye has before its connection is closed.
    pub close_wait: Placed<Period>,
}
