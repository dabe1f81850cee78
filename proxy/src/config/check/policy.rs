//! How endpoints are picked: the policies of a cluster with their parameters, and what modifies and limits their picks.

use policies::{AcceptRate, BalanceFactor, Headroom, Latency, Limits, Policy, RingSize, SlowStart, SpillBy, TableSize};

use super::findings::Scope;
use crate::config::Spill;
use crate::config::raw::cluster::{
    PolicyName, RawMaglev, RawPeakEwma, RawPrequal, RawPriorityLimits, RawRingHash, RawSlowStart, RawSpill,
    SpillBy as RawSpillBy,
};
use crate::config::raw::{Placed, RawCluster, RawP2c};
use crate::config::units::{Percent, Period, Rate};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// The policies that this cluster and its rules can name. Parameters are checked whether they are used or not.
pub(super) fn known(raw: &RawCluster, scope: &mut Scope<'_, '_>) -> Known {
    let known = Known {
        p2c: p2c(&raw.p2c, scope),
        peak_ewma: peak_ewma(&raw.peak_ewma, scope),
        prequal: prequal(&raw.prequal, scope),
        maglev: maglev(&raw.maglev, scope),
        ring_hash: ring_hash(&raw.ring_hash, scope),
    };
    warn_of_unused(raw, scope);
    warn_of_small_table(raw, scope);
    warn_of_old_reports(raw, scope);
    known
}

/// The policies that have parameters, each with those of the cluster; `None` where one of them is wrong.
pub(super) struct Known {
    p2c: Option<Policy>,
    peak_ewma: Option<Policy>,
    prequal: Option<Policy>,
    maglev: Option<Policy>,
    ring_hash: Option<Policy>,
}

impl Known {
    pub(super) fn named(&self, name: PolicyName) -> Option<Policy> {
        match name {
            PolicyName::RoundRobin => Some(Policy::RoundRobin),
            PolicyName::LeastConnections => Some(Policy::LeastConnections),
            PolicyName::Random => Some(Policy::Random),
            PolicyName::P2c => self.p2c,
            PolicyName::PeakEwma => self.peak_ewma,
            PolicyName::Prequal => self.prequal,
            PolicyName::Maglev => self.maglev,
            PolicyName::RingHash => self.ring_hash,
        }
    }
}

fn warn_of_unused(raw: &RawCluster, scope: &mut Scope<'_, '_>) {
    if scope.was_refused("policy") || scope.was_refused("request-policy") || scope.was_refused("rules") {
        return;
    }
    let first = |spans: &[Option<std::ops::Range<usize>>]| spans.iter().flatten().next().cloned();
    let RawPeakEwma { choices, decay, default_latency, failure_penalty } = &raw.peak_ewma;
    let peak_ewma = first(&[choices.span(), decay.span(), default_latency.span(), failure_penalty.span()]);
    let RawPrequal { choices, hot_above, report_age, decay, default_latency, failure_penalty } = &raw.prequal;
    let prequal = [choices.span(), hot_above.span(), report_age.span()];
    let prequal = first(&[&prequal[..], &[decay.span(), default_latency.span(), failure_penalty.span()]].concat());
    let RawMaglev { table_size, balance_factor } = &raw.maglev;
    let maglev = first(&[table_size.span(), balance_factor.span()]);
    let RawRingHash { min_size, max_size, balance_factor } = &raw.ring_hash;
    let ring_hash = first(&[min_size.span(), max_size.span(), balance_factor.span()]);
    let tables = [
        ("p2c", PolicyName::P2c, raw.p2c.choices.span()),
        ("peak-ewma", PolicyName::PeakEwma, peak_ewma),
        ("prequal", PolicyName::Prequal, prequal),
        ("maglev", PolicyName::Maglev, maglev),
        ("ring-hash", PolicyName::RingHash, ring_hash),
    ];
    for (name, policy, written) in tables {
        if written.is_some() && !uses(raw, policy) {
            scope.warning(written, format!("`{name}` has no effect: no policy of this cluster is `{name}`"));
        }
    }
}

/// Whether the cluster or one of its rules names this policy.
fn uses(raw: &RawCluster, policy: PolicyName) -> bool {
    let of_rules = raw.rules.iter().flat_map(|rule| [rule.policy, rule.request_policy]).flatten();
    [raw.policy, raw.request_policy].into_iter().chain(of_rules).any(|used| used == policy)
}

