//! A past pick made again, from what was noted of it.
//!
//! The same plan, the same dice and the same counts give the same endpoint, for policies that look at nothing else than
//! the candidates that were noted. For the others [`Repeat::NotPossible`] says what is missing.

use std::sync::Arc;

use crate::{
    compile::compile,
    considered::Considered,
    cursors::Cursors,
    dice::Dice,
    endpoint::EndpointIx,
    explain::Choice,
    load::Load,
    plan::{Kind, NoPick, PickContext, Reason},
    snapshot::{ClassView, ClusterView, Policy},
    steering,
    tick::Tick,
    tried::Tried,
};

/// A pick of the past, as far as it was noted. The dice of that moment come apart.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    pub kind: Kind,
    pub now: Tick,
    pub tried: Tried,
    pub key: Option<u64>,
    pub pin: Option<EndpointIx>,
    pub considered: Considered,
    pub outcome: Result<(EndpointIx, Reason), NoPick>,
}

/// What comes of making a past pick again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeat {
    Same,
    /// It comes out otherwise: counts moved between two looks of the same pick.
    Other(Result<Choice, NoPick>),
    NotPossible(Missing),
}

/// What was not noted of a pick, so that it cannot be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("the policy looks at every endpoint, and not all counts of that moment are kept")]
    AllCounts,
    #[error("whose turn it was is not kept")]
    Turn,
    #[error("the latencies of that moment are not kept")]
    Latencies,
    #[error("what the whole tier held at that moment is not kept")]
    Sums,
    #[error("how much of the accept rates was used up at that moment is not kept")]
    AcceptRates,
    #[error("the pick looked at more candidates than are kept")]
    MoreCandidates,
    #[error("which endpoints were full at that moment is not kept")]
    WhoWasFull,
}

/// Makes the pick again, on counters of its own. `view` and `class` are those of the pick, and `dice` stand as they stood.
pub fn repeat(view: &ClusterView, class: &ClassView<'_>, past: &Past, dice: &mut impl Dice) -> Repeat {
    if let Some(missing) = missing(view, class, past) {
        return Repeat::NotPossible(missing);
    }
    let view = as_it_was(view, &past.considered);
    // Not read by a pick that takes no turns.
    let mut cursors = Cursors::new(0);
    let mut cx =
        PickContext { key: past.key, pin: past.pin, ..PickContext::new(dice, &mut cursors, &past.tried, past.now) };
    let again = compile(&view, class).pick(past.kind, &mut cx).map(|pick| Choice::from(&pick));
    match (&again, past.outcome) {
        (Ok(choice), Ok(then)) if (choice.endpoint, choice.reason) == then => Repeat::Same,
        (Err(no_pick), Err(then)) if *no_pick == then => Repeat::Same,
        _ if past.considered.is_full() => Repeat::NotPossible(Missing::MoreCandidates),
        (_, Err(_)) => Repeat::NotPossible(Missing::WhoWasFull),
        _ => Repeat::Other(again),
    }
}

fn missing(view: &ClusterView, class: &ClassView<'_>, past: &Past) -> Option<Missing> {
    if view.endpoints.iter().any(|endpoint| endpoint.accept_rate.is_some()) {
        return Some(Missing::AcceptRates);
    }
    if !view.limits.is_unlimited() || view.priority_limits.iter().any(|(_, limits)| !limits.is_unlimited()) {
        return Some(Missing::Sums);
    }
    // A client that was brought back asked no policy.
    if matches!(past.outcome, Ok((_, Reason::Sticky))) {
        return None;
    }
    let (tunnels, requests) = steering::policies(view, class);
    let policy = match past.kind {
        Kind::Tunnel => tunnels,
        Kind::Request => requests,
    };
    match policy {
        Policy::Random | Policy::P2c { .. } => None,
        Policy::Maglev { balance: None, .. } | Policy::RingHash { balance: None, .. } => None,
        Policy::Maglev { .. } | Policy::RingHash { .. } => Some(Missing::Sums),
        Policy::LeastConnections => Some(Missing::AllCounts),
        Policy::RoundRobin => Some(Missing::Turn),
        Policy::PeakEwma { .. } | Policy::Prequal { .. } => Some(Missing::Latencies),
    }
}

