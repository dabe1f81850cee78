//! `clusters.NAME.rtt`.

use std::time::Duration;

use policies::RttBands;

use super::findings::Scope;
use crate::config::raw::cluster::{CriterionName, RttFrom as RawRttFrom};
use crate::config::raw::{Placed, RawRtt};
use crate::config::units::Period;
use crate::config::{Health, Probe, RttFrom, RttSettings};

const HOUR: u64 = 3_600_000;
/// Probes that make a window, and windows after which a figure is old: where the defaults come from.
const PROBES_A_WINDOW: u32 = 3;
const WINDOWS_OF_AGE: u32 = 5;

/// Without a `health`, which was refused then, what stands alone is judged all the same.
pub(super) fn rtt(
    raw: &RawRtt,
    steer: &[Placed<CriterionName>],
    health: Option<&Health>,
    scope: &mut Scope<'_, '_>,
) -> Option<RttSettings> {
    let scope = &mut scope.below("rtt", None);
    let limits = limits(raw, scope);
    let hysteresis = hysteresis(raw, scope);
    let floor = scope.duration("hysteresis-floor", &raw.hysteresis_floor, 0..=HOUR);
    let dwell = scope.whole("dwell", &raw.dwell, 1..=100);
    let health = health?;
    warn_of_nothing_to_measure(raw, steer, health, scope);
    let window = window(raw, health, scope);
    let max_age = window.and_then(|window| max_age(raw, window, health, scope));
    let bands = RttBands { limits: limits?, hysteresis_ratio: hysteresis?, hysteresis_floor: floor?, dwell: dwell? };
    warn_of_a_floor_too_high(raw, &bands, scope);
    Some(RttSettings {
        from: match raw.from {
            RawRttFrom::Probe => RttFrom::Probe,
            RawRttFrom::Handshake => RttFrom::Handshake,
        },
        bands,
        window: window?,
        max_age: max_age?,
    })
}

fn limits(raw: &RawRtt, scope: &mut Scope<'_, '_>) -> Option<Vec<Duration>> {
    let limits: Vec<Duration> = raw.bands.iter().map(|limit| limit.0).collect();
    if scope.was_refused("bands") {
        return None;
    }
    if !(1..=16).contains(&limits.len()) {
        scope.error(raw.bands.span(), format!("`bands` needs 1 to 16 limits, not {}", limits.len()));
        return None;
    }
    let above = std::iter::once(Duration::ZERO).chain(limits.iter().copied());
    let wrong = raw.bands.iter().zip(above).find(|(limit, before)| limit.0 <= *before);
    if let Some((limit, _)) = wrong {
        let problem = scope.error(limit.span(), format!("`bands` must ascend, and {} does not", **limit));
        problem.help("each limit must be longer than the one before it, and than zero");
        return None;
    }
    Some(limits)
}

fn hysteresis(raw: &RawRtt, scope: &mut Scope<'_, '_>) -> Option<f64> {
    let percent = raw.hysteresis.0;
    if percent > 50 {
        let problem =
            scope.error(raw.hysteresis.span(), format!("`hysteresis` must be from 0% to 50%, not {percent}%"));
        problem.help("more would keep a locality out of a narrow band for good");
        return None;
    }
    Some(f64::from(percent) / 100.0)
}

fn window(raw: &RawRtt, health: &Health, scope: &mut Scope<'_, '_>) -> Option<Duration> {
    let written = scope.duration("window", &raw.window, 300..=3 * HOUR)?;
    let three_probes = health.interval * PROBES_A_WINDOW;
    if !raw.window.is_written() {
        return Some(written.max(three_probes));
    }
    if probes(health) && written < three_probes {
        let message = format!(
            "`window` ({}) holds fewer than three probes of `interval` ({})",
            *raw.window,
            Period(health.interval)
        );
        let problem = scope.warning(raw.window.span(), message);
        problem.help("of too few, the lowest may have met a queue, and steering follows it");
    }
    Some(written)
}

fn max_age(raw: &RawRtt, window: Duration, health: &Health, scope: &mut Scope<'_, '_>) -> Option<Duration> {
    let written = scope.duration("max-age", &raw.max_age, 300..=24 * HOUR)?;
    if !raw.max_age.is_written() {
        return Some(written.max(window * WINDOWS_OF_AGE));
    }
    let two_probes = health.interval * 2;
    if probes(health) && written < two_probes {
        let message = format!(
            "`max-age` ({}) is shorter than two probes of `interval` ({})",
            *raw.max_age,
            Period(health.interval)
        );
        let problem = scope.error(raw.max_age.span(), message);
        problem.help("one late probe, and what was measured would not count");
        return None;
    }
    if written < window {
        let message = format!("`max-age` ({}) is shorter than `window` ({})", *raw.max_age, Period(window));
        let problem = scope.error(raw.max_age.span(), message);
        problem.help("`window` would count round trips that are too old to count");
        return None;
    }
    Some(written)
}

/// Half of a limit is the most that its hysteresis can be.
fn warn_of_a_floor_too_high(raw: &RawRtt, bands: &RttBands, scope: &mut Scope<'_, '_>) {
    let Some(narrowest) = bands.limits.first().filter(|limit| bands.hysteresis_floor > **limit / 2) else { return };
    if raw.hysteresis_floor.is_written() {
        let message = format!(
            "`hysteresis-floor` ({}) is more than half of the first limit of `bands` ({}), and counts as half there",
            *raw.hysteresis_floor,
            Period(*narrowest)
        );
        scope.warning(raw.hysteresis_floor.span(), message);
    }
}

fn warn_of_nothing_to_measure(
    raw: &RawRtt,
    steer: &[Placed<CriterionName>],
    health: &Health,
    scope: &mut Scope<'_, '_>,
) {
    let named = steer.iter().find(|criterion| ***criterion == CriterionName::Rtt && criterion.is_written());
    if let Some(rtt) = named.filter(|_| !probes(health) && raw.from == RawRttFrom::Probe) {
        let problem = scope.warning(rtt.span(), "`rtt` knows no more than the distance: `health` is off");
        problem.help("probes measure it; or rtt.from = \"handshake\", which live tunnels measure, too");
    }
}

fn probes(health: &Health) -> bool {
    health.probe != Probe::Off
}
