//! Each thing that happens, once: the log line and the counter move together, so they cannot disagree.
//!
//! `info` is for changes of state, never for a request; `warn` means that someone should look.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use policies::{Cause, Failure, Reason};
use tracing::{debug, error, info, warn};

use crate::access_log::{Line, millis_since_1970};
use crate::cluster::EndpointState;
use crate::cluster::overrides::{Note, Value};
use crate::config::Name;
use crate::controls::{HandChange, Target};
use crate::registry::LeaveReason;
use crate::state::State;
use crate::trip::{Kind, Outcome, Trip};

/// A trip is over: one access-log line, and its counters.
pub fn trip_ended(trip: &Trip, picked: Option<(&EndpointState, &Name, Reason)>) {
    let state = trip.state();
    state.metrics.trip_ended(trip);
    if trip.outcome == Outcome::Panicked {
        error!(connection = trip.origin.connection, client = %trip.origin.client, "a connection ended by a panic");
    }
    if state.access_log.is_off() {
        return;
    }
    let request = trip.request.as_deref();
    let reason = picked.map(|(_, _, reason)| reason);
    state.access_log.write(&Line {
        time_ms: millis_since_1970(trip.began),
        kind: trip.kind.as_str(),
        outcome: trip.outcome.as_str(),
        leave_reason: trip.outcome.reason().map(LeaveReason::as_str),
        detail: trip.detail.as_deref(),
        connection: trip.origin.connection,
        listener: &trip.origin.listener,
        client: trip.origin.client,
        peer: (trip.origin.peer != trip.origin.client).then_some(trip.origin.peer),
        generation: trip.generation,
        route: request.and_then(|request| request.route.as_deref()),
        cluster: trip.cluster.as_deref(),
        locality: picked.map(|(_, locality, _)| &**locality),
        endpoint: picked.map(|(endpoint, ..)| endpoint.address),
        pick: reason.as_ref().map(|reason| reason.as_str()),
        tries: trip.tries,
        method: request.map(|request| request.method.as_str()),
        host: request.map(|request| request.host.as_str()),
        path: request.map(|request| request.path.as_str()),
        version: request.map(|request| request.version),
        status: request.map(|request| request.status).filter(|status| *status != 0),
        request_id: request.map(|request| request.id.as_str()).filter(|id| !id.is_empty()),
        bytes_to_endpoint: trip.to_endpoint,
        bytes_to_client: trip.to_client,
        seconds: trip.lasted().as_secs_f64(),
    });
}

/// An endpoint's standing changed: the vote that counts now, and whose it is.
pub fn standing_changed(state: &State, endpoint: &EndpointState) {
    let votes = endpoint.votes();
    let (source, vote) = votes.worst();
    state.metrics.standing_changed(&endpoint.cluster, vote.standing);
    let (cluster, endpoint, standing) = (&*endpoint.cluster, endpoint.address, vote.standing.as_str());
    let (source, reason) = (source.as_str(), &*vote.reason);
    if vote.standing == policies::Standing::Up {
        info!(cluster, %endpoint, standing, source, reason, "endpoint changed its standing");
    } else {
        warn!(cluster, %endpoint, standing, source, reason, "endpoint changed its standing");
    }
}

/// An operator set something by hand, or took it back, or its time was over: what counted before, and what counts now.
pub fn changed_by_hand(state: &State, target: &Target, before: &Value, after: &Value, note: &Note, why: HandChange) {
    let kind = after.kind();
    state.metrics.changed_by_hand(kind);
    let seconds = note.until.map(|until| until.since(note.since).as_secs());
    let (kind, by, reason, why) = (kind.as_str(), &*note.by, &*note.reason, why.as_str());
    let (before, after) = (before.to_string(), after.to_string());
    info!(kind, on = %target, before, after, reason, by, seconds, why, "changed by hand");
}

/// An endpoint says that it takes traffic but would rather not, or no longer says so.
pub fn degraded_changed(state: &State, endpoint: &EndpointState) {
    let degraded = endpoint.is_degraded();
    state.metrics.degraded_changed(&endpoint.cluster, degraded);
    info!(cluster = &*endpoint.cluster, endpoint = %endpoint.address, degraded, "endpoint changed whether it is degraded");
}

/// Said once a minute at most: every probe of every endpoint meets the same.
pub fn cannot_probe(state: &State, error: &dyn std::fmt::Display) {
    state.metrics.alarm("cannot-probe");
    if state.says_again("cannot-probe", "") {
        error!(%error, "endpoints cannot be probed, and keep their standing: the fault is here");
    }
}

