//! `[listeners.NAME]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::findings::{Clusters, Findings, Scope};
use super::process::{CheckedAdmin, nonzero};
use super::{OpenFiles, address, opened, route};
use crate::config::diagnostic::{FileIx, Place};
use crate::config::files::InFile;
use crate::config::raw::listener::{HttpVersion, Protocol};
use crate::config::raw::{self, Placed, RawCertificate, RawListener, RawListenerTcp, RawListenerTls, RawTimeouts};
use crate::config::units::{Period, Size};
use crate::config::{
    CertificateFiles, Edge, HttpListener, Listener, ListenerTls, Serves, TcpOptions, Timeouts, TlsVersion,
};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// `None` if one of them is wrong.
pub(super) fn all(
    raw: BTreeMap<String, InFile<RawListener>>,
    edge: &Option<Edge>,
    admin: &Option<CheckedAdmin>,
    clusters: &mut Clusters,
    findings: &mut Findings<'_>,
) -> Option<Vec<Listener>> {
    if raw.is_empty() && !findings.was_refused_or_mistyped("listeners") {
        let place = Place { file: FileIx(0), span: 0..0 };
        findings.error(&place, "no listener is defined".to_owned()).help("nobody can connect; add [listeners.NAME]");
        return None;
    }
    let trusts_someone = edge.as_ref().is_some_and(|edge| !edge.trusted_proxies.is_empty());
    let mut taken = Taken { addresses: Vec::new() };
    for (address, place) in admin.iter().flat_map(|admin| &admin.places) {
        taken.addresses.push((*address, place.clone(), "`[admin]`".to_owned()));
    }
    let mut checked = Vec::new();
    for (name, InFile { value, place }) in raw {
        let mut scope = Scope::new(format!("listeners.{name}"), &place, findings);
        checked.push(listener(&name, &value, trusts_someone, clusters, &mut taken, &mut scope));
    }
    checked.into_iter().collect()
}

fn listener(
    name: &str,
    raw: &RawListener,
    trusts_someone: bool,
    clusters: &mut Clusters,
    taken: &mut Taken,
    scope: &mut Scope<'_, '_>,
) -> Option<Listener> {
    let name = scope.name("a listener", name, None);
    let bind = taken.bind(raw, &name, scope);
    let tls = match &raw.tls {
        Some(tls) => checked_tls(tls, scope).map(Some),
        None => Some(None),
    };
    let proxy_protocol = *raw.proxy_protocol;
    if proxy_protocol && !trusts_someone && !scope.findings.was_refused("edge") {
        let message = "`proxy-protocol` is on, but `edge.trusted-proxies` is empty: nobody could connect";
        let problem = scope.error(raw.proxy_protocol.span(), message);
        problem.help("name the networks of the proxies there");
    }
    let max_connections = scope.max_connections(raw.max_connections.as_ref());
    let timeouts = checked_timeouts(raw, scope);
    let tcp = checked_tcp(&raw.tcp, scope);
    let serves = match *raw.protocol {
        Protocol::Tcp => serves_tcp(raw, clusters, scope),
        Protocol::Http => serves_http(raw, clusters, scope),
    };
    Some(Listener {
        name,
        bind,
        tls: tls?,
        proxy_protocol,
        max_connections: nonzero(max_connections?),
        timeouts: timeouts?,
        tcp: tcp?,
        serves: serves?,
    })
}

/// Which addresses are asked for already, and by whom.
struct Taken {
    addresses: Vec<(SocketAddr, Place, String)>,
}

impl Taken {
    fn bind(&mut self, raw: &RawListener, name: &str, scope: &mut Scope<'_, '_>) -> Vec<SocketAddr> {
        if raw.bind.is_empty() && !scope.was_refused("bind") {
            scope.error(raw.bind.span(), "a listener needs at least one address to listen on");
        }
        let mut checked = Vec::new();
        for written in raw.bind.iter() {
            let Some(address) = address::socket("bind", written, scope) else { continue };
            // Port 0 is another port every time.
            let first = self.addresses.iter().find(|(known, ..)| *known == address && address.port() != 0);
            if let Some((_, place, owner)) = first {
                let message = match place.span.is_empty() {
                    true => format!("{address} is taken by {owner}, whose default it is"),
                    false => format!("{address} is taken by {owner} on {}", scope.mention(place)),
                };
                scope.error(written.span(), message);
            } else {
                self.addresses.push((address, scope.at(written.span()), format!("listener `{name}`")));
                checked.push(address);
            }
        }
        checked
    }
}

