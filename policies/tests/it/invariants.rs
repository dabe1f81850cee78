//! What holds whatever happens: any cluster, any order of picks, ends of tunnels, failures and reloads.

use std::{num::NonZeroU32, sync::Arc};

use policies::{
    ClassView, ClusterView, Compiler, Cursors, Endpoint, EndpointIx, Kind, Load, LocalityIx, LocalityOrder, NoPick,
    Pick, PickContext, Policy, Rule, SeededDice, Standing, Tick, Tried, Weight,
};
use proptest::prelude::*;

use crate::cluster::{cluster, locality, policies};

#[derive(Debug, Clone)]
enum Event {
    Pick {
        kind: Kind,
        tried: Vec<u32>,
    },
    /// The end of one tunnel; which one, counted round.
    End(usize),
    Standing(usize, Standing),
    Weight(usize, u16),
    Max(usize, Option<NonZeroU32>),
    Move(usize, u16),
    Recompile,
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![4 => Just(Standing::Up), 3 => prop::sample::select(Standing::ALL.to_vec())]
}

fn max() -> impl Strategy<Value = Option<NonZeroU32>> {
    prop_oneof![Just(None), (1_u32..4).prop_map(NonZeroU32::new)]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![2 => prop::sample::select(policies()), 1 => (2_u8..5).prop_map(|choices| Policy::P2c { choices })]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0_u16..4, 1_u16..50, max(), standing()).prop_map(|(locality, weight, max_connections, standing)| Endpoint {
        name: "e".into(),
        locality: LocalityIx(locality),
        weight: Weight::new(weight).unwrap(),
        max_connections,
        standing,
        ..Endpoint::default()
    })
}

fn view() -> impl Strategy<Value = ClusterView> {
    let localities = || prop::collection::vec((0_u16..5).prop_map(LocalityIx), 0..3);
    let order = prop_oneof![Just(LocalityOrder::Steered), Just(LocalityOrder::AsWritten)];
    let own_policy = prop::option::of(policy());
    let rule = (localities(), localities(), order, any::<bool>(), own_policy).prop_map(
        |(localities, fallback, order, strict, policy)| Rule {
            localities,
            fallback,
            order,
            strict,
            policy,
            ..Rule::default()
        },
    );
    (prop::collection::vec(endpoint(), 0..12), policy(), policy(), rule, prop_oneof![Just(0), Just(50)]).prop_map(
        |(endpoints, policy, request_policy, rule, panic)| {
            let mut view = cluster(policy, endpoints);
            view.request_policy = request_policy;
            view.localities = (0..4).map(locality).collect();
            view.steering.rules = vec![rule];
            view.steering.panic_threshold_percent = panic;
            view
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(Kind::Tunnel), Just(Kind::Request)];
    let pick = (kind, prop::collection::vec(0_u32..12, 0..4)).prop_map(|(kind, tried)| Event::Pick { kind, tried });
    prop_oneof![
        8 => pick,
        4 => any::<usize>().prop_map(Event::End),
        1 => (any::<usize>(), standing()).prop_map(|(ix, standing)| Event::Standing(ix, standing)),
        1 => (any::<usize>(), 1_u16..50).prop_map(|(ix, weight)| Event::Weight(ix, weight)),
        1 => (any::<usize>(), max()).prop_map(|(ix, max)| Event::Max(ix, max)),
        1 => (any::<usize>(), 0_u16..4).prop_map(|(ix, locality)| Event::Move(ix, locality)),
        2 => Just(Event::Recompile),
    ]
}

/// A cluster that lives, as one worker sees it. `compiled` is what the plan was made from; `view` may have moved on.
struct World {
    view: ClusterView,
    compiled: ClusterView,
    dice: SeededDice,
    cursors: Cursors,
    held: Vec<(Arc<Load>, Pick)>,
}

const CLASS: ClassView<'static> = ClassView { rule: Some(0), distances_km: &[] };

impl World {
    fn happens(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Pick { kind, tried } => return self.picks(kind, &tried),
            Event::End(which) if !self.held.is_empty() => drop(self.held.swap_remove(which % self.held.len())),
            Event::Standing(ix, standing) => self.change(ix, |endpoint| endpoint.standing = standing),
            Event::Weight(ix, weight) => self.change(ix, |endpoint| endpoint.weight = Weight::new(weight).unwrap()),
            Event::Max(ix, max) => self.change(ix, |endpoint| endpoint.max_connections = max),
            Event::Move(ix, locality) => self.change(ix, |endpoint| endpoint.locality = LocalityIx(locality)),
            Event::Recompile => self.compiled = self.view.clone(),
            Event::End(_) => {}
        }
        Ok(())
    }

    fn change(&mut self, ix: usize, change: impl FnOnce(&mut Endpoint)) {
        let count = self.view.endpoints.len().max(1);
        if let Some(endpoint) = self.view.endpoints.get_mut(ix % count) {
            change(endpoint);
        }
    }

    fn picks(&mut self, kind: Kind, tried: &[u32]) -> Result<(), TestCaseError> {
        let plan = Compiler::new(&self.compiled).compile(&CLASS);
        let mut already = Tried::new();
        for &endpoint in tried {
            already.push(EndpointIx(endpoint));
        }
        let could_take = |ix: EndpointIx| {
            let endpoint = &self.compiled.endpoints[ix.0 as usize];
            let full = endpoint.max_connections.is_some_and(|max| endpoint.load.leases() >= max.get());
            !full && !already.contains(ix)
        };
        let room = (0..plan.tiers().len()).any(|tier| plan.endpoints_of(tier).any(could_take));
        let mut cx = PickContext::new(&mut self.dice, &mut self.cursors, &already, Tick::default());
        let pick = match plan.pick(kind, &mut cx) {
            Ok(pick) => pick,
            Err(refusal) => {
                prop_assert!(!room, "refused ({refusal}) with room");
                prop_assert_eq!(refusal == NoPick::NoEndpoints, self.compiled.endpoints.is_empty());
                return Ok(());
            }
        };
        prop_assert!(room);
        let endpoint = &self.compiled.endpoints[pick.endpoint.0 as usize];
        let tier = &plan.tiers()[usize::from(pick.tier)];
        prop_assert!(!already.contains(pick.endpoint));
        prop_assert!(endpoint.standing.takes_new() || (tier.panic() && endpoint.standing.takes_in_panic()));
        prop_assert!(endpoint.max_connections.is_none_or(|max| endpoint.load.leases() <= max.get()));
        prop_assert_eq!(endpoint.locality, pick.locality);
        prop_assert!(tier.localities().contains(&pick.locality));
        let rule = &self.compiled.steering.rules[0];
        let named = rule.localities.contains(&pick.locality) || rule.fallback.contains(&pick.locality);
        prop_assert!(!rule.strict || named, "left a strict rule");
        self.held.push((Arc::clone(&endpoint.load), pick));
        Ok(())
    }

    fn counts_are_true(&self) -> Result<(), TestCaseError> {
        for endpoint in &self.view.endpoints {
            let held = self.held.iter().filter(|(load, _)| Arc::ptr_eq(load, &endpoint.load)).count();
            prop_assert_eq!(endpoint.load.leases() as usize, held);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_promise(
        view in view(),
        events in prop::collection::vec(event(), 0..60),
        seed in any::<u64>(),
    ) {
        let mut world = World {
            compiled: view.clone(),
            view,
            dice: SeededDice::new(seed),
            cursors: Cursors::new(seed),
            held: Vec::new(),
        };
        for event in events {
            world.happens(event)?;
            world.counts_are_true()?;
        }
        world.held.clear();
        world.counts_are_true()?;
    }
}
