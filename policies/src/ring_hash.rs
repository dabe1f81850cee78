//! Ring hash: every member has points on a ring of hashes, and a key belongs to the next point (Karger et al., 1997; in
//! the form of Envoy and of gRPC's proposal A42).
//!
//! How many points: the lightest member has as many as it takes to fill the smallest size, and the others as their
//! weights. With v points a member its share is off by about 1/√v, 10 % for ten members on the smallest ring.
//! [Maglev](crate::maglev) balances better and looks up faster.
//!
//! Where a member leaves and the others keep their numbers of points, no key of theirs moves. They keep them while the
//! smallest size, shared out and rounded up, stays the same: as a rule, from some dozens of members on. Where one of ten
//! leaves, each of the others gets a ninth more points, and 6 % of all keys move beside those of the one that left:
//! Maglev's table moves fewer.
//!
//! Built on the members that are configured, whatever their health, as Maglev's table is: a member that is down is passed
//! over in the [order](Ring::order) of the key, and gets its keys back, and no others, when it returns.

use std::fmt::Write;

use crate::{
    membership::{Member, by_id},
    preference::Preference,
    stable_hash,
};

/// How many points a ring has: at least `min`, and not more than `max`, save that every member has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RingSize {
    min: u32,
    max: u32,
}

impl RingSize {
    /// The limit for either size: 8 388 608, as in Envoy and gRPC (A42).
    pub const LIMIT: u32 = 8 * 1024 * 1024;

    /// `None` where not 1 ≤ `min` ≤ `max` ≤ [`Self::LIMIT`].
    pub fn new(min: u32, max: u32) -> Option<Self> {
        (1 <= min && min <= max && max <= Self::LIMIT).then_some(Self { min, max })
    }

    pub fn min(self) -> u32 {
        self.min
    }

    pub fn max(self) -> u32 {
        self.max
    }
}

/// At least 1024 points, as in Envoy and gRPC, and at most 65 536, which take about 3 ms to build. For the greatest size
/// Envoy has 8 388 608, and one light member among heavy ones makes it build so many; gRPC (A42) has 4096, and operators
/// who want better balance must raise it first.
impl Default for RingSize {
    fn default() -> Self {
        Self { min: 1024, max: 65_536 }
    }
}

#[derive(Debug)]
pub(crate) struct Ring {
    /// Where the points are, ascending.
    hashes: Box<[u64]>,
    /// The position of the member that each point belongs to.
    members: Box<[u32]>,
    preference: Preference,
}

impl Ring {
    pub(crate) fn new(members: &[Member<'_>], size: RingSize) -> Self {
        let by_id = by_id(members);
        let mut points = points(members, &by_id, size);
        // Where two hashes are equal, the first in the order of ids has both.
        points.sort_unstable();
        let owner = |&(_, rank): &(u64, u32)| by_id[rank as usize];
        Self {
            hashes: points.iter().map(|&(hash, _)| hash).collect(),
            members: points.iter().map(owner).collect(),
            preference: Preference::new(by_id),
        }
    }

    /// The position of the member that a key belongs to, whatever its health; `None` without members.
    pub(crate) fn lookup(&self, key: u64) -> Option<usize> {
        let next = self.hashes.partition_point(|&hash| hash < key);
        // After the last point comes the first.
        let member = self.members.get(next).or(self.members.first())?;
        Some(*member as usize)
    }

    /// The positions of all members in the order in which a key tries them, each once. The first is that of
    /// [`lookup`](Self::lookup). Allocates nothing.
    pub(crate) fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        self.lookup(key).into_iter().flat_map(move |home| self.preference.order(key, home))
    }
}

