//! Two runs side by side: how far each quantile is apart, and whether that is more than the noise within the runs.
//!
//! **How it is judged.** A run is cut into blocks of time. From the blocks of each run as many are drawn again and again,
//! with repetition, and the quantiles of what was drawn are compared: 99 % of the ratios are within the interval that is
//! shown (a bootstrap over blocks; Efron 1979, Künsch 1989). Blocks and not single messages, because those of one moment
//! share their fate. If the interval does not have "the same" in it, the difference is more than noise. 99 % and not 95 %,
//! because there are five quantiles, of which one is outside by chance that much more often (Bonferroni).
//!
//! Of few messages a quantile far out is one of the largest of them, and no draw says how large the next one would be:
//! such rows have no verdict. Nor has any row when the runs failed at different shares: what failed is in the quantiles
//! as a wait, and who fails more has fewer left to do.
//!
//! What it cannot know is how far two runs of the same thing are apart on a machine that does other things, too.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    report::{QUANTILES, Run, as_float, shown_ms},
    times::Coarse,
};
use crate::output;

/// Blocks of a run at most; neighbours are put together.
const MOST_BLOCKS: usize = 60;
/// With fewer a run tells nothing about its own noise.
const LEAST_BLOCKS: usize = 10;
/// Messages of each run that have to be beyond a quantile, so that it is more than one of the largest.
const LEAST_BEYOND: f64 = 20.0;
const DRAWS: usize = 1000;
/// Shares of failures are the same up to so many standard deviations.
const DEVIATIONS: f64 = 3.0;
/// Where the draws begin: the same two files give the same answer.
const SEED: u64 = 0x0005_eed0;
/// Smaller differences are within what the histograms tell apart.
const SMALLEST: f64 = 0.02;

/// Compares two reports and prints what is different.
///
/// # Errors
/// When a file is no report, or the two are of different things.
pub(crate) fn run(before: &Path, after: &Path) -> Result<()> {
    let (one, other) = (read(before)?, read(after)?);
    ensure!(
        one.plan.over.is_http() == other.plan.over.is_http(),
        "one run is of HTTP requests and the other of messages: there is nothing to compare"
    );
    output::data(text(&one, &other));
    Ok(())
}

fn read(file: &Path) -> Result<Run> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Run::parse(&text).with_context(|| format!("{} cannot be compared", file.display()))
}

fn text(one: &Run, other: &Run) -> String {
    let mut lines = vec![format!("A: {}", one.headline), format!("B: {}", other.headline), String::new()];
    let differences = differences(one, other);
    if !differences.is_empty() {
        lines.push("The two runs were not asked for the same:".into());
        lines.extend(differences);
        lines.push(String::new());
    }
    for (name, run) in [("A", one), ("B", other)] {
        if let Some(why) = run.limited_by_itself() {
            lines.push(format!("In {name} the load was the limit and not the target: {why}."));
        }
    }
    let shares = [one, other].map(|run| format!("{:.2} %", run.failed() * 100.0));
    lines.push(format!("Failed, refused or unanswered: {} in A, {} in B.", shares[0], shares[1]));
    if fail_differently(one, other) {
        lines.push("THE SHARES OF FAILURES DIFFER: how long the rest took cannot be compared.".into());
    }
    lines.push(format!("{:<8}{:>10}{:>10}{:>10}   99 % of draws      verdict", "", "A, ms", "B, ms", "B / A"));
    lines.extend(rows(one, other).iter().map(Row::line));
    for (name, run) in [("A", one), ("B", other)] {
        if !run.promises_kept() {
            lines.push(format!("In {name} promises were not kept."));
        }
    }
    lines.join("\n")
}

/// One quantile.
#[derive(Debug)]
struct Row {
    name: &'static str,
    one: f64,
    other: f64,
    /// Of the ratio.
    interval: Result<(f64, f64), NoVerdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoVerdict {
    /// The runs are too short for this quantile.
    TooShort,
    /// They failed at different shares.
    Failures,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Slower,
    Faster,
    WithinNoise,
    None(NoVerdict),
}

impl Row {
    fn ratio(&self) -> f64 {
        self.other / self.one
    }

    fn verdict(&self) -> Verdict {
        match self.interval {
            Err(why) => Verdict::None(why),
            Ok((low, _)) if low > 1.0 && self.ratio() > 1.0 + SMALLEST => Verdict::Slower,
            Ok((_, high)) if high < 1.0 && self.ratio() < 1.0 - SMALLEST => Verdict::Faster,
            Ok(_) => Verdict::WithinNoise,
        }
    }

