//! What the program runs by: the configuration, already right.
//!
//! Two layers. `raw` is what the files say, each value with its place; the types here are what the program uses and
//! cannot be wrong: a route holds a [`ClusterIx`], not a name that may dangle. [`check`] is the only way from one to
//! the other, and it reports every problem at once. Nothing here is "not filled in yet": defaults live in `raw` and
//! nowhere else.

pub mod affinity;
pub mod check;
pub mod compare;
pub mod diagnostic;
pub mod files;
pub mod raw;
pub mod reference;
pub mod units;

pub use self::affinity::{KeySource, Stickiness, TokenPlace, TokenTrust, UserToken};
pub use self::check::{Loaded, OpenFiles, load, load_text};

pub use self::diagnostic::Report;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use geoip::Coordinates;
use ipnet::IpNet;
use policies::{
    AcceptRate, Criterion, Headroom, Limits, OutlierRules, Policy, RetryRules, RttBands, Share, SlowStart, SpillBy,
    Weight,
};

/// A name that an operator gave to a listener, cluster or locality.
pub type Name = Arc<str>;

/// Position of a cluster in [`Config::clusters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterIx(pub usize);

/// Everything that the files say, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub edge: Edge,
    pub admin: Admin,
    pub log: Log,
    pub dns: Dns,
    pub geoip: GeoIp,
    pub stop: Stop,
    pub drain: Drain,
    /// Sorted by name.
    pub listeners: Vec<Listener>,
    /// Sorted by name.
    pub clusters: Vec<Cluster>,
    /// Every file that was read for this configuration, the main one first: what the watcher watches.
    pub files: Vec<PathBuf>,
}

/// `[edge]`: this process as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    pub name: Name,
    pub location: Option<Coordinates>,
    /// Networks whose PROXY headers and forwarded fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Worker threads; fixed when the process starts.
    pub workers: NonZeroUsize,
    /// Downstream connections in all. `None`: what the descriptor limit allows (see `limits`).
    pub max_connections: Option<NonZeroUsize>,
}

/// `[admin]`: where operators and Prometheus ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Read-only HTTP, save with the token.
    pub bind: Vec<SocketAddr>,
    /// Unix socket (0600) for the command line; may change things. Relative paths start at the main file's folder.
    pub socket: Option<PathBuf>,
    /// File with the bearer token that allows changes over TCP.
    pub token_file: Option<PathBuf>,
    /// Names accepted in the `Host` header besides IP literals and `localhost`: against DNS rebinding.
    pub hosts: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A filter as `tracing` understands it: `info`, `warn,proxy=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Where the line for each finished connection and request goes.
    pub access: AccessLog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// `[dns]`: how endpoint names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// Empty: the system's /etc/resolv.conf.
    pub resolvers: Vec<SocketAddr>,
    pub timeout: Duration,
    /// Bounds for the time between two look-ups of a name, whatever TTL the answer has.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// An answer that has lost more than this share of a name's addresses is held back, 0 to 100.
    pub max_loss_percent: u8,
    /// How often in a row such an answer must come before it is believed.
    pub believe_after: u32,
}

/// `[geoip]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GeoIp {
    pub databases: Vec<PathBuf>,
    pub overrides: Option<PathBuf>,
}

/// `[stop]`: what SIGTERM does.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// How long to accept on while `/readyz` already fails, so that whatever is in front stops sending.
    pub grace: Duration,
    /// From SIGTERM to the end; then what is left is cut and listed.
    pub deadline: Duration,
}

/// `[drain]`: how connections are asked to leave, by a stop or by a reload.
#[derive(Debug, Clone, PartialEq)]
pub struct Drain {
    /// Connections asked to leave per second.
    pub rate_per_second: f64,
    /// How long a client that was told goodbye has before its connection is closed.
    pub close_wait: Duration,
}

/// `[listeners.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Name,
    /// The addresses as given; port 0 asks the kernel, and keeps what it got over reloads.
    pub bind: Vec<SocketAddr>,
    pub tls: Option<ListenerTls>,
    /// Connections come from `edge.trusted-proxies` only and start with a PROXY header, v1 or v2.
    pub proxy_protocol: bool,
    pub max_connections: Option<NonZeroUsize>,
    pub timeouts: Timeouts,
    pub tcp: TcpOptions,
    pub serves: Serves,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Serves {
    /// Opaque bytes to one cluster.
    Tcp {
        cluster: ClusterIx,
    },
    Http(HttpListener),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpListener {
    pub http1: bool,
    /// HTTP/2 by ALPN on a TLS listener; by prior knowledge on a plain one.
    pub http2: bool,
    /// Largest request head in bytes (request line and fields).
    pub max_head: usize,
    /// In the order of the files; `route` decides by specificity.
    pub routes: Vec<Route>,
}

/// How long a client may take for each step; `idle` is for tunnels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub proxy_header: Duration,
    pub tls_handshake: Duration,
    pub request_head: Duration,
    /// Between two requests of one connection.
    pub keep_alive: Duration,
    /// No byte either way.
    pub idle: Duration,
}

