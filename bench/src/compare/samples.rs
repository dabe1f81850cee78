//! Every single measurement of a run, and what is made of them: spreads, and ratios by round.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    measure::{Conditions, Measurement, Row, figure::Figure, peer::Product, row::Measure},
    report::Spread,
};

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Proxy(Product),
    /// No proxy at all: what latency is compared with.
    Direct,
}

/// One figure of one measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    pub(super) round: u32,
    pub(super) row: Row,
    pub(super) peer: Side,
    pub(super) figure: Figure,
    /// As it was measured. Latency is the whole of it: what a proxy adds is made of two samples.
    pub(super) value: f64,
    pub(super) unit: &'static str,
    #[serde(flatten)]
    pub(super) conditions: Conditions,
}

#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Samples(Vec<Sample>);

impl Side {
    pub(super) const WARBLER: Self = Self::Proxy(Product::Warbler);
    pub(super) const OTHERS: [Self; 2] = [Self::Proxy(Product::Nginx), Self::Proxy(Product::Haproxy)];
}

impl Samples {
    pub(super) fn add(&mut self, round: u32, row: Row, peer: Side, measurement: &Measurement) {
        self.0.extend(measurement.figures.iter().map(|&(figure, value)| Sample {
            round,
            row,
            peer,
            figure,
            value,
            unit: figure.unit(),
            conditions: measurement.conditions,
        }));
    }

    /// The values of the rounds; of latency, what was added in the round.
    pub(super) fn values(&self, row: Row, figure: Figure, side: Side) -> Vec<f64> {
        self.of(row, figure, side).filter_map(|sample| self.comparable(sample)).collect()
    }

    pub(super) fn spread(&self, row: Row, figure: Figure, side: Side) -> Option<Spread> {
        Spread::of(self.values(row, figure, side))
    }

    /// Warbler's value of each round, as a multiple of the best that these others have in the same round. A round without
    /// both of them, or in which one of them has nothing that could be told from zero, gives none.
    pub(super) fn ratios(&self, row: Row, figure: Figure, others: &[Side]) -> Vec<f64> {
        let ratio = |sample: &Sample| {
            let values = others.iter().filter_map(|side| self.comparable(self.in_round(sample, *side)?));
            let best = figure.better().best(values)?;
            let own = self.comparable(sample)?;
            (own > 0.0 && figure.can_be_divided_by(best)).then_some(own / best)
        };
        self.of(row, figure, Side::WARBLER).filter_map(ratio).collect()
    }

    /// How the measurements of a figure went.
    pub(super) fn conditions(&self, row: Row, figure: Figure, side: Side) -> impl Iterator<Item = Conditions> {
        self.of(row, figure, side).map(|sample| sample.conditions)
    }

    /// Whether anybody was measured there.
    pub(super) fn has(&self, row: Row, figure: Figure) -> bool {
        self.0.iter().any(|sample| sample.row == row && sample.figure == figure)
    }

    fn of(&self, row: Row, figure: Figure, side: Side) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.row == row && sample.figure == figure && sample.peer == side)
    }

    fn in_round(&self, like: &Sample, side: Side) -> Option<&Sample> {
        self.of(like.row, like.figure, side).find(|sample| sample.round == like.round)
    }

    fn comparable(&self, sample: &Sample) -> Option<f64> {
        if sample.row.measure != Measure::Latency {
            return Some(sample.value);
        }
        Some(sample.value - self.in_round(sample, Side::Direct)?.value)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy(product) => product.name(),
            Self::Direct => "direct",
        })
    }
}

impl Serialize for Side {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Samples of one figure: for each round, what warbler, nginx and HAProxy have.
    pub(crate) fn rounds(row: &str, figure: Figure, rounds: &[[f64; 3]]) -> Samples {
        let row = Row::named(row).unwrap()[0];
        let mut samples = Samples::default();
        for (round, values) in (1..).zip(rounds) {
            let sides = [Side::WARBLER, Side::OTHERS[0], Side::OTHERS[1]];
            for (side, value) in sides.into_iter().zip(values) {
                let conditions = Conditions::default();
                samples.add(round, row, side, &Measurement { figures: vec![(figure, *value)], conditions });
            }
        }
        samples
    }

    fn direct(samples: &mut Samples, row: Row, round: u32, value: f64) {
        let measurement = Measurement { figures: vec![(Figure::QuietP99, value)], conditions: Conditions::default() };
        samples.add(round, row, Side::Direct, &measurement);
    }

    fn assert_near(values: &[f64], want: &[f64]) {
        assert_eq!(values.len(), want.len(), "{values:?}");
        assert!(values.iter().zip(want).all(|(value, want)| (value - want).abs() < 1e-9), "{values:?}");
    }

    #[test]
    fn a_ratio_is_made_within_a_round_and_against_the_better_other() {
        let samples = rounds("message/tcp", Figure::Cpu, &[[6.0, 8.0, 12.0], [9.0, 20.0, 10.0]]);
        let row = Row::named("message/tcp").unwrap()[0];
        assert_near(&samples.ratios(row, Figure::Cpu, &Side::OTHERS), &[0.75, 0.9]);
        assert_near(&samples.ratios(row, Figure::Cpu, &[Side::OTHERS[1]]), &[0.5, 0.9]);
        assert_near(&samples.ratios(row, Figure::Cpu, &[Side::Direct]), &[]);
        let samples = rounds("bulk/tcp", Figure::Speed, &[[30.0, 20.0, 10.0]]);
        assert_near(&samples.ratios(Row::named("bulk/tcp").unwrap()[0], Figure::Speed, &Side::OTHERS), &[1.5]);
    }

    #[test]
    fn latency_is_what_is_added_to_the_direct_way_of_the_same_round() {
        let row = Row::named("latency/tcp").unwrap()[0];
        let mut samples = rounds("latency/tcp", Figure::QuietP99, &[[150.0, 200.0, 300.0], [160.0, 300.0, 140.0]]);
        assert!(samples.spread(row, Figure::QuietP99, Side::WARBLER).is_none(), "nothing to compare with");
        direct(&mut samples, row, 1, 100.0);
        direct(&mut samples, row, 2, 150.0);
        let added = samples.spread(row, Figure::QuietP99, Side::WARBLER).unwrap();
        assert_near(&[added.low, added.high], &[10.0, 50.0]);
        // In the second round HAProxy was quicker than nothing at all: that says nothing.
        assert_near(&samples.ratios(row, Figure::QuietP99, &Side::OTHERS), &[0.5]);
    }
}
