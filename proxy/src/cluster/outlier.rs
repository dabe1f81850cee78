//! What clients meet at an endpoint, and what follows from it.
//!
//! Workers and the sweeper count here, on the endpoint's own counters and without a lock. The control thread judges all
//! endpoints of a cluster together, every second and soon after a failure; an ejection is a vote that ends by itself.
//!
//! Never counted: what is our own fault (no descriptors, no ports), clients that leave, and a WebSocket that was closed as
//! WebSockets are.

use std::sync::PoisonError;

use policies::{Failure, Kind, OutlierChange, OutlierEndpoint, OutlierEvent, Standing, Tick};

use super::votes::{Source, Vote};
use super::{ClusterPlan, EndpointState};
use crate::config::{self, Signals};
use crate::events;
use crate::registry::Sign;
use crate::state::State;
use crate::worker::with_local;

/// An endpoint did what a client wanted of it.
pub fn succeeded(cluster: &config::Cluster, endpoint: &EndpointState, kind: Kind) {
    if cluster.outlier.is_on() {
        endpoint.outlier.succeeded(kind);
    }
}

/// An endpoint failed a client; counts if this cluster looks at such failures.
pub fn failed(state: &State, cluster: &config::Cluster, endpoint: &EndpointState, kind: Kind, failure: Failure) {
    if cluster.outlier.signals.watch(failure) {
        count(state, endpoint, kind, failure);
    }
}

/// An endpoint has answered a request.
pub fn answered(state: &State, cluster: &config::Cluster, endpoint: &EndpointState, status: u16) {
    match cluster.outlier.signals.fault_of(status) {
        None => succeeded(cluster, endpoint, Kind::Request),
        Some(failure) => count(state, endpoint, Kind::Request, failure),
    }
}

/// What the sweeper saw of a tunnel.
pub fn saw(state: &State, endpoint: &EndpointState, sign: Sign) {
    match sign {
        Sign::Lives => endpoint.outlier.succeeded(Kind::Tunnel),
        Sign::Silent => count(state, endpoint, Kind::Tunnel, Failure::Silence),
    }
}

/// A failure that was looked at when the trip began. It no longer counts when a reload has turned detection off since.
pub fn count(state: &State, endpoint: &EndpointState, kind: Kind, failure: Failure) {
    let snapshot = state.snapshot.load();
    let is_on = |plan: &ClusterPlan| plan.config.name == endpoint.cluster && plan.config.outlier.is_on();
    if !snapshot.clusters.iter().any(|plan| is_on(plan)) {
        return;
    }
    endpoint.outlier.failed(kind, failure);
    events::endpoint_failed(state, endpoint, failure);
    state.outlier_due.notify_one();
}

impl Signals {
    fn watch(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect_failure,
            Failure::Tls => self.tls_failure,
            Failure::RefusedUpgrade => self.refused_upgrade,
            Failure::EarlyClose => self.early_close.is_some(),
            Failure::Silence => self.silence.is_some(),
            Failure::GatewayError => self.gateway_errors,
            Failure::ServerError => self.server_errors,
        }
    }

    /// The failure that a status is. One that is not looked at is as good as any other answer: somebody is there.
    fn fault_of(&self, status: u16) -> Option<Failure> {
        match status {
            502..=504 if self.gateway_errors => Some(Failure::GatewayError),
            500..=599 if self.server_errors => Some(Failure::ServerError),
            _ => None,
        }
    }
}

/// Lets endpoints of a cluster return and ejects others. On the control thread alone.
pub fn judge(state: &State, cluster: &ClusterPlan) {
    let now = state.clock.now();
    let endpoints: Vec<OutlierEndpoint<'_>> = cluster.members.iter().map(|member| seen(member)).collect();
    let mut detector = cluster.state.outliers.lock().unwrap_or_else(PoisonError::into_inner);
    let changes = match &cluster.config.outlier.rules {
        Some(rules) => with_local(|local| detector.run(rules, &endpoints, now, &mut local.dice)),
        None => detector.release(&endpoints, now),
    };
    drop(detector);
    for OutlierChange { endpoint, event } in changes {
        apply(state, &cluster.members[endpoint], &event, now);
    }
}

fn seen(member: &EndpointState) -> OutlierEndpoint<'_> {
    let votes = member.votes();
    let is_up = |(source, vote): (Source, &Vote)| source == Source::Outlier || vote.standing == Standing::Up;
    let probes = votes.of(Source::Probes);
    OutlierEndpoint {
        counters: &member.outlier,
        takes_new: votes.all().all(is_up),
        proven: (probes.standing == Standing::Up).then_some(probes.since),
    }
}

fn apply(state: &State, endpoint: &EndpointState, event: &OutlierEvent, now: Tick) {
    let changed = match event {
        OutlierEvent::Ejected { cause, rest, nth } => {
            events::endpoint_ejected(state, endpoint, cause, *rest, *nth);
            let reason = format!("ejected: {cause}");
            let until = Tick(now.0.saturating_add(*rest));
            endpoint.vote(|votes| {
                votes.cast_until(Source::Outlier, Standing::Suspect, &reason, now, until);
                votes.classify(Source::Outlier, cause.as_str());
            })
        }
        OutlierEvent::Returned { after, early } => {
            events::endpoint_returned(endpoint, *after, *early);
            endpoint.vote(|votes| votes.withdraw(Source::Outlier, now))
        }
        OutlierEvent::Spared { cause } => {
            events::outlier_spared(state, endpoint, cause);
            false
        }
    };
    if changed {
        events::standing_changed(state, endpoint);
        state.steering_changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_failure_when_its_kind_is_looked_at() {
        let check = |gateway_errors, server_errors, want: [Option<Failure>; 5]| {
            let signals = Signals { gateway_errors, server_errors, ..Signals::default() };
            assert_eq!([200, 404, 500, 503, 599].map(|status| signals.fault_of(status)), want);
        };
        let (gateway, server) = (Some(Failure::GatewayError), Some(Failure::ServerError));
        check(true, false, [None, None, None, gateway, None]);
        check(true, true, [None, None, server, gateway, server]);
        check(false, true, [None, None, server, server, server]);
        check(false, false, [None; 5]);
    }
}
