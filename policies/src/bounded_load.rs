//! Bounded load: no member gets more than a factor times its fair share, however many keys want it (Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018, arXiv 1608.01350).
//!
//! A key goes to the first member in its [order](crate::preference) that has room. Health is treated alike: who may not be
//! picked has no room. So a key is away from its member only while that member is full or down, and the keys of the
//! others stay where they are.
//!
//! Where the loads that are counted are those of the members that are asked for room, one of them has it: together they
//! may take `factor` times what there is, the arrival included.

use crate::endpoint::Weight;

/// How far over its fair share a member may be loaded, in percent: 100 to 65 535, by default 125.
///
/// Near 100 all are even, and many keys are away from their members; at 200 few are. HAProxy's manual calls 125 to 200
/// reasonable for its `hash-balance-factor`. Envoy's `hash_balance_factor` takes no less than 100 either. Both have it off
/// by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BalanceFactor(u16);

impl BalanceFactor {
    pub const MIN: u16 = 100;

    /// `None` under [`Self::MIN`]: the members could not take everything together.
    pub fn new(percent: u16) -> Option<Self> {
        (percent >= Self::MIN).then_some(Self(percent))
    }

    pub fn percent(self) -> u16 {
        self.0
    }
}

impl Default for BalanceFactor {
    fn default() -> Self {
        Self(125)
    }
}

/// What the members may be loaded with when one more arrives.
///
/// Members are compared with a total that was read at another moment, so workers that pick at the same time may together
/// pass the bound by as many as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// factor × (total + 1): a hundred times what all members together may have.
    allowed: u128,
    /// A hundred times the weight of all members together.
    shares: u128,
}

impl Bound {
    /// `total_load` and `total_weight` are sums over the members that may be picked.
    pub(crate) fn new(factor: BalanceFactor, total_load: u64, total_weight: u64) -> Self {
        Self {
            allowed: u128::from(factor.percent()) * (u128::from(total_load) + 1),
            shares: 100 * u128::from(total_weight),
        }
    }

    /// Whether a member with this load is below its [`capacity`](Self::capacity). Without a division: a whole number is
    /// below the ceiling of another exactly when it is below that other.
    ///
    /// Envoy lets a member reach its capacity before the arrival is counted, and so one over it.
    pub(crate) fn has_room(&self, load: u32, weight: Weight) -> bool {
        u128::from(load) * self.shares < self.allowed * u128::from(weight.get())
    }

    /// What a member may have at most: ceil(factor / 100 × (total load + 1) × weight / total weight). Never under one.
    #[cfg(test)]
    pub(crate) fn capacity(&self, weight: Weight) -> u64 {
        let share = (self.allowed * u128::from(weight.get())).div_ceil(self.shares.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        maglev::{MaglevTable, TableSize},
        membership::tests::{equal, ids, keys, weighted},
    };
    use proptest::prelude::*;

    fn weight(of: u16) -> Weight {
        Weight::new(of).unwrap()
    }

    fn capacity(percent: u16, total_load: u64, total_weight: u64, of: u16) -> u64 {
        Bound::new(BalanceFactor::new(percent).unwrap(), total_load, total_weight).capacity(weight(of))
    }

    #[test]
    fn the_capacity_is_the_ceiling_of_the_share() {
        // 1.25 × 6 / 5 is 1.5: the paper's rule, with equal members.
        assert_eq!(capacity(125, 5, 5, 1), 2);
        // 1.25 × 8 / 5 is 2 exactly.
        assert_eq!(capacity(125, 7, 5, 1), 2);
        assert_eq!(capacity(125, 8, 5, 1), 3);
        // 2 × 10 × 3 / 4.
        assert_eq!(capacity(200, 9, 4, 3), 15);
        assert_eq!(capacity(100, 99, 100, 1), 1);
    }

    #[test]
    fn an_idle_member_has_room_for_one_however_light_it_is() {
        let bound = Bound::new(BalanceFactor::default(), 0, 1_000_000);
        assert_eq!(bound.capacity(weight(1)), 1);
        assert!(bound.has_room(0, weight(1)) && !bound.has_room(1, weight(1)));
    }

    #[test]
    fn less_than_everything_is_no_factor() {
        assert_eq!(BalanceFactor::new(99), None);
        assert_eq!(BalanceFactor::new(100).map(BalanceFactor::percent), Some(100));
        assert_eq!(BalanceFactor::default().percent(), 125);
    }

    /// Arrivals on a Maglev table, each to the first member of its order that has room.
    struct Filling<'a> {
        table: MaglevTable,
        weights: &'a [u16],
        loads: Vec<u32>,
        factor: BalanceFactor,
        /// How many were not placed with the member that their key belongs to.
        away: u32,
    }

