//! Random numbers, passed in by whoever asks for a pick.
//!
//! There is no global source on purpose: each worker owns its dice, so a pick takes no lock and shares no cache line,
//! and a test or an `explain` repeats a pick by repeating the seed.

/// Random numbers for one worker.
pub trait Dice {
    /// Any of the 2^64 values, each as likely as the others.
    fn next_u64(&mut self) -> u64;

    /// A number under `n`, each as likely as the others. For `n` of zero or one there is nothing to draw, and it is 0.
    ///
    /// Lemire's multiply-and-reject method ("Fast Random Integer Generation in an Interval", 2019): exact, and without a
    /// division in all but a few of 2^32 draws.
    fn below(&mut self, n: u32) -> u32 {
        if n <= 1 {
            return 0;
        }
        let mut product = u64::from(high(self.next_u64())) * u64::from(n);
        if low(product) < n {
            let unfair = n.wrapping_neg() % n;
            while low(product) < unfair {
                product = u64::from(high(self.next_u64())) * u64::from(n);
            }
        }
        high(product)
    }
}

/// Small deterministic dice: equal seeds give equal sequences, on every machine. For tests, simulations and `explain`, and
/// good enough to spread live traffic; useless as a secret.
///
/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014): every seed is a good seed.
#[derive(Debug, Clone)]
pub struct SeededDice {
    state: u64,
}

impl SeededDice {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }
}

impl Dice for SeededDice {
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The upper half of a 64-bit number.
pub(crate) fn high(number: u64) -> u32 {
    u32::try_from(number >> 32).expect("a 64-bit number shifted by 32 has 32 bits left")
}

/// The lower half of a 64-bit number.
pub(crate) fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("the mask leaves 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences() {
        let (mut one, mut other) = (SeededDice::new(7), SeededDice::new(7));
        assert!((0..100).all(|_| one.next_u64() == other.next_u64()));
    }

    #[test]
    fn the_first_numbers_are_those_of_the_published_generator() {
        // Vigna's splitmix64.c with the seed 1234567.
        let mut dice = SeededDice::new(1_234_567);
        assert_eq!(dice.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(dice.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn below_stays_below_and_reaches_every_number_alike() {
        let mut dice = SeededDice::new(1);
        let mut seen = [0_u32; 7];
        for _ in 0..70_000 {
            seen[dice.below(7) as usize] += 1;
        }
        // Standard deviation of each count is about 93; five of them are a fault, not luck.
        assert!(seen.iter().all(|&count| count.abs_diff(10_000) < 465), "{seen:?}");
    }

    #[test]
    fn below_rejects_the_draws_that_would_be_unfair() {
        struct Scripted(Vec<u64>);
        impl Dice for Scripted {
            fn next_u64(&mut self) -> u64 {
                self.0.pop().unwrap()
            }
        }
        // For n = 3, 2^32 mod 3 is 1, so exactly the draw 0 is thrown away.
        let mut dice = Scripted(vec![u64::MAX, 0]);
        assert_eq!(dice.below(3), 2);
        assert!(dice.0.is_empty());
    }

    #[test]
    fn nothing_is_drawn_where_there_is_no_choice() {
        struct Untouchable;
        impl Dice for Untouchable {
            fn next_u64(&mut self) -> u64 {
                panic!("drew without need")
            }
        }
        assert_eq!(Untouchable.below(0), 0);
        assert_eq!(Untouchable.below(1), 0);
    }
}
