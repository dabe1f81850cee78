//! `[clusters.NAME]`.

use std::collections::BTreeMap;

use policies::Criterion;

use super::area::Geography;
use super::findings::{Clusters, Findings, Scope};
use super::rule::Around;
use super::{OpenFiles, affinity, endpoint, health, listener, opened, outlier, policy, rtt, rule};
use crate::config::files::InFile;
use crate::config::raw::cluster::CriterionName;
use crate::config::raw::defaults::BACKLOG;
use crate::config::raw::listener::HttpVersion;
use crate::config::raw::{Placed, RawCluster, RawUpstreamTls};
use crate::config::{Cluster, UpstreamHttp, UpstreamTls};

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// `None` if one of them is wrong.
pub(super) fn all(
    raw: BTreeMap<String, InFile<RawCluster>>,
    names: &Clusters,
    geography: &Geography,
    findings: &mut Findings<'_>,
) -> Option<Vec<Cluster>> {
    let mut checked = Vec::new();
    for (name, InFile { value, place }) in raw {
        let mut scope = Scope::new(format!("clusters.{name}"), &place, findings);
        let serves_tcp = names.serves_tcp(&name);
        checked.push(cluster(&name, value, serves_tcp, geography, &mut scope));
    }
    checked.into_iter().collect()
}

fn cluster(
    name: &str,
    raw: RawCluster,
    serves_tcp: bool,
    geography: &Geography,
    scope: &mut Scope<'_, '_>,
) -> Option<Cluster> {
    let name = scope.name("a cluster", name, None);
    let policies = policy::known(&raw, scope);
    let slow_start = policy::slow_start(&raw.slow_start, scope);
    let accept_rate = policy::accept_rate(raw.accept_rate.as_ref(), scope);
    let limits = {
        let scope = &mut scope.below("limits", None);
        policy::limits(raw.limits.max_connections.as_ref(), raw.limits.max_pending.as_ref(), scope)
    };
    let priority_limits = policy::priority_limits(&raw, scope);
    let spill = policy::spill(&raw, scope);
    let affinity = affinity::affinity(&raw, serves_tcp, scope);
    let steer = criteria(&raw.steer, scope);
    warn_of_unknown_distances(&raw, scope);
    let distance_band_km = distance_band(&raw, scope);
    let overprovisioning_percent = overprovisioning(&raw.overprovisioning, scope);
    let rules = rule::all(&Around { cluster: &raw, geography, policies: &policies }, scope);
    let tls = match &raw.tls {
        Some(tls) => upstream_tls(tls, scope).map(Some),
        None => Some(None),
    };
    let connect_timeout = scope.duration("connect-timeout", &raw.connect_timeout, 1..=MINUTE);
    let response_timeout = scope.duration("response-timeout", &raw.response_timeout, 1..=DAY);
    let tcp = {
        let scope = &mut scope.below("tcp", None);
        listener::socket_options(&raw.tcp.keepalive, &raw.tcp.user_timeout, Some(BACKLOG), scope)
    };
    let localities = endpoint::localities(raw.localities, accept_rate.flatten(), &name, scope);
    let health = health::health(raw.health, scope);
    let agent_check = match &raw.agent_check {
        Some(agent) => health::agent_check(agent, scope).map(Some),
        None => Some(None),
    };
    health::warn_of_idle_cut(&raw.cut_on_down, health.as_ref(), raw.agent_check.is_some(), scope);
    let rtt = rtt::rtt(&raw.rtt, &raw.steer, health.as_ref(), scope);
    let outlier = outlier::outlier(&raw.outlier, scope);
    let retry_budget = outlier::retry_budget(&raw.retry_budget, scope);
    // Its endpoints have it, or it was refused.
    accept_rate?;
    Some(Cluster {
        name,
        policy: policies.named(raw.policy)?,
        request_policy: policies.named(raw.request_policy)?,
        hash_on: affinity.hash_on?,
        user_token: affinity.user_token?,
        stickiness: affinity.stickiness?,
        steer: steer?,
        distance_band_km: distance_band_km?,
        rtt: rtt?,
        overprovisioning_percent: overprovisioning_percent?,
        panic_threshold_percent: u32::from(raw.panic_threshold.0),
        spill: spill?,
        slow_start: slow_start?,
        limits: limits?,
        priority_limits: priority_limits?,
        rules: rules?,
        localities: localities?,
        http: match raw.http {
            HttpVersion::V1 => UpstreamHttp::V1,
            HttpVersion::V2 => UpstreamHttp::V2,
        },
        tls: tls?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        health: health?,
        agent_check: agent_check?,
        cut_on_down: *raw.cut_on_down,
        outlier: outlier?,
        retry_budget: retry_budget?,
        tcp: tcp?,
    })
}

