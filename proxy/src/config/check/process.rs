//! The tables that describe the process: edge, admin, log, dns, geoip, stop, drain.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use geoip::Knows;

use super::area::Geography;
use super::findings::{Findings, Scope};
use super::{OpenFiles, address, opened};
use crate::config::diagnostic::{Place, nearest};
use crate::config::files::InFile;
use crate::config::raw::{self, Placed, RawAdmin, RawDns, RawDrain, RawEdge, RawGeoIp, RawLog, RawStop};
use crate::config::{AccessLog, Admin, Dns, Drain, Edge, GeoIp, Log, LogFormat, Name, Stop};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) fn edge(raw: InFile<RawEdge>, findings: &mut Findings<'_>) -> Option<Edge> {
    let RawEdge { name, location, trusted_proxies, workers, max_connections } = raw.value;
    let scope = &mut Scope::new("edge", &raw.place, findings);
    let name = match name {
        Some(name) => scope.name("an edge", &name, name.span()),
        None => host_name(),
    };
    let location = scope.coordinates(location.as_ref());
    let trusted_proxies = trusted_proxies.iter().filter_map(|network| address::network(network, scope)).collect();
    let workers = match workers {
        Some(workers) => {
            scope.whole("workers", &workers, 1..=1024).and_then(|workers: usize| NonZeroUsize::new(workers))
        }
        None => Some(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
    };
    let max_connections = scope.max_connections(max_connections.as_ref());
    Some(Edge { name, location, trusted_proxies, workers: workers?, max_connections: nonzero(max_connections?) })
}

/// What the machine calls itself.
fn host_name() -> Name {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Name::from("warbler"),
        name => Name::from(name),
    }
}

pub(super) fn nonzero(limit: Option<usize>) -> Option<NonZeroUsize> {
    limit.and_then(NonZeroUsize::new)
}

/// `[admin]`, and where its addresses stand: listeners must not ask for the same ones.
pub(super) struct CheckedAdmin {
    pub(super) config: Admin,
    pub(super) places: Vec<(SocketAddr, Place)>,
}

pub(super) fn admin(raw: InFile<RawAdmin>, findings: &mut Findings<'_>) -> Option<CheckedAdmin> {
    let RawAdmin { bind, socket, token_file, hosts } = raw.value;
    let scope = &mut Scope::new("admin", &raw.place, findings);
    let mut places: Vec<(SocketAddr, Place)> = Vec::new();
    for written in &bind {
        let Some(address) = address::socket("bind", written, scope) else { continue };
        match places.iter().find(|(known, _)| *known == address && address.port() != 0) {
            Some(_) => _ = scope.error(written.span(), format!("{address} is listed twice")),
            None => places.push((address, scope.at(written.span()))),
        }
    }
    let socket = socket.map(|path| scope.path("socket", &path));
    let token_file = token_file.map(|written| {
        let path = scope.path("token-file", &written);
        if scope.findings.open == OpenFiles::Yes {
            opened::token(&path, &written, scope);
        }
        path
    });
    let hosts = hosts.iter().filter_map(|host| admin_host(host, scope)).collect();
    let config = Admin { bind: places.iter().map(|(address, _)| *address).collect(), socket, token_file, hosts };
    Some(CheckedAdmin { config, places })
}

