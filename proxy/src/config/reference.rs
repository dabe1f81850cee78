//! Every key of the configuration: its type, its default, and when a change of it counts.
//!
//! The table is data, so that tests can hold it against everything else that speaks of keys: the raw structs (no key is
//! missing on either side), the defaults in force, and docs/config.md. What a key means is said once,
//! in the doc comments of `raw`.

pub mod schema;

/// One key. In its path, `*` stands for a name that the operator gives, and `[]` for each entry of a list of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub path: &'static str,
    pub kind: &'static str,
    pub default: Fallback,
    pub effect: Effect,
}

/// What holds when a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// It has to be written.
    Required,
    /// As TOML.
    Value(&'static str),
    /// Found when the configuration is checked or used, in words.
    Computed(&'static str),
}

/// When a changed value counts after a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// From the reload on, also for what is connected.
    Live,
    /// For connections made after the reload; it is built into a connection when that starts.
    NewConnections,
    /// When the process starts; a reload accepts it, and an upgrade or restart puts it into force.
    Start,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Live => "live",
            Effect::NewConnections => "new connections",
            Effect::Start => "start",
        }
    }
}

/// The row of this key in docs/config.md.
impl Key {
    pub fn markdown_row(&self, about: &str) -> String {
        let default = match self.default {
            Fallback::Required => "required".to_owned(),
            Fallback::Value(value) => format!("`{value}`"),
            Fallback::Computed(words) => words.to_owned(),
        };
        format!("| `{}` | {} | {default} | {} | {about} |", self.path, self.kind, self.effect.as_str())
    }
}

use Effect::{Live, NewConnections, Start};
use Fallback::{Computed, Required, Value};

const fn key(path: &'static str, kind: &'static str, default: Fallback, effect: Effect) -> Key {
    Key { path, kind, default, effect }
}

const NONE: Fallback = Computed("none");
const POLICIES: &str =
    "`p2c`, `peak-ewma`, `prequal`, `round-robin`, `least-connections`, `random`, `maglev`, `ring-hash`";

