//! Smooth weighted round robin: in turn, each as often as its weight, and no endpoint twice in a row without need.
//!
//! nginx computes the sequence with a scan of all endpoints at every pick. It repeats itself, so it is computed once,
//! when the set is compiled, and a pick is one step through the table.
//!
//! Fits requests that cost about the same. For tunnels it is the wrong choice: it does not see how many an endpoint
//! still has, so an endpoint that comes back empty stays behind for as long as tunnels live.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{candidates::Candidate, dice::Dice, load::Lease, plan::PickContext};

/// How many turns that fall to a full or tried endpoint are passed over, before the whole set is searched.
const TURNS: usize = 4;

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    schedule: &Schedule,
    cursor: u64,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    for _ in 0..TURNS {
        let turn = cx.cursors.next(cursor, schedule.len());
        let candidate = &candidates[schedule.slots[turn as usize] as usize];
        cx.considered.note(candidate);
        if !cx.tried.contains(candidate.endpoint)
            && let Some(lease) = candidate.reserve(cx.now)
        {
            return Some((candidate, lease));
        }
    }
    None
}

/// One whole round: which position has each turn.
#[derive(Debug)]
pub(crate) struct Schedule {
    slots: Box<[u32]>,
}

/// A round has at most this many turns. Weights whose round would be longer are rounded to fit.
const MAX_TURNS: u64 = 4096;
/// With very many endpoints a round may be longer, or rounding would make all weights equal.
const TURNS_PER_ENDPOINT: u64 = 4;
/// nginx's sequence costs endpoints × turns to compute: 4 million steps for this many. With more, the cheaper sequence serves.
const MAX_FOR_EXACT_SEQUENCE: usize = 1024;

impl Schedule {
    pub(crate) fn new(weights: &[u64]) -> Self {
        let turns = turns(weights);
        let slots = match turns.as_slice() {
            [] => Vec::new(),
            equal if equal.iter().all(|&turns| turns == 1) => (0..).zip(equal).map(|(ix, _)| ix).collect(),
            few if few.len() <= MAX_FOR_EXACT_SEQUENCE => smooth(few),
            many => by_deadline(many),
        };
        Self { slots: slots.into() }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("a round has at most a few turns for each endpoint")
    }
}

/// How many turns of a round each position has: its weight, without common factors, and scaled down where the round would
/// be too long. Everybody keeps at least one turn.
fn turns(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let limit = MAX_TURNS.max(TURNS_PER_ENDPOINT * reduced.len() as u64);
    if reduced.iter().sum::<u64>() <= limit { reduced } else { shared_out(&reduced, limit) }
}

/// Shares `limit` turns out in proportion: one for everybody, and the rest by the largest remainders.
fn shared_out(weights: &[u64], limit: u64) -> Vec<u64> {
    let total: u64 = weights.iter().sum();
    let mut turns: Vec<u64> = weights.iter().map(|weight| (weight * limit / total).max(1)).collect();
    let mut left = limit.saturating_sub(turns.iter().sum());
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&ix| Reverse(weights[ix] * limit % total));
    for ix in by_remainder {
        if left == 0 {
            break;
        }
        // One that was lifted to its single turn has more than its share already.
        if weights[ix] * limit >= total {
            turns[ix] += 1;
            left -= 1;
        }
    }
    turns
}

/// nginx's sequence: everybody gains its weight, the richest has the turn and pays the total; the first of equals wins.
fn smooth(turns: &[u64]) -> Vec<u32> {
    let turns: Vec<i64> = turns.iter().map(|&turns| i64::try_from(turns).expect("a few thousand turns")).collect();
    let total: i64 = turns.iter().sum();
    let mut credit = vec![0_i64; turns.len()];
    (0..total)
        .map(|_| {
            let mut richest = 0;
            for ix in 0..turns.len() {
                credit[ix] += turns[ix];
                if credit[ix] > credit[richest] {
                    richest = ix;
                }
            }
            credit[richest] -= total;
            u32::try_from(richest).expect("a position among the endpoints")
        })
        .collect()
}

