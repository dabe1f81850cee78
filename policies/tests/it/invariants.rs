//! What holds whatever happens: any cluster, any order of picks, ends of tunnels, joins, leaves, failures, drains, limits
//! and reloads. And when all of that is over and nothing is in the way any more, everybody gets a fair share.

mod events;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use policies::{
    ClassView, ClusterView, Compiler, Cursors, Dice, Endpoint, EndpointIx, Group, Kind, Limits, Load, Locality,
    LocalityIx, NoPick, Pick, PickContext, Plan, Policy, Ramp, Reason, SeededDice, Share, SlowStart, Standing, Tick,
    Tried, compile,
};
use proptest::prelude::*;

use crate::cluster::ANYBODY;
use events::{Change, Client, Event};

const SLOW_START: SlowStart = SlowStart { window: Duration::from_secs(5), aggression: 1.0, least_percent: 10 };

/// All clients match the only rule.
const CLASS: ClassView<'static> = ClassView { rule: Some(0), distances_km: &[] };

/// A cluster that lives, as one worker sees it. `compiled` is what the plan was made from; `view` may have moved on.
struct World {
    view: ClusterView,
    compiled: ClusterView,
    /// When each endpoint of `view` came up, if it warms up.
    up_since: Vec<Option<Tick>>,
    gone: Vec<Endpoint>,
    joined: usize,
    now: Tick,
    dice: SeededDice,
    cursors: Cursors,
    held: Vec<Held>,
    /// When each endpoint got its picks, by the load that it is known by.
    picked: Vec<(Arc<Load>, Tick)>,
}

/// A lease, with where it has to be counted.
struct Held {
    pick: Pick,
    load: Arc<Load>,
    /// None: when it was picked, nothing asked for the sum of its locality.
    group: Option<Arc<Group>>,
    pending: bool,
}

impl World {
    fn new(view: ClusterView, seed: u64) -> Self {
        Self {
            compiled: view.clone(),
            up_since: vec![None; view.endpoints.len()],
            view,
            gone: Vec::new(),
            joined: 0,
            now: Tick(Duration::from_secs(1000)),
            dice: SeededDice::new(seed),
            cursors: Cursors::new(seed),
            held: Vec::new(),
            picked: Vec::new(),
        }
    }