/// Slots for each endpoint that spread keys to within 1 % (Eisenbud and others, "Maglev", NSDI 2016, section 5.3).
const SLOTS_EACH: usize = 100;

fn warn_of_small_table(raw: &RawCluster, scope: &mut Scope<'_, '_>) {
    let endpoints: usize = raw.localities.values().map(|locality| locality.endpoints.len()).sum();
    let table_size = &raw.maglev.table_size;
    // One that is no size at all is an error of its own.
    let size = u32::try_from(**table_size).ok().and_then(TableSize::new).and(usize::try_from(**table_size).ok());
    let wanted = endpoints * SLOTS_EACH;
    if uses(raw, PolicyName::Maglev) && size.is_some_and(|size| size < wanted) {
        let message = format!("`maglev.table-size` ({}) is small for {endpoints} endpoints", **table_size);
        let problem = scope.warning(table_size.span(), message);
        problem.help(match COMMON_SIZES.into_iter().find(|common| *common >= wanted) {
            Some(common) => {
                format!("maglev.table-size = {common}; at least a hundred slots for each spread the keys evenly")
            }
            None => format!("a prime number from {wanted} to {} spreads the keys evenly", TableSize::MAX),
        });
    }
}

/// Reports come with good answers to the `http` probe.
fn warn_of_old_reports(raw: &RawCluster, scope: &mut Scope<'_, '_>) {
    if !uses(raw, PolicyName::Prequal) || scope.was_refused("health") {
        return;
    }
    let age = &raw.prequal.report_age;
    let Some(http) = &raw.health.http else {
        if age.is_written() {
            let problem = scope
                .warning(age.span(), "`report-age` has no effect: endpoints report in answers to the `http` probe");
            problem.help("health.http = {}");
        }
        return;
    };
    if **age < *http.interval {
        let message = format!("`report-age` ({}) is shorter than the probes' `interval` ({})", **age, *http.interval);
        let problem = scope.warning(age.span().or_else(|| http.interval.span()), message);
        problem.help(
            "between two reports `prequal` would know nothing of other edges' requests; twice the interval is usual",
        );
    }
}

fn p2c(raw: &RawP2c, scope: &mut Scope<'_, '_>) -> Option<Policy> {
    let RawP2c { choices } = raw;
    Some(Policy::P2c { choices: scope.whole("choices", choices, 2..=16)? })
}

fn peak_ewma(raw: &RawPeakEwma, scope: &mut Scope<'_, '_>) -> Option<Policy> {
    let scope = &mut scope.below("peak-ewma", None);
    let RawPeakEwma { choices, decay, default_latency, failure_penalty } = raw;
    let choices = scope.whole("choices", choices, 2..=16);
    let latency = latency(decay, default_latency, failure_penalty, scope);
    Some(Policy::PeakEwma { choices: choices?, latency: latency? })
}

fn prequal(raw: &RawPrequal, scope: &mut Scope<'_, '_>) -> Option<Policy> {
    let scope = &mut scope.below("prequal", None);
    let RawPrequal { choices, hot_above, report_age, decay, default_latency, failure_penalty } = raw;
    let choices = scope.whole("choices", choices, 2..=16);
    let report_age = scope.duration("report-age", report_age, 100..=HOUR);
    let latency = latency(decay, default_latency, failure_penalty, scope);
    Some(Policy::Prequal {
        choices: choices?,
        hot_above_percent: hot_above.0,
        report_age: report_age?,
        latency: latency?,
    })
}

fn latency(
    decay: &Placed<Period>,
    default: &Placed<Period>,
    failure_penalty: &Placed<Period>,
    scope: &mut Scope<'_, '_>,
) -> Option<Latency> {
    let decay = scope.duration("decay", decay, 100..=HOUR);
    let default = scope.duration("default-latency", default, 1..=MINUTE);
    let failure_penalty = scope.duration("failure-penalty", failure_penalty, 0..=5 * MINUTE);
    Some(Latency { decay: decay?, default: default?, failure_penalty: failure_penalty? })
}

/// Prime numbers, small to large.
const COMMON_SIZES: [usize; 4] = [2039, 16381, 65537, 655_373];

