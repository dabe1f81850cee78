//! The order in which a key tries the members: its own first, then all others, in an order of this key alone.
//!
//! Where a member is down or has its fill, its keys must not all go to the same neighbour, as on a ring, or that one is
//! the next to fall (Chen, Coleman and Shrivastava, "Revisiting Consistent Hashing with Bounded Loads", arXiv 1908.08762;
//! Envoy shuffles the members for the same reason). So each key seeds its own jumps: it starts at a random member and
//! goes on with a random step, which is double hashing. The places are a prime number, the other members and a few more
//! that belong to nobody and are passed over, so every step comes to every member, and to none twice. Double hashing
//! spreads about as independent draws do (Mitzenmacher, "Balanced Allocations and Double Hashing", 2014), and needs
//! neither memory nor allocation, where a shuffle needs a list of all members for every key.
//!
//! The jumps are over members in the order of their ids, so edges with the same members agree. They do not look at
//! weights; the bound on load does.

use std::iter;

use crate::{
    dice::{Dice, SeededDice},
    primes,
};

/// What all keys have in common in their orders over one membership.
#[derive(Debug)]
pub(crate) struct Preference {
    by_id: Box<[u32]>,
    /// Where each position stands in `by_id`.
    ranks: Box<[u32]>,
    /// The smallest prime that is not less than the number of others.
    places: u32,
}

impl Preference {
    /// `by_id` is what [`by_id`](crate::membership::by_id) makes of the members.
    pub(crate) fn new(by_id: Box<[u32]>) -> Self {
        let mut ranks = vec![0; by_id.len()].into_boxed_slice();
        for (rank, &position) in (0..).zip(&by_id) {
            ranks[position as usize] = rank;
        }
        let places = primes::at_least(others(&by_id));
        Self { by_id, ranks, places }
    }

    /// The positions of all members, each once: `home`, which is where the key belongs, and then the others. The same for
    /// every look-up of the key, so while its home is down a key has one other member and not several.
    pub(crate) fn order(&self, key: u64, home: usize) -> impl Iterator<Item = usize> {
        let home_rank = self.ranks[home];
        let rank_of = move |other: u32| if other < home_rank { other } else { other + 1 };
        let others = self.jumps(key).map(move |other| self.by_id[rank_of(other) as usize] as usize);
        iter::once(home).chain(others)
    }

    /// A permutation of the numbers below the number of others.
    fn jumps(&self, key: u64) -> impl Iterator<Item = u32> {
        let others = others(&self.by_id);
        let mut dice = SeededDice::new(key);
        // Below the number of others and not of places: most keys that are away need only this jump, and it is exactly
        // fair. The next ones are a little off where places are passed over.
        let first = dice.below(others);
        let step = 1 + dice.below(self.places - 1);
        let until_next = self.places - step;
        // Adds the step modulo places, without leaving 32 bits.
        let next = move |&place: &u32| Some(if place >= until_next { place - until_next } else { place + step });
        let visits = iter::successors(Some(first), next).take(self.places as usize);
        visits.filter(move |&place| place < others)
    }
}

/// How many members there are beside a key's own.
fn others(by_id: &[u32]) -> u32 {
    u32::try_from(by_id.len().saturating_sub(1)).expect("positions are 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::keys;
    use proptest::prelude::*;

    fn preference(members: u32) -> Preference {
        Preference::new((0..members).collect())
    }

    #[test]
    fn a_key_has_the_same_order_in_every_version() {
        let order = |members, key| preference(members).order(key, 0).collect::<Vec<_>>();
        assert_eq!(order(1, 9), [0]);
        assert_eq!(order(2, 9), [0, 1]);
        assert_eq!(order(8, 1), [0, 4, 2, 7, 5, 3, 1, 6]);
        assert_eq!(order(8, 2), [0, 5, 3, 1, 6, 4, 2, 7]);
    }

    #[test]
    fn edges_that_list_the_members_differently_try_them_in_the_same_order() {
        // The second edge has every member at the position of its rank counted from the end.
        let (one, other) = (preference(9), Preference::new((0..9).rev().collect()));
        for key in keys(100) {
            assert!(one.order(key, 4).eq(other.order(key, 4).map(|position| 8 - position)));
        }
    }

    /// The keys of one home, first where it is down and then where the one after it is down too. Every count is within
    /// five standard deviations of an even share.
    #[test]
    fn the_keys_of_a_member_spread_over_all_others() {
        const KEYS: u32 = 50_000;
        for members in [3, 4, 5, 6, 8, 9, 10, 14, 24] {
            let preference = preference(members);
            let mut nth = [vec![0_u32; members as usize], vec![0; members as usize]];
            for key in keys(KEYS.into()) {
                for (counts, other) in nth.iter_mut().zip(preference.order(key, 2).skip(1)) {
                    counts[other] += 1;
                }
            }
            let share = KEYS / (members - 1);
            for counts in &mut nth {
                assert_eq!(counts.remove(2), 0);
                assert!(counts.iter().all(|count| count.abs_diff(share) < 5 * share.isqrt()), "{members}: {counts:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_member_comes_exactly_once_and_home_is_first(members in 1_u32..600, key: u64, home: prop::sample::Index) {
            let home = home.index(members as usize);
            let order: Vec<usize> = preference(members).order(key, home).collect();
            prop_assert_eq!(order[0], home);
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..members as usize));
        }
    }
}
