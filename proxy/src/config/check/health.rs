//! `clusters.NAME.health` and `clusters.NAME.agent-check`.

use std::num::NonZeroU16;
use std::time::Duration;

use super::findings::Scope;
use super::{OpenFiles, address, opened, route};
use crate::config::raw::health::{RawGrpcQuestion, RawHttpQuestion, RawImQuestion, RawInitial, RawWebsocketQuestion};
use crate::config::raw::{Placed, RawAgentCheck, RawHealth, RawProbeTiming};
use crate::config::units::Period;
use crate::config::{AgentCheck, GrpcProbe, Health, HttpProbe, ImProbe, Initial, Probe, WebsocketProbe};

const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;
/// What an agent may be sent at most.
const SEND: usize = 256;
/// What an IM server takes as a device (docs/protocol.md section 6).
const DEVICE: usize = 60;

pub(super) fn health(raw: Placed<RawHealth>, scope: &mut Scope<'_, '_>) -> Option<Health> {
    let scope = &mut scope.below("health", raw.span());
    let RawHealth { off, tcp, http, websocket, grpc, im } = raw.into_inner();
    let off = off.filter(|off| **off);
    let given = [
        off.as_ref().map(Placed::span),
        tcp.as_ref().map(Placed::span),
        http.as_ref().map(Placed::span),
        websocket.as_ref().map(Placed::span),
        grpc.as_ref().map(Placed::span),
        im.as_ref().map(Placed::span),
    ];
    if given.iter().flatten().count() > 1 {
        let latest = given.into_iter().flatten().flatten().max_by_key(|span| span.start);
        let message = "`health` is one of `tcp`, `http`, `websocket`, `grpc`, `im` and `off`";
        scope.error(latest, message).help("leave the others out");
        return None;
    }
    if let Some(http) = http {
        let scope = &mut scope.below("http", http.span());
        let (question, timing) = http.into_inner().parts();
        timed(http_probe(&question, scope), &timing, scope)
    } else if let Some(websocket) = websocket {
        let scope = &mut scope.below("websocket", websocket.span());
        let (question, timing) = websocket.into_inner().parts();
        timed(websocket_probe(&question, scope), &timing, scope)
    } else if let Some(grpc) = grpc {
        let scope = &mut scope.below("grpc", grpc.span());
        let (question, timing) = grpc.into_inner().parts();
        timed(grpc_probe(&question, scope), &timing, scope)
    } else if let Some(im) = im {
        let scope = &mut scope.below("im", im.span());
        let (question, timing) = im.into_inner().parts();
        timed(im_probe(&question, scope), &timing, scope)
    } else {
        let scope = &mut scope.below("tcp", tcp.as_ref().and_then(Placed::span));
        let timing = tcp.map_or_else(RawProbeTiming::default, |tcp| tcp.into_inner().parts().1);
        timed(Some(if off.is_some() { Probe::Off } else { Probe::Tcp }), &timing, scope)
    }
}

pub(super) fn agent_check(raw: &Placed<RawAgentCheck>, scope: &mut Scope<'_, '_>) -> Option<AgentCheck> {
    let scope = &mut scope.below("agent-check", raw.span());
    let RawAgentCheck { port, interval, timeout, send } = &**raw;
    let port = scope.whole::<u16>("port", port, 1..=65535).and_then(NonZeroU16::new);
    warn_of_slow_timeout("question", timeout, interval, scope);
    let checked_interval = scope.duration("interval", interval, 100..=HOUR);
    let checked_timeout = scope.duration("timeout", timeout, 1..=MINUTE);
    if send.len() > SEND {
        scope.error(send.span(), format!("`send` must be at most {SEND} bytes, not {}", send.len()));
        return None;
    }
    let interval = checked_interval?;
    Some(AgentCheck {
        port: port?,
        interval,
        timeout: within(timeout.is_written(), checked_timeout?, interval),
        send: send.to_string(),
    })
}

/// Only probes and agents vote `down`: without both nothing ever will.
pub(super) fn warn_of_idle_cut(
    cut_on_down: &Placed<bool>,
    health: Option<&Health>,
    has_agent: bool,
    scope: &mut Scope<'_, '_>,
) {
    if **cut_on_down && !has_agent && health.is_some_and(|health| health.probe == Probe::Off) {
        let message = "`cut-on-down` has no effect: `health` is off and there is no `agent-check`";
        scope.warning(cut_on_down.span(), message);
    }
}

fn warn_of_slow_timeout(what: &str, timeout: &Placed<Period>, interval: &Placed<Period>, scope: &mut Scope<'_, '_>) {
    if timeout.is_written() && **timeout > **interval {
        let message = format!("`timeout` ({}) is longer than `interval` ({})", **timeout, **interval);
        scope.warning(timeout.span(), message).help(format!("the next {what} waits for the one before"));
    }
}

