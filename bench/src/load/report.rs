//! What came of a run: as text, as JSON that can be compared with others, and as a page.

mod html;
mod plot;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    plan::Plan,
    shard::{Checked, Outcome},
    tally::Tally,
    times::Fine,
};
use crate::report::{Machine, command_line, today};

pub(super) use html::html;

/// The form of the JSON; a later one that older programs cannot read has another number.
const FORMAT: u32 = 1;
/// Quantiles in tables, and their names.
pub(super) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
/// The load is the limit when one of 100 messages is later by its doing than this, in milliseconds, and …
const LATE_MS: f64 = 1.0;
/// … that is this share of what one of 100 took in all; …
const LATE_SHARE: f64 = 0.25;
/// … or when one process of it had this share of a processor.
const BUSY: f64 = 0.9;

/// A run with everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(super) format: u32,
    /// Where, when, and by which command.
    pub(super) headline: String,
    pub(super) plan: Plan,
    pub(super) processes: usize,
    pub(super) tally: Tally,
    pub(super) checked: Checked,
}

impl Run {
    pub(super) fn new(plan: Plan, processes: usize, outcome: Outcome) -> Self {
        let Outcome { tally, checked } = outcome;
        let headline = Machine::this().headline(&today(), &command_line());
        // Who was where is in the tally, summed up; a trace is in its file.
        let plan = Plan { authority: None, ..plan.without_lists() };
        Self { format: FORMAT, headline, plan, processes, tally, checked }
    }

    /// Reads what was written as JSON.
    ///
    /// # Errors
    /// When it is none, or of a later form.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        use anyhow::Context;
        let run: Self = serde_json::from_str(text).context("no report of `warbler-bench load`")?;
        anyhow::ensure!(run.format == FORMAT, "a report of form {}; this program reads {FORMAT}", run.format);
        Ok(run)
    }

    /// As far as anybody knows.
    pub(super) fn promises_kept(&self) -> bool {
        self.checked.broken_promises == 0 && self.tally.counts.strayed == 0
    }

    /// Why nobody can be content with it although no promise is known to be broken.
    pub(super) fn tells_nothing(&self) -> Option<String> {
        let Checked { unasked, why_unasked, .. } = &self.checked;
        let counts = &self.tally.counts;
        if counts.due > 0 && counts.failed() >= counts.due {
            let example = self.tally.troubles.iter().next().map(|(kind, what)| format!(", for example {kind}: {what}"));
            return Some(format!("none of {} was answered{}", counts.due, example.unwrap_or_default()));
        }
        let why = why_unasked.as_deref().unwrap_or("nobody knows why");
        (*unasked > 0).then(|| format!("{unasked} conversations could not be checked ({why})"))
    }

    /// The share of what was due that failed, 0 to 1.
    pub(super) fn failed(&self) -> f64 {
        percent(self.tally.counts.failed(), self.tally.counts.due) / 100.0
    }

    /// What is timed from when something was due, with its name.
    pub(super) fn main(&self) -> (&'static str, &Fine) {
        if self.plan.over.is_http() { ("answer", &self.tally.requests) } else { ("acknowledged", &self.tally.acks) }
    }

    /// Every histogram that has anything, with its name.
    pub(super) fn histograms(&self) -> Vec<(&'static str, &Fine)> {
        let (name, main) = self.main();
        let login = if self.plan.over.is_http() { "connect" } else { "login" };
        [
            (name, main),
            ("pushed", &self.tally.pushes),
            (login, &self.tally.logins),
            ("load's lateness", &self.tally.late),
        ]
        .into_iter()
        .filter(|(_, times)| times.count() > 0)
        .collect()
    }

    /// Why the figures are the load's own, if they are.
    pub(super) fn limited_by_itself(&self) -> Option<String> {
        let late = self.tally.late.quantile_ms(0.99).unwrap_or_default();
        let all = self.main().1.quantile_ms(0.99).unwrap_or_default();
        if late > LATE_MS && late > all * LATE_SHARE {
            return Some(format!(
                "one of 100 messages was sent {late:.1} ms after it was due by the load's own doing, of {all:.1} ms in all"
            ));
        }
        let busy = self.tally.busiest;
        (busy > BUSY).then(|| format!("a process of it had {:.0} % of a processor", busy * 100.0))
    }

    /// Sessions or answers by group of servers: their name without a number at the end, as `frankfurt` of `frankfurt-2`.
    pub(super) fn localities(&self) -> BTreeMap<String, u64> {
        let mut groups = BTreeMap::new();
        for (node, count) in self.tally.places.values().flatten() {
            *groups.entry(locality(node)).or_default() += count;
        }
        groups
    }
}