fn maglev(raw: &RawMaglev, scope: &mut Scope<'_, '_>) -> Option<Policy> {
    let scope = &mut scope.below("maglev", None);
    let balance = balance(&raw.balance_factor, scope);
    let size = u32::try_from(*raw.table_size).ok().and_then(TableSize::new);
    if size.is_none() {
        let message = format!("`table-size` must be a prime number up to {}, not {}", TableSize::MAX, *raw.table_size);
        let problem = scope.error(raw.table_size.span(), message);
        let common = COMMON_SIZES.map(|size| size.to_string()).join(", ");
        problem.help(format!("common ones: {common}; at least a hundred times the number of endpoints"));
    }
    Some(Policy::Maglev { size: size?, balance: balance? })
}

fn ring_hash(raw: &RawRingHash, scope: &mut Scope<'_, '_>) -> Option<Policy> {
    let scope = &mut scope.below("ring-hash", None);
    let balance = balance(&raw.balance_factor, scope);
    let most = i64::from(RingSize::LIMIT);
    let min: Option<u32> = scope.whole("min-size", &raw.min_size, 1..=most);
    let max: Option<u32> = scope.whole("max-size", &raw.max_size, 1..=most);
    if min > max && max.is_some() {
        let message = format!("`min-size` ({}) is larger than `max-size` ({})", *raw.min_size, *raw.max_size);
        scope.error(raw.min_size.span().or(raw.max_size.span()), message);
    }
    Some(Policy::RingHash { size: RingSize::new(min?, max?)?, balance: balance? })
}