/// Socket options against phones that vanish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TcpOptions {
    /// Idle time before the kernel probes the peer; zero turns it off.
    pub keepalive: Duration,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`); zero leaves it to the kernel.
    pub user_timeout: Duration,
    pub backlog: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// The first one serves clients that name no host, or an unknown one (unless `strict_sni`).
    pub certificates: Vec<CertificateFiles>,
    pub strict_sni: bool,
    pub min_version: TlsVersion,
    /// Keys of session tickets that other edges have as well.
    pub ticket_keys: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// `[[listeners.NAME.routes]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What the access log, metrics and `explain` call it: given, or made from its match.
    pub name: Name,
    pub host: HostMatch,
    pub path: PathMatch,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
    pub cluster: ClusterIx,
    /// Idle time of tunnels on this route; the listener's unless given.
    pub idle: Option<Duration>,
}

/// Names are in lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    Any,
    Exact(String),
    /// `*.example.com`: kept as `example.com`; matches any name below it, not the name itself.
    Below(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Any,
    Exact(String),
    /// Matches at segment borders: `/ws` matches `/ws` and `/ws/a`, not `/wsx`.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    pub name: http::HeaderName,
    /// `None`: present with any value.
    pub value: Option<String>,
}

/// `[clusters.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: Name,
    /// For tunnels: TCP, and HTTP after `101`.
    pub policy: Policy,
    /// For HTTP requests.
    pub request_policy: Policy,
    /// What a client is known by; the first that it has counts. Never empty.
    pub hash_on: Vec<KeySource>,
    pub user_token: Option<UserToken>,
    pub stickiness: Option<Stickiness>,
    pub steer: Vec<Criterion>,
    pub distance_band_km: f64,
    pub rtt: RttSettings,
    pub overprovisioning_percent: u32,
    pub panic_threshold_percent: u32,
    pub spill: Spill,
    pub slow_start: SlowStart,
    pub limits: Limits,
    /// By the priority of the localities that they are for.
    pub priority_limits: Vec<(u32, Limits)>,
    /// The rules in the order of the file, then the map from narrow to wide: the first that matches counts.
    pub rules: Vec<Rule>,
    pub localities: Vec<Locality>,
    /// HTTP version spoken to the endpoints.
    pub http: UpstreamHttp,
    pub tls: Option<UpstreamTls>,
    pub connect_timeout: Duration,
    /// Until the head of an answer, and between two reads of its body.
    pub response_timeout: Duration,
    pub health: Health,
    pub agent_check: Option<AgentCheck>,
    /// Tunnels of an endpoint that goes down are asked to leave it.
    pub cut_on_down: bool,
    pub outlier: Outlier,
    pub retry_budget: RetryRules,
    pub tcp: TcpOptions,
}

/// How localities stand in for each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spill {
    pub by: SpillBy,
    /// `None`: a locality sends nobody on because it is full.
    pub headroom: Option<Headroom>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHttp {
    V1,
    V2,
}

/// Which of the two RTT figures steers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RttFrom {
    Probe,
    Handshake,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RttSettings {
    pub from: RttFrom,
    pub bands: RttBands,
    /// Over which the lowest round trip counts.
    pub window: Duration,
    /// Without news for so long, a figure counts as not measured.
    pub max_age: Duration,
}

/// `[[clusters.NAME.rules]]`, or an entry of `[clusters.NAME.map]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub origin: RuleOrigin,
    /// Localities by their positions in the cluster's `localities`.
    pub terms: policies::Rule,
}

/// Where a rule is written, so that an operator finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOrigin {
    /// Counted from 1 as it stands in the file.
    Rule(usize),
    /// The key of the map.
    Map(Arc<str>),
}

/// `[clusters.NAME.localities.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Locality {
    pub name: Name,
    pub provider: Option<Name>,
    pub location: Option<Coordinates>,
    pub priority: u32,
    /// How much of the new clients that steering sends here may come, as the files have it.
    pub share: Share,
    /// Declared, or the sum of what its endpoints may hold.
    pub capacity: Option<NonZeroU32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    pub weight: Weight,
    pub max_connections: Option<NonZeroU32>,
    pub accept_rate: Option<AcceptRate>,
}