    fn line(&self) -> String {
        let interval = self.interval.map_or_else(|_| "-".into(), |(low, high)| format!("{low:.2} to {high:.2}"));
        let verdict = match self.verdict() {
            Verdict::Slower => "B IS SLOWER, by more than the noise",
            Verdict::Faster => "B is faster, by more than the noise",
            Verdict::WithinNoise => "within the noise",
            Verdict::None(NoVerdict::TooShort) => "too short to tell",
            Verdict::None(NoVerdict::Failures) => "none: failures differ",
        };
        format!(
            "{:<8}{:>10}{:>10}{:>10.2}   {interval:<18} {verdict}",
            self.name,
            shown_ms(self.one),
            shown_ms(self.other),
            self.ratio()
        )
    }
}

fn rows(one: &Run, other: &Run) -> Vec<Row> {
    let both = [Blocks::of(one), Blocks::of(other)];
    let enough = both.iter().all(|blocks| blocks.counts.len() >= LEAST_BLOCKS);
    let mut dice = fastrand::Rng::with_seed(SEED);
    let draws: Vec<[Vec<u64>; 2]> = if enough {
        (0..DRAWS).map(|_| both.each_ref().map(|blocks| blocks.draw(&mut dice))).collect()
    } else {
        Vec::new()
    };
    let fewest = one.main().1.count().min(other.main().1.count());
    let fail_differently = fail_differently(one, other);
    // A maximum is one message: no draw says anything about it.
    let told = QUANTILES.iter().filter(|(name, _)| *name != "max");
    told.filter_map(|&(name, share)| {
        let (one, other) = (one.main().1.quantile_ms(share)?, other.main().1.quantile_ms(share)?);
        let [first, second] = &both;
        let ratio = |[one, other]: &[Vec<u64>; 2]| second.quantile(other, share) / first.quantile(one, share);
        let drawn = || middle(draws.iter().map(ratio).collect()).ok_or(NoVerdict::TooShort);
        let interval = match () {
            () if fail_differently => Err(NoVerdict::Failures),
            () if as_float(fewest) * (1.0 - share) < LEAST_BEYOND => Err(NoVerdict::TooShort),
            () => drawn(),
        };
        Some(Row { name, one, other, interval })
    })
    .collect()
}

/// Whether the shares of failures are further apart than chance has it, if both were one (a test of two proportions).
fn fail_differently(one: &Run, other: &Run) -> bool {
    let [(failed, due), (others_failed, others_due)] =
        [one, other].map(|run| (as_float(run.tally.counts.failed()), as_float(run.tally.counts.due.max(1))));
    let share = (failed + others_failed) / (due + others_due);
    let deviation = (share * (1.0 - share) * (1.0 / due + 1.0 / others_due)).sqrt();
    (failed / due - others_failed / others_due).abs() > DEVIATIONS * deviation
}

/// A run in parts of time: which times there were, and how often each came in each part.
struct Blocks {
    /// In nanoseconds, in their order.
    times: Vec<u64>,
    /// For each part: the place of a time in `times`, and how often it came.
    counts: Vec<Vec<(usize, u64)>>,
}

impl Blocks {
    /// What was due in each part of the run, without parts in which nothing was.
    fn of(run: &Run) -> Self {
        let steps: Vec<&Coarse> =
            run.tally.steps.iter().map(|step| &step.times).filter(|times| times.count() > 0).collect();
        let together = steps.len().div_ceil(MOST_BLOCKS).max(1);
        let mut times: Vec<u64> = steps.iter().flat_map(|step| step.buckets()).map(|(time, _)| time).collect();
        times.sort_unstable();
        times.dedup();
        let place = |time| times.binary_search(&time).unwrap_or_default();
        let block = |steps: &[&Coarse]| {
            steps.iter().flat_map(|step| step.buckets()).map(|(time, count)| (place(time), count)).collect()
        };
        Self { counts: steps.chunks(together).map(block).collect(), times }
    }

    /// How often each time comes in as many parts as there are, drawn with repetition.
    fn draw(&self, dice: &mut fastrand::Rng) -> Vec<u64> {
        let mut drawn = vec![0; self.times.len()];
        for _ in 0..self.counts.len() {
            for (place, count) in &self.counts[dice.usize(..self.counts.len())] {
                drawn[*place] += count;
            }
        }
        drawn
    }

    /// The time within which this share of what was drawn is.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of an hour and counts of a run are below 2^52")]
    fn quantile(&self, drawn: &[u64], share: f64) -> f64 {
        let wanted = (drawn.iter().sum::<u64>() as f64 * share).ceil();
        let mut seen = 0;
        let found = drawn.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        });
        found.map_or(f64::NAN, |place| self.times[place] as f64)
    }
}

/// Where the middle 99 % of some values are.
fn middle(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let edge = values.len() / 200;
    Some((*values.get(edge)?, *values.get(values.len().checked_sub(1 + edge)?)?))
}