/// A word of an agent that is not known is said once a minute for each cluster at most.
pub fn agent_heard(state: &State, endpoint: &EndpointState, unclear: Option<&str>) {
    state.metrics.agent_checked(&endpoint.cluster, if unclear.is_some() { "unclear" } else { "ok" });
    if let Some(word) = unclear
        && state.says_again("agent-unclear", &endpoint.cluster)
    {
        warn!(cluster = &*endpoint.cluster, endpoint = %endpoint.address, word, "agent says a word that is not known");
    }
}

/// One missing answer is nothing; so many in a row are a wrong port, or an agent that nobody started.
const AGENT_IS_SILENT: u32 = 10;

/// An agent has not answered, for the `in_a_row`th time. Many of those are said once, and once more when it is back.
pub fn agent_failed(state: &State, endpoint: &EndpointState, error: &dyn std::fmt::Display, in_a_row: u32) {
    state.metrics.agent_checked(&endpoint.cluster, "failed");
    let (cluster, endpoint) = (&*endpoint.cluster, endpoint.address);
    if in_a_row == AGENT_IS_SILENT {
        warn!(cluster, %endpoint, %error, in_a_row, "agent has not answered for a while; what it said last holds");
    } else {
        debug!(cluster, %endpoint, %error, in_a_row, "agent does not answer");
    }
}

/// An agent answers, after so many questions without an answer.
pub fn agent_answers(endpoint: &EndpointState, unanswered: u32) {
    if unanswered >= AGENT_IS_SILENT {
        info!(cluster = &*endpoint.cluster, endpoint = %endpoint.address, unanswered, "agent answers again");
    }
}

pub fn agent_limits_changed(endpoint: &EndpointState) {
    let (cluster, address) = (&*endpoint.cluster, endpoint.address);
    let (weight_percent, max_connections) = (endpoint.agent_weight_percent(), endpoint.agent_max_connections());
    info!(cluster, endpoint = %address, weight_percent, max_connections, "agent changed what its endpoint can take");
}

/// What a good probe says of the endpoint's load is no whole number, and is ignored.
pub fn reported_no_number(endpoint: &EndpointState) {
    debug!(cluster = &*endpoint.cluster, endpoint = %endpoint.address, "endpoint reports a load that is no whole number");
}

pub fn connect_failed(state: &State, cluster: &str, endpoint: SocketAddr, error: &dyn std::fmt::Display) {
    state.metrics.connect_failed(cluster);
    debug!(cluster, %endpoint, %error, "cannot connect to endpoint");
}

/// An endpoint failed a client in a way that outlier detection looks at.
pub fn endpoint_failed(state: &State, endpoint: &EndpointState, failure: Failure) {
    state.metrics.endpoint_failed(&endpoint.cluster, failure.as_str());
    debug!(cluster = &*endpoint.cluster, endpoint = %endpoint.address, failure = failure.as_str(), "endpoint failed a client");
}

/// An endpoint gets no new clients for a while, because it failed those that it had.
pub fn endpoint_ejected(state: &State, endpoint: &EndpointState, cause: &Cause, rest: Duration, in_a_row: u32) {
    state.metrics.endpoint_ejected(&endpoint.cluster, cause.as_str());
    let (cluster, endpoint, seconds) = (&*endpoint.cluster, endpoint.address, rest.as_secs_f64());
    warn!(cluster, %endpoint, reason = %cause, seconds, in_a_row, "endpoint ejected");
}

/// An ejection is over; `early` because its probes brought it up again, or detection was turned off.
pub fn endpoint_returned(endpoint: &EndpointState, after: Duration, early: bool) {
    let (cluster, endpoint, seconds) = (&*endpoint.cluster, endpoint.address, after.as_secs_f64());
    info!(cluster, %endpoint, seconds, early, "endpoint returned from its ejection");
}

/// An outlier stays: the share that may be ejected is reached, or it is the last that takes clients. Said once a minute
/// for each cluster at most: when many fail together, each is spared again and again.
pub fn outlier_spared(state: &State, endpoint: &EndpointState, cause: &Cause) {
    state.metrics.outlier_spared(&endpoint.cluster, cause.as_str());
    if state.says_again("outlier-spared", &endpoint.cluster) {
        let (cluster, endpoint) = (&*endpoint.cluster, endpoint.address);
        warn!(cluster, %endpoint, reason = %cause, "endpoint is an outlier and stays: no more may be ejected");
    }
}

