//! `[clusters.NAME]` as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::affinity::{RawStickiness, RawUserToken};
use super::health::{RawAgentCheck, RawHealth};
use super::listener::HttpVersion;
use super::outlier::{RawOutlier, RawRetryBudget};
use super::{OneOrMany, Placed, defaults};
use crate::config::units::{Distance, Percent, Period, Rate};

/// Servers of one kind, in one or several places.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawCluster {
    /// How an endpoint is picked within a locality for a tunnel: TCP, and HTTP after an upgrade.
    pub policy: PolicyName,
    /// The same for an HTTP request.
    pub request_policy: PolicyName,
    /// Parameters of the policy `p2c`.
    pub p2c: RawP2c,
    /// Parameters of the policy `peak-ewma`.
    pub peak_ewma: RawPeakEwma,
    /// Parameters of the policy `prequal`.
    pub prequal: RawPrequal,
    /// Parameters of the policy `maglev`.
    pub maglev: RawMaglev,
    /// Parameters of the policy `ring-hash`.
    pub ring_hash: RawRingHash,
    /// How an endpoint that has just come up gets its share.
    pub slow_start: RawSlowStart,
    /// New connections that each endpoint may get, unless it says so itself. No limit by default.
    pub accept_rate: Option<Placed<Rate>>,
    /// What the cluster may hold in all, from this edge.
    pub limits: RawLimits,
    /// What the localities of one priority may hold together, from this edge.
    pub priority_limits: Vec<Placed<RawPriorityLimits>>,
    /// How localities stand in for each other.
    pub spill: RawSpill,
    /// What a client is known by, for hash policies and stickiness: the first of these that it has counts.
    pub hash_on: Placed<Vec<Placed<String>>>,
    /// Where the token is that names the user, for `user` in `hash-on`.
    pub user_token: Option<Placed<RawUserToken>>,
    /// A client that comes back within a time gets the endpoint that it had.
    pub stickiness: Option<Placed<RawStickiness>>,
    /// What decides between localities, the most important first; each orders only what those before left equal.
    pub steer: Vec<Placed<CriterionName>>,
    /// Distances to the client are compared in steps of this size: within one step, localities are equally far.
    pub distance_band: Placed<Distance>,
    /// How measured round trips steer.
    pub rtt: RawRtt,
    /// How much more than its share a locality can carry before clients go to the next, 1.0 to 10.
    pub overprovisioning: Placed<f64>,
    /// Below this share of endpoints that are up, traffic goes to those that are down, too. "0%" turns it off.
    pub panic_threshold: Placed<Percent>,
    /// Which clients belong where; the first that matches counts.
    pub rules: Vec<Placed<RawRule>>,
    /// Where the clients of an area go whom no rule matches: `default`, `EU`, `DE` or `EU/DE`, `DE/BY` or `EU/DE/BY`; the
    /// narrowest counts. `auto`: as if there were no map. `refuse`: nowhere.
    pub map: BTreeMap<Placed<String>, OneOrMany>,
    /// What the order of localities in the map means, as `order` of a rule.
    pub map_order: OrderName,
    /// What follows the localities of the map, as `fallback` of a rule.
    pub map_fallback: OneOrMany,
    /// Where the endpoints stand, by name.
    pub localities: BTreeMap<Placed<String>, RawLocality>,
    /// HTTP version spoken to the endpoints.
    pub http: HttpVersion,
    /// Speaks TLS to the endpoints.
    pub tls: Option<Placed<RawUpstreamTls>>,
    /// How long one endpoint may take to accept a connection, before another is tried.
    pub connect_timeout: Placed<Period>,
    /// How long an endpoint may take until the head of its answer, and between two parts of the body.
    pub response_timeout: Placed<Period>,
    /// How endpoints are probed: one of `tcp`, `http`, `websocket`, `grpc`, `im`, `off`. TCP by default.
    pub health: Placed<RawHealth>,
    /// Asks an agent beside each endpoint how much the endpoint can take.
    pub agent_check: Option<Placed<RawAgentCheck>>,
    /// `true`: tunnels of an endpoint that goes down are asked to leave it, at the pace of `drain.rate`.
    pub cut_on_down: Placed<bool>,
    /// Which endpoints get no new clients for a while because they fail those that they have.
    pub outlier: RawOutlier,
    /// How many clients may be on a further try at a time.
    pub retry_budget: RawRetryBudget,
    /// Socket options of the connections to endpoints.
    pub tcp: RawUpstreamTcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// In turn, in proportion to weight.
    RoundRobin,
    /// Fewest connections for its weight.
    LeastConnections,
    /// By dice, in proportion to weight; counts are not looked at.
    Random,
    /// Fewest connections for its weight among a few drawn in proportion to weight.
    P2c,
    /// Lowest latency times connections for its weight, among a few drawn in proportion to weight.
    PeakEwma,
    /// Lowest latency among those of a few that are not busy, fewest requests if all are (Prequal's hot-cold rule).
    Prequal,
    /// By the client's key, in a table that moves least when endpoints come and go.
    Maglev,
    /// By the client's key, on a ring.
    RingHash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CriterionName {
    /// What `rules` say about the client.
    Rules,
    /// From the client to the locality.
    Distance,
    /// From this edge to the locality.
    Rtt,
    /// The `priority` of the locality.
    Priority,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawP2c {
    /// How many endpoints are drawn, 2 to 16.
    pub choices: Placed<i64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawPeakEwma {
    /// How many endpoints are drawn, 2 to 16.
    pub choices: Placed<i64>,
    /// How fast a peak is forgotten: after this time about a third of it is left.
    pub decay: Placed<Period>,
    /// What an endpoint is taken for that nothing was measured of.
    pub default_latency: Placed<Period>,
    /// What a failed request counts as, if it was not slower than that anyway.
    pub failure_penalty: Placed<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawPrequal {
    /// How many endpoints are drawn, 2 to 16.
    pub choices: Placed<i64>,
    /// Share of those drawn that count as not busy.
    pub hot_above: Placed<Percent>,
    /// How long it counts what an endpoint reports of its own load; longer than the interval of the reports.
    pub report_age: Placed<Period>,
    /// How fast a latency that nothing renews is forgotten: after this time about a third of it is left.
    pub decay: Placed<Period>,
    /// What an endpoint is taken for that nothing was measured of.
    pub default_latency: Placed<Period>,
    /// What a failed request counts as, if it was not slower than that anyway.
    pub failure_penalty: Placed<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawMaglev {
    /// Slots of the table, a prime number. At least a hundred for each endpoint spreads the keys to within 1 %.
    pub table_size: Placed<i64>,
    /// How far over its fair share an endpoint may be loaded before its keys go on to others, 1.0 to 100; 0 is no bound.
    pub balance_factor: Placed<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawRingHash {
    /// Points on the ring at least.
    pub min_size: Placed<i64>,
    /// Points on the ring at most.
    pub max_size: Placed<i64>,
    /// How far over its fair share an endpoint may be loaded before its keys go on to others, 1.0 to 100; 0 is no bound.
    pub balance_factor: Placed<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawSlowStart {
    /// From coming up to the whole share; "0s" is no slow start.
    pub window: Placed<Period>,
    /// 1.0 rises in a straight line, more rises faster at first; 0.1 to 10.
    pub aggression: Placed<f64>,
    /// The share that it starts with.
    pub least: Placed<Percent>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawLimits {
    /// Connections and requests at a time. No limit by default.
    pub max_connections: Option<Placed<i64>>,
    /// Of these, how many may wait for an endpoint to accept. No limit by default.
    pub max_pending: Option<Placed<i64>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawPriorityLimits {
    /// The `priority` of the localities that this is for, 0 to 127.
    pub priority: Placed<i64>,
    /// Connections and requests at a time. No limit by default.
    pub max_connections: Option<Placed<i64>>,
    /// Of these, how many may wait for an endpoint to accept. No limit by default.
    pub max_pending: Option<Placed<i64>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawSpill {
    /// `weight`: a locality that is whole can carry everything. `capacity`: as much as its `capacity` says.
    pub by: SpillBy,
    /// Above this utilisation a locality sends some of its new clients on. Off by default; needs capacities.
    pub above: Option<Placed<Percent>>,
    /// Below this utilisation it takes all of them again. Ten points under `above` by default.
    pub below: Option<Placed<Percent>>,
    /// How much the share that is sent on may change in a second.
    pub slope: Placed<Percent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpillBy {
    Weight,
    Capacity,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawRtt {
    /// `probe`: a whole health probe, what a client would feel. `handshake`: the TCP handshake, the network alone.
    pub from: RttFrom,
    /// Upper limits of the bands that count as equally near, counted from the nearest locality; ascending, 1 to 16.
    pub bands: Placed<Vec<Placed<Period>>>,
    /// The lowest round trip within it counts. The default is lengthened to three probe intervals.
    pub window: Placed<Period>,
    /// Share of a limit by which a locality must be past it to change its band, 0% to 50%.
    pub hysteresis: Placed<Percent>,
    /// The least that this is, though never more than half of the limit.
    pub hysteresis_floor: Placed<Period>,
    /// For how many rounds in a row it must be there, 1 to 100; a round is a third of `window`, and at least 1s.
    pub dwell: Placed<i64>,
    /// A figure without news for so long does not count. The default is lengthened to five windows.
    pub max_age: Placed<Period>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RttFrom {
    Probe,
    Handshake,
}

/// Matches a client when any of `network`, `asn`, `subdivision`, `country` and `continent` does; without any of them,
/// everyone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawRule {
    /// `203.0.113.0/24`, or a list.
    #[serde(default)]
    pub network: OneOrMany,
    /// Number of an autonomous system: `64512`, or a list.
    #[serde(default)]
    pub asn: OneOrMany<i64>,
    /// ISO 3166-2 in upper case: `DE-BY`, or a list.
    #[serde(default)]
    pub subdivision: OneOrMany,
    /// ISO 3166-1 alpha-2 in upper case: `DE`, or a list.
    #[serde(default)]
    pub country: OneOrMany,
    /// `AF`, `AN`, `AS`, `EU`, `NA`, `OC`, `SA`, or a list.
    #[serde(default)]
    pub continent: OneOrMany,
    /// Where these clients go. `auto`: as if no rule matched. `refuse`: nowhere.
    pub localities: OneOrMany,
    /// `steered`: the localities are a set that the other criteria order. `as-written`: the second is for what the first
    /// cannot take.
    pub order: Option<Placed<OrderName>>,
    /// What follows the localities. `any`: all others. `none`: nothing, clients are refused. Or these, and then nothing; with
    /// `any` at the end of the list, then all others.
    #[serde(default)]
    pub fallback: OneOrMany,
    /// `true` is `fallback = "none"`: never anywhere else (data residency).
    pub strict: Option<Placed<bool>>,
    /// What decides between localities for these clients.
    pub steer: Option<Placed<Vec<Placed<CriterionName>>>>,
    /// How an endpoint is picked for their tunnels.
    pub policy: Option<PolicyName>,
    /// How an endpoint is picked for their requests.
    pub request_policy: Option<PolicyName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrderName {
    /// A set, ordered by the other criteria.
    Steered,
    /// One after the other.
    AsWritten,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawLocality {
    /// Whose machines these are; a label.
    pub provider: Option<Placed<String>>,
    /// Latitude and longitude in degrees.
    pub location: Option<Placed<[f64; 2]>>,
    /// Lower goes first, 0 to 127; counts where `steer` names `priority`.
    pub priority: Placed<i64>,
    /// How much of the new clients that steering sends here may come; the rest goes to the next. "0%" takes it out of service.
    pub share: Placed<Percent>,
    /// Connections that it is built for. The sum of its endpoints' `max-connections` by default, if all have one.
    pub capacity: Option<Placed<i64>>,
    /// The servers. At least one.
    pub endpoints: Vec<Placed<RawEndpoint>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawEndpoint {
    /// `IP:port`, `[IPv6]:port` or `name:port`.
    pub address: Placed<String>,
    /// Share of the traffic relative to the others, 1 to 65535.
    #[serde(default = "defaults::weight")]
    pub weight: Placed<i64>,
    /// Connections and requests at a time. No limit by default.
    pub max_connections: Option<Placed<i64>>,
    /// New connections that it may get. The cluster's `accept-rate` by default.
    pub accept_rate: Option<Placed<Rate>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawUpstreamTls {
    /// The name that is asked for (SNI) and that the certificate must have.
    pub name: Placed<String>,
    /// PEM file of the authorities to believe. The system's by default.
    pub ca: Option<Placed<String>>,
    /// `false` accepts any certificate.
    #[serde(default = "defaults::on")]
    pub verify: Placed<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawUpstreamTcp {
    /// Idle time before the kernel probes the endpoint; "0s" turns it off.
    pub keepalive: Placed<Period>,
    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT); "0s" leaves it to the kernel.
    pub user_timeout: Placed<Period>,
}
