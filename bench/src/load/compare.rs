//! Two runs side by side: how far each quantile is apart, and whether that is more than the noise within the runs.
//!
//! **How it is judged.** A run is cut into blocks of time. From the blocks of each run as many are drawn again and again,
//! with repetition, and the quantiles of what was drawn are compared: 95 % of the ratios are within the interval that is
//! shown (a bootstrap over blocks; Efron 1979, Künsch 1989). Blocks and not single messages, because those of one moment
//! share their fate. If the interval does not have "the same" in it, the difference is more than noise.
//!
//! What it cannot know is how far two runs of the same thing are apart on a machine that does other things, too.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    report::{QUANTILES, Run, shown_ms},
    times::Coarse,
};
use crate::output;

/// Blocks of a run at most; neighbours are put together.
const MOST_BLOCKS: usize = 60;
/// With fewer a run tells nothing about its own noise.
const LEAST_BLOCKS: usize = 10;
const DRAWS: usize = 400;
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
    lines.push(format!("{:<8}{:>10}{:>10}{:>10}   95 % of draws      verdict", "", "A, ms", "B, ms", "B / A"));
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
    /// Of the ratio; `None` when the runs are too short to tell.
    interval: Option<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Slower,
    Faster,
    WithinNoise,
    TooShort,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.other / self.one
    }

    fn verdict(&self) -> Verdict {
        match self.interval {
            None => Verdict::TooShort,
            Some((low, _)) if low > 1.0 && self.ratio() > 1.0 + SMALLEST => Verdict::Slower,
            Some((_, high)) if high < 1.0 && self.ratio() < 1.0 - SMALLEST => Verdict::Faster,
            Some(_) => Verdict::WithinNoise,
        }
    }

    fn line(&self) -> String {
        let interval = self.interval.map_or_else(|| "-".into(), |(low, high)| format!("{low:.2} to {high:.2}"));
        let verdict = match self.verdict() {
            Verdict::Slower => "B IS SLOWER, by more than the noise",
            Verdict::Faster => "B is faster, by more than the noise",
            Verdict::WithinNoise => "within the noise",
            Verdict::TooShort => "too short to tell",
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
    // A maximum is one message: no draw says anything about it.
    let told = QUANTILES.iter().filter(|(name, _)| *name != "max");
    told.filter_map(|&(name, share)| {
        let (one, other) = (one.main().1.quantile_ms(share)?, other.main().1.quantile_ms(share)?);
        let [first, second] = &both;
        let ratio = |[one, other]: &[Vec<u64>; 2]| second.quantile(other, share) / first.quantile(one, share);
        Some(Row { name, one, other, interval: middle(draws.iter().map(ratio).collect()) })
    })
    .collect()
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

/// Where the middle 95 % of some values are.
fn middle(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let edge = values.len() / 40;
    Some((*values.get(edge)?, *values.get(values.len().checked_sub(1 + edge)?)?))
}

/// What the two were asked for differently, a line each.
fn differences(one: &Run, other: &Run) -> Vec<String> {
    let (Ok(Value::Object(one)), Ok(Value::Object(other))) =
        (serde_json::to_value(&one.plan), serde_json::to_value(&other.plan))
    else {
        return Vec::new();
    };
    let differ = one.iter().filter(|(name, value)| *name != "run" && other.get(*name) != Some(*value));
    differ.map(|(name, value)| format!("  {name}: {value}, and {}", other.get(name).unwrap_or(&Value::Null))).collect()
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
            run.tally.acknowledged(due, due + Duration::from_secs_f64(ms * factor / 1000.0));
        }
        run
    }

    fn verdicts(one: &Run, other: &Run) -> Vec<(&'static str, Verdict)> {
        rows(one, other).iter().map(|row| (row.name, row.verdict())).collect()
    }

    #[test]
    fn two_runs_of_the_same_are_within_the_noise() {
        for seed in 0..5 {
            let (one, other) = (run(1.0, seed), run(1.0, seed + 100));
            for (name, verdict) in verdicts(&one, &other).into_iter().take(2) {
                assert_eq!(verdict, Verdict::WithinNoise, "{name}, {seed}: {}", text(&one, &other));
            }
        }
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
        assert_ne!(p99, Some(("p99", Verdict::Faster)));
    }

    #[test]
    fn short_runs_and_different_questions_are_said() {
        let mut short = run(1.0, 1);
        short.tally.steps.truncate(5);
        assert!(verdicts(&short, &short).iter().all(|(_, verdict)| *verdict == Verdict::TooShort));
        let other = Run { plan: Plan { users: 7, run: "other".into(), ..short.plan.clone() }, ..short.clone() };
        assert_eq!(differences(&short, &other), ["  users: 12, and 7"]);
    }
}
