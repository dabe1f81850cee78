//! Peak EWMA among a few: draw candidates in proportion to weight, take the one with the lowest latency × (leases + 1) /
//! weight (Finagle, tower, Linkerd).
//!
//! A server that slows down is left at its first slow answer, before its count of requests grows. What is in flight counts
//! as if each of it took as long as the last peak. See [`crate::peak_ewma`] for how latency is learnt.

use crate::{
    alias::AliasTable,
    candidates::Candidate,
    dice::Dice,
    load::Lease,
    p2c,
    plan::{Kind, PickContext},
    snapshot::Latency,
};

pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    table: &AliasTable,
    choices: u8,
    kind: Kind,
    latency: &Latency,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    let now = cx.now;
    let cost = |candidate: &Candidate| {
        let load = candidate.load();
        f64::from(load.latency_micros(kind, latency, now)) * (f64::from(load.leases()) + 1.0)
            / f64::from(candidate.weight().get())
    };
    p2c::pick_by(candidates, table, choices, cx, |one, other| cost(one) < cost(other))
}