/// Where an endpoint is: an address, or a name that DNS turns into some.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Socket(SocketAddr),
    /// Fully qualified for the resolver by a trailing dot that is added there, not here.
    Name {
        host: Arc<str>,
        port: u16,
    },
}

/// As the files write it.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Socket(address) => address.fmt(f),
            Address::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// TLS to the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// Sent as SNI and verified. Never empty.
    pub name: String,
    /// PEM file of the authorities to believe; the system's when absent.
    pub ca: Option<PathBuf>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

/// Active probing of every endpoint of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    /// Interval while an endpoint is in doubt.
    pub fast_interval: Duration,
    pub timeout: Duration,
    /// Share of the interval by which probes are spread, 0 to 1.
    pub jitter: f64,
    /// Good probes in a row that bring an endpoint up.
    pub rise: u32,
    /// Failed probes in a row that take it down.
    pub fall: u32,
    /// What endpoints are before their first probe when the process starts.
    pub initial: Initial,
}

/// What an endpoint is before its first probe (HAProxy's `init-state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// No probing: endpoints are up unless something else says otherwise.
    Off,
    Tcp,
    Http(HttpProbe),
    Websocket(WebsocketProbe),
    Grpc(GrpcProbe),
    Im(ImProbe),
}

/// A `host` of `None` is the endpoint's address, here and below.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    pub path: String,
    pub host: Option<String>,
    /// Accepted status codes, inclusive ranges.
    pub expect: Vec<(u16, u16)>,
    /// The header field that marks a good answer as a degraded endpoint's.
    pub degraded_header: http::HeaderName,
    /// The header field of a good answer that says how many requests and tunnels the endpoint has from everybody.
    pub load_header: http::HeaderName,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WebsocketProbe {
    pub path: String,
    pub host: Option<String>,
    pub protocol: Option<http::HeaderValue>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GrpcProbe {
    /// Empty: the server as a whole.
    pub service: String,
    /// `None`: the name of the cluster's TLS, else the endpoint's address.
    pub authority: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ImProbe {
    pub path: String,
    pub host: Option<String>,
    /// Read for each probe, so that a new token counts at once.
    pub token_file: PathBuf,
    pub device: String,
}

/// `agent-check`: HAProxy's line protocol to an agent beside each endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentCheck {
    /// On the endpoint's own IP address.
    pub port: NonZeroU16,
    pub interval: Duration,
    pub timeout: Duration,
    /// Sent first; may be empty.
    pub send: String,
}

impl RuleOrigin {
    /// The number of the rule, or the key of the map.
    pub fn name(&self) -> String {
        match self {
            RuleOrigin::Rule(nth) => nth.to_string(),
            RuleOrigin::Map(key) => key.to_string(),
        }
    }
}

/// `rule 2`, `map EU/DE`
impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleOrigin::Rule(nth) => write!(f, "rule {nth}"),
            RuleOrigin::Map(key) => write!(f, "map {key}"),
        }
    }
}

/// `[clusters.NAME.outlier]`
#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// `None`: nobody is ejected, and nothing is counted.
    pub rules: Option<OutlierRules>,
    pub signals: Signals,
}

impl Outlier {
    pub fn off() -> Outlier {
        Outlier { rules: None, signals: Signals::default() }
    }

    pub fn is_on(&self) -> bool {
        self.rules.is_some()
    }

    /// What tunnels are watched for; `None` when nothing is.
    pub fn watched(&self) -> Option<Signals> {
        self.is_on().then_some(self.signals)
    }
}

/// What counts as a failure of an endpoint. Nothing, by `Default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    pub connect_failure: bool,
    pub tls_failure: bool,
    pub refused_upgrade: bool,
    /// A tunnel that the endpoint ends sooner than this.
    pub early_close: Option<Duration>,
    /// A client that waits this long for the endpoint's next byte.
    pub silence: Option<Duration>,
    /// 502, 503, 504, a broken answer or none in time.
    pub gateway_errors: bool,
    /// Any other status of class 5xx.
    pub server_errors: bool,
}

impl Config {
    pub fn cluster(&self, ix: ClusterIx) -> &Cluster {
        &self.clusters[ix.0]
    }

    pub fn trusts(&self, proxy: IpAddr) -> bool {
        let proxy = proxy.to_canonical();
        self.edge.trusted_proxies.iter().any(|network| network.contains(&proxy))
    }
}