/// The endpoints with the counts that were noted; nobody else is looked at.
fn as_it_was(view: &ClusterView, considered: &Considered) -> ClusterView {
    let mut view = view.clone();
    for (endpoint, ix) in view.endpoints.iter_mut().zip(0..) {
        let leases = considered.of(EndpointIx(ix)).map_or(0, |look| look.leases);
        endpoint.load = Arc::new(Load::holding(leases));
    }
    for locality in &mut view.localities {
        locality.group = Arc::default();
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, Lease, Locality, LocalityIx, Look, Plan, SeededDice, Weight};

    fn view(policy: Policy, weights: &[u16]) -> ClusterView {
        let endpoint = |(&weight, n): (&u16, u32)| Endpoint {
            name: format!("10.0.0.{n}:5222").into(),
            locality: LocalityIx(0),
            weight: Weight::new(weight).unwrap(),
            ..Endpoint::default()
        };
        let endpoints = weights.iter().zip(1..).map(endpoint).collect();
        ClusterView { endpoints, localities: vec![Locality::default()], policy, ..ClusterView::default() }
    }

    /// Picks once as live traffic does; what was noted of it, and the lease.
    fn pick(plan: &Plan, dice: &mut SeededDice, key: Option<u64>, tried: Tried) -> (Past, Option<Lease>) {
        let mut cursors = Cursors::new(0);
        let now = Tick::default();
        let mut cx = PickContext { key, ..PickContext::new(dice, &mut cursors, &tried, now) };
        let picked = plan.pick(Kind::Tunnel, &mut cx);
        let considered = cx.considered;
        let outcome = picked.as_ref().map(|pick| (pick.endpoint, pick.reason)).map_err(|no_pick| *no_pick);
        let past = Past { kind: Kind::Tunnel, now, tried, key, pin: None, considered, outcome };
        (past, picked.ok().map(|pick| pick.lease))
    }

    #[test]
    fn picks_that_looked_at_what_was_noted_come_out_the_same_whatever_happened_since() {
        let maglev = Policy::Maglev { size: crate::TableSize::default(), balance: None };
        for (policy, key) in [(Policy::P2C, None), (Policy::Random, None), (maglev, Some(77)), (maglev, None)] {
            let view = view(policy, &[1, 2, 3, 1, 5]);
            // Kept, and with it the table.
            let plan = compile(&view, &ClassView::default());
            let mut dice = SeededDice::new(42);
            let mut made = Vec::new();
            for n in 0..100 {
                let before = dice.clone();
                let mut tried = Tried::default();
                if n % 3 == 0 {
                    tried.push(EndpointIx(4));
                }
                let (past, lease) = pick(&plan, &mut dice, key, tried);
                made.push((past, before, lease));
            }
            let mut repeated = 0;
            for (past, dice, _lease) in &made {
                match repeat(&view, &ClassView::default(), past, &mut dice.clone()) {
                    Repeat::Same => repeated += 1,
                    // The one that was tried was drawn over and over, and everybody was looked at in the end.
                    Repeat::NotPossible(Missing::MoreCandidates) => {}
                    other => panic!("{policy:?}: {past:?} came out {other:?}"),
                }
            }
            assert!(repeated > 95, "{policy:?}: {repeated}");
        }
    }

    #[test]
    fn another_count_than_noted_is_told() {
        let view = view(Policy::P2C, &[1, 1]);
        let plan = compile(&view, &ClassView::default());
        let drew_both = |past: &Past| (0..2).all(|ix| past.considered.of(EndpointIx(ix)).is_some());
        let picks = (1..).map(|seed| (seed, pick(&plan, &mut SeededDice::new(seed), None, Tried::default()).0));
        let (seed, mut past) = picks.into_iter().find(|(_, past)| drew_both(past)).unwrap();
        let (winner, _) = past.outcome.unwrap();
        let more = |look: Look| Look { leases: if look.endpoint == winner { 9 } else { 0 }, ..look };
        past.considered = past.considered.iter().map(more).collect();
        let again = repeat(&view, &ClassView::default(), &past, &mut SeededDice::new(seed));
        assert!(matches!(again, Repeat::Other(Ok(choice)) if choice.endpoint != winner));
    }

    #[test]
    fn what_cannot_be_made_again_says_why() {
        for (policy, why) in [
            (Policy::LeastConnections, Missing::AllCounts),
            (Policy::RoundRobin, Missing::Turn),
            (Policy::PeakEwma { choices: 2, latency: crate::Latency::default() }, Missing::Latencies),
            (
                Policy::Maglev { size: crate::TableSize::default(), balance: Some(crate::BalanceFactor::default()) },
                Missing::Sums,
            ),
        ] {
            let view = view(policy, &[1, 1]);
            let plan = compile(&view, &ClassView::default());
            let (past, _lease) = pick(&plan, &mut SeededDice::new(1), None, Tried::default());
            let again = repeat(&view, &ClassView::default(), &past, &mut SeededDice::new(1));
            assert_eq!(again, Repeat::NotPossible(why));
        }
    }

    #[test]
    fn a_client_that_was_brought_back_is_so_again_whatever_the_policy() {
        let view = view(Policy::RoundRobin, &[1, 1, 1]);
        let pin = EndpointIx(2);
        let considered = [crate::Look { endpoint: pin, leases: 7, weight: Weight::default() }].into_iter().collect();
        let past = Past {
            kind: Kind::Tunnel,
            now: Tick::default(),
            tried: Tried::default(),
            key: Some(1),
            pin: Some(pin),
            considered,
            outcome: Ok((pin, Reason::Sticky)),
        };
        assert_eq!(repeat(&view, &ClassView::default(), &past, &mut SeededDice::new(1)), Repeat::Same);
    }
}
