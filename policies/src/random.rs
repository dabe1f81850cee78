//! Weighted random: one draw in proportion to weight.
//!
//! It looks at no count, so it cannot be misled by counts that are old or only part of the truth, and edges that know
//! nothing of each other do not stampede anybody. The price is the widest spread of all policies: the fullest of n
//! endpoints has about ln n / ln ln n where two choices have ln ln n.

use crate::{alias::AliasTable, candidates::Candidate, dice::Dice, load::Lease, plan::PickContext};

/// How often to draw again when the one that was drawn is full or tried, before the whole set is searched.
const DRAWS: usize = 4;

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    for _ in 0..DRAWS {
        let candidate = &candidates[table.draw(cx.dice)];
        cx.considered.note(candidate);
        if !cx.tried.contains(candidate.endpoint)
            && let Some(lease) = candidate.reserve(cx.now)
        {
            return Some((candidate, lease));
        }
    }
    None
}
