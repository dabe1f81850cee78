//! `[clusters.NAME.localities.NAME]` and the endpoints in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use policies::{AcceptRate, Share, Weight};

use super::findings::Scope;
use super::{address, policy};
use crate::config::diagnostic::Place;
use crate::config::raw::{Placed, RawEndpoint, RawLocality};
use crate::config::{Address, Endpoint, Locality};

/// The localities of one cluster; `None` if one of them is wrong.
pub(super) fn localities(
    raw: BTreeMap<Placed<String>, RawLocality>,
    accept_rate: Option<AcceptRate>,
    cluster: &str,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<Locality>> {
    if raw.is_empty() && !scope.had_refused_keys() {
        let help = format!("add [clusters.{cluster}.localities.NAME] with `endpoints`");
        scope.error(None, format!("cluster `{cluster}` has no locality")).help(help);
    }
    if u16::try_from(raw.len()).is_err() {
        scope.error(None, format!("cluster `{cluster}` has more than 65535 localities"));
    }
    let mut seen = BTreeMap::new();
    let mut checked = Vec::new();
    for (name, raw) in &raw {
        let mut scope = scope.below(&format!("localities.{}", **name), name.span());
        checked.push(locality(name, raw, accept_rate, cluster, &mut seen, &mut scope));
    }
    refuse_all_out_of_service(&raw, cluster, scope);
    checked.into_iter().collect()
}

/// A cluster without any locality in service refuses every client: nobody writes that on purpose.
fn refuse_all_out_of_service(raw: &BTreeMap<Placed<String>, RawLocality>, cluster: &str, scope: &mut Scope<'_, '_>) {
    let Some((_, last)) = raw.last_key_value() else { return };
    if raw.values().all(|locality| locality.share.0 == 0) {
        let message =
            format!("cluster `{cluster}` has every locality at `share = \"0%\"`: every client would be refused");
        scope.error(last.share.span(), message).help("leave one locality with a share");
    }
}

fn locality(
    name: &Placed<String>,
    raw: &RawLocality,
    accept_rate: Option<AcceptRate>,
    cluster: &str,
    seen: &mut BTreeMap<Address, Place>,
    scope: &mut Scope<'_, '_>,
) -> Option<Locality> {
    let checked_name = scope.name("a locality", name, name.span());
    let provider = raw.provider.as_ref().map(|provider| scope.name("a provider", provider, provider.span()));
    let location = scope.coordinates(raw.location.as_ref());
    let priority = scope.whole("priority", &raw.priority, 0..=127);
    if raw.endpoints.is_empty() && !scope.had_refused_keys() {
        let problem = scope.error(None, format!("locality `{}` has no endpoint", **name));
        problem.help("endpoints = [{ address = \"10.0.0.7:5222\" }]");
    }
    let mut endpoints = Vec::new();
    for raw in &raw.endpoints {
        let scope = &mut scope.below("endpoints", raw.span());
        let endpoint = endpoint(raw, accept_rate, scope);
        if let Some(endpoint) = &endpoint {
            refuse_twice(endpoint, raw, cluster, seen, scope);
        }
        endpoints.push(endpoint);
    }
    let declared = match &raw.capacity {
        None => Some(None),
        Some(capacity) => scope.whole("capacity", capacity, 1..=i64::from(u32::MAX)).map(NonZeroU32::new),
    };
    let endpoints: Vec<Endpoint> = endpoints.into_iter().collect::<Option<_>>()?;
    let limits = sum_of_limits(&endpoints);
    let declared = declared?;
    if let (Some(capacity), Some(limits)) = (declared, limits)
        && capacity > limits
    {
        let message =
            format!("`capacity` ({capacity}) is more than its endpoints' `max-connections` together ({limits})");
        let problem = scope.warning(raw.capacity.as_ref().and_then(Placed::span), message);
        problem.help("it can never be full; leave `capacity` out, and it is that sum");
    }
    let capacity = declared.or(limits);
    // A percentage is at most 100 by its type.
    let share = Share::percent(raw.share.0)?;
    Some(Locality { name: checked_name, provider, location, priority: priority?, share, capacity, endpoints })
}

/// What endpoints may hold together, if each of them says so. No count of connections goes beyond a `u32`.
fn sum_of_limits(endpoints: &[Endpoint]) -> Option<NonZeroU32> {
    let limits = endpoints.iter().map(|endpoint| endpoint.max_connections);
    limits.reduce(|sum, limit| Some(sum?.saturating_add(limit?.get())))?
}

/// An endpoint is known by its cluster and address: its state belongs to that.
fn refuse_twice(
    endpoint: &Endpoint,
    raw: &RawEndpoint,
    cluster: &str,
    seen: &mut BTreeMap<Address, Place>,
    scope: &mut Scope<'_, '_>,
) {
    let place = scope.at(raw.address.span());
    match seen.get(&endpoint.address) {
        Some(first) => {
            let first = scope.mention(first);
            let message = format!("endpoint {} is listed twice in `{cluster}`, first on {first}", *raw.address);
            scope.error(raw.address.span(), message).help("to give it a larger share, raise its `weight`");
        }
        None => _ = seen.insert(endpoint.address.clone(), place),
    }
}

fn endpoint(raw: &RawEndpoint, of_cluster: Option<AcceptRate>, scope: &mut Scope<'_, '_>) -> Option<Endpoint> {
    let address = address(&raw.address, scope);
    let weight = weight(&raw.weight, scope);
    let max_connections = scope.max_connections::<u32>(raw.max_connections.as_ref());
    let accept_rate = policy::accept_rate(raw.accept_rate.as_ref(), scope);
    Some(Endpoint {
        address: address?,
        weight: weight?,
        max_connections: max_connections?.and_then(NonZeroU32::new),
        accept_rate: accept_rate?.or(of_cluster),
    })
}

fn weight(value: &Placed<i64>, scope: &mut Scope<'_, '_>) -> Option<Weight> {
    if **value == 0 {
        let problem = scope.error(value.span(), "`weight` must be from 1; 0 is no share");
        problem.help("to take an endpoint out of service, drain it or remove it");
        return None;
    }
    scope.whole("weight", value, 1..=65_535).and_then(Weight::new)
}

fn address(written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Address> {
    match parsed(written) {
        Ok(address) => Some(address),
        Err(why) => {
            let problem = scope.error(written.span(), format!("`{}` is not the address of an endpoint", **written));
            problem.help(why);
            None
        }
    }
}

/// As an error, the way out.
fn parsed(text: &str) -> Result<Address, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        // One endpoint has one identity, however it is written.
        let socket = SocketAddr::new(socket.ip().to_canonical(), socket.port());
        if socket.port() == 0 {
            return Err("the port must be from 1 to 65535".to_owned());
        }
        if socket.ip().is_unspecified() || socket.ip().is_multicast() {
            return Err("nobody can be reached there; write the address of one server".to_owned());
        }
        return Ok(Address::Socket(socket));
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Err(format!("the port is missing: `{}`", SocketAddr::new(ip, 5222)));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("the port is missing: `{text}:5222`"));
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
        return Err("the port must be from 1 to 65535".to_owned());
    };
    // `10.0.0.300` is a slip of the hand and not a name.
    let numeric = |name: &str| name.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    match address::host_name(host) {
        Some(name) if !numeric(&name) => Ok(Address::Name { host: Arc::from(name), port }),
        _ => Err("write `IP:port`, `[IPv6]:port` or `name:port`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_endpoints_are_sockets_or_names() {
        let check = |text: &str, want: Result<Address, &str>| {
            assert_eq!(parsed(text).as_ref().map_err(String::as_str), want.as_ref().map_err(|help| *help), "{text}")
        };
        let name = |host: &str, port| Ok(Address::Name { host: host.into(), port });
        check("10.0.0.7:5222", Ok(Address::Socket("10.0.0.7:5222".parse().unwrap())));
        check("[2001:db8::7]:5222", Ok(Address::Socket("[2001:db8::7]:5222".parse().unwrap())));
        check("[::ffff:10.0.0.7]:5222", Ok(Address::Socket("10.0.0.7:5222".parse().unwrap())));
        check("IM.example.com.:5222", name("im.example.com", 5222));
        check("localhost:1", name("localhost", 1));
        check("10.0.0.7", Err("the port is missing: `10.0.0.7:5222`"));
        check("2001:db8::7", Err("the port is missing: `[2001:db8::7]:5222`"));
        check("im.example.com", Err("the port is missing: `im.example.com:5222`"));
        check("10.0.0.7:0", Err("the port must be from 1 to 65535"));
        check("im:70000", Err("the port must be from 1 to 65535"));
        check("0.0.0.0:80", Err("nobody can be reached there; write the address of one server"));
        check("10.0.0.300:80", Err("write `IP:port`, `[IPv6]:port` or `name:port`"));
        check("a b:80", Err("write `IP:port`, `[IPv6]:port` or `name:port`"));
        check("-im:80", Err("write `IP:port`, `[IPv6]:port` or `name:port`"));
    }
}
