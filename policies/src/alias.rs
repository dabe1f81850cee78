//! Draws a position in proportion to its weight, in constant time (Walker's alias method, in Vose's form).
//!
//! Every position has a column of the same width. Its own weight fills the column from below, and one other position
//! fills the rest.

use crate::dice::{Dice, high, low};

/// Weights as they were when the table was made, up to some 10^13 in all.
#[derive(Debug)]
pub(crate) struct AliasTable {
    columns: Box<[Column]>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// How much of the column is its own, in parts of 2^32.
    own: u32,
    other: u32,
}

impl AliasTable {
    pub(crate) fn new(weights: &[u64]) -> Self {
        let len = weights.len() as u64;
        let total: u64 = weights.iter().sum();
        // Scaled by their number, so that an average weight fills its column exactly, and every step is in whole numbers.
        let mut fill: Vec<u64> = weights.iter().map(|weight| weight * len).collect();
        let mut columns: Vec<Column> = (0..).zip(weights).map(|(ix, _)| Column { own: u32::MAX, other: ix }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..fill.len()).partition(|&ix| fill[ix] < total);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            columns[poor] = Column { own: part_of(fill[poor], total), other: columns[rich].other };
            fill[rich] -= total - fill[poor];
            if fill[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns: columns.into() }
    }

    /// One random number serves both choices: its upper half chooses the column, its lower half the place in it.
    pub(crate) fn draw(&self, dice: &mut impl Dice) -> usize {
        let number = dice.next_u64();
        let column = (u64::from(high(number)) * self.columns.len() as u64) >> 32;
        let column = usize::try_from(column).expect("under the number of columns");
        let Column { own, other } = self.columns[column];
        if low(number) < own { column } else { other as usize }
    }
}

/// `part` of `whole` in parts of 2^32; `part` is the smaller.
fn part_of(part: u64, whole: u64) -> u32 {
    let parts = (u128::from(part) << 32) / u128::from(whole);
    u32::try_from(parts).expect("less than the whole is less than 2^32 parts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::SeededDice;
    use proptest::prelude::*;

    fn table(weights: &[u16]) -> AliasTable {
        AliasTable::new(&weights.iter().map(|&weight| weight.into()).collect::<Vec<_>>())
    }

    /// The chance of each position, added up from the columns.
    fn chances(table: &AliasTable) -> Vec<f64> {
        let column = 1.0 / table.columns.len() as f64;
        let mut chances = vec![0.0; table.columns.len()];
        for (ix, entry) in table.columns.iter().enumerate() {
            let own = if entry.other as usize == ix { 1.0 } else { f64::from(entry.own) / 2_f64.powi(32) };
            chances[ix] += own * column;
            chances[entry.other as usize] += (1.0 - own) * column;
        }
        chances
    }

    proptest! {
        #[test]
        fn each_position_is_drawn_in_proportion_to_its_weight(weights in prop::collection::vec(1_u16..=u16::MAX, 1..200)) {
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (chance, &weight) in chances(&table(&weights)).into_iter().zip(&weights) {
                prop_assert!((chance - f64::from(weight) / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn draws_follow_the_chances() {
        let table = table(&[6, 3, 1]);
        let mut dice = SeededDice::new(5);
        let mut drawn = [0_u32; 3];
        for _ in 0..100_000 {
            drawn[table.draw(&mut dice)] += 1;
        }
        // Five standard deviations of the widest are about 775.
        for (count, want) in drawn.into_iter().zip([60_000, 30_000, 10_000_u32]) {
            assert!(count.abs_diff(want) < 775, "{drawn:?}");
        }
    }

    #[test]
    fn a_table_of_one_and_a_table_of_none_are_no_fault() {
        let mut dice = SeededDice::new(1);
        assert_eq!(table(&[9]).draw(&mut dice), 0);
        assert!(table(&[]).columns.is_empty());
    }
}
