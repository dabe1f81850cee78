//! Whether a target is met, and whether that can be told.
//!
//! The median over the rounds decides. Two things may keep it from deciding. With fewer than three rounds there is no
//! spread worth the name. And where some rounds meet the target and others miss it, the machine has to have been quiet:
//! with a spread of more than a quarter, or with a round in which others took much of the machine, it is too noisy to
//! tell. Where all rounds agree, noise does not matter.

use std::fmt;

use serde::Serialize;

use super::{
    samples::{Samples, Side},
    targets::{Limit, Target},
};
use crate::{measure::Conditions, report::Spread};

/// Rounds without which nothing is said.
const ROUNDS: usize = 3;
/// Between the largest and the smallest round, as a share of the median.
pub(super) const WIDE: f64 = 0.25;
/// Of the machine, taken by other virtual machines.
pub(super) const STOLEN: f64 = 0.05;
/// Of the proxy's core, used by others than the proxy.
pub(super) const OTHERS: f64 = 0.10;
/// Microseconds (p99) by which the load itself may be late with its messages.
pub(super) const LATE: f64 = 1000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Met,
    Missed,
    TooNoisy,
    TooFewRounds,
    /// Nobody was there to compare with, or nothing was added that could be told from nothing.
    NotMeasurable,
}

/// A target and what was measured for it: a value, or a ratio.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement {
    pub(super) target: Target,
    pub(super) measured: Option<Spread>,
    pub(super) verdict: Verdict,
}

impl Judgement {
    pub(super) fn of(target: Target, samples: &Samples) -> Self {
        let Target { row, figure, .. } = target;
        let rounds = samples.conditions(row, figure, Side::WARBLER).count();
        let measured = match target.limit {
            Limit::Of(_) => samples.values(row, figure, Side::WARBLER),
            Limit::TimesTheBetter(_) | Limit::TimesHaproxy(_) => samples.ratios(row, figure, target.others()),
        };
        let verdict = verdict(&target, &measured, rounds, || is_disturbed(&target, samples));
        Self { target, measured: Spread::of(measured), verdict }
    }
}

fn verdict(target: &Target, measured: &[f64], rounds: usize, disturbed: impl Fn() -> bool) -> Verdict {
    // Rounds that say nothing must not leave the word to a lucky few.
    let Some(spread) = Spread::of(measured.iter().copied()).filter(|_| 2 * measured.len() > rounds) else {
        return Verdict::NotMeasurable;
    };
    if measured.len() < ROUNDS {
        return Verdict::TooFewRounds;
    }
    let split = target.is_met_by(spread.low) != target.is_met_by(spread.high);
    if split && disturbed() {
        Verdict::TooNoisy
    } else if target.is_met_by(spread.median) {
        Verdict::Met
    } else {
        Verdict::Missed
    }
}

fn is_disturbed(target: &Target, samples: &Samples) -> bool {
    let Target { row, figure, .. } = *target;
    let sides: Vec<Side> = [Side::WARBLER].iter().chain(target.others()).copied().collect();
    let wide = |side: &Side| samples.spread(row, figure, *side).is_some_and(|spread| spread.width() > WIDE);
    // What latency is compared with may have been disturbed as well.
    let mut went = sides.iter().chain(&[Side::Direct]).flat_map(|side| samples.conditions(row, figure, *side));
    sides.iter().any(wide) || went.any(|conditions| conditions.disturbance().is_some())
}

