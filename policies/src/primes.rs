//! Prime numbers. A walk with any step over a prime number of places comes to all of them.

/// Whether a number is prime. By trial division: at most 32 768 divisions, when configuration is checked or tables are built.
pub(crate) fn is_prime(n: u32) -> bool {
    let divides = |divisor: &u32| n.is_multiple_of(*divisor);
    let within_root = |divisor: &u32| u64::from(*divisor) * u64::from(*divisor) <= u64::from(n);
    match n {
        0 | 1 => false,
        2 => true,
        _ => n % 2 == 1 && !(3..).step_by(2).take_while(within_root).any(|divisor| divides(&divisor)),
    }
}

/// The smallest prime that is at least `n`, for `n` up to 4 294 967 291, the greatest prime of 32 bits.
pub(crate) fn at_least(n: u32) -> u32 {
    (n..=u32::MAX).find(|&candidate| is_prime(candidate)).expect("nothing has as many as 2^32 members")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_primes_are_found() {
        let found: Vec<u32> = (0..50).filter(|&n| is_prime(n)).collect();
        assert_eq!(found, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
    }

    #[test]
    fn squares_of_primes_and_great_numbers_are_told_apart() {
        assert!(is_prime(65_537) && is_prime(5_000_011) && is_prime(4_294_967_291));
        assert!(!is_prime(257 * 257) && !is_prime(65_521 * 65_521) && !is_prime(u32::MAX));
    }

    #[test]
    fn the_next_prime_is_the_number_itself_where_it_is_one() {
        assert_eq!([0, 2, 8, 24, 65_537, 65_538].map(at_least), [2, 2, 11, 29, 65_537, 65_539]);
    }
}