pub(super) fn criteria(steer: &[Placed<CriterionName>], scope: &mut Scope<'_, '_>) -> Option<Vec<Criterion>> {
    let mut checked = Vec::new();
    let mut twice = false;
    for written in steer {
        let criterion = match **written {
            CriterionName::Rules => Criterion::Rules,
            CriterionName::Distance => Criterion::Distance,
            CriterionName::Rtt => Criterion::Rtt,
            CriterionName::Priority => Criterion::Priority,
        };
        if checked.contains(&criterion) {
            twice = true;
            let problem = scope.error(written.span(), "a criterion stands twice in `steer`");
            problem.help("the first decides all that it can; the second would never decide anything");
        }
        checked.push(criterion);
    }
    (!twice).then_some(checked)
}

/// Steering by distance needs to know where localities are. Said only to those who have more than one locality: for one
/// there is nothing to decide.
fn warn_of_unknown_distances(raw: &RawCluster, scope: &mut Scope<'_, '_>) {
    let Some(distance) = raw.steer.iter().find(|criterion| ***criterion == CriterionName::Distance) else { return };
    let placed = raw.localities.values().filter(|locality| locality.location.is_some()).count();
    if raw.localities.len() < 2 || scope.was_refused("localities") {
        return;
    }
    if placed == 0 && distance.is_written() {
        let problem = scope.warning(distance.span(), "`distance` decides nothing: no locality has a `location`");
        problem.help("location = [latitude, longitude] in each locality");
    }
    if placed > 0 {
        for (name, _) in raw.localities.iter().filter(|(_, locality)| locality.location.is_none()) {
            let message =
                format!("locality `{}` has no `location`: by distance it comes after all that have one", **name);
            scope.warning(name.span(), message);
        }
    }
}

fn distance_band(raw: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<f64> {
    let band = &raw.distance_band;
    if !(1.0..=20_000.0).contains(&band.km) {
        scope.error(band.span(), format!("`distance-band` must be from 1km to 20000km, not {}", **band));
        return None;
    }
    Some(band.km)
}

fn overprovisioning(factor: &Placed<f64>, scope: &mut Scope<'_, '_>) -> Option<u32> {
    if !(1.0..=10.0).contains(&**factor) {
        scope.error(factor.span(), format!("`overprovisioning` must be from 1.0 to 10, not {}", **factor));
        return None;
    }
    Some(in_percent(**factor))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.0 to 10, checked")]
fn in_percent(factor: f64) -> u32 {
    (factor * 100.0).round() as u32
}

fn upstream_tls(raw: &Placed<RawUpstreamTls>, scope: &mut Scope<'_, '_>) -> Option<UpstreamTls> {
    let scope = &mut scope.below("tls", raw.span());
    let RawUpstreamTls { name, ca, verify } = &**raw;
    let is_name = rustls_pki_types::ServerName::try_from(name.as_str()).is_ok();
    if !is_name {
        let problem = scope.error(name.span(), format!("`name`: `{}` is not a host name or address", **name));
        problem.help("the name that the endpoints' certificate has");
    }
    if !**verify {
        let problem = scope.warning(verify.span(), "`verify = false`: any certificate is accepted");
        problem.help("with `ca`, endpoints that have a certificate of your own authority can be verified");
    }
    let ca = ca.as_ref().map(|written| {
        let path = scope.path("ca", written);
        if scope.findings.open == OpenFiles::Yes {
            opened::authorities(&path, written, scope);
        }
        path
    });
    is_name.then(|| UpstreamTls { name: name.to_string(), ca, verify: **verify })
}