/// A default is shortened to the interval; what was written stays.
fn within(written: bool, timeout: Duration, interval: Duration) -> Duration {
    if written { timeout } else { timeout.min(interval) }
}

fn timed(probe: Option<Probe>, raw: &RawProbeTiming, scope: &mut Scope<'_, '_>) -> Option<Health> {
    let RawProbeTiming { interval, fast_interval, timeout, jitter, rise, fall, initial } = raw;
    if fast_interval.is_written() && **fast_interval > **interval {
        let message = format!("`fast-interval` ({}) is longer than `interval` ({})", **fast_interval, **interval);
        scope.error(fast_interval.span(), message).help("it is for endpoints in doubt, to know sooner");
    }
    warn_of_slow_timeout("probe", timeout, interval, scope);
    let checked_interval = scope.duration("interval", interval, 100..=HOUR);
    let fast = scope.duration("fast-interval", fast_interval, 100..=HOUR);
    let checked_timeout = scope.duration("timeout", timeout, 1..=MINUTE);
    let rise = scope.whole("rise", rise, 1..=100);
    let fall = scope.whole("fall", fall, 1..=100);
    let interval = checked_interval?;
    Some(Health {
        probe: probe?,
        interval,
        // Longer than a short `interval`, the default would slow down what it is there to speed up.
        fast_interval: fast?.min(interval),
        timeout: within(timeout.is_written(), checked_timeout?, interval),
        jitter: f64::from(jitter.0) / 100.0,
        rise: rise?,
        fall: fall?,
        initial: match **initial {
            RawInitial::Up => Initial::Up,
            RawInitial::Down => Initial::Down,
        },
    })
}

fn http_probe(raw: &RawHttpQuestion, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let path = route::checked_path("path", &raw.path, scope);
    let host = authority(raw.host.as_ref(), scope);
    let expect = expected(&raw.expect, scope);
    let degraded_header = header_name(&raw.degraded_header, scope);
    let load_header = header_name(&raw.load_header, scope);
    Some(Probe::Http(HttpProbe {
        path: path?,
        host: host?,
        expect: expect?,
        degraded_header: degraded_header?,
        load_header: load_header?,
    }))
}

fn header_name(written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<http::HeaderName> {
    let name = written.parse().ok();
    if name.is_none() {
        scope.error(written.span(), format!("`{}` is not the name of a header field", written.escape_debug()));
    }
    name
}

fn websocket_probe(raw: &RawWebsocketQuestion, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let path = route::checked_path("path", &raw.path, scope);
    let host = authority(raw.host.as_ref(), scope);
    let protocol = match &raw.protocol {
        None => Some(None),
        // A subprotocol is a token (RFC 6455 section 4.1), as the name of a header field is.
        Some(protocol) if protocol.parse::<http::HeaderName>().is_ok() => protocol.parse().ok().map(Some),
        Some(protocol) => {
            scope.error(protocol.span(), format!("`{}` is not a subprotocol", protocol.escape_debug()));
            None
        }
    };
    Some(Probe::Websocket(WebsocketProbe { path: path?, host: host?, protocol: protocol? }))
}

fn grpc_probe(raw: &RawGrpcQuestion, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let authority = authority(raw.authority.as_ref(), scope);
    Some(Probe::Grpc(GrpcProbe { service: raw.service.to_string(), authority: authority? }))
}

fn im_probe(raw: &RawImQuestion, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let path = route::checked_path("path", &raw.path, scope);
    let host = authority(raw.host.as_ref(), scope);
    let device = &raw.device;
    let wrong = |c: char| c == ':' || c.is_whitespace() || c.is_control();
    let is_device = (1..=DEVICE).contains(&device.len()) && !device.contains(wrong);
    if !is_device {
        let problem = scope.error(device.span(), format!("`{}` cannot be a device", device.escape_debug()));
        problem.help(format!("1 to {DEVICE} bytes, without colon, blanks and control characters"));
    }
    let Some(written) = &raw.token_file else {
        if !scope.had_refused_keys() {
            scope.error(None, "`im` needs `token-file`").help("a file with a token for a user of its own");
        }
        return None;
    };
    let token_file = scope.path("token-file", written);
    if scope.findings.open == OpenFiles::Yes {
        opened::token(&token_file, written, scope);
    }
    is_device.then(|| Some(Probe::Im(ImProbe { path: path?, host: host?, token_file, device: device.to_string() })))?
}

fn authority(raw: Option<&Placed<String>>, scope: &mut Scope<'_, '_>) -> Option<Option<String>> {
    match raw {
        None => Some(None),
        Some(host) if is_authority(host) => Some(Some(host.to_string())),
        Some(host) => {
            scope.error(host.span(), format!("`{}` is not a host", **host)).help("a name, with or without a port");
            None
        }
    }
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