    fn happens(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Pick(client) => return self.picks(&client),
            Event::Connected(which) => self.connects(which),
            Event::End(which) => drop(counted_round(which, &self.held).map(|at| self.held.swap_remove(at))),
            Event::Join(endpoint) => self.joins(endpoint),
            Event::Leave(which) => self.leaves(which),
            Event::Return(which) => {
                if let Some(at) = counted_round(which, &self.gone) {
                    self.view.endpoints.push(self.gone.remove(at));
                    self.up_since.push(None);
                }
            }
            Event::Change(which, change) => self.changes(which, change),
            Event::Share(ix, share) => self.view.localities[usize::from(ix)].share = share,
            Event::Limits(limits) => self.view.limits = limits,
            Event::PriorityLimits(ix, limits) => {
                self.view.priority_limits.retain(|(priority, _)| *priority != u32::from(ix));
                self.view.priority_limits.push((ix.into(), limits));
            }
            Event::Time(millis) => self.now.0 += Duration::from_millis(millis),
            Event::Reload(settings) => settings.apply(&mut self.view),
            Event::Recompile => self.recompiles(),
        }
        Ok(())
    }

    fn connects(&mut self, which: usize) {
        if let Some(at) = counted_round(which, &self.held) {
            self.held[at].pick.lease.connected();
            self.held[at].pending = false;
        }
    }

    fn joins(&mut self, mut endpoint: Endpoint) {
        self.joined += 1;
        endpoint.name = format!("10.9.0.{}:5222", self.joined).into();
        self.view.endpoints.push(endpoint);
        self.up_since.push(Some(self.now));
    }

    fn leaves(&mut self, which: usize) {
        if let Some(at) = counted_round(which, &self.view.endpoints) {
            self.gone.push(self.view.endpoints.remove(at));
            self.up_since.remove(at);
        }
    }

    fn changes(&mut self, which: usize, change: Change) {
        let Some(at) = counted_round(which, &self.view.endpoints) else { return };
        let endpoint = &mut self.view.endpoints[at];
        match change {
            Change::Standing(standing) => endpoint.standing = standing,
            Change::Weight(weight) => endpoint.weight = weight,
            Change::Max(max) => endpoint.max_connections = max,
            Change::Move(locality) => endpoint.locality = locality,
            Change::Degraded(degraded) => endpoint.degraded = degraded,
            Change::SlowStart => self.up_since[at] = Some(self.now),
        }
    }

    fn recompiles(&mut self) {
        for (endpoint, since) in self.view.endpoints.iter_mut().zip(&self.up_since) {
            endpoint.ramp = SLOW_START.ramp(*since, self.now);
        }
        self.compiled = self.view.clone();
    }

    fn picks(&mut self, client: &Client) -> Result<(), TestCaseError> {
        let plan = Compiler::new(&self.compiled).compile(&CLASS);
        let mut tried = Tried::new();
        for &endpoint in &client.tried {
            tried.push(EndpointIx(endpoint));
        }
        let in_plan = |tier| plan.endpoints_of(tier).filter(|&ix| self.could_take(ix, &tried));
        let room = (0..plan.tiers().len()).any(|tier| in_plan(tier).next().is_some());
        let pin = client.pin.map(EndpointIx);
        let goes_back =
            (0..plan.tiers().len()).any(|tier| !plan.tiers()[tier].panic() && in_plan(tier).any(|ix| Some(ix) == pin));

        let mut cx = PickContext::new(&mut self.dice, &mut self.cursors, &tried, self.now);
        (cx.pin, cx.key) = (pin, client.key);
        match plan.pick(client.kind, &mut cx) {
            Ok(pick) => {
                prop_assert!(room, "picked where there is no room");
                prop_assert!(!tried.contains(pick.endpoint));
                // Bounded load sends even a client on that was there a moment ago.
                let may_be_sent_on = policies_of(&self.compiled).any(needs_sums);
                let stuck = pick.reason == Reason::Sticky;
                prop_assert!(stuck == goes_back || (goes_back && may_be_sent_on));
                prop_assert!(!stuck || Some(pick.endpoint) == pin);
                self.fits(&plan, &pick)?;
                self.hold(pick);
                self.limits_are_kept()
            }
            Err(refusal) => {
                prop_assert!(!room, "refused ({refusal}) with room");
                prop_assert_eq!(refusal == NoPick::NoEndpoints, self.compiled.endpoints.is_empty());
                Ok(())
            }
        }
    }

    /// Whether nothing stands in the way of a pick, standing and rules left aside.
    fn could_take(&self, ix: EndpointIx, tried: &Tried) -> bool {
        let endpoint = &self.compiled.endpoints[ix.0 as usize];
        let full = endpoint.max_connections.is_some_and(|max| endpoint.load.leases() >= max.get());
        let early =
            endpoint.accept_rate.is_some_and(|rate| !endpoint.load.admits(rate.slowed(endpoint.ramp), self.now));
        let fits = |sum: u32, max: NonZeroU32| sum < max.get();
        !full && !early && !tried.contains(ix) && self.limits_of(endpoint.locality).all(|limit| limit.is_kept(fits))
    }

    /// The pick went to where it may go.
    fn fits(&self, plan: &Plan, pick: &Pick) -> Result<(), TestCaseError> {
        let endpoint = &self.compiled.endpoints[pick.endpoint.0 as usize];
        let tier = &plan.tiers()[usize::from(pick.tier)];
        let standing = endpoint.standing;
        prop_assert!(!matches!(standing, Standing::Draining | Standing::Maintenance), "{standing} was picked");
        prop_assert!(standing.takes_new() || (tier.panic() && pick.reason == Reason::Panic));
        prop_assert_eq!(endpoint.locality, pick.locality);
        prop_assert!(tier.localities().contains(&pick.locality));
        prop_assert!(self.locality(pick.locality).share != Share::NONE, "picked where an operator lets nobody go");
        let rule = &self.compiled.steering.rules[0];
        let named = rule.localities.contains(&pick.locality) || rule.fallback.contains(&pick.locality);
        prop_assert!(!rule.strict || named, "left a strict rule");
        Ok(())
    }

    fn hold(&mut self, pick: Pick) {
        let load = Arc::clone(&self.compiled.endpoints[pick.endpoint.0 as usize].load);
        let summed = policies_of(&self.compiled).any(needs_sums) || self.limits_of(pick.locality).next().is_some();
        let group = summed.then(|| Arc::clone(&self.locality(pick.locality).group));
        self.picked.push((Arc::clone(&load), self.now));
        self.held.push(Held { pick, load, group, pending: true });
    }

    /// Of the endpoint and the locality that was picked last.
    fn limits_are_kept(&self) -> Result<(), TestCaseError> {
        let pick = &self.held[self.held.len() - 1].pick;
        let endpoint = &self.compiled.endpoints[pick.endpoint.0 as usize];
        prop_assert!(endpoint.max_connections.is_none_or(|max| endpoint.load.leases() <= max.get()));
        for limit in self.limits_of(pick.locality) {
            prop_assert!(limit.is_kept(|sum, max| sum <= max.get()), "{:?} was passed", limit.limits);
        }
        if let Some(rate) = endpoint.accept_rate {
            let since = self.now.0.saturating_sub(Duration::from_millis(999));
            let here = self.picked.iter().filter(|(load, at)| Arc::ptr_eq(load, &endpoint.load) && at.0 >= since);
            // A tenth of a second's worth may come at once.
            let (came, most) = (here.count(), rate.as_per_second() * 1.1 + 1.0);
            prop_assert!(came as f64 <= most, "{came} in a second, where {most} may come");
        }
        Ok(())
    }

    fn locality(&self, ix: LocalityIx) -> &Locality {
        &self.compiled.localities[usize::from(ix.0)]
    }

    /// The limits that a locality is under, each with the localities that it sums up.
    fn limits_of(&self, ix: LocalityIx) -> impl Iterator<Item = Limit<'_>> {
        let priority = self.locality(ix).priority;
        let all = self.limit(self.compiled.limits, |_| true);
        let of_priority = self.compiled.priority_limits.iter().filter(move |(of, _)| *of == priority);
        let of_priority = of_priority.map(move |(_, limits)| self.limit(*limits, |other| other == priority));
        std::iter::once(all).chain(of_priority).filter(|limit| !limit.limits.is_unlimited())
    }

    fn limit(&self, limits: Limits, counts: impl Fn(u32) -> bool) -> Limit<'_> {
        let on_these = |endpoint: &&Endpoint| counts(self.locality(endpoint.locality).priority);
        let on_these = self.compiled.endpoints.iter().filter(on_these);
        Limit {
            limits,
            leases: on_these.map(|endpoint| endpoint.load.leases()).sum(),
            localities: self.compiled.localities.iter().filter(|locality| counts(locality.priority)).collect(),
        }
    }

    /// Every count is that of the leases that are held, also where the endpoint has left, moved, or was forgotten.
    fn counts_are_true(&self) -> Result<(), TestCaseError> {
        for endpoint in self.view.endpoints.iter().chain(&self.gone) {
            let held = self.held.iter().filter(|held| Arc::ptr_eq(&held.load, &endpoint.load)).count();
            prop_assert_eq!(endpoint.load.leases() as usize, held);
        }
        for locality in &self.view.localities {
            let here = |held: &&Held| held.group.as_ref().is_some_and(|group| Arc::ptr_eq(group, &locality.group));
            let held = self.held.iter().filter(here);
            prop_assert_eq!(locality.group.connections() as usize, held.clone().count());
            prop_assert_eq!(locality.group.pending() as usize, held.filter(|held| held.pending).count());
        }
        Ok(())
    }

    /// Nothing is in the way any more: all are up and whole, in one tier, without a rule and without limits.
    fn calms_down(&mut self) {
        self.view.steering.rules.clear();
        (self.view.limits, self.view.priority_limits) = (Limits::default(), Vec::new());
        for locality in &mut self.view.localities {
            (locality.priority, locality.share) = (0, Share::ALL);
        }
        for endpoint in &mut self.view.endpoints {
            (endpoint.standing, endpoint.degraded, endpoint.ramp) = (Standing::Up, false, Ramp::WHOLE);
            (endpoint.max_connections, endpoint.accept_rate) = (None, None);
        }
        self.compiled = self.view.clone();
    }

    /// So many tunnels for each unit of weight that whoever has too many has its share by then, and twenty more.
    fn rounds(&self) -> u32 {
        let filled = self.view.endpoints.iter().map(|it| it.load.leases().div_ceil(it.weight.get().into()));
        filled.max().unwrap_or(0) + 20
    }

    /// Picks tunnels until there are `rounds` for each unit of weight.
    fn everybody_gets_a_fair_share(&mut self) -> Result<(), TestCaseError> {
        let (rounds, before) = (self.rounds(), self.leases());
        let weights: Vec<u32> = self.view.endpoints.iter().map(|endpoint| endpoint.weight.get().into()).collect();
        let (weight, held): (u32, u32) = (weights.iter().sum(), before.iter().sum());
        let came = rounds * weight - held;
        let plan = compile(&self.view, &ANYBODY);
        let _picks: Vec<Pick> = (0..came).map(|_| self.must_pick(&plan)).collect();
        for ((now, before), of) in self.leases().into_iter().zip(before).zip(weights) {
            let all_that_came = f64::from(came);
            let share = f64::from(of) / f64::from(weight);
            let share = Fair { held: rounds * of, came: all_that_came * share, all_that_came };
            let is_fair = share.is_met(self.view.policy, now, now - before);
            prop_assert!(
                is_fair,
                "{:?}: {now} tunnels, {before} of them before, with weight {of} of {weight} in {rounds} rounds",
                self.view.policy
            );
        }
        Ok(())
    }

    fn leases(&self) -> Vec<u32> {
        self.view.endpoints.iter().map(|endpoint| endpoint.load.leases()).collect()
    }

    fn must_pick(&mut self, plan: &Plan) -> Pick {
        let (tried, key) = (Tried::new(), self.dice.next_u64());
        let mut cx = PickContext::new(&mut self.dice, &mut self.cursors, &tried, self.now);
        cx.key = Some(key);
        plan.pick(Kind::Tunnel, &mut cx).expect("nothing is in the way")
    }
}