    impl<'a> Filling<'a> {
        fn new(weights: &'a [u16], percent: u16) -> Self {
            let table = MaglevTable::new(&weighted(&ids(weights.len()), weights), TableSize::new(1009).unwrap());
            let factor = BalanceFactor::new(percent).unwrap();
            Self { table, weights, loads: vec![0; weights.len()], factor, away: 0 }
        }

        fn bound(&self) -> Bound {
            let total_load = self.loads.iter().map(|&load| u64::from(load)).sum();
            let total_weight = self.weights.iter().map(|&weight| u64::from(weight)).sum();
            Bound::new(self.factor, total_load, total_weight)
        }

        fn arrive(&mut self, key: u64) {
            let bound = self.bound();
            let has_room = |&member: &usize| bound.has_room(self.loads[member], weight(self.weights[member]));
            let member = self.table.order(key).find(has_room).expect("somebody has room for the next");
            assert!(u64::from(self.loads[member]) < bound.capacity(weight(self.weights[member])));
            self.away += u32::from(self.table.lookup(key) != Some(member));
            self.loads[member] += 1;
        }
    }

    /// The bound of the paper: with one key that everybody has, as with any others, the fullest has ceil(c × average).
    #[test]
    fn no_member_passes_the_bound_though_all_have_the_same_key() {
        let mut filling = Filling::new(&[1; 10], 125);
        (0..1000).for_each(|_| filling.arrive(7));
        assert_eq!(filling.loads.iter().max(), Some(&125));
        assert_eq!(filling.loads.iter().filter(|&&load| load == 125).count(), 8);
    }

    #[test]
    fn keys_that_are_spread_well_stay_at_home() {
        let mut filling = Filling::new(&[1; 10], 125);
        keys(10_000).for_each(|key| filling.arrive(key));
        // Binomial: an average of 1000 with a standard deviation of 30, so 1250 is out of reach. Only the first few
        // arrivals, while a member may have one or two, are away.
        assert!(filling.away < 200, "{}", filling.away);
    }

    /// Overflow in an order of each key's own (arXiv 1908.08762): what a popular member cannot take spreads over all the
    /// others, and its neighbour in any order gets no more than the rest.
    #[test]
    fn what_overflows_spreads_over_all_others() {
        let table = MaglevTable::new(&equal(&ids(10)), TableSize::default());
        let mut taken = [0_u32; 10];
        for key in keys(100_000).filter(|&key| table.lookup(key) == Some(3)) {
            taken[table.order(key).find(|&member| member != 3).unwrap()] += 1;
        }
        let overflow: u32 = taken.iter().sum();
        assert!((9500..10_500).contains(&overflow), "{overflow}");
        let fair = overflow / 9;
        // Standard deviation 31 around a mean of 1111; the bound is five of them.
        assert!(
            taken.iter().enumerate().all(|(member, &count)| member == 3 || count.abs_diff(fair) < 160),
            "{taken:?}"
        );
    }

    proptest! {
        #[test]
        fn the_room_ends_at_the_capacity(
            percent in 100_u16.., load: u32, total_load in 0_u64..1 << 40, of in 1_u16.., others in 0_u64..1 << 40,
        ) {
            let bound = Bound::new(BalanceFactor::new(percent).unwrap(), total_load, others + u64::from(of));
            prop_assert!(bound.capacity(weight(of)) >= 1);
            prop_assert_eq!(bound.has_room(load, weight(of)), u64::from(load) < bound.capacity(weight(of)));
        }

        #[test]
        fn no_arrival_passes_the_bound_whoever_left_before(
            weights in prop::collection::vec(1_u16..100, 1..20),
            percent in 100_u16..300,
            events in prop::collection::vec((0_u64..5, any::<prop::sample::Index>(), prop::bool::weighted(0.7)), 0..300),
        ) {
            let mut filling = Filling::new(&weights, percent);
            let mut placed = Vec::new();
            for (key, which, arrives) in events {
                if arrives {
                    let before = filling.loads.clone();
                    filling.arrive(key);
                    placed.push((0..before.len()).find(|&member| before[member] != filling.loads[member]).unwrap());
                } else if !placed.is_empty() {
                    let left = placed.swap_remove(which.index(placed.len()));
                    filling.loads[left] -= 1;
                }
            }
        }
    }
}
