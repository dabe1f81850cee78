//! The text that Prometheus reads, with everything that is known anyway read at that moment.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use policies::Standing;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, GaugeVec, IntGaugeVec, Opts, TextEncoder};

use crate::cluster::overrides::Kind;
use crate::controls;
use crate::snapshot::Snapshot;
use crate::state::{Phase, State};

/// Makes pages; remembers what it said of counters that it computes, so that they never go back.
#[derive(Default)]
pub struct Scraper {
    said: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Scraper {
    /// The whole page in text format 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which would be a bug here.
    pub fn page(&self, state: &State) -> prometheus::Result<Vec<u8>> {
        let snapshot = state.snapshot.load_full();
        let mut families = state.metrics.registry.gather();
        families.extend(self.bytes(state)?);
        families.extend(connections(state, &snapshot)?);
        families.extend(endpoints(state, &snapshot)?);
        families.extend(localities(state, &snapshot)?);
        families.extend(stickiness(&snapshot)?);
        families.extend(by_hand(state, &snapshot)?);
        families.extend(process(state)?);
        // The encoder refuses a metric that has no series yet.
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut page = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&families, &mut page)?;
        Ok(page)
    }

    /// Bytes relayed, live: those of trips that are over and those of open tunnels.
    fn bytes(&self, state: &State) -> prometheus::Result<Vec<MetricFamily>> {
        let mut sums: BTreeMap<(String, &'static str), u64> = BTreeMap::new();
        for family in state.metrics.closed_bytes.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value())
                };
                let direction = if label("direction") == Some("to-client") { "to-client" } else { "to-endpoint" };
                let listener = label("listener").unwrap_or_default().to_owned();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a counter of bytes, exact to 2^53"
                )]
                let bytes = metric.get_counter().get_value() as u64;
                *sums.entry((listener, direction)).or_default() += bytes;
            }
        }
        state.registry.for_each(|entry| {
            let (to_endpoint, to_client) = entry.bytes();
            let listener = entry.listener.name.to_string();
            *sums.entry((listener.clone(), "to-endpoint")).or_default() += to_endpoint;
            *sums.entry((listener, "to-client")).or_default() += to_client;
        });
        let counters = prometheus::IntCounterVec::new(
            Opts::new(
                "warbler_relayed_bytes_total",
                "Bytes relayed, of tunnels while they flow, of HTTP bodies when the request ends.",
            ),
            &["listener", "direction"],
        )?;
        // A trip that ends between the two readings may be missed for a moment; a counter must not go back.
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, sum) in sums {
            let highest = said.entry(key.clone()).or_default();
            *highest = sum.max(*highest);
            counters.with_label_values(&[key.0.as_str(), key.1]).inc_by(*highest);
        }
        Ok(counters.collect())
    }
}

fn connections(state: &State, snapshot: &Snapshot) -> prometheus::Result<Vec<MetricFamily>> {
    let open = IntGaugeVec::new(Opts::new("warbler_connections", "Downstream connections now."), &["listener"])?;
    for listener in &snapshot.listeners {
        open.with_label_values(&[&**listener.name()]).set(signed(listener.identity.open.load(Relaxed)));
    }
    let tunnels =
        IntGaugeVec::new(Opts::new("warbler_tunnels", "Tunnels now: TCP, and HTTP after an upgrade."), &["cluster"])?;
    for cluster in &snapshot.clusters {
        tunnels.with_label_values(&[&*cluster.config.name]);
    }
    state.registry.for_each(|entry| {
        if let Some(endpoint) = entry.endpoint() {
            tunnels.with_label_values(&[&*endpoint.cluster]).inc();
        }
    });
    Ok([open.collect(), tunnels.collect()].concat())
}