/// What an endpoint should have in all, and should have got, by its weight.
struct Fair {
    held: u32,
    came: f64,
    all_that_came: f64,
}

impl Fair {
    /// Policies that look at what endpoints hold make up for what was uneven before. The others share out what comes.
    fn is_met(&self, policy: Policy, held: u32, came: u32) -> bool {
        let held_off = f64::from(held) - f64::from(self.held);
        let came_off = (f64::from(came) - self.came).abs();
        match policy {
            // The greedy rule fills up in exact proportion, whatever it began with.
            Policy::LeastConnections => held == self.held,
            Policy::P2c { .. } | Policy::PeakEwma { .. } => held_off.abs() <= 5.0 + 0.1 * f64::from(self.held),
            // Whole rounds are exact; it may begin and end within one, where everybody is less than two turns off.
            Policy::RoundRobin => came_off <= 2.0,
            // Six standard deviations.
            Policy::Random => came_off <= 6.0 * self.came.sqrt() + 1.0,
            // Besides, everybody has up to two places of the table more or less than its share of the 1009.
            Policy::Maglev { balance: None, .. } => {
                came_off <= 6.0 * self.came.sqrt() + 1.0 + 2.0 / 1009.0 * self.all_that_came
            }
            // At most 1.25 times the share, rounded up.
            Policy::Maglev { balance: Some(_), .. } | Policy::RingHash { balance: Some(_), .. } => {
                f64::from(held) <= 1.25 * f64::from(self.held) + 1.0
            }
            // A ring of a few hundred points has arcs of any length; how long is a matter of its own tests. And Prequal goes
            // by latency, not by shares.
            Policy::RingHash { balance: None, .. } | Policy::Prequal { .. } => true,
        }
    }
}