fn admin_host(written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<String> {
    let host = address::host_name(written);
    if host.is_none() {
        scope.error(written.span(), format!("`{}` is not a host name", **written)).help("write it without port");
    }
    host
}

pub(super) fn log(raw: InFile<RawLog>, findings: &mut Findings<'_>) -> Option<Log> {
    let RawLog { level, format, access } = raw.value;
    let scope = &mut Scope::new("log", &raw.place, findings);
    check_level(&level, scope);
    let format = match format {
        raw::LogFormat::Json => LogFormat::Json,
        raw::LogFormat::Text => LogFormat::Text,
    };
    let access = match access.as_str() {
        "stdout" => AccessLog::Stdout,
        "off" => AccessLog::Off,
        // A slip such as `stdot` must not become a file of that name.
        path if !path.contains(['/', '.']) => {
            let problem = scope.error(access.span(), format!("`access` cannot be `{path}`"));
            problem.help("write `stdout`, `off`, or a path with a `/` or `.` in it");
            return None;
        }
        _ => AccessLog::File(scope.path("access", &access)),
    };
    Some(Log { level: level.into_inner(), format, access })
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// `tracing` would take a mistyped level for the name of a module, and log nothing.
fn check_level(level: &Placed<String>, scope: &mut Scope<'_, '_>) {
    for directive in level.split(',') {
        let word = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
            let problem = scope.error(level.span(), format!("`level`: `{word}` is not a level"));
            problem.help(match nearest(word, LEVELS) {
                Some(level) => format!("did you mean `{level}`?"),
                None => format!("one of: `{}`; for one module: `warn,proxy=debug`", LEVELS.join("`, `")),
            });
        }
    }
}

pub(super) fn dns(raw: InFile<RawDns>, findings: &mut Findings<'_>) -> Option<Dns> {
    let RawDns { resolvers, timeout, min_ttl, max_ttl, max_loss, believe_after } = raw.value;
    let scope = &mut Scope::new("dns", &raw.place, findings);
    let resolvers =
        resolvers.iter().filter_map(|server| address::socket_or_ip("resolvers", server, 53, scope)).collect();
    let checked_timeout = scope.duration("timeout", &timeout, 10..=MINUTE);
    let shortest = scope.duration("min-ttl", &min_ttl, 100..=DAY);
    let longest = scope.duration("max-ttl", &max_ttl, SECOND..=DAY);
    if shortest > longest && longest.is_some() {
        let span = min_ttl.span().or(max_ttl.span());
        scope.error(span, format!("`min-ttl` ({}) is longer than `max-ttl` ({})", *min_ttl, *max_ttl));
    }
    let believe_after = scope.whole("believe-after", &believe_after, 1..=100);
    Some(Dns {
        resolvers,
        timeout: checked_timeout?,
        min_ttl: shortest?,
        max_ttl: longest?,
        max_loss_percent: max_loss.0,
        believe_after: believe_after?,
    })
}

/// Also what it offers to tell where clients are.
pub(super) fn geoip(raw: InFile<RawGeoIp>, findings: &mut Findings<'_>) -> (GeoIp, Geography) {
    let RawGeoIp { databases, overrides } = raw.value;
    let scope = &mut Scope::new("geoip", &raw.place, findings);
    let open = scope.findings.open == OpenFiles::Yes;
    let mut checked = GeoIp::default();
    let mut knows = vec![(!scope.findings.was_refused("geoip")).then(Knows::default)];
    for written in &databases {
        let path = scope.path("databases", written);
        if checked.databases.contains(&path) {
            scope.error(written.span(), format!("database {} is listed twice", path.display()));
        } else {
            knows.push(if open { opened::database(&path, written, scope) } else { None });
        }
        checked.databases.push(path);
    }
    checked.overrides = overrides.map(|written| {
        let path = scope.path("overrides", &written);
        knows.push(if open { opened::overrides(&path, &written, scope) } else { None });
        path
    });
    let has_sources = !checked.databases.is_empty() || checked.overrides.is_some();
    let knows = knows.into_iter().reduce(|all, one| Some(all?.or(one?))).flatten();
    (checked, Geography { has_sources, knows })
}

pub(super) fn stop(raw: InFile<RawStop>, findings: &mut Findings<'_>) -> Option<Stop> {
    let RawStop { grace, deadline } = raw.value;
    let scope = &mut Scope::new("stop", &raw.place, findings);
    let checked_grace = scope.duration("grace", &grace, 0..=HOUR);
    let checked_deadline = scope.duration("deadline", &deadline, 0..=DAY);
    if let (Some(least), Some(most)) = (checked_grace, checked_deadline)
        && most <= least
    {
        let message = format!("`deadline` ({}) must be longer than `grace` ({})", *deadline, *grace);
        let problem = scope.error(deadline.span().or(grace.span()), message);
        problem.help("both count from SIGTERM; connections are asked to leave in the time between them");
    }
    Some(Stop { grace: checked_grace?, deadline: checked_deadline? })
}

pub(super) fn drain(raw: InFile<RawDrain>, findings: &mut Findings<'_>) -> Option<Drain> {
    let RawDrain { rate, close_wait } = raw.value;
    let scope = &mut Scope::new("drain", &raw.place, findings);
    let close_wait = scope.duration("close-wait", &close_wait, 0..=5 * MINUTE);
    if !(0.01..=1e6).contains(&rate.per_second) {
        scope.error(rate.span(), format!("`rate` must be from 0.01/s to 1000000/s, not {}", *rate));
    }
    Some(Drain { rate_per_second: rate.per_second, close_wait: close_wait? })
}