/// As smooth in proportion, at the cost of turns × log(endpoints): the turn k of n falls due at (k + 1/2) / n of the round.
/// Only its order among endpoints that are due together differs from nginx's.
fn by_deadline(turns: &[u64]) -> Vec<u32> {
    const ROUND: u64 = 1 << 32;
    let due = |turn: u64, of: u64| (2 * turn + 1) * ROUND / (2 * of);
    let first = |(ix, &of): (u32, &u64)| Reverse((due(0, of), ix, 0, of));
    let mut queue: BinaryHeap<Reverse<(u64, u32, u64, u64)>> = (0..).zip(turns).map(first).collect();
    let mut slots = Vec::new();
    while let Some(Reverse((_, ix, turn, of))) = queue.pop() {
        slots.push(ix);
        if turn + 1 < of {
            queue.push(Reverse((due(turn + 1, of), ix, turn + 1, of)));
        }
    }
    slots
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(weights: &[u16]) -> Vec<u64> {
        weights.iter().map(|&weight| weight.into()).collect()
    }

    /// The round as letters, the first endpoint being `a`.
    fn round(of: &[u16]) -> String {
        Schedule::new(&weights(of)).slots.iter().map(|&ix| char::from_digit(ix + 10, 36).unwrap()).collect()
    }

    #[test]
    fn the_sequences_are_those_of_nginx() {
        // The first is the example of nginx's commit that brought smooth weighted round robin.
        assert_eq!(round(&[5, 1, 1]), "aabacaa");
        assert_eq!(round(&[4, 2, 1]), "abacaba");
        assert_eq!(round(&[3, 1]), "aaba");
        assert_eq!(round(&[1, 2, 3]), "cbacbc");
    }

    #[test]
    fn common_factors_make_no_longer_rounds() {
        assert_eq!(round(&[10, 2, 2]), "aabacaa");
        assert_eq!(round(&[100, 100, 100]), "abc");
        assert_eq!(round(&[7]), "a");
        assert_eq!(round(&[]), "");
    }

    fn counts(schedule: &Schedule, endpoints: usize) -> Vec<u64> {
        let mut counts = vec![0; endpoints];
        for &slot in &schedule.slots {
            counts[slot as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_round_that_would_be_too_long_keeps_its_proportions_and_everybody_in_it() {
        let schedule = Schedule::new(&weights(&[65_535, 32_768, 1]));
        assert_eq!(schedule.len(), 4096);
        assert_eq!(counts(&schedule, 3), [2730, 1365, 1]);
    }

    #[test]
    fn very_many_endpoints_keep_their_proportions_and_their_order_is_smooth() {
        let of: Vec<u16> = (0..2000).map(|ix| if ix % 2 == 0 { 30 } else { 10 }).collect();
        let schedule = Schedule::new(&weights(&of));
        let counts = counts(&schedule, of.len());
        assert!(counts.iter().enumerate().all(|(ix, &count)| count == if ix % 2 == 0 { 3 } else { 1 }));
        let mut last = vec![None; of.len()];
        for (turn, &slot) in schedule.slots.iter().enumerate() {
            if let Some(before) = last[slot as usize].replace(turn) {
                assert!(turn - before >= schedule.slots.len() / 4, "endpoint {slot} at {before} and again at {turn}");
            }
        }
    }

    proptest! {
        #[test]
        fn everybody_has_turns_in_proportion(of in prop::collection::vec(1_u16..=1000, 1..20)) {
            let schedule = Schedule::new(&weights(&of));
            let total: u64 = of.iter().map(|&weight| u64::from(weight)).sum();
            let len = u64::from(schedule.len());
            for (count, &weight) in counts(&schedule, of.len()).into_iter().zip(&of) {
                // Within one turn of the exact share.
                prop_assert!((count * total).abs_diff(u64::from(weight) * len) <= total);
            }
        }

        #[test]
        fn no_round_is_longer_than_its_limit_by_more_than_its_smallest(of in prop::collection::vec(1_u16..=u16::MAX, 1..40)) {
            let len = Schedule::new(&weights(&of)).slots.len();
            prop_assert!(len <= 4096 + of.len(), "{len}");
        }
    }
}