/// A limit, with what it counts.
struct Limit<'v> {
    limits: Limits,
    /// On the endpoints of these localities. A limit that comes later counts those that came before it, too.
    leases: u32,
    localities: Vec<&'v Locality>,
}

impl Limit<'_> {
    fn is_kept(&self, fits: impl Fn(u32, NonZeroU32) -> bool) -> bool {
        let sum =
            |count: fn(&Group) -> u32| -> u32 { self.localities.iter().map(|locality| count(&locality.group)).sum() };
        self.limits.max_connections.is_none_or(|max| fits(sum(Group::connections).max(self.leases), max))
            && self.limits.max_pending.is_none_or(|max| fits(sum(Group::pending), max))
    }
}

fn policies_of(view: &ClusterView) -> impl Iterator<Item = Policy> {
    let of_rules = view.steering.rules.iter().flat_map(|rule| [rule.policy, rule.request_policy]).flatten();
    [view.policy, view.request_policy].into_iter().chain(of_rules)
}

/// Bounded load is a share of what all hold together.
fn needs_sums(policy: Policy) -> bool {
    matches!(policy, Policy::Maglev { balance: Some(_), .. } | Policy::RingHash { balance: Some(_), .. })
}

/// A position in this list, if it has any.
fn counted_round<T>(which: usize, list: &[T]) -> Option<usize> {
    which.checked_rem(list.len())
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_promise(view in events::view(), events in events::events(), seed in any::<u64>()) {
        let mut world = World::new(view, seed);
        for event in events {
            world.happens(event)?;
            world.counts_are_true()?;
        }
        world.held.clear();
        world.counts_are_true()?;
    }

    #[test]
    fn after_any_order_of_events_everybody_gets_a_fair_share(
        view in events::view(),
        events in events::events(),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(view, seed);
        for event in events {
            world.happens(event)?;
        }
        world.calms_down();
        world.everybody_gets_a_fair_share()?;
    }
}