/// The points of all members, each with the rank of its member.
fn points(members: &[Member<'_>], by_id: &[u32], size: RingSize) -> Vec<(u64, u32)> {
    let mut points = Vec::new();
    let mut name = String::new();
    for ((rank, &position), count) in (0..).zip(by_id).zip(counts(members, by_id, size)) {
        let id = members[position as usize].id;
        for point in 0..count {
            name.clear();
            write!(name, "{id}_{point}").expect("a string takes everything");
            points.push((stable_hash::hash_key(name.as_bytes()), rank));
        }
    }
    points
}

/// How many points each member has, in the order of ids. The fractions that would fall to one member are carried over to
/// the next, as in Envoy, so the total is right.
fn counts(members: &[Member<'_>], by_id: &[u32], size: RingSize) -> impl Iterator<Item = u64> {
    let weight = |&position: &u32| u64::from(members[position as usize].weight.get());
    let total: u64 = by_id.iter().map(weight).sum();
    let lightest = by_id.iter().map(weight).min().unwrap_or(1);
    let (min, max) = (u64::from(size.min), u64::from(size.max));
    let for_lightest = (min * lightest).div_ceil(total.max(1));
    // Points for each unit of weight, as a fraction.
    let (points, of) = if for_lightest * total <= max * lightest { (for_lightest, lightest) } else { (max, total) };
    let (mut weights, mut given) = (0, 0);
    by_id.iter().map(weight).map(move |weight| {
        weights += weight;
        let due = (weights * points).div_ceil(of);
        let count = (due - given).max(1);
        given = due.max(given);
        count
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::{equal, ids, keys, weighted};
    use proptest::prelude::*;

    fn size(min: u32, max: u32) -> RingSize {
        RingSize::new(min, max).unwrap()
    }

    fn addresses(last: u16) -> Vec<String> {
        (90..=last).map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn points(ring: &Ring, members: usize) -> Vec<u64> {
        let mut counts = vec![0; members];
        ring.members.iter().for_each(|&member| counts[member as usize] += 1);
        counts
    }

    /// The ring that Envoy's test draws (test/extensions/load_balancing_policies/ring_hash/ring_hash_lb_test.cc: Basic).
    #[test]
    fn the_ring_is_envoys() {
        let ring = Ring::new(&equal(&addresses(95)), size(12, 12));
        assert_eq!(*ring.members, [4, 2, 0, 5, 3, 1, 1, 3, 5, 2, 4, 0]);
        assert_eq!(ring.hashes[0], 833_437_586_790_550_860);
        assert_eq!(ring.hashes[11], 16_117_243_373_044_804_889);
        let check = |key, want| assert_eq!(ring.lookup(key), Some(want), "{key}");
        check(0, 4);
        check(u64::MAX, 4);
        check(3_551_244_743_356_806_947, 5);
        check(3_551_244_743_356_806_948, 3);
        check(16_117_243_373_044_804_880, 0);
    }

    /// The same file: HostWeightedTinyRing, HostWeightedLargeRing, LargeFractionalScale.
    #[test]
    fn weights_are_points_as_in_envoy() {
        let three = addresses(92);
        let check = |weights: &[u16], size, want: &[u64]| {
            let ring = Ring::new(&weighted(&three[..weights.len()], weights), size);
            assert_eq!(points(&ring, weights.len()), want);
            ring
        };
        check(&[1, 2, 3], size(6, 6), &[1, 2, 3]);
        let large = check(&[1, 2, 3], size(6144, RingSize::LIMIT), &[1024, 2048, 3072]);
        let mut hits = [0; 3];
        (0..6000).for_each(|key| hits[large.lookup(key * (u64::MAX / 6000)).unwrap()] += 1);
        assert_eq!(hits, [987, 1932, 3081]);
        check(&[1, 1], size(1023, 1023), &[512, 511]);
    }

    #[test]
    fn only_sizes_that_can_be_kept_are_sizes() {
        assert_eq!(RingSize::new(20, 10), None);
        assert_eq!(RingSize::new(0, 10), None);
        assert_eq!(RingSize::new(1, RingSize::LIMIT + 1), None);
        let default = RingSize::default();
        assert_eq!((default.min(), default.max()), (1024, 65_536));
        assert_eq!(RingSize::new(default.min(), default.max()), Some(default));
    }

    /// Envoy leaves members without any point where the greatest size is less than their number (SmallFractionalScale).
    #[test]
    fn everybody_has_a_point_however_small_the_ring() {
        assert_eq!(points(&Ring::new(&equal(&addresses(93)), size(2, 2)), 4), [1, 1, 1, 1]);
        assert_eq!(points(&Ring::new(&weighted(&addresses(91), &[65_535, 1]), size(10, 10)), 2), [10, 1]);
    }

    #[test]
    fn nobody_is_looked_up_where_there_is_nobody() {
        let ring = Ring::new(&[], RingSize::default());
        assert_eq!(ring.lookup(7), None);
        assert_eq!(ring.order(7).count(), 0);
    }

    /// How much of the ring each member has, as its share of the average.
    fn shares(ring: &Ring, members: usize) -> Vec<f64> {
        let mut shares = vec![0.0; members];
        let mut before = ring.hashes.last().copied().unwrap();
        for (&hash, &member) in ring.hashes.iter().zip(&ring.members) {
            shares[member as usize] += hash.wrapping_sub(before) as f64 / 2_f64.powi(64) * members as f64;
            before = hash;
        }
        shares
    }

    /// The arcs between random points are exponentially distributed, so the sum of v of them has a relative standard
    /// deviation of 1/√v. Two hundred members estimate it to within a twentieth.
    #[test]
    fn shares_are_off_by_one_over_the_root_of_the_points() {
        for points in [16_u32, 100, 400] {
            let shares = shares(&Ring::new(&equal(&ids(200)), size(200 * points, RingSize::LIMIT)), 200);
            let variance = shares.iter().map(|share| (share - 1.0).powi(2)).sum::<f64>() / 200.0;
            let of_expected = variance.sqrt() * f64::from(points).sqrt();
            assert!((0.8..1.2).contains(&of_expected), "{points} points: {of_expected}");
        }
    }

    /// The keys that move where the first of so many members leaves: its own, and others.
    fn moved(members: usize) -> (u32, u32) {
        let ids = ids(members);
        let all = equal(&ids);
        let (before, after) = (Ring::new(&all, RingSize::default()), Ring::new(&all[1..], RingSize::default()));
        let (mut own, mut others) = (0, 0);
        for key in keys(20_000) {
            match before.lookup(key).unwrap() {
                0 => own += 1,
                home => others += u32::from(after.lookup(key) != Some(home - 1)),
            }
        }
        (own, others)
    }

    #[test]
    fn where_a_member_leaves_only_its_own_keys_move_while_the_others_keep_their_points() {
        // ceil(1024 / 400) and ceil(1024 / 399) are 3.
        let (own, others) = moved(400);
        assert!((1..=150).contains(&own), "{own}");
        assert_eq!(others, 0);
    }

    /// ceil(1024 / 10) is 103 and ceil(1024 / 9) is 114, so a tenth of the points are new, and of those eight ninths in
    /// front of another member's point: about 7 % of the keys of the others, on average.
    #[test]
    fn where_a_member_leaves_a_small_cluster_the_new_points_of_the_others_take_keys_too() {
        let (own, others) = moved(10);
        assert!((1500..2600).contains(&own), "{own}");
        assert!((600..1800).contains(&others), "{others}");
    }

    #[test]
    fn while_a_member_is_down_only_its_own_keys_are_elsewhere() {
        let ring = Ring::new(&equal(&ids(10)), RingSize::default());
        for key in keys(10_000) {
            let home = ring.lookup(key);
            let now = ring.order(key).find(|&member| member != 4);
            assert_eq!(now != home, home == Some(4));
        }
    }

    proptest! {
        #[test]
        fn the_ring_keeps_its_size_and_its_proportions(weights in prop::collection::vec(1_u16..200, 1..30), min in 1_u32..3000) {
            let ring = Ring::new(&weighted(&ids(weights.len()), &weights), size(min, RingSize::LIMIT));
            prop_assert!(ring.hashes.is_sorted() && ring.hashes.len() >= min as usize);
            let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            for (count, &weight) in points(&ring, weights.len()).into_iter().zip(&weights) {
                // What is carried over from the one before and to the next is less than a point each.
                let (has, due) = (count * total as u64, ring.hashes.len() as u64 * u64::from(weight));
                prop_assert!(count >= 1 && has.abs_diff(due) <= 2 * total as u64);
            }
        }

        #[test]
        fn the_ring_does_not_depend_on_the_order_of_members(
            (ordered, shuffled) in prop::collection::vec(1_u16..20, 1..20)
                .prop_map(|weights| ids(weights.len()).into_iter().zip(weights).collect::<Vec<_>>())
                .prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
            key: u64,
        ) {
            let tried = |members: &[(String, u16)]| {
                let (ids, weights): (Vec<String>, Vec<u16>) = members.iter().cloned().unzip();
                let ring = Ring::new(&weighted(&ids, &weights), size(64, 512));
                ring.order(key).map(|position| ids[position].clone()).collect::<Vec<_>>()
            };
            let tried = (tried(&ordered), tried(&shuffled));
            prop_assert_eq!(tried.0, tried.1);
        }
    }
}
