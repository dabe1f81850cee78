//! Prequal's choice among a few: leave out who is busy, and take the fastest of the others (see [`crate::prequal`]).
//!
//! The pool is drawn in proportion to weight. A tier that is no larger than the pool is looked at whole, so that nobody is
//! missed and nobody is there twice.

use crate::{
    alias::AliasTable,
    candidates::Candidate,
    dice::Dice,
    load::Lease,
    plan::{Kind, PickContext},
    prequal::{HotCold, POOL, Signal, choose},
};

/// How often to choose again when the one that was chosen was full by then.
const ROUNDS: usize = 3;

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    choices: u8,
    kind: Kind,
    settings: &HotCold,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    let size = usize::from(choices).min(POOL);
    for _ in 0..ROUNDS {
        let mut pool = Pool::default();
        if candidates.len() <= size {
            // From a place of its own for each pick: of equally good ones the first is taken, and it is not always the same.
            let start = usize::try_from(cx.dice.next_u64() % candidates.len() as u64).unwrap_or(0);
            let (before, after) = candidates.split_at(start);
            after.iter().chain(before).for_each(|candidate| pool.add(candidate, kind, settings, cx));
        } else {
            (0..size).for_each(|_| {
                let drawn = table.draw(cx.dice);
                pool.add(&candidates[drawn], kind, settings, cx);
            });
        }
        let best = pool.best(settings)?;
        cx.considered.note(best);
        if let Some(lease) = best.reserve(cx.now) {
            return Some((best, lease));
        }
    }
    None
}

struct Pool<'a> {
    members: [Option<&'a Candidate>; POOL],
    signals: [Signal; POOL],
    len: usize,
}

impl Default for Pool<'_> {
    fn default() -> Self {
        Self { members: [None; POOL], signals: [Signal { rif: 0.0, latency: 0.0 }; POOL], len: 0 }
    }
}

impl<'a> Pool<'a> {
    fn add(&mut self, candidate: &'a Candidate, kind: Kind, settings: &HotCold, cx: &PickContext<'_, impl Dice>) {
        if self.len < POOL && candidate.can_take(cx.tried, cx.now) {
            let load = candidate.load();
            self.members[self.len] = Some(candidate);
            self.signals[self.len] = load.signal(kind).signal(load.leases(), candidate.weight(), cx.now, settings);
            self.len += 1;
        }
    }

    fn best(&self, settings: &HotCold) -> Option<&'a Candidate> {
        self.members[choose(&self.signals[..self.len], settings.hot_quantile)?]
    }
}
