//! Balls into bins: clients that come and stay, and endpoints of weight 1.

use crate::edge::{Edge, best_of, cluster};

/// How many bins have at least 0, 1, 2, … balls, after so many balls with so many choices each.
pub(crate) fn throw(choices: u8, bins: u32, balls: u32, seed: u64) -> Vec<u32> {
    let view = cluster(best_of(choices), &[bins]);
    let mut edge = Edge::new(&view, seed);
    let _held: Vec<_> = (0..balls).map(|_| edge.must_pick(None, 0.0)).collect();
    let loads: Vec<u32> = view.endpoints.iter().map(|endpoint| endpoint.load.leases()).collect();
    let fullest = loads.iter().copied().max().unwrap_or(0);
    let at_least = |balls: u32| u32::try_from(loads.iter().filter(|&&load| load >= balls).count()).expect("few bins");
    (0..=fullest).map(at_least).collect()
}

pub(crate) fn fullest(at_least: &[u32]) -> usize {
    at_least.len() - 1
}

/// The share of bins with at least k balls for n balls in n bins, as n grows: the solution at time 1 of
/// `ds_k/dt = s_(k-1)^d − s_k^d` (Mitzenmacher, "Studying Balanced Allocations with Differential Equations", Combinatorics,
/// Probability and Computing 8, 1999).
pub(crate) fn limit(choices: u8) -> Vec<f64> {
    const STEPS: u32 = 10_000;
    let mut shares = vec![0.0; 20];
    shares[0] = 1.0;
    for _ in 0..STEPS {
        let powers: Vec<f64> = shares.iter().map(|share: &f64| share.powi(choices.into())).collect();
        for (k, share) in shares.iter_mut().enumerate().skip(1) {
            *share += (powers[k - 1] - powers[k]) / f64::from(STEPS);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    const BINS: u32 = 20_000;

    #[test]
    fn as_many_bins_have_as_many_balls_as_the_differential_equations_say() {
        let seed = Seed::of_this_run();
        for choices in 1..=4 {
            let thrown = throw(choices, BINS, BINS, seed.get());
            for (k, share) in limit(choices).into_iter().enumerate() {
                let got = f64::from(thrown.get(k).copied().unwrap_or(0)) / f64::from(BINS);
                // Six standard deviations of independent bins, and the error of the steps. Bins with choices vary less.
                let tolerance = 6.0 * (share * (1.0 - share) / f64::from(BINS)).sqrt() + 0.0005;
                assert!((got - share).abs() < tolerance, "{choices} choices, {k} balls: {got}, and {share} expected");
            }
        }
    }

    /// One choice: Γ⁻¹(n) − 3/2 on average (Gonnet, "Expected Length of the Longest Probe Sequence in Hash Code
    /// Searching", JACM 28, 1981), which is 6.8 for 10 000. More choices: ln ln n / ln d + O(1) (Azar, Broder, Karlin and
    /// Upfal, "Balanced Allocations", SIAM Journal on Computing 29, 1999), with an O(1) that is under 1.5 here.
    #[test]
    fn the_fullest_bin_is_as_full_as_published() {
        let seed = Seed::of_this_run();
        let runs = |choices| -> Vec<usize> {
            (0..8).map(|run| fullest(&throw(choices, 10_000, 10_000, seed.get() * 100 + run))).collect()
        };
        let one = runs(1);
        let mean = one.iter().sum::<usize>() as f64 / 8.0;
        assert!((mean - 6.84).abs() < 1.0, "{one:?}");
        for choices in 2..=4 {
            let published = 10_000_f64.ln().ln() / f64::from(choices).ln();
            let full = runs(choices);
            let near = |&full: &usize| (full as f64 - published).abs() < 1.5;
            assert!(full.iter().all(near), "{choices} choices: {full:?}, and {published} and a constant expected");
        }
    }

    /// Ten times as many bins: with one choice there is about one ball more in the fullest, with two none.
    #[test]
    fn with_two_choices_the_fullest_of_a_hundred_thousand_is_hardly_fuller() {
        let seed = Seed::of_this_run();
        let two = fullest(&throw(2, 100_000, 100_000, seed.get()));
        assert!((3..=4).contains(&two), "{two}");
    }

    /// n bins and many more balls. One choice: √(2 · m/n · ln n) over the mean (Raab and Steger, "Balls into Bins: A Simple
    /// and Tight Analysis", RANDOM 1998), so it grows with the balls. Two: ln ln n / ln 2 + O(1) over the mean, however
    /// many balls (Berenbrink, Czumaj, Steger and Vöcking, "Balanced Allocations: The Heavily Loaded Case", STOC 2000).
    #[test]
    fn with_two_choices_what_the_fullest_has_over_the_mean_does_not_grow_with_the_balls() {
        let seed = Seed::of_this_run();
        let over_the_mean = |choices, each: u32| fullest(&throw(choices, 100, 100 * each, seed.get())) - each as usize;
        for each in [10, 100, 1000] {
            let (one, two) = (over_the_mean(1, each) as f64, over_the_mean(2, each));
            let published = (2.0 * f64::from(each) * 100_f64.ln()).sqrt();
            assert!((0.6..1.5).contains(&(one / published)), "{one} over {each}, and {published} expected");
            assert!(two <= 4, "{two} over {each}");
        }
    }
}