fn endpoints(state: &State, snapshot: &Snapshot) -> prometheus::Result<Vec<MetricFamily>> {
    let labels = &["cluster", "locality", "endpoint"];
    let up = IntGaugeVec::new(Opts::new("warbler_endpoint_up", "1 when the endpoint gets new connections."), labels)?;
    let standing = IntGaugeVec::new(
        Opts::new("warbler_endpoint_standing", "1 for the standing that the endpoint is in."),
        &["cluster", "locality", "endpoint", "standing"],
    )?;
    let held = GaugeVec::new(
        Opts::new("warbler_endpoint_standing_seconds", "For how long the vote that counts has stood, and whose it is."),
        &["cluster", "locality", "endpoint", "source"],
    )?;
    let reason = IntGaugeVec::new(
        Opts::new(
            "warbler_endpoint_standing_reason",
            "1 for the kind of reason why an endpoint is not up, and whose vote that is; no series while it is up.",
        ),
        &["cluster", "locality", "endpoint", "source", "reason"],
    )?;
    let degraded = IntGaugeVec::new(
        Opts::new("warbler_endpoint_degraded", "1 when the endpoint says that others should rather be used."),
        labels,
    )?;
    let leases = IntGaugeVec::new(
        Opts::new("warbler_endpoint_connections", "Tunnels and requests in flight on the endpoint, from this edge."),
        labels,
    )?;
    let rtt = GaugeVec::new(
        Opts::new(
            "warbler_endpoint_rtt_seconds",
            "Round trip as steering takes it: handshake (TCP) and probe (whole health probe).",
        ),
        &["cluster", "locality", "endpoint", "figure"],
    )?;
    let loss = GaugeVec::new(
        Opts::new("warbler_endpoint_probe_loss_ratio", "Share of the last ten RTT windows' probes that failed."),
        labels,
    )?;
    let ramp = GaugeVec::new(
        Opts::new(
            "warbler_endpoint_ramp_ratio",
            "How far the endpoint has come in its slow start; 1 is its whole share.",
        ),
        labels,
    )?;
    let tick = state.clock.now();
    let ejected = IntGaugeVec::new(
        Opts::new("warbler_endpoints_ejected", "Endpoints that outlier detection has ejected now."),
        &["cluster"],
    )?;
    for cluster in &snapshot.clusters {
        let out = cluster.members.iter().filter(|member| member.outlier.is_ejected()).count();
        ejected.with_label_values(&[&*cluster.config.name]).set(signed(out));
        for (endpoint, member) in cluster.view.endpoints.iter().zip(&cluster.members) {
            let address = member.address.to_string();
            let at = [&*cluster.config.name, &**cluster.locality_name(endpoint.locality), address.as_str()];
            let votes = member.votes();
            let (source, vote) = votes.worst();
            let now = vote.standing;
            held.with_label_values(&[at[0], at[1], at[2], source.as_str()]).set(tick.since(vote.since).as_secs_f64());
            if now != Standing::Up {
                reason.with_label_values(&[at[0], at[1], at[2], source.as_str(), vote.kind]).set(1);
            }
            degraded.with_label_values(&at).set(i64::from(member.is_degraded()));
            ramp.with_label_values(&at).set(f64::from(endpoint.ramp.per_mille()) / 1000.0);
            up.with_label_values(&at).set(i64::from(now == Standing::Up));
            for each in [Standing::Up, Standing::Suspect, Standing::Draining, Standing::Maintenance, Standing::Down] {
                standing.with_label_values(&[at[0], at[1], at[2], each.as_str()]).set(i64::from(now == each));
            }
            leases.with_label_values(&at).set(i64::from(member.load.leases()));
            let rtts = member.rtts();
            for (figure, estimate) in [("handshake", &rtts.handshake), ("probe", &rtts.probe)] {
                if let Some(measured) = estimate.figure(tick, cluster.config.rtt.max_age) {
                    rtt.with_label_values(&[at[0], at[1], at[2], figure]).set(measured.rtt.as_secs_f64());
                }
            }
            if let Some(lost) = rtts.probe.loss() {
                loss.with_label_values(&at).set(lost.into());
            }
        }
    }
    let families = [up.collect(), standing.collect(), held.collect(), reason.collect(), degraded.collect()];
    let measured = [leases.collect(), rtt.collect(), loss.collect(), ejected.collect(), ramp.collect()];
    Ok([families.concat(), measured.concat()].concat())
}

