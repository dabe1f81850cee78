//! What several rounds say together.

/// The smallest, the middle and the largest of some values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { low, median, high })
    }

    /// How far the rounds are apart, as a share of the median.
    pub(crate) fn width(&self) -> f64 {
        (self.high - self.low) / self.median.abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_the_rounds() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        let near = |value: f64, want: f64| (value - want).abs() < 1e-9;
        assert!(near(spread.low, 1.0) && near(spread.median, 2.0) && near(spread.high, 3.0));
        assert!(near(spread.width(), 1.0));
        assert!(near(Spread::of([1.0, 2.0]).unwrap().median, 1.5));
        assert!(Spread::of([]).is_none());
    }
}