/// `Some(None)` for no bound.
fn balance(factor: &Placed<f64>, scope: &mut Scope<'_, '_>) -> Option<Option<BalanceFactor>> {
    if **factor == 0.0 {
        return Some(None);
    }
    if !(1.0..=100.0).contains(&**factor) {
        let message = format!("`balance-factor` must be from 1.0 to 100, or 0, not {}", **factor);
        scope
            .error(factor.span(), message)
            .help("1.25 lets an endpoint have a quarter more than its share; 0 is no bound");
        return None;
    }
    BalanceFactor::new(hundredfold(**factor)).map(Some)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.0 to 100, checked")]
fn hundredfold(factor: f64) -> u16 {
    (factor * 100.0).round() as u16
}

pub(super) fn slow_start(raw: &RawSlowStart, scope: &mut Scope<'_, '_>) -> Option<SlowStart> {
    let scope = &mut scope.below("slow-start", None);
    let RawSlowStart { window, aggression, least } = raw;
    let checked_window = scope.duration("window", window, 0..=24 * HOUR);
    if !(0.1..=10.0).contains(&**aggression) {
        scope.error(aggression.span(), format!("`aggression` must be from 0.1 to 10, not {}", **aggression));
        return None;
    }
    if least.0 == 0 {
        let problem =
            scope.error(least.span(), "`least` must be from 1%: an endpoint without any share never warms up");
        problem.help("10% is usual");
        return None;
    }
    let written = aggression.span().or_else(|| least.span());
    if written.is_some() && window.0.is_zero() {
        scope.warning(written, "`slow-start` has no effect without a `window`").help("slow-start.window = \"60s\"");
    }
    Some(SlowStart { window: checked_window?, aggression: **aggression, least_percent: least.0 })
}

/// `Some(None)` if there is none.
pub(super) fn accept_rate(raw: Option<&Placed<Rate>>, scope: &mut Scope<'_, '_>) -> Option<Option<AcceptRate>> {
    let Some(rate) = raw else { return Some(None) };
    if !(0.01..=1e6).contains(&rate.per_second) {
        let problem =
            scope.error(rate.span(), format!("`accept-rate` must be from 0.01/s to 1000000/s, not {}", **rate));
        problem.help("leave it out for no limit; to take an endpoint out of service, drain it or remove it");
        return None;
    }
    AcceptRate::per_second(rate.per_second).map(Some)
}

pub(super) fn limits(
    max_connections: Option<&Placed<i64>>,
    max_pending: Option<&Placed<i64>>,
    scope: &mut Scope<'_, '_>,
) -> Option<Limits> {
    let connections = scope.max_connections::<u32>(max_connections);
    let pending = match max_pending {
        None => Some(None),
        Some(pending) => scope.whole("max-pending", pending, 1..=i64::from(u32::MAX)).map(Some),
    };
    let (connections, pending): (Option<u32>, Option<u32>) = (connections?, pending?);
    if let (Some(all), Some(some)) = (connections, pending)
        && some > all
    {
        let message = format!("`max-pending` ({some}) is larger than `max-connections` ({all}): it limits nothing");
        scope.warning(max_pending.and_then(Placed::span), message);
    }
    Some(Limits {
        max_connections: connections.and_then(std::num::NonZeroU32::new),
        max_pending: pending.and_then(std::num::NonZeroU32::new),
    })
}

pub(super) fn priority_limits(raw: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<Vec<(u32, Limits)>> {
    let priorities: Vec<i64> = raw.localities.values().map(|locality| *locality.priority).collect();
    let mut checked: Vec<Option<(u32, Limits)>> = Vec::new();
    for written in &raw.priority_limits {
        let scope = &mut scope.below("priority-limits", written.span());
        let RawPriorityLimits { priority, max_connections, max_pending } = &**written;
        let limits = limits(max_connections.as_ref(), max_pending.as_ref(), scope);
        let number = scope.whole("priority", priority, 0..=127);
        if checked.iter().flatten().any(|(known, _)| Some(*known) == number) {
            scope.error(priority.span(), format!("priority {} has limits already", **priority));
        } else if number.is_some() && !priorities.contains(priority) && !scope.had_refused_keys() {
            let problem = scope.warning(priority.span(), format!("no locality has priority {}", **priority));
            problem.help("limits are for the `priority` that localities have; it is 0 where none is written");
        }
        checked.push(number.zip(limits));
    }
    checked.into_iter().collect()
}

pub(super) fn spill(raw: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<Spill> {
    let RawSpill { by, above, below, slope } = &raw.spill;
    let scope = &mut scope.below("spill", None);
    let by = match by {
        RawSpillBy::Weight => SpillBy::Weight,
        RawSpillBy::Capacity => SpillBy::Capacity,
    };
    if by == SpillBy::Capacity || above.is_some() {
        warn_of_unknown_capacities(raw, by, above.as_ref(), scope);
    }
    let Some(above) = above else {
        if let Some(below) = below.as_ref().and_then(Placed::span).or_else(|| slope.span()) {
            scope.warning(Some(below), "`spill.below` and `spill.slope` have no effect without `spill.above`");
        }
        return Some(Spill { by, headroom: None });
    };
    let lower = below.as_ref().map_or_else(|| Percent(above.0.saturating_sub(10)), |below| Percent(below.0));
    if lower.0 >= above.0 {
        let message = format!("`below` ({lower}) must be lower than `above` ({})", **above);
        let problem = scope.error(below.as_ref().and_then(Placed::span).or_else(|| above.span()), message);
        problem.help("between the two, what is sent on stays as it is; ten points apart are usual");
        return None;
    }
    if slope.0 == 0 {
        scope.error(slope.span(), "`slope` must be from 1%: with 0% nothing would ever be sent on");
        return None;
    }
    let share = |percent: u8| f64::from(percent) / 100.0;
    let headroom = Headroom { above: share(above.0), below: share(lower.0), slope_per_second: share(slope.0) };
    Some(Spill { by, headroom: Some(headroom) })
}

fn warn_of_unknown_capacities(
    raw: &RawCluster,
    by: SpillBy,
    above: Option<&Placed<Percent>>,
    scope: &mut Scope<'_, '_>,
) {
    let consequence = match (by, above.is_some()) {
        (SpillBy::Weight, _) => "`spill` cannot tell how full it is",
        (SpillBy::Capacity, false) => "`spill.by = \"capacity\"` goes by weights while one has none",
        (SpillBy::Capacity, true) => {
            "`spill.by = \"capacity\"` goes by weights while one has none, and `spill.above` cannot tell how full it is"
        }
    };
    if scope.was_refused("localities") {
        return;
    }
    for (name, locality) in &raw.localities {
        if locality.capacity.is_none() && locality.endpoints.iter().any(|endpoint| endpoint.max_connections.is_none()) {
            let message = format!("locality `{}` has no `capacity`: {consequence}", **name);
            let problem = scope.warning(name.span().or_else(|| above.and_then(Placed::span)), message);
            problem.help("capacity = 50000, or `max-connections` for each of its endpoints");
        }
    }
}
