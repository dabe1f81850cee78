//! Texts that name a place in the network: socket addresses, networks, host names.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::findings::Scope;
use crate::config::raw::Placed;

/// A socket address that something of ours is bound to, or that is asked directly.
pub(super) fn socket(key: &str, value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<SocketAddr> {
    let parsed = value.parse::<SocketAddr>();
    if parsed.is_err() {
        let help = match value.rsplit_once(':') {
            Some(("" | "*", port)) => format!("write `0.0.0.0:{port}` for every IPv4 address, `[::]:{port}` for IPv6"),
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => format!("write `[{host}]:{port}`"),
            _ => "write `IP:port` or `[IPv6]:port`".to_owned(),
        };
        scope.error(value.span(), format!("`{key}`: `{}` is not an address with a port", **value)).help(help);
    }
    parsed.ok()
}

/// As [`socket`], with a port that needs not be written.
pub(super) fn socket_or_ip(
    key: &str,
    value: &Placed<String>,
    port: u16,
    scope: &mut Scope<'_, '_>,
) -> Option<SocketAddr> {
    match value.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_) => socket(key, value, scope),
    }
}

/// A network, or an address as the network of only itself.
pub(super) fn network(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<IpNet> {
    if let Ok(ip) = value.parse::<IpAddr>() {
        return Some(IpNet::from(ip));
    }
    let Ok(network) = value.parse::<IpNet>() else {
        let problem = scope.error(value.span(), format!("`{}` is not a network", **value));
        problem.help("write `10.0.0.0/8`, `2001:db8::/32`, or a single address");
        return None;
    };
    if network != network.trunc() {
        let meant = network.trunc();
        let problem = scope.warning(value.span(), format!("`{network}` has bits below its prefix; they are ignored"));
        problem.help(format!("write `{meant}`, or `{}` for this one address", network.addr()));
    }
    Some(network.trunc())
}

/// A host name in lower case without its trailing dot, if it is one.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let fitting = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(fitting)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

/// What can stand in a `Host` field without its port: a name or an address, IPv6 in brackets.
pub(super) fn host(text: &str) -> Option<String> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(|ip| format!("[{ip}]")),
        None => host_name(text),
    }
}
