//! Where keys go when members of a hash table leave, fail and come back, and how evenly they are spread: Maglev and the
//! ring, as plans pick by them.

use policies::{Policy, Standing, TableSize, hash_key};

use crate::edge::{Edge, cluster, place};

/// What happens to the member in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is taken out of the configuration.
    Leaves,
    /// It is down, and stays configured.
    Fails,
}

pub(crate) fn maglev(slots: u32) -> Policy {
    Policy::Maglev { size: TableSize::new(slots).expect("a prime"), balance: None }
}

/// The share of the keys of the *others* that go elsewhere by the change.
pub(crate) fn moved_without_need(policy: Policy, members: u32, change: Change, keys: u32) -> f64 {
    let gone = members as usize / 2;
    let mut view = cluster(policy, &[members]);
    let before = places(&mut Edge::new(&view, 1), keys);
    match change {
        Change::Leaves => drop(view.endpoints.remove(gone)),
        Change::Fails => view.endpoints[gone].standing = Standing::Down,
    }
    let mut after = places(&mut Edge::new(&view, 1), keys);
    if change == Change::Leaves {
        after.iter_mut().filter(|place| **place >= gone).for_each(|place| *place += 1);
    }
    let others = before.iter().zip(&after).filter(|(before, _)| **before != gone);
    let moved = others.clone().filter(|(before, after)| before != after).count();
    moved as f64 / others.count() as f64
}

/// Keys of the member that has most, over the average.
pub(crate) fn fullest(policy: Policy, members: u32, keys: u32) -> f64 {
    let mut counts = vec![0_u32; members as usize];
    for place in places(&mut Edge::new(&cluster(policy, &[members]), 1), keys) {
        counts[place] += 1;
    }
    f64::from(counts.into_iter().max().unwrap_or(0)) * f64::from(members) / f64::from(keys)
}

fn places(edge: &mut Edge, keys: u32) -> Vec<usize> {
    (0..keys).map(|key| place(&edge.must_pick(Some(hash_key(&key.to_be_bytes())), 0.0))).collect()
}

#[cfg(test)]
mod tests {
    use policies::RingSize;

    use super::*;

    const KEYS: u32 = 20_000;

    fn ring(points: u32) -> Policy {
        Policy::RingHash { size: RingSize::new(points, points).expect("in range"), balance: None }
    }

    #[test]
    fn while_a_member_is_down_no_key_of_the_others_moves() {
        for policy in [maglev(10_007), ring(4096)] {
            assert!(moved_without_need(policy, 20, Change::Fails, 5000) < 1e-9, "{policy:?}");
        }
    }

    /// Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 5.3: some keys
    /// of the others move where a member leaves, fewer with a larger table.
    #[test]
    fn where_a_member_leaves_maglev_moves_few_keys_of_the_others_and_fewer_with_a_larger_table() {
        let [small, large] = [1009, 65_537].map(|slots| moved_without_need(maglev(slots), 20, Change::Leaves, KEYS));
        assert!((0.005..0.12).contains(&small), "{small}");
        assert!(large < small && large < 0.01, "{large}");
    }

    /// The ring keeps its size, as in Envoy: 4000 points are 200 for each of twenty and 211 for each of nineteen, so one
    /// in twenty points is new and takes keys of somebody. Where the numbers of points stay, no key of the others moves.
    #[test]
    fn where_a_member_leaves_a_ring_moves_keys_to_new_points_and_only_to_these() {
        let moved = moved_without_need(ring(4000), 20, Change::Leaves, KEYS);
        assert!((0.02..0.08).contains(&moved), "{moved}");
        // ceil(1024 / 100) and ceil(1024 / 99) are both 11.
        let least = Policy::RingHash { size: RingSize::new(1024, 65_536).expect("in range"), balance: None };
        assert!(moved_without_need(least, 100, Change::Leaves, KEYS) < 1e-9);
    }

    /// The same paper, section 5.2 and 3.4: Maglev is almost perfectly even, while arcs of a ring vary by one over the root of
    /// the points that each member has. What is left for Maglev here is that 20 000 keys are counted, not slots.
    #[test]
    fn maglev_is_more_even_than_a_ring() {
        let of_keys = (f64::from(KEYS) / 20.0).sqrt().recip();
        let (maglev, ring) = (fullest(maglev(65_537), 20, KEYS), fullest(ring(1024), 20, KEYS));
        assert!(maglev < 1.0 + 4.0 * of_keys, "{maglev}");
        assert!(ring > maglev + 0.05, "{ring} and {maglev}");
    }
}
