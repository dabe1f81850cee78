//! The members that a hash policy spreads keys over.

use crate::endpoint::Weight;

/// A member as configuration or discovery knows it, whatever its health.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    /// What the member is known by on every edge, for example `10.0.0.1:5222`.
    pub(crate) id: &'a str,
    pub(crate) weight: Weight,
}

/// The positions of the members in the order of their ids. Edges that learn of the same members in different orders agree
/// on this one, and everything that is computed in it.
pub(crate) fn by_id(members: &[Member<'_>]) -> Box<[u32]> {
    let mut positions: Box<[u32]> = (0..).zip(members).map(|(position, _)| position).collect();
    positions.sort_by_key(|&position| {
        let member = members[position as usize];
        (member.id, member.weight)
    });
    positions
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Members with these ids and one weight.
    pub(crate) fn equal(ids: &[String]) -> Vec<Member<'_>> {
        ids.iter().map(|id| Member { id, weight: Weight::default() }).collect()
    }

    /// Members with these ids and weights.
    pub(crate) fn weighted<'a>(ids: &'a [String], weights: &[u16]) -> Vec<Member<'a>> {
        let weight = |&weight| Weight::new(weight).unwrap();
        ids.iter().zip(weights).map(|(id, of)| Member { id, weight: weight(of) }).collect()
    }

    /// So many ids as a cluster might have them.
    pub(crate) fn ids(count: usize) -> Vec<String> {
        (0..count).map(|ix| format!("10.0.{}.{}:5222", ix / 250, ix % 250)).collect()
    }

    /// Keys that are as random as hashed ones.
    pub(crate) fn keys(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|user: u64| crate::stable_hash::hash_key(&user.to_le_bytes()))
    }

    #[test]
    fn the_order_of_ids_does_not_depend_on_the_order_of_members() {
        let ids = ["b", "c", "a"].map(String::from);
        assert_eq!(*by_id(&equal(&ids)), [2, 0, 1]);
        let same_id = ["a", "a"].map(String::from);
        assert_eq!(*by_id(&weighted(&same_id, &[2, 1])), [1, 0]);
    }
}
