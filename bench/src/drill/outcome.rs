//! What came of a drill: what was measured, and which of its limits were kept.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    Drill, Limits, admissions,
    figures::{self, Latency, Series},
    scene::{Mark, Node, Phase, Scene, since_1970},
};
use crate::{
    im::{
        Entry, Happening,
        checker::{self, Verdict},
    },
    report::{Machine, command_line, today},
};

/// Up to a tenth of a second's worth may come at once (docs/config.md, accept rates).
const BURST: f64 = 0.1;
/// A phone that hears of its upgrade says who it is at once, save that all phones of a drill share a small machine.
const LATEST_LOGIN: Duration = Duration::from_secs(1);
const LOGIN_WINDOW: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

/// Everything that is said of a drill.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) drill: &'static str,
    pub(super) about: &'static str,
    date: String,
    command: String,
    machine: Machine,
    pub(super) clients: usize,
    /// From the first mark to the last word.
    pub(super) seconds: f64,
    pub(super) messages: Messages,
    /// From the blow until the last of those it hit was online again; `None` when nobody was hit.
    pub(super) seconds_until_all_back: Option<f64>,
    pub(super) nodes: Vec<NodeFigures>,
    /// Since the first mark.
    pub(super) refused: usize,
    pub(super) failed: usize,
    pub(super) broken: usize,
    pub(super) latency_ms: BTreeMap<Phase, Latency>,
    pub(super) marks: Vec<MarkFigure>,
    pub(super) limits: Vec<Judged>,
    pub(super) series: Series,
}

/// What `check` says.
#[derive(Debug, Serialize)]
pub(super) struct Messages {
    pub(super) lost: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<Verdict>,
    pub(super) broken_promises: Vec<String>,
}

/// Of one server, in its worst seconds, from the first mark, or from the moment that the cap counts where there is one.
#[derive(Debug, Serialize)]
pub(super) struct NodeFigures {
    pub(super) name: String,
    pub(super) locality: &'static str,
    /// By the clock of the edge, which let them through.
    pub(super) peak_connections_a_second: usize,
    /// By the clock of the server.
    pub(super) peak_logins_a_second: usize,
    /// The same in the worst five seconds.
    pub(super) peak_logins_in_window: usize,
    pub(super) cap: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct MarkFigure {
    pub(super) seconds: f64,
    pub(super) phase: Phase,
    pub(super) text: String,
}

impl MarkFigure {
    fn of(mark: &Mark, start: Instant) -> Self {
        Self { seconds: (mark.at - start).as_secs_f64(), phase: mark.phase, text: mark.text.clone() }
    }
}

/// One limit, and whether it was kept.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    pub(super) limit: String,
    pub(super) found: String,
    pub(super) kept: bool,
}

impl Outcome {
    /// Ends the talking, checks what was promised, and measures.
    pub(super) async fn of(drill: &Drill, mut scene: Scene<'_>) -> Result<Self> {
        let end = Instant::now();
        scene.crowd.fall_silent().await?;
        let entries = scene.crowd.diary.entries();
        let said = scene.crowd.said();
        let messages = check(&mut scene).await?;
        scene.stop_edge().await?;
        let start = scene.marks.first().map_or(end, |mark| mark.at);
        let count = |what| figures::count(&entries, start, &what);
        let names: Vec<String> = scene.names(|_| true);
        let mut outcome = Self {
            drill: drill.name,
            about: drill.about,
            date: today(),
            command: command_line(),
            machine: Machine::this(),
            clients: scene.crowd.cast.clients,
            seconds: (end - start).as_secs_f64(),
            messages,
            seconds_until_all_back: scene.back.map(|back| back.as_secs_f64()),
            nodes: node_figures(&scene, start, &entries)?,
            refused: count(Happening::Refused),
            failed: count(Happening::Failed),
            broken: count(Happening::Broke),
            latency_ms: figures::latencies(&said, &scene.marks)?,
            marks: scene.marks.iter().map(|mark| MarkFigure::of(mark, start)).collect(),
            limits: Vec::new(),
            series: Series::new(start, end, &names, &entries, &said)?,
        };
        outcome.judge(&drill.limits);
        outcome.limits.append(&mut scene.claims);
        Ok(outcome)
    }

    /// Whether every limit was kept.
    pub(super) fn kept(&self) -> bool {
        self.limits.iter().all(|judged| judged.kept)
    }

    fn judge(&mut self, limits: &Limits) {
        let Messages { lost, broken_promises, .. } = &self.messages;
        let (lost, broken_promises) = (*lost, broken_promises.len());
        self.judged("no acknowledged message lost", lost.to_string(), lost == 0);
        self.judged("no promise broken", broken_promises.to_string(), broken_promises == 0);
        if let Some(back) = limits.back {
            let found = self.seconds_until_all_back;
            let shown = found.map_or("nobody was cut off".into(), |seconds| format!("{seconds:.2} s"));
            let kept = found.is_some_and(|seconds| seconds <= back.as_secs_f64());
            self.judged(&format!("all back within {back:?}"), shown, kept);
        }
        if let Some(most) = limits.broken {
            self.judged(&format!("at most {most} sessions broken"), self.broken.to_string(), self.broken <= most);
        }
        self.judge_latency(Phase::During, "during", limits.p99_during);
        self.judge_latency(Phase::After, "after", limits.p99_after);
        self.judge_login_rates();
    }

    fn judge_latency(&mut self, phase: Phase, name: &str, limit: Option<Duration>) {
        let Some(limit) = limit else { return };
        let found = self.latency_ms.get(&phase).map(|latency| latency.p99);
        let shown = found.map_or("nothing was said".into(), |millis| format!("{millis:.0} ms"));
        let kept = found.is_some_and(|millis| millis <= limit.as_secs_f64() * 1000.0);
        self.judged(&format!("99 of 100 messages within {limit:?} {name}"), shown, kept);
    }

