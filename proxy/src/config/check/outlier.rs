//! `clusters.NAME.outlier` and `clusters.NAME.retry-budget`.

use std::ops::Range;
use std::time::Duration;

use policies::{FailurePercentage, OutlierRules, RetryRules, SuccessRate};

use super::findings::Scope;
use crate::config::raw::Placed;
use crate::config::raw::outlier::{RawFailurePercentage, RawOutlier, RawRetryBudget, RawSuccessRate};
use crate::config::units::Period;
use crate::config::{Outlier, Signals};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) fn outlier(raw: &RawOutlier, scope: &mut Scope<'_, '_>) -> Option<Outlier> {
    let scope = &mut scope.below("outlier", None);
    let rules = rules(raw, scope);
    let signals = signals(raw, scope);
    warn_of_silence(raw, scope);
    let (rules, signals) = (rules?, signals?);
    Some(if *raw.off { Outlier::off() } else { Outlier { rules: Some(rules), signals } })
}

fn rules(raw: &RawOutlier, scope: &mut Scope<'_, '_>) -> Option<OutlierRules> {
    let consecutive = scope.whole("consecutive", &raw.consecutive, 0..=1000);
    let interval = scope.duration("interval", &raw.interval, SECOND..=HOUR);
    let base_ejection = scope.duration("base-ejection", &raw.base_ejection, SECOND..=DAY);
    let max_ejection = scope.duration("max-ejection", &raw.max_ejection, SECOND..=DAY);
    let success_rate = success_rate(&raw.success_rate, scope);
    let failure_percentage = failure_percentage(&raw.failure_percentage, scope);
    let (base_ejection, max_ejection) = (base_ejection?, max_ejection?);
    if raw.max_ejection.is_written() && max_ejection < base_ejection {
        let (max, base) = (*raw.max_ejection, *raw.base_ejection);
        let problem = scope
            .error(raw.max_ejection.span(), format!("`max-ejection` ({max}) is shorter than `base-ejection` ({base})"));
        problem.help("the first ejection lasts as long as `base-ejection`, and no other is shorter");
        return None;
    }
    Some(OutlierRules {
        consecutive: consecutive?,
        interval: interval?,
        base_ejection,
        max_ejection: max_ejection.max(base_ejection),
        max_ejected_percent: raw.max_ejected.0,
        jitter_percent: raw.jitter.0,
        success_rate: success_rate?,
        failure_percentage: failure_percentage?,
    })
}

fn success_rate(raw: &RawSuccessRate, scope: &mut Scope<'_, '_>) -> Option<Option<SuccessRate>> {
    let scope = &mut scope.below("success-rate", None);
    let RawSuccessRate { enforce, hosts, volume, deviations } = raw;
    warn_of_no_effect(**enforce, [hosts.span(), volume.span(), deviations.span()], scope);
    let checked_hosts = scope.whole("hosts", hosts, 3..=10_000);
    let checked_volume = scope.whole("volume", volume, 1..=1_000_000);
    if !(0.1..=10.0).contains(&**deviations) {
        scope.error(deviations.span(), format!("`deviations` must be from 0.1 to 10, not {}", **deviations));
        return None;
    }
    let rule = SuccessRate { hosts: checked_hosts?, volume: checked_volume?, deviations: **deviations };
    Some((**enforce).then_some(rule))
}

fn failure_percentage(raw: &RawFailurePercentage, scope: &mut Scope<'_, '_>) -> Option<Option<FailurePercentage>> {
    let scope = &mut scope.below("failure-percentage", None);
    let RawFailurePercentage { enforce, threshold, hosts, volume } = raw;
    warn_of_no_effect(**enforce, [threshold.span(), hosts.span(), volume.span()], scope);
    let checked_hosts = scope.whole("hosts", hosts, 1..=10_000);
    let checked_volume = scope.whole("volume", volume, 1..=1_000_000);
    if threshold.0 == 0 {
        let problem = scope.error(threshold.span(), "`threshold` must be from 1% to 100%, not 0%");
        problem.help("at 0% an endpoint without any failure would be ejected");
        return None;
    }
    let rule = FailurePercentage { threshold_percent: threshold.0, hosts: checked_hosts?, volume: checked_volume? };
    Some((**enforce).then_some(rule))
}

fn warn_of_no_effect(enforced: bool, written: [Option<Range<usize>>; 3], scope: &mut Scope<'_, '_>) {
    let first = written.into_iter().flatten().min_by_key(|span| span.start);
    if let (false, Some(span)) = (enforced, first) {
        scope.warning(Some(span), "this has no effect without `enforce = true`");
    }
}

fn signals(raw: &RawOutlier, scope: &mut Scope<'_, '_>) -> Option<Signals> {
    let early_close = unless_zero("early-close", &raw.early_close, 1..=MINUTE, scope);
    let silence = unless_zero("silence", &raw.silence, SECOND..=HOUR, scope);
    Some(Signals {
        connect_failure: *raw.connect_failure,
        tls_failure: *raw.tls_failure,
        refused_upgrade: *raw.refused_upgrade,
        early_close: early_close?,
        silence: silence?,
        gateway_errors: *raw.gateway_errors,
        server_errors: *raw.server_errors,
    })
}

/// `Some(None)` for zero, which turns the signal off.
fn unless_zero(
    key: &str,
    value: &Placed<Period>,
    range: std::ops::RangeInclusive<u64>,
    scope: &mut Scope<'_, '_>,
) -> Option<Option<Duration>> {
    if value.0.is_zero() {
        return Some(None);
    }
    if value.0 < Duration::from_millis(*range.start()) {
        let least = Period(Duration::from_millis(*range.start()));
        scope.error(value.span(), format!("`{key}` must be 0s or from {least}, not {}", **value));
        return None;
    }
    scope.duration(key, value, range).map(Some)
}

/// A tunnel that an endpoint may leave unanswered for less time than it may take to end would be judged twice.
fn warn_of_silence(raw: &RawOutlier, scope: &mut Scope<'_, '_>) {
    let (silence, early) = (raw.silence.0, raw.early_close.0);
    if !silence.is_zero() && silence < early {
        let message = format!("`silence` ({}) is shorter than `early-close` ({})", *raw.silence, *raw.early_close);
        let problem = scope.warning(raw.silence.span(), message);
        problem.help("an endpoint that thinks for a moment would be ejected; heartbeats take tens of seconds");
    }
}

pub(super) fn retry_budget(raw: &RawRetryBudget, scope: &mut Scope<'_, '_>) -> Option<RetryRules> {
    let scope = &mut scope.below("retry-budget", None);
    let min = scope.whole("min", &raw.min, 0..=1_000_000);
    Some(RetryRules { share_percent: raw.share.0, min: min? })
}
