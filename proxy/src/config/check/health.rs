//! `clusters.NAME.health`.

use super::findings::Scope;
use super::{address, route};
use crate::config::raw::cluster::RawHttpQuestion;
use crate::config::raw::{Placed, RawHealth, RawProbeTiming};
use crate::config::{Health, Probe};

const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

pub(super) fn health(raw: Placed<RawHealth>, scope: &mut Scope<'_, '_>) -> Option<Health> {
    let scope = &mut scope.below("health", raw.span());
    let RawHealth { off, tcp, http } = raw.into_inner();
    let off = off.filter(|off| **off);
    if usize::from(off.is_some()) + usize::from(tcp.is_some()) + usize::from(http.is_some()) > 1 {
        let span = [off.and_then(|off| off.span()), http.and_then(|http| http.span()), tcp.and_then(|tcp| tcp.span())];
        let latest = span.into_iter().flatten().max_by_key(|span| span.start);
        scope.error(latest, "`health` is one of `http`, `tcp` and `off`").help("leave the others out");
        return None;
    }
    if let Some(http) = http {
        let scope = &mut scope.below("http", http.span());
        let (question, timing) = http.into_inner().parts();
        let probe = http_probe(&question, scope);
        return timed(probe?, &timing, scope);
    }
    let scope = &mut scope.below("tcp", tcp.as_ref().and_then(Placed::span));
    let timing = tcp.map_or_else(RawProbeTiming::default, |tcp| tcp.into_inner().timing());
    timed(if off.is_some() { Probe::Off } else { Probe::Tcp }, &timing, scope)
}

fn timed(probe: Probe, raw: &RawProbeTiming, scope: &mut Scope<'_, '_>) -> Option<Health> {
    let RawProbeTiming { interval, fast_interval, timeout, jitter, rise, fall } = raw;
    if fast_interval.is_written() && **fast_interval > **interval {
        let message = format!("`fast-interval` ({}) is longer than `interval` ({})", **fast_interval, **interval);
        scope.error(fast_interval.span(), message).help("it is for endpoints in doubt, to know sooner");
    }
    if timeout.is_written() && **timeout > **interval {
        let message = format!("`timeout` ({}) is longer than `interval` ({})", **timeout, **interval);
        scope.warning(timeout.span(), message).help("the next probe waits for the one before");
    }
    let checked_interval = scope.duration("interval", interval, 100..=HOUR);
    let fast = scope.duration("fast-interval", fast_interval, 100..=HOUR);
    let checked_timeout = scope.duration("timeout", timeout, 1..=MINUTE);
    let rise = scope.whole("rise", rise, 1..=100);
    let fall = scope.whole("fall", fall, 1..=100);
    let interval = checked_interval?;
    Some(Health {
        probe,
        interval,
        // Longer than a short `interval`, the default would slow down what it is there to speed up.
        fast_interval: fast?.min(interval),
        timeout: if timeout.is_written() { checked_timeout? } else { checked_timeout?.min(interval) },
        jitter: f64::from(jitter.0) / 100.0,
        rise: rise?,
        fall: fall?,
    })
}

fn http_probe(raw: &RawHttpQuestion, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let path = route::checked_path("path", &raw.path, scope);
    let host = match &raw.host {
        None => Some(None),
        Some(host) if is_authority(host) => Some(Some(host.to_string())),
        Some(host) => {
            scope.error(host.span(), format!("`{}` is not a host", **host)).help("a name, with or without a port");
            None
        }
    };
    let expect = expected(&raw.expect, scope);
    Some(Probe::Http { path: path?, host: host?, expect: expect? })
}

/// A host with or without a port.
fn is_authority(text: &str) -> bool {
    let port_cut = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map(|(host, _)| host);
    address::host(text).is_some() || port_cut.is_some_and(|host| address::host(host).is_some())
}

fn expected(raw: &Placed<Vec<Placed<String>>>, scope: &mut Scope<'_, '_>) -> Option<Vec<(u16, u16)>> {
    if raw.is_empty() {
        if !scope.was_refused("expect") {
            scope.error(raw.span(), "`expect` is empty: no answer would be good").help("expect = [\"200-299\"]");
        }
        return None;
    }
    let mut checked = Vec::new();
    for written in raw.iter() {
        let range = status_range(written);
        if range.is_none() {
            let problem = scope.error(written.span(), format!("`{}` is not a status code or range", **written));
            problem.help("`200` or `200-299`, from 100 to 599");
        }
        checked.push(range);
    }
    checked.into_iter().collect()
}

fn status_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some((first, last))
}
