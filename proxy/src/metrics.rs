//! What Prometheus sees. Names and labels are constants of this file; labels come from closed sets or from the
//! configuration, never from a client.
//!
//! Counters move when things happen. What is known anyway (open connections, health, RTT, leases, live bytes) is read
//! when somebody asks, by [`scrape`].

pub mod scrape;

use policies::Standing;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use crate::cluster::overrides::Kind;
use crate::events;
use crate::registry::LeaveReason;
use crate::trip::Trip;

/// Seconds; from a local answer to a slow one.
const REQUEST_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

pub struct Metrics {
    registry: Registry,
    connections_total: IntCounterVec,
    refused_total: IntCounterVec,
    trips_total: IntCounterVec,
    requests_total: IntCounterVec,
    request_seconds: HistogramVec,
    picks_total: IntCounterVec,
    pick_failures_total: IntCounterVec,
    token_failures_total: IntCounterVec,
    connect_failures_total: IntCounterVec,
    standing_changes_total: IntCounterVec,
    override_changes_total: IntCounterVec,
    degraded_changes_total: IntCounterVec,
    endpoint_failures_total: IntCounterVec,
    ejections_total: IntCounterVec,
    spared_total: IntCounterVec,
    retries_total: IntCounterVec,
    probes_total: IntCounterVec,
    agent_checks_total: IntCounterVec,
    lookups_total: IntCounterVec,
    reloads_total: IntCounterVec,
    generation: IntGauge,
    last_reload_ok: IntGauge,
    last_reload_at: IntGauge,
    asked_to_leave_total: IntCounterVec,
    accept_pauses_total: IntCounterVec,
    panics_total: IntCounter,
    alarms_total: IntCounterVec,
    /// Bytes of trips that are over, by listener and direction; [`scrape`] adds those of open tunnels.
    closed_bytes: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// When two metrics have one name, which a test rules out.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build =
            IntGaugeVec::new(Opts::new("warbler_build_info", "Always 1; the version is the label."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            register(&registry, IntGauge::new(name, help)?)
        };
        Ok(Metrics {
            connections_total: counters(
                "warbler_connections_total",
                "Downstream connections that were accepted.",
                &["listener"],
            )?,
            refused_total: counters(
                "warbler_connections_refused_total",
                "Downstream connections closed at once: max-connections (in all), listener-max-connections, untrusted-proxy.",
                &["listener", "reason"],
            )?,
            trips_total: counters(
                "warbler_trips_total",
                "TCP connections, HTTP requests, and connections that ended without one, by how they ended.",
                &["listener", "kind", "outcome"],
            )?,
            requests_total: counters(
                "warbler_requests_total",
                "HTTP requests by class of status; `none` got no answer.",
                &["listener", "cluster", "status"],
            )?,
            request_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "warbler_request_seconds",
                        "Time from the request head to the end of the answer, without upgrades.",
                    )
                    .buckets(REQUEST_BUCKETS.to_vec()),
                    &["cluster"],
                )?,
            )?,
            picks_total: counters(
                "warbler_picks_total",
                "Picks by locality, and why that one.",
                &["cluster", "locality", "reason"],
            )?,
            pick_failures_total: counters(
                "warbler_pick_failures_total",
                "Clients for whom no endpoint could be picked, by reason.",
                &["cluster", "reason"],
            )?,
            token_failures_total: counters(
                "warbler_user_token_failures_total",
                "Tokens that did not count as the client's user, by the check that failed.",
                &["cluster", "reason"],
            )?,
            connect_failures_total: counters(
                "warbler_connect_failures_total",
                "Connection attempts to endpoints that failed.",
                &["cluster"],
            )?,
            standing_changes_total: counters(
                "warbler_endpoint_standing_changes_total",
                "Changes of an endpoint's standing, by the new one.",
                &["cluster", "standing"],
            )?,
            degraded_changes_total: counters(
                "warbler_endpoint_degraded_changes_total",
                "How often an endpoint began or ceased to call itself degraded.",
                &["cluster", "degraded"],
            )?,
            override_changes_total: counters(
                "warbler_override_changes_total",
                "Changes by hand: set, taken back, or ended by their time.",
                &["kind"],
            )?,
            endpoint_failures_total: counters(
                "warbler_endpoint_failures_total",
                "Clients that an endpoint failed, as outlier detection counts them: connect-failure, tls-failure, refused-upgrade, early-close, silence, gateway-error, server-error.",
                &["cluster", "kind"],
            )?,
            ejections_total: counters(
                "warbler_outlier_ejections_total",
                "Endpoints ejected: the most frequent failure of those in a row, success-rate, or failure-percentage.",
                &["cluster", "kind"],
            )?,
            spared_total: counters(
                "warbler_outlier_spared_total",
                "Outliers that were not ejected: the share that may be is reached, or it was the last endpoint.",
                &["cluster", "kind"],
            )?,
            retries_total: counters(
                "warbler_retries_total",
                "Further tries after a failed connect: allowed, or refused because the retry budget is used up.",
                &["cluster", "result"],
            )?,
            probes_total: counters("warbler_probes_total", "Health probes by result.", &["cluster", "result"])?,
            agent_checks_total: counters(
                "warbler_agent_checks_total",
                "Questions to agents by result: ok, unclear (a word of the answer is not known), failed.",
                &["cluster", "result"],
            )?,
            lookups_total: counters(
                "warbler_dns_lookups_total",
                "Look-ups of endpoint names: failed, or with new addresses.",
                &["cluster", "result"],
            )?,
            reloads_total: counters("warbler_config_reloads_total", "Reloads by result.", &["result"])?,
            generation: gauge("warbler_config_generation", "Configurations published since the start.")?,
            last_reload_ok: gauge(
                "warbler_config_last_reload_successful",
                "1 when the last reload was published, 0 when it was refused.",
            )?,
            last_reload_at: gauge(
                "warbler_config_last_reload_timestamp_seconds",
                "When the last reload ended, seconds since 1970.",
            )?,
            asked_to_leave_total: counters(
                "warbler_asked_to_leave_total",
                "Connections that were asked to leave, by reason.",
                &["reason"],
            )?,
            accept_pauses_total: counters(
                "warbler_accept_pauses_total",
                "How often accepting was paused because descriptors or memory ran out.",
                &["listener"],
            )?,
            panics_total: register(
                &registry,
                IntCounter::new("warbler_panics_total", "Connections that ended by a panic of ours. Should be 0.")?,
            )?,
            alarms_total: counters("warbler_alarms_total", "Things that someone should look at, by kind.", &["kind"])?,
            closed_bytes: IntCounterVec::new(
                Opts::new("closed_bytes", "kept for the scrape"),
                &["listener", "direction"],
            )?,
            registry,
        })
    }

    pub fn accepted(&self, listener: &str) {
        self.connections_total.with_label_values(&[listener]).inc();
    }

    pub(crate) fn refused(&self, listener: &str, reason: &str) {
        self.refused_total.with_label_values(&[listener, reason]).inc();
    }

    pub(crate) fn trip_ended(&self, trip: &Trip) {
        let listener = &*trip.origin.listener;
        self.trips_total.with_label_values(&[listener, trip.kind.as_str(), trip.outcome.as_str()]).inc();
        self.closed_bytes.with_label_values(&[listener, "to-endpoint"]).inc_by(trip.to_endpoint);
        self.closed_bytes.with_label_values(&[listener, "to-client"]).inc_by(trip.to_client);
        if trip.outcome == crate::trip::Outcome::Panicked {
            self.panics_total.inc();
        }
        if !events::is_request(trip.kind) {
            return;
        }
        let cluster = trip.cluster.as_deref().unwrap_or("");
        let status = trip.request.as_ref().map_or(0, |request| request.status);
        self.requests_total.with_label_values(&[listener, cluster, status_class(status)]).inc();
        if trip.kind == crate::trip::Kind::Request {
            self.request_seconds.with_label_values(&[cluster]).observe(trip.lasted().as_secs_f64());
        }
    }

    pub fn picked(&self, cluster: &str, locality: &str, reason: &str) {
        self.picks_total.with_label_values(&[cluster, locality, reason]).inc();
    }

    pub fn pick_failed(&self, cluster: &str, reason: &str) {
        self.pick_failures_total.with_label_values(&[cluster, reason]).inc();
    }

    pub fn token_refused(&self, cluster: &str, reason: &str) {
        self.token_failures_total.with_label_values(&[cluster, reason]).inc();
    }

    pub(crate) fn connect_failed(&self, cluster: &str) {
        self.connect_failures_total.with_label_values(&[cluster]).inc();
    }

    pub(crate) fn standing_changed(&self, cluster: &str, standing: Standing) {
        self.standing_changes_total.with_label_values(&[cluster, standing.as_str()]).inc();
    }

    pub(crate) fn endpoint_failed(&self, cluster: &str, kind: &str) {
        self.endpoint_failures_total.with_label_values(&[cluster, kind]).inc();
    }

    pub(crate) fn endpoint_ejected(&self, cluster: &str, kind: &str) {
        self.ejections_total.with_label_values(&[cluster, kind]).inc();
    }

    pub(crate) fn outlier_spared(&self, cluster: &str, kind: &str) {
        self.spared_total.with_label_values(&[cluster, kind]).inc();
    }

    pub(crate) fn tried_again(&self, cluster: &str, allowed: bool) {
        self.retries_total.with_label_values(&[cluster, if allowed { "allowed" } else { "refused" }]).inc();
    }

    pub fn probed(&self, cluster: &str, ok: bool) {
        self.probes_total.with_label_values(&[cluster, if ok { "ok" } else { "failed" }]).inc();
    }

    pub(crate) fn degraded_changed(&self, cluster: &str, degraded: bool) {
        self.degraded_changes_total.with_label_values(&[cluster, if degraded { "yes" } else { "no" }]).inc();
    }

    pub(crate) fn agent_checked(&self, cluster: &str, result: &'static str) {
        self.agent_checks_total.with_label_values(&[cluster, result]).inc();
    }

    pub(crate) fn lookup(&self, cluster: &str, ok: bool) {
        self.lookups_total.with_label_values(&[cluster, if ok { "changed" } else { "failed" }]).inc();
    }

    /// The configuration that the process started with counts as one that was published.
    pub fn started(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.last_reload_ok.set(1);
    }

    pub(crate) fn reload_unchanged(&self) {
        self.reloads_total.with_label_values(&["unchanged"]).inc();
        self.last_reload_ok.set(1);
    }

    pub(crate) fn reloaded(&self, ok: bool, generation: u64) {
        self.reloads_total.with_label_values(&[if ok { "published" } else { "refused" }]).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.last_reload_ok.set(i64::from(ok));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.last_reload_at.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    pub(crate) fn asked_to_leave(&self, reason: LeaveReason) {
        self.asked_to_leave_total.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn accept_paused(&self, listener: &str) {
        self.accept_pauses_total.with_label_values(&[listener]).inc();
    }

    pub(crate) fn changed_by_hand(&self, kind: Kind) {
        self.override_changes_total.with_label_values(&[kind.as_str()]).inc();
    }

    pub(crate) fn alarm(&self, kind: &str) {
        self.alarms_total.with_label_values(&[kind]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn status_class(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        assert!(Metrics::new().is_ok());
    }
}