/// In the order of docs/config.md.
pub const KEYS: &[Key] = &[
    key("include", "list of paths", Value("[]"), Live),
    key("edge.name", "string", Computed("the host name"), Live),
    key("edge.location", "[latitude, longitude]", NONE, Live),
    key("edge.trusted-proxies", "list of networks", Value("[]"), Live),
    key("edge.workers", "integer, 1 to 1024", Computed("the number of CPUs"), Start),
    key("edge.max-connections", "integer, from 1", Computed("what the descriptor limit allows"), Live),
    key("admin.bind", "list of addresses", Value("[\"127.0.0.1:9901\"]"), Start),
    key("admin.socket", "path", NONE, Start),
    key("admin.token-file", "path", NONE, Live),
    key("admin.hosts", "list of names", Value("[]"), Live),
    key("log.level", "string", Value("\"info\""), Live),
    key("log.format", "`json`, `text`", Value("\"json\""), Start),
    key("log.access", "`stdout`, `off`, path", Value("\"stdout\""), Start),
    key("dns.resolvers", "list of addresses", Value("[]"), Live),
    key("dns.timeout", "duration, 10ms to 1m", Value("\"2s\""), Live),
    key("dns.min-ttl", "duration, 100ms to 1d", Value("\"1s\""), Live),
    key("dns.max-ttl", "duration, 1s to 1d", Value("\"5m\""), Live),
    key("dns.max-loss", "percent", Value("\"50%\""), Live),
    key("dns.believe-after", "integer, 1 to 100", Value("3"), Live),
    key("geoip.databases", "list of paths", Value("[]"), Live),
    key("geoip.overrides", "path", NONE, Live),
    key("stop.grace", "duration, up to 1h", Value("\"5s\""), Live),
    key("stop.deadline", "duration, up to 1d", Value("\"5m\""), Live),
    key("drain.rate", "rate, 0.01/s to 1000000/s", Value("\"200/s\""), Live),
    key("drain.close-wait", "duration, up to 5m", Value("\"5s\""), NewConnections),
    key("listeners.*.bind", "list of addresses", Required, NewConnections),
    key("listeners.*.protocol", "`tcp`, `http`", Required, NewConnections),
    key("listeners.*.cluster", "name of a cluster", Computed("required for tcp"), NewConnections),
    key(
        "listeners.*.http-versions",
        "list of `1.1`, `2`",
        Computed("`[\"1.1\", \"2\"]` with TLS, `[\"1.1\"]` without"),
        NewConnections,
    ),
    key("listeners.*.tls.certificates[].chain", "path", Required, NewConnections),
    key("listeners.*.tls.certificates[].key", "path", Required, NewConnections),
    key("listeners.*.tls.strict-sni", "boolean", Value("false"), NewConnections),
    key("listeners.*.tls.min-version", "`1.2`, `1.3`", Value("\"1.2\""), NewConnections),
    key("listeners.*.tls.ticket-keys", "path", NONE, NewConnections),
    key("listeners.*.proxy-protocol", "boolean", Value("false"), NewConnections),
    key("listeners.*.max-connections", "integer, from 1", NONE, Live),
    key("listeners.*.max-head", "size, 1KiB to 1MiB", Value("\"32KiB\""), NewConnections),
    key("listeners.*.timeouts.proxy-header", "duration, 1ms to 1h", Value("\"5s\""), NewConnections),
    key("listeners.*.timeouts.tls-handshake", "duration, 1ms to 1h", Value("\"10s\""), NewConnections),
    key("listeners.*.timeouts.request-head", "duration, 1ms to 1h", Value("\"10s\""), NewConnections),
    key("listeners.*.timeouts.keep-alive", "duration, 1ms to 1d", Value("\"75s\""), NewConnections),
    key("listeners.*.timeouts.idle", "duration, 1s to 7d", Value("\"15m\""), NewConnections),
    key("listeners.*.tcp.keepalive", "duration, 0s or 1s to 9h", Value("\"5m\""), NewConnections),
    key("listeners.*.tcp.user-timeout", "duration, up to 1d", Value("\"60s\""), NewConnections),
    key("listeners.*.tcp.backlog", "integer, 1 to 65535", Value("4096"), NewConnections),
    key("listeners.*.routes[].name", "string", Computed("made from its match"), Live),
    key("listeners.*.routes[].host", "host or `*.host`", Computed("any host"), Live),
    key("listeners.*.routes[].path", "path", Computed("any path"), Live),
    key("listeners.*.routes[].path-prefix", "path", Computed("any path"), Live),
    key("listeners.*.routes[].headers.*", "string", NONE, Live),
    key("listeners.*.routes[].cluster", "name of a cluster", Required, Live),
    key("listeners.*.routes[].idle-timeout", "duration, 1s to 7d", Computed("the listener's"), NewConnections),
    key("clusters.*.policy", POLICIES, Value("\"p2c\""), Live),
    key("clusters.*.request-policy", POLICIES, Value("\"p2c\""), Live),
    key("clusters.*.p2c.choices", "integer, 2 to 16", Value("2"), Live),
    key("clusters.*.peak-ewma.choices", "integer, 2 to 16", Value("2"), Live),
    key("clusters.*.peak-ewma.decay", "duration, 100ms to 1h", Value("\"10s\""), Live),
    key("clusters.*.peak-ewma.default-latency", "duration, 1ms to 1m", Value("\"30ms\""), Live),
    key("clusters.*.peak-ewma.failure-penalty", "duration, up to 5m", Value("\"5s\""), Live),
    key("clusters.*.prequal.choices", "integer, 2 to 16", Value("16"), Live),
    key("clusters.*.prequal.hot-above", "percent", Value("\"84%\""), Live),
    key("clusters.*.prequal.report-age", "duration, 100ms to 1h", Value("\"5s\""), Live),
    key("clusters.*.prequal.decay", "duration, 100ms to 1h", Value("\"10s\""), Live),
    key("clusters.*.prequal.default-latency", "duration, 1ms to 1m", Value("\"30ms\""), Live),
    key("clusters.*.prequal.failure-penalty", "duration, up to 5m", Value("\"5s\""), Live),
    key("clusters.*.maglev.table-size", "integer, prime", Value("65537"), Live),
    key("clusters.*.maglev.balance-factor", "number, 1.0 to 100, or 0", Value("1.25"), Live),
    key("clusters.*.ring-hash.min-size", "integer, 1 to 8388608", Value("1024"), Live),
    key("clusters.*.ring-hash.max-size", "integer, 1 to 8388608", Value("65536"), Live),
    key("clusters.*.ring-hash.balance-factor", "number, 1.0 to 100, or 0", Value("1.25"), Live),
    key("clusters.*.slow-start.window", "duration, up to 1d", Value("\"0s\""), Live),
    key("clusters.*.slow-start.aggression", "number, 0.1 to 10", Value("1.0"), Live),
    key("clusters.*.slow-start.least", "percent, from 1%", Value("\"10%\""), Live),
    key("clusters.*.accept-rate", "rate, 0.01/s to 1000000/s", NONE, Live),
    key("clusters.*.limits.max-connections", "integer, from 1", NONE, Live),
    key("clusters.*.limits.max-pending", "integer, from 1", NONE, Live),
    key("clusters.*.priority-limits[].priority", "integer, 0 to 127", Required, Live),
    key("clusters.*.priority-limits[].max-connections", "integer, from 1", NONE, Live),
    key("clusters.*.priority-limits[].max-pending", "integer, from 1", NONE, Live),
    key("clusters.*.spill.by", "`weight`, `capacity`", Value("\"weight\""), Live),
    key("clusters.*.spill.above", "percent", NONE, Live),
    key("clusters.*.spill.below", "percent", Computed("ten points under `above`"), Live),
    key("clusters.*.spill.slope", "percent, from 1%", Value("\"10%\""), Live),
    key(
        "clusters.*.steer",
        "list of `rules`, `distance`, `rtt`, `priority`",
        Value("[\"rules\", \"distance\", \"rtt\"]"),
        Live,
    ),
    key("clusters.*.distance-band", "distance, 1km to 20000km", Value("\"500km\""), Live),
    key("clusters.*.rtt.from", "`probe`, `handshake`", Value("\"probe\""), Live),
    key("clusters.*.rtt.bands", "list of durations", Value("[\"10ms\", \"35ms\", \"80ms\"]"), Live),
    key("clusters.*.rtt.window", "duration, 300ms to 3h", Value("\"6s\""), Live),
    key("clusters.*.rtt.hysteresis", "percent, 0% to 50%", Value("\"10%\""), Live),
    key("clusters.*.rtt.hysteresis-floor", "duration, up to 1h", Value("\"2ms\""), Live),
    key("clusters.*.rtt.dwell", "integer, 1 to 100", Value("6"), Live),
    key("clusters.*.rtt.max-age", "duration, 300ms to 1d", Value("\"30s\""), Live),
    key("clusters.*.overprovisioning", "number, 1.0 to 10", Value("1.4"), Live),
    key("clusters.*.panic-threshold", "percent", Value("\"50%\""), Live),
    key("clusters.*.rules[].network", "network, or a list", NONE, Live),
    key("clusters.*.rules[].asn", "integer, or a list", NONE, Live),
    key("clusters.*.rules[].subdivision", "subdivision code, or a list", NONE, Live),
    key("clusters.*.rules[].country", "country code, or a list", NONE, Live),
    key("clusters.*.rules[].continent", "continent code, or a list", NONE, Live),
    key("clusters.*.rules[].localities", "name of a locality, or a list; `auto`, `refuse`", Required, Live),
    key("clusters.*.rules[].order", "`steered`, `as-written`", Value("\"steered\""), Live),
    key("clusters.*.rules[].fallback", "`any`, `none`, name of a locality, or a list", Value("\"any\""), Live),
    key("clusters.*.rules[].strict", "boolean", Value("false"), Live),
    key("clusters.*.rules[].steer", "list of `rules`, `distance`, `rtt`, `priority`", Computed("the cluster's"), Live),
    key("clusters.*.rules[].policy", POLICIES, Computed("the cluster's"), Live),
    key("clusters.*.rules[].request-policy", POLICIES, Computed("the cluster's"), Live),
    key("clusters.*.map.*", "name of a locality, or a list; `auto`, `refuse`", NONE, Live),
    key("clusters.*.map-order", "`steered`, `as-written`", Value("\"steered\""), Live),
    key("clusters.*.map-fallback", "`any`, `none`, name of a locality, or a list", Value("\"any\""), Live),
    key("clusters.*.localities.*.provider", "string", NONE, Live),
    key("clusters.*.localities.*.location", "[latitude, longitude]", NONE, Live),
    key("clusters.*.localities.*.priority", "integer, 0 to 127", Value("0"), Live),
    key("clusters.*.localities.*.share", "percent", Value("\"100%\""), Live),
    key(
        "clusters.*.localities.*.capacity",
        "integer, from 1",
        Computed("the sum of its endpoints' `max-connections`"),
        Live,
    ),
    key("clusters.*.localities.*.endpoints[].address", "`IP:port` or `name:port`", Required, Live),
    key("clusters.*.localities.*.endpoints[].weight", "integer, 1 to 65535", Value("1"), Live),
    key("clusters.*.localities.*.endpoints[].max-connections", "integer, from 1", NONE, Live),
    key(
        "clusters.*.localities.*.endpoints[].accept-rate",
        "rate, 0.01/s to 1000000/s",
        Computed("the cluster's"),
        Live,
    ),
    key("clusters.*.http", "`1.1`, `2`", Value("\"1.1\""), NewConnections),
    key("clusters.*.tls.name", "string", Required, NewConnections),
    key("clusters.*.tls.ca", "path", Computed("the system's authorities"), NewConnections),
    key("clusters.*.tls.verify", "boolean", Value("true"), NewConnections),
    key("clusters.*.connect-timeout", "duration, 1ms to 1m", Value("\"2s\""), Live),
    key("clusters.*.response-timeout", "duration, 1ms to 1d", Value("\"60s\""), Live),
    key(
        "clusters.*.hash-on",
        "list of `user`, `header:NAME`, `cookie:NAME`, `query:NAME`, `path:NUMBER`, `address`, `address/V4,V6`",
        Value("[\"address\"]"),
        Live,
    ),
    key(
        "clusters.*.user-token.from",
        "list of `authorization`, `header:NAME`, `cookie:NAME`, `query:NAME`, `websocket-protocol`, `websocket-protocol:PREFIX`",
        Value("[\"authorization\"]"),
        Live,
    ),
    key("clusters.*.user-token.claim", "string", Value("\"sub\""), Live),
    key("clusters.*.user-token.verify.hs256-secret-file", "path", NONE, Live),
    key("clusters.*.user-token.verify.public-key-file", "path", NONE, Live),
    key("clusters.*.user-token.decode-only", "boolean", Value("false"), Live),
    key("clusters.*.stickiness.ttl", "duration, 1s to 7d", Value("\"5m\""), Live),
    key("clusters.*.stickiness.max-entries", "integer, 1 to 10000000", Value("100000"), Live),
    key("clusters.*.health.off", "boolean", Value("false"), Live),
    key("clusters.*.health.tcp.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.health.tcp.fast-interval", "duration, 100ms to 1h", Value("\"500ms\""), Live),
    key("clusters.*.health.tcp.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.health.tcp.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.health.tcp.rise", "integer, 1 to 100", Value("2"), Live),
    key("clusters.*.health.tcp.fall", "integer, 1 to 100", Value("3"), Live),
    key("clusters.*.health.tcp.initial", "`up`, `down`", Value("\"up\""), Live),
    key("clusters.*.health.http.path", "path", Value("\"/healthz\""), Live),
    key("clusters.*.health.http.host", "host", Computed("the endpoint's address"), Live),
    key("clusters.*.health.http.expect", "list of status codes or ranges", Value("[\"200-299\"]"), Live),
    key("clusters.*.health.http.degraded-header", "header field", Value("\"x-envoy-degraded\""), Live),
    key("clusters.*.health.http.load-header", "header field", Value("\"x-requests-in-flight\""), Live),
    key("clusters.*.health.http.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.health.http.fast-interval", "duration, 100ms to 1h", Value("\"500ms\""), Live),
    key("clusters.*.health.http.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.health.http.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.health.http.rise", "integer, 1 to 100", Value("2"), Live),
    key("clusters.*.health.http.fall", "integer, 1 to 100", Value("3"), Live),
    key("clusters.*.health.http.initial", "`up`, `down`", Value("\"up\""), Live),
    key("clusters.*.health.websocket.path", "path", Value("\"/\""), Live),
    key("clusters.*.health.websocket.host", "host", Computed("the endpoint's address"), Live),
    key("clusters.*.health.websocket.protocol", "string", NONE, Live),
    key("clusters.*.health.websocket.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.health.websocket.fast-interval", "duration, 100ms to 1h", Value("\"500ms\""), Live),
    key("clusters.*.health.websocket.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.health.websocket.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.health.websocket.rise", "integer, 1 to 100", Value("2"), Live),
    key("clusters.*.health.websocket.fall", "integer, 1 to 100", Value("3"), Live),
    key("clusters.*.health.websocket.initial", "`up`, `down`", Value("\"up\""), Live),
    key("clusters.*.health.grpc.service", "string", Value("\"\""), Live),
    key("clusters.*.health.grpc.authority", "host", Computed("`tls.name`, or the endpoint's address"), Live),
    key("clusters.*.health.grpc.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.health.grpc.fast-interval", "duration, 100ms to 1h", Value("\"500ms\""), Live),
    key("clusters.*.health.grpc.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.health.grpc.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.health.grpc.rise", "integer, 1 to 100", Value("2"), Live),
    key("clusters.*.health.grpc.fall", "integer, 1 to 100", Value("3"), Live),
    key("clusters.*.health.grpc.initial", "`up`, `down`", Value("\"up\""), Live),
    key("clusters.*.health.im.path", "path", Value("\"/ws\""), Live),
    key("clusters.*.health.im.host", "host", Computed("the endpoint's address"), Live),
    key("clusters.*.health.im.token-file", "path", Required, Live),
    key("clusters.*.health.im.device", "string", Value("\"warbler-probe\""), Live),
    key("clusters.*.health.im.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.health.im.fast-interval", "duration, 100ms to 1h", Value("\"500ms\""), Live),
    key("clusters.*.health.im.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.health.im.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.health.im.rise", "integer, 1 to 100", Value("2"), Live),
    key("clusters.*.health.im.fall", "integer, 1 to 100", Value("3"), Live),
    key("clusters.*.health.im.initial", "`up`, `down`", Value("\"up\""), Live),
    key("clusters.*.agent-check.port", "integer, 1 to 65535", Required, Live),
    key("clusters.*.agent-check.interval", "duration, 100ms to 1h", Value("\"2s\""), Live),
    key("clusters.*.agent-check.timeout", "duration, 1ms to 1m", Value("\"1s\""), Live),
    key("clusters.*.agent-check.send", "string", Value("\"\""), Live),
    key("clusters.*.cut-on-down", "boolean", Value("false"), Live),
    key("clusters.*.outlier.off", "boolean", Value("false"), Live),
    key("clusters.*.outlier.consecutive", "integer, 0 to 1000", Value("5"), Live),
    key("clusters.*.outlier.interval", "duration, 1s to 1h", Value("\"10s\""), Live),
    key("clusters.*.outlier.base-ejection", "duration, 1s to 1d", Value("\"30s\""), Live),
    key("clusters.*.outlier.max-ejection", "duration, 1s to 1d", Value("\"5m\""), Live),
    key("clusters.*.outlier.max-ejected", "percent", Value("\"10%\""), Live),
    key("clusters.*.outlier.jitter", "percent", Value("\"20%\""), Live),
    key("clusters.*.outlier.connect-failure", "boolean", Value("true"), Live),
    key("clusters.*.outlier.tls-failure", "boolean", Value("true"), Live),
    key("clusters.*.outlier.refused-upgrade", "boolean", Value("true"), Live),
    key("clusters.*.outlier.early-close", "duration, 0s to 1m", Value("\"2s\""), NewConnections),
    key("clusters.*.outlier.silence", "duration, 0s or 1s to 1h", Value("\"0s\""), NewConnections),
    key("clusters.*.outlier.gateway-errors", "boolean", Value("true"), Live),
    key("clusters.*.outlier.server-errors", "boolean", Value("false"), Live),
    key("clusters.*.outlier.success-rate.enforce", "boolean", Value("true"), Live),
    key("clusters.*.outlier.success-rate.hosts", "integer, 3 to 10000", Value("5"), Live),
    key("clusters.*.outlier.success-rate.volume", "integer, 1 to 1000000", Value("100"), Live),
    key("clusters.*.outlier.success-rate.deviations", "number, 0.1 to 10", Value("1.9"), Live),
    key("clusters.*.outlier.failure-percentage.enforce", "boolean", Value("false"), Live),
    key("clusters.*.outlier.failure-percentage.threshold", "percent, from 1%", Value("\"85%\""), Live),
    key("clusters.*.outlier.failure-percentage.hosts", "integer, 1 to 10000", Value("5"), Live),
    key("clusters.*.outlier.failure-percentage.volume", "integer, 1 to 1000000", Value("50"), Live),
    key("clusters.*.retry-budget.share", "percent", Value("\"20%\""), Live),
    key("clusters.*.retry-budget.min", "integer, 0 to 1000000", Value("3"), Live),
    key("clusters.*.tcp.keepalive", "duration, 0s or 1s to 9h", Value("\"5m\""), NewConnections),
    key("clusters.*.tcp.user-timeout", "duration, up to 1d", Value("\"60s\""), NewConnections),
];

