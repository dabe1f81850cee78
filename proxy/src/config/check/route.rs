//! `[[listeners.NAME.routes]]`.

use std::collections::BTreeMap;

use super::findings::{Clusters, Scope};
use super::{address, listener};
use crate::config::diagnostic::Place;
use crate::config::raw::{Placed, RawRoute};
use crate::config::{HeaderMatch, HostMatch, Name, PathMatch, Route};

/// The routes of one listener; `None` if one of them is wrong.
pub(super) fn all(raw: &[Placed<RawRoute>], clusters: &mut Clusters, scope: &mut Scope<'_, '_>) -> Option<Vec<Route>> {
    let mut seen = Seen::default();
    let checked: Vec<Option<Route>> = raw
        .iter()
        .map(|raw| {
            let scope = &mut scope.below("routes", raw.span());
            let route = route(raw, clusters, scope)?;
            seen.check(&route, raw, scope);
            Some(route)
        })
        .collect();
    checked.into_iter().collect()
}

fn route(raw: &RawRoute, clusters: &mut Clusters, scope: &mut Scope<'_, '_>) -> Option<Route> {
    let cluster = clusters.find(&raw.cluster, scope);
    let host = host_match(raw.host.as_ref(), scope);
    let path = path_match(raw, scope);
    let headers = header_matches(&raw.headers, scope);
    let idle = match &raw.idle_timeout {
        Some(idle) => listener::checked_idle("idle-timeout", idle, scope).map(Some),
        None => Some(None),
    };
    let (host, path, headers) = (host?, path?, headers?);
    let name = match &raw.name {
        Some(name) => given_name(name, scope),
        None => Name::from(described(&host, &path, &headers)),
    };
    Some(Route { name, host, path, headers, cluster: cluster?, idle: idle? })
}

/// A label of metrics and logs: short, and on one line.
fn given_name(name: &Placed<String>, scope: &mut Scope<'_, '_>) -> Name {
    if name.trim().is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
        let problem = scope.error(name.span(), "`name` cannot be the name of a route");
        problem.help("1 to 128 characters without line breaks");
    }
    Name::from(name.as_str())
}

/// A route by what it matches; two routes of a listener with one description match the same requests.
fn described(host: &HostMatch, path: &PathMatch, headers: &[HeaderMatch]) -> String {
    let mut text = match host {
        HostMatch::Any => String::new(),
        HostMatch::Exact(host) => host.clone(),
        HostMatch::Below(host) => format!("*.{host}"),
    };
    match path {
        PathMatch::Any => text.push_str("/*"),
        PathMatch::Exact(path) => text.push_str(path),
        PathMatch::Prefix(path) => text.push_str(&format!("{path}/*")),
    }
    for header in headers {
        text.push_str(&match &header.value {
            Some(value) => format!(" {}={value:?}", header.name),
            None => format!(" {}", header.name),
        });
    }
    text
}

fn host_match(host: Option<&Placed<String>>, scope: &mut Scope<'_, '_>) -> Option<HostMatch> {
    let Some(written) = host else { return Some(HostMatch::Any) };
    let (wildcard, name) = match written.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, written.as_str()),
    };
    if name == "*" && !wildcard {
        return Some(HostMatch::Any);
    }
    let Some(host) = address::host(name) else {
        let problem = scope.error(written.span(), format!("`{}` is not a host", **written));
        problem.help(match name.rsplit_once(':') {
            Some((host, _)) if address::host(host).is_some() => {
                format!("ports are not looked at: write `{}{host}`", if wildcard { "*." } else { "" })
            }
            _ => "write `im.example.com`, or `*.example.com` for every name below it".to_owned(),
        });
        return None;
    };
    Some(if wildcard { HostMatch::Below(host) } else { HostMatch::Exact(host) })
}

fn path_match(raw: &RawRoute, scope: &mut Scope<'_, '_>) -> Option<PathMatch> {
    match (&raw.path, &raw.path_prefix) {
        (None, None) => Some(PathMatch::Any),
        (Some(_), Some(prefix)) => {
            let problem = scope.error(prefix.span(), "a route has `path` or `path-prefix`, not both");
            problem.help("make two routes of it");
            None
        }
        (Some(path), None) => checked_path("path", path, scope).map(PathMatch::Exact),
        (None, Some(prefix)) => {
            let prefix = checked_path("path-prefix", prefix, scope)?;
            // Borders of segments are implied, so that `/ws/` says the same as `/ws`, and `/` is every path.
            Some(match prefix.trim_end_matches('/') {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(prefix.to_owned()),
            })
        }
    }
}

/// Also of the path that a health probe asks for, which may have a query.
pub(super) fn checked_path(key: &str, path: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<String> {
    let wrong = if !path.starts_with('/') {
        "must start with `/`"
    } else if path.contains(['?', '#']) {
        "cannot have `?` or `#`: queries are not looked at"
    } else if path.chars().any(|c| c.is_control() || c == ' ' || !c.is_ascii()) {
        "must be ASCII without blanks; write other characters as `%XX`"
    } else {
        return Some(path.to_string());
    };
    scope.error(path.span(), format!("`{key}` {wrong}"));
    None
}

fn header_matches(
    raw: &BTreeMap<Placed<String>, Placed<String>>,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<HeaderMatch>> {
    let mut checked: Vec<Option<HeaderMatch>> = Vec::new();
    for (name, value) in raw {
        let matched = header_match(name, value, scope);
        if let Some(header) = &matched
            && checked.iter().flatten().any(|known| known.name == header.name)
        {
            scope.error(name.span(), format!("header `{}` stands twice in this route", header.name));
        }
        checked.push(matched);
    }
    let mut checked: Vec<HeaderMatch> = checked.into_iter().collect::<Option<_>>()?;
    checked.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    Some(checked)
}

fn header_match(name: &Placed<String>, value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<HeaderMatch> {
    let Ok(header) = http::HeaderName::from_bytes(name.as_bytes()) else {
        scope.error(name.span(), format!("`{}` is not a header name", name.escape_debug()));
        return None;
    };
    if header == http::header::HOST {
        scope.error(name.span(), "`host` is not matched as a header").help("use the key `host` of the route");
        return None;
    }
    if http::HeaderValue::from_str(value).is_err() {
        scope.error(value.span(), format!("no header can have the value `{}`", value.escape_debug()));
        return None;
    }
    Some(HeaderMatch { name: header, value: (**value != "*").then(|| value.to_string()) })
}

/// The matches and names of the routes before.
#[derive(Default)]
struct Seen {
    matches: BTreeMap<String, Place>,
    names: BTreeMap<Name, Place>,
}

impl Seen {
    fn check(&mut self, route: &Route, raw: &Placed<RawRoute>, scope: &mut Scope<'_, '_>) {
        let place = scope.at(raw.span());
        let matched = described(&route.host, &route.path, &route.headers);
        if let Some(first) = self.matches.get(&matched) {
            let message = format!("this route matches the same requests as the one on {}", scope.mention(first));
            scope.error(raw.span(), message).help("it could never be reached; remove one, or change what it matches");
            return;
        }
        if let Some(first) = self.names.get(&route.name) {
            let message = format!("a route is already named `{}`, on {}", route.name, scope.mention(first));
            scope.error(raw.name.as_ref().and_then(Placed::span), message);
        }
        self.matches.insert(matched, place.clone());
        self.names.insert(route.name.clone(), place);
    }
}
