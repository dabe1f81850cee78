//! Weighted power of two choices: draw two candidates in proportion to weight, take the one with the lower (leases + 1)
//! / weight.
//!
//! Why two and not all: counts of other edges are unknown here, so edges that scan the whole list all see the same idle
//! endpoint and stampede it. Two draws spread the crowd, and cost the same for ten endpoints or ten thousand. An
//! endpoint with a share p of the weight gets at most 2p of the arrivals, however idle it looks. Why in proportion: with
//! uniform draws a heavy endpoint is seldom a candidate and ends far below its share, whatever the comparison says.

use std::cmp::Ordering;

use crate::{alias::AliasTable, candidates::Candidate, dice::Dice, load::Lease, plan::PickContext};

/// How often to draw again when all that were drawn are full or tried, before the whole set is searched.
const ROUNDS: usize = 4;

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    choices: u8,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    pick_by(candidates, table, choices, cx, |one, other| one.cost().compare(other.cost()) == Ordering::Less)
}

/// The same draws with another comparison: whether the first is cheaper than the second.
pub(crate) fn pick_by<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    choices: u8,
    cx: &mut PickContext<'_, impl Dice>,
    cheaper: impl Fn(&Candidate, &Candidate) -> bool,
) -> Option<(&'a Candidate, Lease)> {
    for _ in 0..ROUNDS {
        let best = best_of(candidates, table, choices, cx, &cheaper);
        if let Some(best) = best
            && let Some(lease) = best.reserve(cx.now)
        {
            return Some((best, lease));
        }
    }
    None
}

/// The cheapest of those drawn; of equal ones the one drawn first, which is random already.
fn best_of<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    choices: u8,
    cx: &mut PickContext<'_, impl Dice>,
    cheaper: impl Fn(&Candidate, &Candidate) -> bool,
) -> Option<&'a Candidate> {
    let mut best: Option<&Candidate> = None;
    let mut previous = None;
    for _ in 0..choices {
        let mut drawn = table.draw(cx.dice);
        // Drawing the same one twice compares nothing. One more draw makes that rare; insisting could take long where one
        // weight outdoes all others.
        if previous == Some(drawn) {
            drawn = table.draw(cx.dice);
        }
        previous = Some(drawn);
        let candidate = &candidates[drawn];
        cx.considered.note(candidate);
        if candidate.can_take(cx.tried, cx.now) && best.is_none_or(|best| cheaper(candidate, best)) {
            best = Some(candidate);
        }
    }
    best
}