    /// What the edge is held to is when it lets a connection through. Its login follows when the phone gets round to it,
    /// so logins are held to a longer time.
    fn judge_login_rates(&mut self) {
        let mut judged = Vec::new();
        for node in &self.nodes {
            let Some(cap) = node.cap else { continue };
            let name = &node.name;
            let most = cap + (cap * BURST).ceil();
            let limit = format!("{name}: at most {most:.0} connections in any second ({cap:.0}, and a tenth at once)");
            judged.push((limit, node.peak_connections_a_second, most));
            let most = (cap * (LOGIN_WINDOW + LATEST_LOGIN).as_secs_f64()).ceil() + (cap * BURST).ceil();
            let limit = format!(
                "{name}: at most {most:.0} logins in any {LOGIN_WINDOW:?}, as each may be {LATEST_LOGIN:?} late"
            );
            judged.push((limit, node.peak_logins_in_window, most));
        }
        for (limit, found, most) in judged {
            #[expect(clippy::cast_precision_loss, reason = "logins of seconds are far below 2^52")]
            self.judged(&limit, found.to_string(), found as f64 <= most);
        }
    }

    fn judged(&mut self, limit: &str, found: String, kept: bool) {
        self.limits.push(Judged { limit: limit.into(), found, kept });
    }
}

fn node_figures(scene: &Scene<'_>, start: Instant, entries: &[Entry]) -> Result<Vec<NodeFigures>> {
    let admissions = admissions::read(&scene.access_log())?;
    let since = scene.cap.map_or_else(|| since_1970().saturating_sub(start.elapsed()), |(_, since)| since);
    let figures = |node: &Node| {
        let connections = admissions.get(&node.endpoint).map_or(&[][..], Vec::as_slice);
        let logins = figures::logins(entries, &node.server.name);
        NodeFigures {
            name: node.server.name.clone(),
            locality: node.locality,
            peak_connections_a_second: figures::most_within(SECOND, connections, since),
            peak_logins_a_second: figures::most_within(SECOND, &logins, since),
            peak_logins_in_window: figures::most_within(LOGIN_WINDOW, &logins, since),
            cap: scene.cap.map(|(cap, _)| cap),
        }
    };
    Ok(scene.nodes.iter().map(figures).collect())
}

async fn check(scene: &mut Scene<'_>) -> Result<Messages> {
    let server = scene.living_server()?;
    let histories = scene.crowd.histories(server).await?;
    Ok(match checker::check_all(&histories, &scene.crowd.journal) {
        Ok(verdict) => Messages { lost: 0, verdict: Some(verdict), broken_promises: Vec::new() },
        Err(broken) => Messages {
            lost: broken.lost(),
            verdict: None,
            broken_promises: broken.problems.iter().map(ToString::to_string).collect(),
        },
    })
}

/// How long something took, short enough for a line.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One server, one message, one break.
    pub(in crate::drill) fn outcome() -> Outcome {
        let step = |online| figures::Step { online, logins: vec![1], max: Some(7.0), ..figures::Step::default() };
        let latency = Latency { count: 1, p50: 5.0, p99: 700.0, max: 700.0 };
        Outcome {
            drill: "backend-killed",
            about: "a server is killed",
            date: today(),
            command: String::new(),
            machine: Machine::this(),
            clients: 2,
            seconds: 2.0,
            messages: Messages { lost: 0, verdict: None, broken_promises: Vec::new() },
            seconds_until_all_back: Some(1.5),
            nodes: vec![NodeFigures {
                name: "im-1".into(),
                locality: "here",
                peak_connections_a_second: 11,
                peak_logins_a_second: 12,
                peak_logins_in_window: 61,
                cap: Some(10.0),
            }],
            refused: 0,
            failed: 0,
            broken: 1,
            latency_ms: BTreeMap::from([(Phase::During, latency)]),
            marks: vec![MarkFigure { seconds: 0.5, phase: Phase::During, text: "im-1 is killed".into() }],
            limits: Vec::new(),
            series: Series { step: 0.1, steps: vec![step(2), step(0), figures::Step { max: None, ..step(0) }] },
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Outcome), limits: Limits, kept: bool) {
        let mut outcome = outcome();
        change(&mut outcome);
        outcome.judge(&limits);
        assert_eq!(outcome.kept(), kept, "{:?}", outcome.limits);
    }

    #[test]
    fn every_limit_is_kept_or_not() {
        let none = Limits::NONE;
        check(|_| {}, none, true);
        check(|outcome| outcome.messages.lost = 1, none, false);
        check(|outcome| outcome.messages.broken_promises.push("a gap".into()), none, false);
        check(|_| {}, Limits { back: Some(Duration::from_secs(2)), ..none }, true);
        check(|_| {}, Limits { back: Some(Duration::from_secs(1)), ..none }, false);
        check(
            |outcome| outcome.seconds_until_all_back = None,
            Limits { back: Some(Duration::from_secs(2)), ..none },
            false,
        );
        check(|_| {}, Limits { broken: Some(0), ..none }, false);
        check(|_| {}, Limits { p99_during: Some(Duration::from_millis(700)), ..none }, true);
        check(|_| {}, Limits { p99_during: Some(Duration::from_millis(600)), ..none }, false);
        check(|_| {}, Limits { p99_after: Some(Duration::from_secs(60)), ..none }, false);
        check(|outcome| outcome.nodes[0].peak_connections_a_second = 12, none, false);
        check(|outcome| outcome.nodes[0].peak_logins_in_window = 62, none, false);
    }
}
