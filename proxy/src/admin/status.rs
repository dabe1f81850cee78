//! `/api/v1/status`: the whole picture as JSON.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State as Shared;
use policies::Tick;
use serde_json::{Value, json};

use super::Context;
use crate::cluster::votes::{Source, Vote};
use crate::cluster::{ClusterPlan, EndpointState};
use crate::config::{self, RttFrom};
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
    let rtts = plan.rtts(edge);
    let localities = plan.view.localities.iter().zip(0u16..).map(|(locality, ix)| {
        let here = plan.view.endpoints.iter().zip(&plan.members).filter(|(endpoint, _)| endpoint.locality.0 == ix);
        json!({
            "name": &*locality.name,
            "priority": locality.priority,
            "rtt_ms": rtts[usize::from(ix)].map(|known| known.rtt.as_secs_f64() * 1000.0),
            "rtt_measured": rtts[usize::from(ix)].is_some_and(|known| known.measured),
            "rtt_band": locality.rtt_band,
            "endpoints": here.map(|(configured, member)| {
                endpoint(state, member, &configured.name, Some(configured.weight.get()))
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
        "leaving": leaving.map(|known| endpoint(state, &known, &known.address.to_string(), None)).collect::<Vec<_>>(),
    })
}

fn endpoint(state: &State, member: &EndpointState, name: &str, weight: Option<u16>) -> Value {
    let votes = member.votes();
    let (source, vote) = votes.worst();
    let now = state.clock.now();
    let millis = |from| member.rtt(from).map(|rtt| rtt.as_secs_f64() * 1000.0);
    json!({
        "name": name,
        "address": member.address,
        "weight": weight,
        "standing": vote.standing.as_str(),
        "reason": &*vote.reason,
        "source": source.as_str(),
        "since_seconds": now.since(vote.since).as_secs(),
        "votes": votes.all().map(|(source, vote)| self::vote(source, vote, now)).collect::<Vec<_>>(),
        "connections": member.load.leases(),
        "picks": member.picks.load(Relaxed),
        "connect_failures": member.connect_failures.load(Relaxed),
        "rtt_ms": {"probe": millis(RttFrom::Probe), "handshake": millis(RttFrom::Handshake)},
    })
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
