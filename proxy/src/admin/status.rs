//! `/api/v1/status`: the whole picture as JSON.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State as Shared;
use policies::{AcceptRate, RttEstimate, Tick, Weight};
use serde_json::{Value, json};

use super::Context;
use super::controls::set_here;
use crate::cluster::overrides::{self, Kind, Service};
use crate::cluster::votes::{Source, Vote};
use crate::cluster::{ClusterPlan, EndpointState};
use crate::config::{self, RttSettings};
use crate::state::{Phase, State};

pub async fn status(Shared(context): Shared<Context>) -> Json<Value> {
    let state = &context.state;
    let snapshot = state.snapshot.load_full();
    let addresses = state.addresses();
    let mut tunnels = 0;
    state.registry.for_each(|entry| tunnels += usize::from(entry.is_tunnel()));
    Json(json!({
        "edge": &*snapshot.config.edge.name,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "phase": phase(state.phase()),
        "uptime_seconds": state.clock.now().0.as_secs(),
        "generation": snapshot.generation,
        "last_reload": last_reload(state),
        "connections": state.registry.connections(),
        "max_connections": state.max_connections(snapshot.config.edge.max_connections),
        "tunnels": tunnels,
        "listeners": snapshot.listeners.iter().map(|listener| json!({
            "name": &**listener.name(),
            "addresses": addresses.get(&**listener.name()),
            "connections": listener.identity.open.load(Relaxed),
            "tls": listener.tls.is_some(),
        })).collect::<Vec<_>>(),
        "clusters": snapshot.clusters.iter().map(|plan| cluster(state, &snapshot.config.edge, plan)).collect::<Vec<_>>(),
    }))
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Leaving => "leaving",
        Phase::Draining => "draining",
    }
}

fn last_reload(state: &State) -> Value {
    let last = state.last_reload();
    let Some(at) = last.at else { return Value::Null };
    json!({
        "at_seconds": at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "seconds_ago": SystemTime::now().duration_since(at).map_or(0, |ago| ago.as_secs()),
        "trigger": last.trigger,
        "ok": last.refused.is_none(),
        "report": last.refused,
        "changes": last.changes,
        "at_next_start": last.at_next_start,
    })
}

fn cluster(state: &State, edge: &config::Edge, plan: &ClusterPlan) -> Value {
    let rtts = plan.rtts(edge, state.clock.now());
    let used = plan.used();
    let settings = &plan.config.rtt;
    let localities = plan.view.localities.iter().zip(0u16..).map(|(locality, ix)| {
        let configured = &plan.config.localities[usize::from(ix)];
        let here = plan.view.endpoints.iter().zip(&plan.members).zip(&plan.configured_weights);
        let here = here.filter(|((endpoint, _), _)| endpoint.locality.0 == ix);
        let file = |kind| match kind {
            Kind::Share => Some(overrides::Value::Share(configured.share)),
            _ => Some(overrides::Value::WeightPercent(100)),
        };
        let rtt = rtts[usize::from(ix)];
        json!({
            "name": &*locality.name,
            "priority": locality.priority,
            "share": locality.share.as_percent(),
            "configured_share": configured.share.as_percent(),
            "shed_percent": plan.state.shed_percent(&locality.name),
            "capacity": locality.capacity,
            "utilisation": used[usize::from(ix)].map(|used| used.utilisation()),
            "overrides": set_here(plan.state.overrides(&locality.name).all(), file, state.clock.now()),
            "rtt_ms": rtt.map(|known| millis(known.rtt)),
            "rtt_measured": rtt.is_some_and(|known| known.is_measured()),
            "rtt_confidence": rtt.and_then(|known| known.confidence),
            "rtt_band": locality.rtt_band,
            "endpoints": here.map(|((now, member), configured)| {
                endpoint(state, settings, member, &now.name, Some((now, *configured)))
            }).collect::<Vec<_>>(),
        })
    });
    let leaving = plan
        .state
        .endpoints()
        .into_iter()
        .filter(|known| !plan.members.iter().any(|member| member.address == known.address));
    json!({
        "name": &*plan.config.name,
        "policy": plan.view.policy.as_str(),
        "request_policy": plan.view.request_policy.as_str(),
        "classes": plan.classes(),
        "localities": localities.collect::<Vec<_>>(),
        "leaving": leaving
            .map(|known| endpoint(state, settings, &known, &known.address.to_string(), None))
            .collect::<Vec<_>>(),
    })
}