impl Conditions {
    /// What makes a measurement doubtful by itself.
    pub(super) fn disturbance(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        if self.stolen > STOLEN {
            Some(format!("other virtual machines took {} of the machine", percent(self.stolen)))
        } else if self.others > OTHERS {
            Some(format!("others used {} of the proxy's core", percent(self.others)))
        } else {
            let late = self.late.filter(|late| *late > LATE)?;
            Some(format!("the load itself was late by {late:.0} µs (p99)"))
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Missed => "**missed**",
            Self::TooNoisy => "too noisy to tell",
            Self::TooFewRounds => "too few rounds to tell",
            Self::NotMeasurable => "not measurable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples::tests::rounds, *};
    use crate::{
        compare::targets,
        measure::{Measurement, Row, figure::Figure},
    };

    /// The verdict on the one target of CPU by message over TCP, 0.95 × the better.
    fn check(values: &[[f64; 3]], want: Verdict) {
        let samples = rounds("message/tcp", Figure::Cpu, values);
        let target = targets::of(Row::named("message/tcp").unwrap()[0], Figure::Cpu).next().unwrap();
        assert_eq!(Judgement::of(target, &samples).verdict, want, "{values:?}");
    }

    #[test]
    fn the_median_decides_when_the_rounds_agree() {
        check(&[[9.0, 10.0, 20.0], [9.1, 10.0, 20.0], [9.2, 10.0, 20.0]], Verdict::Met);
        check(&[[9.7, 10.0, 20.0], [9.8, 10.0, 20.0], [9.9, 10.0, 20.0]], Verdict::Missed);
    }

    #[test]
    fn noise_does_not_matter_when_every_round_is_on_the_same_side() {
        check(&[[4.0, 10.0, 20.0], [9.0, 10.0, 20.0], [18.0, 20.0, 40.0]], Verdict::Met);
    }

    #[test]
    fn rounds_that_disagree_decide_only_when_they_are_near_to_each_other() {
        check(&[[9.4, 10.0, 20.0], [9.4, 10.0, 20.0], [9.6, 10.0, 20.0]], Verdict::Met);
        check(&[[7.0, 10.0, 20.0], [9.4, 10.0, 20.0], [9.9, 10.0, 20.0]], Verdict::TooNoisy);
        // The other side counts as well.
        check(&[[9.4, 10.0, 20.0], [9.4, 10.0, 20.0], [9.6, 7.0, 20.0]], Verdict::TooNoisy);
    }

    #[test]
    fn a_machine_that_others_used_does_not_decide_between_rounds_that_disagree() {
        let mut samples = rounds("message/tcp", Figure::Cpu, &[[9.4, 10.0, 20.0], [9.4, 10.0, 20.0]]);
        let row = Row::named("message/tcp").unwrap()[0];
        for (side, value, stolen) in [(Side::WARBLER, 9.6, 0.2), (Side::OTHERS[0], 10.0, 0.0)] {
            let conditions = Conditions { stolen, ..Conditions::default() };
            samples.add(3, row, side, &Measurement { figures: vec![(Figure::Cpu, value)], conditions });
        }
        let target = targets::of(row, Figure::Cpu).next().unwrap();
        assert_eq!(Judgement::of(target, &samples).verdict, Verdict::TooNoisy);
    }

    #[test]
    fn few_rounds_and_none_say_so() {
        check(&[[9.0, 10.0, 20.0], [9.0, 10.0, 20.0]], Verdict::TooFewRounds);
        check(&[], Verdict::NotMeasurable);
    }

    #[test]
    fn a_value_is_judged_without_others() {
        let samples = rounds("idle/tcp", Figure::Memory, &[[1.5, 1.0, 1.0], [1.6, 1.0, 1.0], [1.7, 1.0, 1.0]]);
        let mut judged = targets::of(Row::named("idle/tcp").unwrap()[0], Figure::Memory)
            .map(|target| Judgement::of(target, &samples).verdict);
        assert_eq!([judged.next(), judged.next()], [Some(Verdict::Met), Some(Verdict::Missed)]);
    }

    #[test]
    fn what_disturbed_is_told() {
        assert!(Conditions::default().disturbance().is_none());
        let told = |conditions: Conditions| conditions.disturbance().unwrap();
        assert!(told(Conditions { stolen: 0.1, ..Conditions::default() }).contains("10 % of the machine"));
        assert!(told(Conditions { others: 0.2, ..Conditions::default() }).contains("20 % of the proxy's core"));
        assert!(told(Conditions { late: Some(1500.0), ..Conditions::default() }).contains("1500 µs"));
    }
}