/// What the two were asked for differently, a line each.
fn differences(one: &Run, other: &Run) -> Vec<String> {
    let by =
        (one.processes != other.processes).then(|| format!("  processes: {}, and {}", one.processes, other.processes));
    let (Ok(Value::Object(one)), Ok(Value::Object(other))) =
        (serde_json::to_value(&one.plan), serde_json::to_value(&other.plan))
    else {
        return Vec::new();
    };
    let differ = one.iter().filter(|(name, value)| *name != "run" && other.get(*name) != Some(*value));
    let differ =
        differ.map(|(name, value)| format!("  {name}: {value}, and {}", other.get(name).unwrap_or(&Value::Null)));
    differ.chain(by).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::{plan::Plan, report::tests, tally::Tally};

    /// A run of 40 s at 100 a second in which messages took 4 to 6 ms, all of it times `factor`, and one of 50 took 60 ms.
    fn run(factor: f64, seed: u64) -> Run {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut run = tests::run();
        run.tally = Tally::new(run.plan.step());
        for number in 0..4000_u64 {
            let due = Duration::from_millis(number * 10);
            let ms = if dice.u8(..50) == 0 { 60.0 } else { 4.0 + 2.0 * dice.f64() };
            run.tally.due(due);
            run.tally.acknowledged(due, due + Duration::from_secs_f64(ms * factor / 1000.0));
        }
        run
    }

    fn verdicts(one: &Run, other: &Run) -> Vec<(&'static str, Verdict)> {
        rows(one, other).iter().map(|row| (row.name, row.verdict())).collect()
    }

    #[test]
    fn two_runs_of_the_same_are_within_the_noise() {
        let mut wrong = Vec::new();
        for seed in 0..40 {
            let (one, other) = (run(1.0, seed), run(1.0, seed + 100));
            let all = verdicts(&one, &other);
            assert_eq!(all[4], ("p99.99", Verdict::None(NoVerdict::TooShort)), "4000 have no such quantile");
            let told = all.into_iter().filter(|(_, verdict)| matches!(verdict, Verdict::Slower | Verdict::Faster));
            wrong.extend(told.map(|(name, _)| (name, seed)));
        }
        // Three rows of each pair have a verdict, and one of 100 of these may be wrong; four of 120 are by chance in one
        // of 30 cases. The seeds are fixed.
        assert!(wrong.len() <= 3, "{wrong:?}");
    }

    #[test]
    fn a_target_that_fails_is_not_compared() {
        let (one, mut other) = (run(1.0, 1), run(1.0, 2));
        assert!(!fail_differently(&one, &other));
        // A few of 4000 are chance, and many are not.
        other.tally.counts.unanswered = 3;
        assert!(!fail_differently(&one, &other));
        other.tally.counts.unanswered = 400;
        assert!(verdicts(&one, &other).iter().all(|(_, verdict)| *verdict == Verdict::None(NoVerdict::Failures)));
        assert!(text(&one, &other).contains("0.00 % in A, 10.00 % in B"), "{}", text(&one, &other));
    }

    #[test]
    fn a_planted_difference_is_found_and_has_a_direction() {
        let (one, other) = (run(1.0, 1), run(1.15, 2));
        assert_eq!(verdicts(&one, &other)[..2], [("p50", Verdict::Slower), ("p90", Verdict::Slower)]);
        assert_eq!(verdicts(&other, &one)[..2], [("p50", Verdict::Faster), ("p90", Verdict::Faster)]);
        assert!(text(&one, &other).contains("B IS SLOWER"));
    }

    #[test]
    fn a_single_bad_second_is_noise_of_that_run() {
        // In one of 40 blocks everything took 400 ms: whether that is there again nobody can tell from one run.
        let (even, uneven) = (run(1.0, 1), tests::run());
        let p99 = verdicts(&even, &uneven).into_iter().find(|(name, _)| *name == "p99");
        assert_eq!(p99, Some(("p99", Verdict::WithinNoise)));
    }

    #[test]
    fn short_runs_and_different_questions_are_said() {
        let mut short = run(1.0, 1);
        short.tally.steps.truncate(5);
        assert!(verdicts(&short, &short).iter().all(|(_, verdict)| *verdict == Verdict::None(NoVerdict::TooShort)));
        let other =
            Run { processes: 3, plan: Plan { users: 7, run: "other".into(), ..short.plan.clone() }, ..short.clone() };
        assert_eq!(differences(&short, &other), ["  users: 12, and 7", "  processes: 1, and 3"]);
        let other = Run { plan: Plan { drawn_from: Some("DE=1".into()), ..short.plan.clone() }, ..short.clone() };
        assert_eq!(differences(&short, &other), ["  drawn_from: null, and \"DE=1\""]);
    }
}