fn checked_tls(raw: &Placed<RawListenerTls>, scope: &mut Scope<'_, '_>) -> Option<ListenerTls> {
    let scope = &mut scope.below("tls", raw.span());
    if raw.certificates.is_empty() && !scope.was_refused("certificates") {
        let problem = scope.error(raw.certificates.span(), "TLS needs at least one certificate");
        problem.help("certificates = [{ chain = \"tls/im.pem\", key = \"tls/im.key\" }]");
        return None;
    }
    let min_version = match raw.min_version {
        raw::listener::TlsVersion::V1_2 => TlsVersion::V1_2,
        raw::listener::TlsVersion::V1_3 => TlsVersion::V1_3,
    };
    let certificates = raw.certificates.iter().map(|certificate| files_of(certificate, scope)).collect();
    let ticket_keys = raw.ticket_keys.as_ref().map(|written| ticket_keys_of(written, scope));
    Some(ListenerTls { certificates, strict_sni: *raw.strict_sni, min_version, ticket_keys })
}

fn ticket_keys_of(written: &Placed<String>, scope: &mut Scope<'_, '_>) -> PathBuf {
    let path = scope.path("ticket-keys", written);
    if scope.findings.open == OpenFiles::Yes {
        opened::ticket_keys(&path, written, scope);
    }
    path
}

fn files_of(raw: &RawCertificate, scope: &mut Scope<'_, '_>) -> CertificateFiles {
    let files = CertificateFiles { chain: scope.path("chain", &raw.chain), key: scope.path("key", &raw.key) };
    if scope.findings.open == OpenFiles::Yes {
        opened::certificate(&files, raw, scope);
    }
    files
}

fn checked_timeouts(raw: &RawListener, scope: &mut Scope<'_, '_>) -> Option<Timeouts> {
    let scope = &mut scope.below("timeouts", None);
    let RawTimeouts { proxy_header, tls_handshake, request_head, keep_alive, idle } = &raw.timeouts;
    let mut without_effect = |key: &str, value: &Placed<Period>, unless: bool, reason: &str| {
        if value.is_written() && !unless {
            scope.warning(value.span(), format!("`{key}` has no effect: {reason}"));
        }
    };
    let http = *raw.protocol == Protocol::Http;
    without_effect("proxy-header", proxy_header, *raw.proxy_protocol, "`proxy-protocol` is off");
    without_effect("tls-handshake", tls_handshake, raw.tls.is_some(), "the listener has no `tls`");
    without_effect("request-head", request_head, http, "the listener is not http");
    without_effect("keep-alive", keep_alive, http, "the listener is not http");
    let proxy_header = scope.duration("proxy-header", proxy_header, 1..=HOUR);
    let tls_handshake = scope.duration("tls-handshake", tls_handshake, 1..=HOUR);
    let request_head = scope.duration("request-head", request_head, 1..=HOUR);
    let keep_alive = scope.duration("keep-alive", keep_alive, 1..=DAY);
    let idle = checked_idle("idle", idle, scope);
    Some(Timeouts {
        proxy_header: proxy_header?,
        tls_handshake: tls_handshake?,
        request_head: request_head?,
        keep_alive: keep_alive?,
        idle: idle?,
    })
}

/// Of a listener or of a route.
pub(super) fn checked_idle(key: &str, value: &Placed<Period>, scope: &mut Scope<'_, '_>) -> Option<Duration> {
    scope.duration(key, value, SECOND..=7 * DAY)
}