/// A server's name without a number at its end.
pub(super) fn locality(node: &str) -> String {
    match node.rsplit_once('-') {
        Some((name, number)) if !name.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name.into(),
        _ => node.into(),
    }
}

/// Milliseconds with as many digits as say something.
pub(super) fn shown_ms(ms: f64) -> String {
    match ms {
        _ if ms < 9.995 => format!("{ms:.2}"),
        _ if ms < 99.95 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// From when times are counted, for the heads of tables.
pub(super) const TIMED: &str = "from when each was due, logins and connects from their beginning";

/// The report for a terminal.
pub(super) fn text(run: &Run) -> String {
    let mut lines = vec![run.headline.clone(), String::new(), summary(run), String::new()];
    let names: String = QUANTILES.iter().map(|(name, _)| format!("{name:>10}")).collect();
    lines.push(format!("{:<18}{:>10}{names}   (ms, {TIMED})", "", "count"));
    for (name, times) in run.histograms() {
        let values: String = QUANTILES
            .iter()
            .map(|(_, share)| format!("{:>10}", times.quantile_ms(*share).map_or_else(String::new, shown_ms)))
            .collect();
        lines.push(format!("{name:<18}{:>10}{values}", times.count()));
    }
    lines.push(String::new());
    let localities = run.localities();
    let all: u64 = localities.values().sum();
    for (name, count) in &localities {
        lines.push(format!("{name:<18}{:>9.1} %  ({count})", percent(*count, all)));
    }
    lines.push(String::new());
    lines.extend(verdicts(run));
    lines.extend(run.tally.troubles.iter().map(|(kind, example)| format!("  {kind}, for example: {example}")));
    lines.join("\n")
}

/// What was done, in a sentence or two.
pub(super) fn summary(run: &Run) -> String {
    let counts = &run.tally.counts;
    if run.plan.over.is_http() {
        let answers: Vec<String> =
            counts.answers.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        return format!(
            "{} requests were due, {} answered ({}), {} failed.",
            counts.due,
            counts.answers.values().sum::<u64>(),
            answers.join(", "),
            counts.failed_requests
        );
    }
    format!(
        "{} messages were due, {} acknowledged ({} after a repeat), {} refused, {} unanswered; {} pushes of {} if \
         everybody were always online. {} logins \
         ({} resumed), {} sessions broken, {} moved when asked, {} turned away, {} failed logins, {} gave up.",
        counts.due,
        counts.acknowledged,
        counts.repeated,
        counts.refused,
        counts.unanswered,
        counts.pushed,
        counts.pushes_expected,
        counts.logins,
        counts.resumed,
        counts.broken,
        counts.moved,
        counts.turned_away,
        counts.failed_logins,
        counts.gave_up
    )
}

/// Who was the limit, and whether promises were kept.
pub(super) fn verdicts(run: &Run) -> Vec<String> {
    let mut verdicts = vec![match run.limited_by_itself() {
        Some(why) => format!("THE LOAD WAS THE LIMIT, NOT THE TARGET: {why}. More processes or a lower rate may help."),
        None => match run.tally.late.quantile_ms(0.99) {
            Some(late) => format!(
                "The target was the limit of these figures, not the load, which began 99 of 100 within {} ms of when they \
                 were due.",
                shown_ms(late)
            ),
            None => "Nothing was free to begin when it was due, so that nobody knows how late the load was.".into(),
        },
    }];
    verdicts.extend(check_verdict(run));
    verdicts
}

fn check_verdict(run: &Run) -> Option<String> {
    if !run.plan.check || run.plan.over.is_http() {
        return None;
    }
    let Checked { verdict, lost, broken_promises, problems, unasked, why_unasked } = &run.checked;
    let unknown = why_unasked.as_ref().map_or_else(String::new, |why| {
        format!("NOT EVERYTHING COULD BE CHECKED: {unasked} conversations could not be asked for ({why}).")
    });
    if run.promises_kept() {
        let kept = format!(
            "Every promise was kept: {} messages are stored in {} conversations, each acknowledged one exactly once, and \
             {} pushes are what is stored.",
            verdict.stored, verdict.conversations, verdict.pushed
        );
        return Some(if *unasked == 0 { kept } else { unknown });
    }
    let strayed = run.tally.counts.strayed;
    let mut text = format!(
        "PROMISES WERE NOT KEPT: {lost} messages lost, {broken_promises} broken promises, {strayed} pushes to strangers. \
         {unknown}"
    );
    problems.iter().for_each(|problem| text += &format!("\n  {problem}"));
    Some(text)
}

pub(super) fn percent(count: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { as_float(count) / as_float(all) * 100.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::plan::tests::plan;

    /// A run of 40 s in which everything took 5 ms, but for a second in the middle.
    pub(in super::super) fn run() -> Run {
        let plan = Plan { schedule: crate::load::schedule::Schedule { time: 40.0, ..plan().schedule }, ..plan() };
        let mut tally = Tally::new(plan.step());
        for number in 0..4000_u32 {
            let due = Duration::from_millis(u64::from(number) * 10);
            let took =
                Duration::from_millis(if number / 100 == 20 { 400 } else { 5 }) + Duration::from_micros(number.into());
            tally.due(due);
            tally.acknowledged(due, due + took);
            tally.late.record(Duration::from_micros(80));
        }
        tally.moved(None, Some("frankfurt-1"));
        tally.moved(None, Some("virginia-1"));
        for second in 0..40 {
            tally.end_step(Duration::ZERO, Duration::from_secs(second));
        }
        for (country, node) in [("DE", "frankfurt-1"), ("DE", "frankfurt-2"), ("CA", "virginia-1")] {
            tally.place(country, node);
        }
        tally.online.clear();
        tally.recent = Default::default();
        let checked = Checked {
            verdict: crate::im::checker::Verdict { stored: 4000, ..Default::default() },
            ..Checked::default()
        };
        Run { format: FORMAT, headline: "here".into(), plan, processes: 1, tally, checked }
    }

    #[test]
    fn a_report_comes_back_as_it_was_written() {
        let text = serde_json::to_string(&run()).unwrap();
        assert_eq!(Run::parse(&text).unwrap(), run());
        let later = text.replacen("\"format\":1", "\"format\":2", 1);
        assert_eq!(Run::parse(&later).unwrap_err().to_string(), "a report of form 2; this program reads 1");
        assert!(Run::parse("{}").is_err());
    }

    #[test]
    fn servers_of_a_place_are_counted_together() {
        let run = run();
        assert_eq!(run.localities(), BTreeMap::from([("frankfurt".into(), 2), ("virginia".into(), 1)]));
        for (node, want) in [("im-1", "im"), ("im", "im"), ("-1", "-1"), ("us-east", "us-east")] {
            assert_eq!(locality(node), want);
        }
        let text = text(&run);
        assert!(text.contains("frankfurt              66.7 %  (2)"), "{text}");
    }

    #[test]
    fn it_says_when_the_load_was_the_limit() {
        let mut run = run();
        assert_eq!(run.limited_by_itself(), None);
        for _ in 0..100 {
            run.tally.late.record(Duration::from_millis(300));
        }
        let why = run.limited_by_itself().unwrap();
        assert!(why.contains("300.") && text(&run).contains("THE LOAD WAS THE LIMIT"), "{why}");
    }

    #[test]
    fn broken_promises_are_told() {
        let mut run = run();
        assert!(text(&run).contains("Every promise was kept"));
        run.checked.broken_promises = 1;
        run.checked.problems.push("message 7 is gone".into());
        let told = text(&run);
        assert!(!run.promises_kept() && told.contains("NOT KEPT") && told.contains("message 7 is gone"), "{told}");
        // A push to a stranger breaks one, too, of whatever conversation it is.
        let mut run = super::tests::run();
        run.tally.counts.strayed = 1;
        assert!(!run.promises_kept() && text(&run).contains("1 pushes to strangers"), "{}", text(&run));
    }

    #[test]
    fn what_nobody_knows_is_no_broken_promise() {
        let mut run = run();
        assert_eq!(run.tells_nothing(), None);
        run.checked.unasked = 2;
        run.checked.why_unasked = Some("the server is gone".into());
        let told = text(&run);
        assert!(run.promises_kept() && told.contains("NOT EVERYTHING COULD BE CHECKED: 2 conv"), "{told}");
        assert!(!told.contains("NOT KEPT") && !told.contains("Every promise"), "{told}");
        assert_eq!(run.tells_nothing().unwrap(), "2 conversations could not be checked (the server is gone)");
        run.tally.counts.unanswered = run.tally.counts.due;
        assert_eq!(run.tells_nothing().unwrap(), "none of 4000 was answered");
    }
}
