//! Least connections: of all candidates, the one with the lowest (leases + 1) / weight.
//!
//! It looks at every candidate, so its cost grows with their number. And every edge that sees the same idle endpoint
//! sends its clients there at once: right for few endpoints behind one edge, while `p2c` is the better default. It is
//! also what every policy ends with when those that it drew were full, because it finds room wherever there is some.
//!
//! Nobody is drawn here, so a slow start and a lowered share of a locality act on the weight that the cost is divided by.

use std::cmp::Ordering;

use crate::{candidates::Candidate, dice::Dice, load::Lease, plan::PickContext};

/// Another worker may take the last place between looking and reserving. Losing that race this often in one pick means
/// that the tier is as good as full.
const ATTEMPTS: usize = 3;

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    for _ in 0..ATTEMPTS {
        let best = lowest_cost(candidates, cx)?;
        cx.considered.note(best);
        if let Some(lease) = best.reserve(cx.now) {
            return Some((best, lease));
        }
    }
    None
}

/// Each of those that tie is as likely as the others. The first of them would be the same one on every worker.
fn lowest_cost<'a>(candidates: &'a [Candidate], cx: &mut PickContext<'_, impl Dice>) -> Option<&'a Candidate> {
    let (tried, now) = (cx.tried, cx.now);
    let mut able = candidates.iter().filter(|candidate| candidate.can_take(tried, now));
    let mut best = able.next()?;
    let mut lowest = best.drawn_cost();
    let mut tied = 1;
    for candidate in able {
        let cost = candidate.drawn_cost();
        let better = match cost.compare(lowest) {
            Ordering::Less => {
                tied = 1;
                true
            }
            // The k-th of the tied replaces the one before with a chance of 1/k, which is fair to all of them.
            Ordering::Equal => {
                tied += 1;
                cx.dice.below(tied) == 0
            }
            Ordering::Greater => false,
        };
        if better {
            (best, lowest) = (candidate, cost);
        }
    }
    Some(best)
}
