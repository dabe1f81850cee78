//! Which cluster a request is for: host, path and header matches, the most specific first.
//!
//! Order: an exact host before a wildcard (the longer one first) before any host; then an exact path before the longest
//! prefix before any path; then more header matches before fewer; then the order of the file (as the Kubernetes Gateway
//! API orders HTTP routes). Routes are sorted once, when a snapshot is made; the first that matches wins.

use std::cmp::Reverse;
use std::time::Duration;

use http::HeaderMap;

use crate::config::{ClusterIx, HeaderMatch, HostMatch, Name, PathMatch, Route};

/// The routes of one listener, most specific first.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Routed {
    pub route: Name,
    pub cluster: ClusterIx,
    /// Idle time of a tunnel on this route, where it differs from the listener's.
    pub idle: Option<Duration>,
}

impl Routes {
    pub fn new(routes: &[Route]) -> Routes {
        let mut routes = routes.to_vec();
        routes.sort_by_key(specificity);
        Routes(routes)
    }

    /// `host` in any case, with or without port; `path` without the query.
    pub fn find(&self, host: &str, path: &str, headers: &HeaderMap) -> Option<Routed> {
        let host = canonical_host(host);
        let matches = |route: &&Route| {
            host_matches(&route.host, &host)
                && path_matches(&route.path, path)
                && route.headers.iter().all(|wanted| header_matches(wanted, headers))
        };
        let route = self.0.iter().find(matches)?;
        Some(Routed { route: route.name.clone(), cluster: route.cluster, idle: route.idle })
    }
}

/// Smaller is more specific. Sorting is stable, so the order of the file decides the rest.
fn specificity(route: &Route) -> impl Ord + use<> {
    let host = match &route.host {
        HostMatch::Exact(_) => (0, Reverse(0)),
        HostMatch::Below(name) => (1, Reverse(name.len())),
        HostMatch::Any => (2, Reverse(0)),
    };
    let path = match &route.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Prefix(prefix) => (1, Reverse(prefix.len())),
        PathMatch::Any => (2, Reverse(0)),
    };
    (host, path, Reverse(route.headers.len()))
}

/// Lower case, without port and trailing dot.
pub fn canonical_host(host: &str) -> String {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _port)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn host_matches(wanted: &HostMatch, host: &str) -> bool {
    match wanted {
        HostMatch::Any => true,
        HostMatch::Exact(name) => name == host,
        HostMatch::Below(parent) => host
            .strip_suffix(parent.as_str())
            .and_then(|below| below.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty()),
    }
}

fn path_matches(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => match path.strip_prefix(prefix.as_str()) {
            Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
            // `/ws/` is meant for `/ws` too.
            None => prefix.strip_suffix('/').is_some_and(|prefix| prefix == path),
        },
    }
}

fn header_matches(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&wanted.name).iter();
    match &wanted.value {
        None => values.next().is_some(),
        Some(value) => values.any(|given| given.as_bytes() == value.as_bytes()),
    }
}

/// A path that another server may read as a different one: with `.` or `..` segments, plain or percent-encoded, with
/// encoded separators or path parameters around them. Such a request would be routed by one path and served by another.
pub fn is_ambiguous(path: &str) -> bool {
    // Most paths have nothing that could be a dot.
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%')) {
        return false;
    }
    let mut plain = path.to_ascii_lowercase();
    for (encoded, meant) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/"), ("%3b", ";")] {
        plain = plain.replace(encoded, meant);
    }
    plain.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, host: HostMatch, path: PathMatch) -> Route {
        Route { name: name.into(), host, path, headers: Vec::new(), cluster: ClusterIx(0), idle: None }
    }

    fn exact(host: &str) -> HostMatch {
        HostMatch::Exact(host.into())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    fn found(routes: &[Route], host: &str, path: &str) -> Option<String> {
        Routes::new(routes).find(host, path, &HeaderMap::new()).map(|routed| routed.route.to_string())
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        let routes = [
            route("any", HostMatch::Any, PathMatch::Any),
            route("wild", HostMatch::Below("example.com".into()), PathMatch::Any),
            route("wild-deep", HostMatch::Below("chat.example.com".into()), PathMatch::Any),
            route("host", exact("im.example.com"), PathMatch::Any),
            route("host-prefix", exact("im.example.com"), prefix("/ws")),
            route("host-long", exact("im.example.com"), prefix("/ws/v2")),
            route("host-exact", exact("im.example.com"), PathMatch::Exact("/ws".into())),
        ];
        for (host, path, want) in [
            ("other.test", "/", "any"),
            ("a.example.com", "/ws", "wild"),
            ("a.chat.example.com", "/", "wild-deep"),
            ("example.com", "/", "any"),
            ("im.example.com", "/api", "host"),
            ("IM.example.com.:8080", "/ws", "host-exact"),
            ("im.example.com", "/ws/a", "host-prefix"),
            ("im.example.com", "/wsx", "host"),
            ("im.example.com", "/ws/v2/x", "host-long"),
        ] {
            assert_eq!(found(&routes, host, path).as_deref(), Some(want), "{host}{path}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let routes = [route("ws", HostMatch::Any, prefix("/ws")), route("api", HostMatch::Any, prefix("/api/"))];
        assert_eq!(found(&routes, "a", "/ws"), Some("ws".into()));
        assert_eq!(found(&routes, "a", "/wsx"), None);
        assert_eq!(found(&routes, "a", "/api"), Some("api".into()));
        assert_eq!(found(&routes, "a", "/api/x"), Some("api".into()));
        assert_eq!(found(&[route("root", HostMatch::Any, prefix("/"))], "a", "/x"), Some("root".into()));
    }

    #[test]
    fn headers_narrow_a_route() {
        let mut tenant = route("tenant", HostMatch::Any, PathMatch::Any);
        tenant.headers = vec![HeaderMatch { name: http::HeaderName::from_static("x-tenant"), value: Some("a".into()) }];
        let mut debug = route("debug", HostMatch::Any, PathMatch::Any);
        debug.headers = vec![HeaderMatch { name: http::HeaderName::from_static("x-debug"), value: None }];
        let routes = Routes::new(&[route("plain", HostMatch::Any, PathMatch::Any), tenant, debug]);
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            routes.find("h", "/", &headers).map(|routed| routed.route.to_string())
        };
        assert_eq!(with("x-tenant", "a").as_deref(), Some("tenant"));
        assert_eq!(with("x-tenant", "b").as_deref(), Some("plain"));
        assert_eq!(with("x-debug", "anything").as_deref(), Some("debug"));
    }

    #[test]
    fn ipv6_hosts_lose_their_brackets_and_port() {
        assert_eq!(canonical_host("[2001:DB8::1]:443"), "2001:db8::1");
    }

    #[test]
    fn paths_with_dot_segments_are_ambiguous() {
        for path in [
            "/a/..%2fb",
            "/a%5C..%5cb",
            "/a/..;/b",
            "/a/.;x=1/b",
            "/a/../b",
            "/..",
            "/a/%2e%2E/b",
            "/./a",
            "/a\\..\\b",
            "/.%2e/",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/", "/a..b/c", "/.well-known/x", "/a/...", "/a.b"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