/// `configured`: as picks see it, and the weight of the files.
fn endpoint(
    state: &State,
    settings: &RttSettings,
    member: &EndpointState,
    name: &str,
    configured: Option<(&policies::Endpoint, Weight)>,
) -> Value {
    let now = state.clock.now();
    let rtts = member.rtts();
    let steers = |estimate: &RttEstimate| estimate.figure(now, settings.max_age).map(|figure| millis(figure.rtt));
    let file = |kind| match kind {
        Kind::Weight => configured.map(|(_, weight)| overrides::Value::Weight(weight)),
        _ => Some(overrides::Value::State(Service::Ready)),
    };
    let votes = member.votes();
    let (source, vote) = votes.worst();
    json!({
        "name": name,
        "address": member.address,
        "weight": configured.map(|(now, _)| now.weight.get()),
        "configured_weight": configured.map(|(_, weight)| weight.get()),
        "max_connections": configured.and_then(|(now, _)| now.max_connections),
        "accept_rate": configured.and_then(|(now, _)| now.accept_rate).map(AcceptRate::as_per_second),
        "ramp": configured.map(|(now, _)| f64::from(now.ramp.per_mille()) / 1000.0),
        "overrides": set_here(member.overrides().all(), file, now),
        "standing": vote.standing.as_str(),
        "reason": &*vote.reason,
        "source": source.as_str(),
        "since_seconds": now.since(vote.since).as_secs(),
        "votes": votes.all().map(|(source, vote)| self::vote(source, vote, now)).collect::<Vec<_>>(),
        "degraded": member.is_degraded(),
        "agent": {
            "weight_percent": member.agent_weight_percent(),
            "max_connections": member.agent_max_connections(),
            "answered_seconds_ago": member.agent_answered().map(|at| now.since(at).as_secs_f64()),
        },
        "failures_in_a_row": failures_in_a_row(member),
        "ejections_in_a_row": member.outlier.ejection().in_a_row,
        "connections": member.load.leases(),
        "in_flight_reported": member.in_flight_reported(),
        "picks": member.picks.load(Relaxed),
        "connect_failures": member.connect_failures.load(Relaxed),
        "rtt_ms": {"probe": steers(&rtts.probe), "handshake": steers(&rtts.handshake)},
        "rtt": {
            "probe": estimate(&rtts.probe, settings, now),
            "handshake": estimate(&rtts.handshake, settings, now),
        },
    })
}

fn failures_in_a_row(member: &EndpointState) -> Value {
    let of = |kind| member.outlier.streak(kind).length();
    json!({"tunnels": of(policies::Kind::Tunnel), "requests": of(policies::Kind::Request)})
}

fn vote(source: Source, vote: &Vote, now: Tick) -> Value {
    json!({
        "source": source.as_str(),
        "standing": vote.standing.as_str(),
        "reason": &*vote.reason,
        "since_seconds": now.since(vote.since).as_secs(),
        "seconds_left": vote.until.map(|until| until.since(now).as_secs_f64()),
    })
}

/// All that is known of one figure, however old; what is too old to count has no confidence.
fn estimate(known: &RttEstimate, settings: &RttSettings, now: Tick) -> Value {
    json!({
        "ms": known.filtered().map(millis),
        "min_ms": known.min().map(millis),
        "ewma_ms": known.ewma().map(millis),
        "deviation_ms": known.deviation().map(millis),
        "loss": known.loss(),
        "confidence": known.figure(now, settings.max_age).map_or(0.0, |figure| figure.confidence),
        "age_seconds": known.last_sample_age(now).map(|age| age.as_secs_f64()),
        "samples": known.samples(),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