fn checked_tcp(raw: &RawListenerTcp, scope: &mut Scope<'_, '_>) -> Option<TcpOptions> {
    let scope = &mut scope.below("tcp", None);
    let backlog = scope.whole("backlog", &raw.backlog, 1..=65_535);
    socket_options(&raw.keepalive, &raw.user_timeout, backlog, scope)
}

/// What listeners and clusters share.
pub(super) fn socket_options(
    keepalive: &Placed<Period>,
    user_timeout: &Placed<Period>,
    backlog: Option<u32>,
    scope: &mut Scope<'_, '_>,
) -> Option<TcpOptions> {
    let checked_keepalive = match keepalive.0.is_zero() {
        true => Some(Duration::ZERO),
        // The kernel counts in seconds, and 32767 of them are its limit.
        false => scope.duration("keepalive", keepalive, SECOND..=9 * HOUR),
    };
    let user_timeout = scope.duration("user-timeout", user_timeout, 0..=DAY);
    Some(TcpOptions { keepalive: checked_keepalive?, user_timeout: user_timeout?, backlog: backlog? })
}

fn serves_tcp(raw: &RawListener, clusters: &mut Clusters, scope: &mut Scope<'_, '_>) -> Option<Serves> {
    let mut http_only = |key: &str, span: Option<Range<usize>>| {
        if span.is_some() {
            let problem = scope.error(span, format!("`{key}` is for http, and this listener is tcp"));
            problem.help("leave it out, or write protocol = \"http\"");
        }
    };
    http_only("http-versions", raw.http_versions.as_ref().and_then(Placed::span));
    http_only("max-head", raw.max_head.span());
    http_only("routes", raw.routes.first().and_then(Placed::span));
    match &raw.cluster {
        Some(cluster) => Some(Serves::Tcp { cluster: clusters.find_for_tcp(cluster, scope)? }),
        None => {
            if !scope.had_refused_keys() {
                let problem = scope.error(None, "a tcp listener needs `cluster`");
                problem.help("the name of the cluster that its connections go to");
            }
            None
        }
    }
}

fn serves_http(raw: &RawListener, clusters: &mut Clusters, scope: &mut Scope<'_, '_>) -> Option<Serves> {
    if let Some(cluster) = &raw.cluster {
        let help = format!("write [[{}.routes]] with cluster = \"{}\"", scope.path, **cluster);
        scope.error(cluster.span(), "an http listener has routes instead of `cluster`").help(help);
    } else if raw.routes.is_empty() && !scope.had_refused_keys() {
        let help = format!("add [[{}.routes]] with at least a `cluster`", scope.path);
        scope.error(None, "an http listener needs at least one route").help(help);
    }
    let versions = http_versions(raw, scope);
    let max_head = max_head(&raw.max_head, scope);
    let routes = route::all(&raw.routes, clusters, scope);
    let (http1, http2) = versions?;
    Some(Serves::Http(HttpListener { http1, http2, max_head: max_head?, routes: routes? }))
}

fn http_versions(raw: &RawListener, scope: &mut Scope<'_, '_>) -> Option<(bool, bool)> {
    let Some(written) = &raw.http_versions else {
        // Without TLS, clients speak HTTP/2 by prior knowledge only: that is for whoever asks for it.
        return Some((true, raw.tls.is_some()));
    };
    if written.is_empty() {
        if !scope.was_refused("http-versions") {
            scope
                .error(written.span(), "`http-versions` is empty: nobody could be served")
                .help("http-versions = [\"1.1\", \"2\"]");
        }
        return None;
    }
    let offers = |version: HttpVersion| written.iter().any(|offered| **offered == version);
    Some((offers(HttpVersion::V1), offers(HttpVersion::V2)))
}

fn max_head(value: &Placed<Size>, scope: &mut Scope<'_, '_>) -> Option<usize> {
    let (least, most) = (Size(1024), Size(1024 * 1024));
    if !(least..=most).contains(value) {
        scope.error(value.span(), format!("`max-head` must be from {least} to {most}, not {}", **value));
        return None;
    }
    usize::try_from(value.0).ok()
}
