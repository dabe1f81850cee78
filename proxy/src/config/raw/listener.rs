//! `[listeners.NAME]` as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Placed, defaults};
use crate::config::units::{Period, Size};

/// A place where clients connect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawListener {
    /// Addresses to listen on, `IP:port` or `[IPv6]:port`. Port 0 lets the kernel choose.
    pub bind: Placed<Vec<Placed<String>>>,
    /// `tcp`: opaque bytes to one cluster. `http`: requests and upgrades by routes.
    pub protocol: Placed<Protocol>,
    /// Where a tcp listener sends its connections.
    pub cluster: Option<Placed<String>>,
    /// HTTP versions offered to clients; 2 is by ALPN with TLS and by prior knowledge without. By default both with TLS,
    /// and 1.1 without.
    pub http_versions: Option<Placed<Vec<Placed<HttpVersion>>>>,
    /// Terminates TLS.
    pub tls: Option<Placed<RawListenerTls>>,
    /// Connections come from `edge.trusted-proxies` only and start with a PROXY header, v1 or v2.
    #[serde(default = "defaults::off")]
    pub proxy_protocol: Placed<bool>,
    /// Connections at a time. Only `edge.max-connections` limits them by default.
    pub max_connections: Option<Placed<i64>>,
    /// Largest request head, 1KiB to 1MiB. Only for http.
    #[serde(default = "defaults::max_head")]
    pub max_head: Placed<Size>,
    /// How long clients may take for each step.
    #[serde(default)]
    pub timeouts: RawTimeouts,
    /// Socket options against phones that vanish.
    #[serde(default)]
    pub tcp: RawListenerTcp,
    /// Which requests go to which cluster; the most specific match wins. Only for http.
    #[serde(default)]
    pub routes: Vec<Placed<RawRoute>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HttpVersion {
    #[serde(rename = "1.1")]
    V1,
    #[serde(rename = "2")]
    V2,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawListenerTls {
    /// The one whose names match what the client asks for is used; the first for clients that name none.
    pub certificates: Placed<Vec<RawCertificate>>,
    /// Refuses clients that ask for a name that no certificate has, instead of showing the first one.
    #[serde(default = "defaults::off")]
    pub strict_sni: Placed<bool>,
    /// Oldest version of TLS that is spoken.
    #[serde(default = "defaults::min_tls_version")]
    pub min_version: TlsVersion,
    /// File of keys for session tickets, the same on every edge: clients then resume at any of them. One a line, 48 bytes in
    /// base64; the first makes tickets, all open them. By default each process has keys of its own.
    pub ticket_keys: Option<Placed<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawCertificate {
    /// PEM file: the certificate, then those that sign it.
    pub chain: Placed<String>,
    /// PEM file: the private key of the first certificate in `chain`.
    pub key: Placed<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawTimeouts {
    /// For the PROXY header.
    pub proxy_header: Placed<Period>,
    /// For the TLS handshake.
    pub tls_handshake: Placed<Period>,
    /// For a request head, from its first byte.
    pub request_head: Placed<Period>,
    /// Between two requests of one connection.
    pub keep_alive: Placed<Period>,
    /// No byte either way in a tunnel.
    pub idle: Placed<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawListenerTcp {
    /// Idle time before the kernel probes the client; "0s" turns it off.
    pub keepalive: Placed<Period>,
    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT); "0s" leaves it to the kernel.
    pub user_timeout: Placed<Period>,
    /// Connections that wait to be accepted; the kernel's net.core.somaxconn is the upper limit.
    pub backlog: Placed<i64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawRoute {
    /// What logs, metrics and `explain` call this route. Made from its match by default.
    pub name: Option<Placed<String>>,
    /// `im.example.com`, or `*.example.com` for every name below. Any host by default.
    pub host: Option<Placed<String>>,
    /// This very path.
    pub path: Option<Placed<String>>,
    /// This path and what is below: `/ws` matches `/ws` and `/ws/a`, not `/wsx`.
    pub path_prefix: Option<Placed<String>>,
    /// Header fields that must be there with this value; `*` for any value.
    #[serde(default)]
    pub headers: BTreeMap<Placed<String>, Placed<String>>,
    /// Where matching requests go.
    pub cluster: Placed<String>,
    /// No byte either way in a tunnel of this route. `timeouts.idle` of the listener by default.
    pub idle_timeout: Option<Placed<Period>>,
}