/// A client whose try failed gets another one, or does not because the retry budget is used up.
pub fn tried_again(state: &State, cluster: &str, allowed: bool) {
    state.metrics.tried_again(cluster, allowed);
    if !allowed && state.says_again("retry-budget", cluster) {
        warn!(cluster, "retry budget is used up: clients whose first endpoint fails get no second one");
    }
}

pub fn dns_unusable(state: &State, error: &dyn std::fmt::Display) {
    state.metrics.alarm("dns-unusable");
    error!(%error, "no resolver can be made; endpoints given by name keep their last addresses");
}

pub fn name_unresolved(state: &State, cluster: &str, host: &str, error: &str, failures: u32) {
    state.metrics.lookup(cluster, false);
    // One line when it starts to fail and one a minute or so after that, not one a try.
    if failures == 1 || failures.is_multiple_of(16) {
        warn!(cluster, host, error, failures, "endpoint name does not resolve; the last good answer stays");
    }
}

/// An answer has lost more addresses than `dns.max-loss` allows: it is held back, or believed because it came again and
/// again.
pub fn answer_shrank(state: &State, cluster: &str, host: &str, before: usize, now: usize, believed: bool) {
    state.metrics.alarm("dns-answer-shrank");
    if believed {
        warn!(cluster, host, before, now, "endpoint name has lost too many addresses again and again: believed");
    } else {
        warn!(cluster, host, before, now, "endpoint name has lost too many addresses; the answer before stays for now");
    }
}

pub fn name_resolved(state: &State, cluster: &str, host: &str, addresses: &[IpAddr]) {
    state.metrics.lookup(cluster, true);
    info!(cluster, host, ?addresses, "endpoint name has new addresses");
}

pub fn reload_succeeded(state: &State, generation: u64, trigger: &str, changes: &[String], took: Duration) {
    state.metrics.reloaded(true, generation);
    info!(generation, trigger, ?changes, took_ms = millis(took), "configuration published");
}

pub fn log_level_kept(error: &dyn std::fmt::Display) {
    warn!(%error, "log level stays as it was");
}

pub fn reload_needs_start(keys: &[String]) {
    if !keys.is_empty() {
        warn!(?keys, "changed keys that take effect at the next start only");
    }
}

pub fn reload_refused(state: &State, generation: u64, trigger: &str, report: &str) {
    state.metrics.reloaded(false, generation);
    error!(generation, trigger, report, "configuration refused; the running one was kept");
}

pub fn reload_unchanged(state: &State, generation: u64, trigger: &str) {
    state.metrics.reload_unchanged();
    info!(generation, trigger, "configuration read again; nothing changed");
}

pub fn geoip_swapped(files: &[PathBuf]) {
    info!(?files, "GeoIP databases loaded");
}

pub fn listener_opened(listener: &str, address: SocketAddr) {
    info!(listener, %address, "listening");
}

pub fn listener_closed(listener: &str, address: SocketAddr) {
    info!(listener, %address, "no longer listening");
}

pub fn accept_paused(state: &State, listener: &str, error: &std::io::Error) {
    state.metrics.accept_paused(listener);
    warn!(listener, %error, connections = state.registry.connections(), "accepting is paused: out of descriptors or memory");
}

pub fn accept_resumed(listener: &str) {
    info!(listener, "accepting again");
}

pub fn socket_lost(error: &std::io::Error) {
    error!(%error, "a listening socket cannot be handed to its worker; a reload tries again");
}

pub fn accept_failed(listener: &str, error: &std::io::Error) {
    debug!(listener, %error, "a connection broke before it was accepted");
}

pub fn leaving_began(reason: LeaveReason, what: &str, connections: usize, per_second: f64) {
    info!(reason = reason.as_str(), what, connections, per_second, "asking connections to leave");
}

pub fn asked_to_leave(state: &State, reason: LeaveReason) {
    state.metrics.asked_to_leave(reason);
}

pub fn stop_began(signal: &str, connections: usize) {
    info!(signal, connections, "stopping");
}

pub fn stop_ended(cut: usize) {
    info!(cut, "stopped");
}

/// One line for each connection that a stop had to cut.
pub fn cut_at_deadline(connection: u64, endpoint: Option<SocketAddr>) {
    warn!(connection, endpoint = endpoint.map(|endpoint| endpoint.to_string()), "cut at the stop deadline");
}

pub fn refused(state: &State, listener: &str, why: &'static str) {
    state.metrics.refused(listener, why);
}

pub fn task_panicked(what: &str) {
    error!(what, "a task of the control thread ended by a panic");
}

/// Whether this kind counts as an HTTP request.
pub fn is_request(kind: Kind) -> bool {
    matches!(kind, Kind::Request | Kind::Upgrade)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