fn localities(state: &State, snapshot: &Snapshot) -> prometheus::Result<Vec<MetricFamily>> {
    let rtt = GaugeVec::new(
        Opts::new("warbler_locality_rtt_seconds", "Round trip that steers: measured, or the prior by distance."),
        &["cluster", "locality", "source"],
    )?;
    let confidence = GaugeVec::new(
        Opts::new("warbler_locality_rtt_confidence", "How far to trust it, 0 to 1; a prior has 0."),
        &["cluster", "locality"],
    )?;
    let band = IntGaugeVec::new(
        Opts::new("warbler_locality_rtt_band", "Band that steers; 0 is the nearest."),
        &["cluster", "locality"],
    )?;
    let utilisation = GaugeVec::new(
        Opts::new(
            "warbler_locality_utilisation_ratio",
            "Connections from this edge against what the endpoints that are up can hold, where capacities are known; 1 is full.",
        ),
        &["cluster", "locality"],
    )?;
    let shed = GaugeVec::new(
        Opts::new(
            "warbler_locality_shed_ratio",
            "How much of its new clients the locality sends on because it is full (spill.above).",
        ),
        &["cluster", "locality"],
    )?;
    let now = state.clock.now();
    for cluster in &snapshot.clusters {
        for (locality, used) in cluster.view.localities.iter().zip(cluster.used()) {
            let Some(used) = used else { continue };
            let at = [&*cluster.config.name, &*locality.name];
            utilisation.with_label_values(&at).set(used.utilisation());
            shed.with_label_values(&at).set(f64::from(cluster.state.shed_percent(&locality.name)) / 100.0);
        }
        let rtts = cluster.rtts(&snapshot.config.edge, now);
        for (locality, known) in cluster.view.localities.iter().zip(rtts) {
            let at = [&*cluster.config.name, &*locality.name];
            if let Some(known) = known {
                let source = if known.is_measured() { "measured" } else { "prior" };
                rtt.with_label_values(&[at[0], at[1], source]).set(known.rtt.as_secs_f64());
                confidence.with_label_values(&at).set(known.confidence.unwrap_or(0.0).into());
            }
            if let Some(known) = locality.rtt_band {
                band.with_label_values(&at).set(known.into());
            }
        }
    }
    Ok([rtt.collect(), confidence.collect(), band.collect(), utilisation.collect(), shed.collect()].concat())
}

/// Of clusters that have it.
fn stickiness(snapshot: &Snapshot) -> prometheus::Result<Vec<MetricFamily>> {
    let results = prometheus::IntCounterVec::new(
        Opts::new(
            "warbler_stickiness_total",
            "Clients that got the endpoint they had (hit) or not (miss, unavailable, no-key), and clients forgotten early (evicted).",
        ),
        &["cluster", "result"],
    )?;
    let entries = IntGaugeVec::new(
        Opts::new("warbler_stickiness_entries", "Clients whose endpoint is remembered."),
        &["cluster"],
    )?;
    for cluster in &snapshot.clusters {
        let sticky = &cluster.state.sticky;
        let Some(count) = sticky.entries() else { continue };
        entries.with_label_values(&[&*cluster.config.name]).set(signed(count));
        for (result, count) in sticky.results() {
            results.with_label_values(&[&*cluster.config.name, result]).inc_by(count);
        }
    }
    Ok([results.collect(), entries.collect()].concat())
}

/// What operators have set, and the shares that are in force, theirs or those of the files.
fn by_hand(state: &State, snapshot: &Snapshot) -> prometheus::Result<Vec<MetricFamily>> {
    let set = IntGaugeVec::new(Opts::new("warbler_overrides", "What is set by hand now, by kind."), &["kind"])?;
    for kind in Kind::ALL {
        set.with_label_values(&[kind.as_str()]);
    }
    for listed in controls::list(state) {
        set.with_label_values(&[listed.set.value.kind().as_str()]).inc();
    }
    let share = GaugeVec::new(
        Opts::new(
            "warbler_locality_share_ratio",
            "How much of the new clients that steering sends to the locality may come; 0 is out of service.",
        ),
        &["cluster", "locality"],
    )?;
    for cluster in &snapshot.clusters {
        for locality in &cluster.view.localities {
            let ratio = f64::from(locality.share.as_percent()) / 100.0;
            share.with_label_values(&[&*cluster.config.name, &*locality.name]).set(ratio);
        }
    }
    Ok([set.collect(), share.collect()].concat())
}

fn process(state: &State) -> prometheus::Result<Vec<MetricFamily>> {
    let cpu = prometheus::Counter::new(
        "warbler_process_cpu_seconds_total",
        "CPU time of this process, user and system, with fractions (process_cpu_seconds_total has whole seconds).",
    )?;
    cpu.inc_by(crate::sys::cpu_time().as_secs_f64());
    let draining = prometheus::IntGauge::new("warbler_stopping", "1 from the first signal to stop.")?;
    draining.set(i64::from(state.phase() >= Phase::Leaving));
    let dropped =
        prometheus::IntCounter::new("warbler_access_log_dropped_lines_total", "Access-log lines lost to a slow disk.")?;
    dropped.inc_by(state.access_log.dropped_lines() as u64);
    let limit = prometheus::IntGauge::new(
        "warbler_max_connections",
        "Downstream connections that this process takes at most.",
    )?;
    limit.set(signed(state.max_connections(state.snapshot.load().config.edge.max_connections)));
    let edge =
        IntGaugeVec::new(Opts::new("warbler_edge_info", "Always 1; the name of this edge is the label."), &["edge"])?;
    edge.with_label_values(&[&*state.snapshot.load().config.edge.name]).set(1);
    Ok([edge.collect(), cpu.collect(), draining.collect(), dropped.collect(), limit.collect()].concat())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