/// What stands at a path of plain keys (names in the place of `*`, no positions in lists).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Table,
    ListOfTables,
    /// A value, or nothing that is known.
    Other,
}

pub fn shape<'a>(path: impl Iterator<Item = &'a str>) -> Shape {
    match keys_below(path).next() {
        None => Shape::Other,
        Some((_, "[]", _)) => Shape::ListOfTables,
        Some(_) => Shape::Table,
    }
}

/// The keys that a table at this path cannot be without.
pub fn required_keys<'a>(path: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    let below = keys_below(path).filter(|(key, _, rest)| key.default == Fallback::Required && !rest.contains('.'));
    below.map(|(_, _, rest)| rest).collect()
}

/// The keys of a table or of the tables in a list: each with what ends the path there (`[]` or nothing), and how its own
/// goes on.
fn keys_below<'a>(
    path: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = (&'static Key, &'static str, &'static str)> {
    let path: Vec<&str> = path.collect();
    KEYS.iter().filter_map(move |key| {
        let (mut rest, mut end) = (key.path, "");
        for step in &path {
            let (known, below) = rest.split_once('.')?;
            let name = known.strip_suffix("[]").unwrap_or(known);
            if name != "*" && name != *step {
                return None;
            }
            (rest, end) = (below, &known[name.len()..]);
        }
        Some((key, end, rest))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_reference_and_the_raw_structs_know_the_same_keys() {
        let here: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        let there: BTreeSet<String> = schema::described_keys().into_keys().collect();
        assert_eq!(here.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new(), "only in the reference");
        assert_eq!(there.difference(&here).collect::<Vec<_>>(), Vec::<&String>::new(), "only in the raw structs");
        assert_eq!(here.len(), KEYS.len(), "a key stands twice in the reference");
    }

    #[test]
    fn tables_lists_of_tables_and_values_are_told_apart() {
        let check = |path: &str, want| assert_eq!(shape(path.split('.')), want, "{path}");
        check("stop", Shape::Table);
        check("stop.grace", Shape::Other);
        check("listeners", Shape::Table);
        check("listeners.im", Shape::Table);
        check("listeners.im.routes", Shape::ListOfTables);
        check("listeners.im.routes.headers", Shape::Table);
        check("clusters.im.localities.fra.endpoints", Shape::ListOfTables);
        check("clusters.im.steer", Shape::Other);
        check("nonsense", Shape::Other);
        check("stop.grace.more", Shape::Other);
    }

    #[test]
    fn the_keys_that_a_table_needs_are_known() {
        let check = |path: &str, want: &[&str]| assert_eq!(required_keys(path.split('.')), want, "{path}");
        check("listeners.im", &["bind", "protocol"]);
        check("listeners.im.routes", &["cluster"]);
        check("clusters.im.localities.fra.endpoints", &["address"]);
        check("clusters.im", &[]);
    }
}
