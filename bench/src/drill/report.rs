//! An outcome as text.

use std::fmt::Write;

use super::{
    figures::Latency,
    outcome::{Messages, NodeFigures, Outcome},
    scene::Phase,
};

/// Broken promises beyond these say nothing new.
const SHOWN: usize = 10;

/// What came of one drill, verdict last.
pub(super) fn text(outcome: &Outcome) -> String {
    let mut text = format!("\n{}: {} people, {:.1} s\n", outcome.drill, outcome.clients, outcome.seconds);
    for mark in &outcome.marks {
        _ = writeln!(text, "  {:>6.1} s  {}", mark.seconds, mark.text);
    }
    line(&mut text, "messages", &messages(&outcome.messages));
    for promise in outcome.messages.broken_promises.iter().take(SHOWN) {
        line(&mut text, "", promise);
    }
    let back = outcome.seconds_until_all_back;
    line(&mut text, "back", &back.map_or("nobody had to".into(), |seconds| format!("all after {seconds:.2} s")));
    let Outcome { broken, refused, failed, .. } = outcome;
    line(&mut text, "connections", &format!("{broken} sessions broken, {refused} tries refused, {failed} failed"));
    for (phase, name) in [(Phase::Before, "before"), (Phase::During, "during"), (Phase::After, "after")] {
        if let Some(Latency { count, p50, p99, max }) = outcome.latency_ms.get(&phase) {
            let shown = format!("{name}: {count} messages, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms");
            line(&mut text, if phase == Phase::Before { "latency" } else { "" }, &shown);
        }
    }
    let peaks = |peak: fn(&NodeFigures) -> usize| {
        outcome.nodes.iter().map(|node| format!("{} {}", node.name, peak(node))).collect::<Vec<_>>().join(", ")
    };
    line(
        &mut text,
        "peaks",
        &format!("connections in the worst second: {}", peaks(|node| node.peak_connections_a_second)),
    );
    line(&mut text, "", &format!("logins in the worst second: {}", peaks(|node| node.peak_logins_a_second)));
    for judged in &outcome.limits {
        let word = if judged.kept { "kept" } else { "NOT KEPT" };
        line(&mut text, word, &format!("{}: {}", judged.limit, judged.found));
    }
    text + verdict(outcome)
}

/// One line for each of several drills.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let mut text =
        format!("\n{:<18} {:>6} {:>6} {:>8} {:>7}  {}\n", "drill", "people", "lost", "back", "broken", "limits");
    for outcome in outcomes {
        let back = outcome.seconds_until_all_back.map_or("-".into(), |seconds| format!("{seconds:.2} s"));
        let Outcome { drill, clients, broken, messages, .. } = outcome;
        let limits = if outcome.kept() { "kept" } else { "NOT KEPT" };
        _ = writeln!(text, "{drill:<18} {clients:>6} {:>6} {back:>8} {broken:>7}  {limits}", messages.lost);
    }
    text
}

fn verdict(outcome: &Outcome) -> &'static str {
    if outcome.kept() { "  All limits were kept." } else { "  NOT ALL LIMITS WERE KEPT." }
}

fn messages(messages: &Messages) -> String {
    match &messages.verdict {
        Some(verdict) => format!(
            "{} acknowledged in {} conversations, each stored exactly once; {} pushes and {} whole conversations as stored",
            verdict.acknowledged, verdict.conversations, verdict.pushed, verdict.synced
        ),
        None => format!("{} LOST, {} promises broken", messages.lost, messages.broken_promises.len()),
    }
}

fn line(text: &mut String, name: &str, what: &str) {
    _ = writeln!(text, "  {name:<12}{what}");
}
