//! From a view of the cluster to a plan, off the data path.

use std::{collections::HashMap, sync::Arc};

use crate::{
    candidates::{Candidate, CandidateSet, Limited, Parts},
    endpoint::{Endpoint, EndpointIx, LocalityIx, Share},
    group::{Bound, Group, Limits},
    plan::{Level, Plan, Refusal, Tier},
    snapshot::{ClassView, ClusterView, Policy},
    spill::{self, SpillBy, Spreading, TierHealth, TierLoad},
    steering,
};

/// Compiles the plan of one class. For many classes of one view, a [`Compiler`] is cheaper.
pub fn compile(view: &ClusterView, class: &ClassView<'_>) -> Plan {
    Compiler::new(view).compile(class)
}

/// Compiles plans for many classes of one view. Most classes have tiers in common, and what they have in common is built
/// once and shared: four thousand classes over a thousand endpoints would otherwise take hundreds of megabytes.
#[derive(Debug)]
pub struct Compiler<'v> {
    view: &'v ClusterView,
    /// The endpoints of each locality.
    by_locality: Vec<Vec<EndpointIx>>,
    /// The limits that each locality is under, if any.
    limits: Vec<Option<Arc<Limited>>>,
    sets: CandidateSets,
}

/// The candidates that plans of one view have in common. Only good for a [`Compiler`] of that same view.
#[derive(Debug, Default)]
pub struct CandidateSets(HashMap<SetKey, Arc<CandidateSet>>);

/// What makes the candidates of two levels the same: their localities, who of them is ready, and how one is chosen.
type SetKey = (Box<[LocalityIx]>, Readiness, Policies);

/// For tunnels, and for requests.
type Policies = (Policy, Policy);

/// Which endpoints a level picks from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Readiness {
    Healthy,
    Degraded,
    Panic,
}

impl<'v> Compiler<'v> {
    pub fn new(view: &'v ClusterView) -> Self {
        Self::resume(view, CandidateSets::default())
    }

    /// Goes on with what a compiler of the same view has built.
    pub fn resume(view: &'v ClusterView, sets: CandidateSets) -> Self {
        let mut by_locality = vec![Vec::new(); view.localities.len()];
        for (ix, endpoint) in (0..=u32::MAX).map(EndpointIx).zip(&view.endpoints) {
            if let Some(locality) = by_locality.get_mut(usize::from(endpoint.locality.0)) {
                locality.push(ix);
            }
        }
        let summed = steering::every_policy(view).any(Policy::needs_sums);
        let limits = view.localities.iter().map(|locality| limited(view, locality.priority, &locality.group, summed));
        Self { view, by_locality, limits: limits.collect(), sets }
    }

    /// What the plans so far have in common, for [`Compiler::resume`].
    pub fn into_sets(self) -> CandidateSets {
        self.sets
    }

    pub fn compile(&mut self, class: &ClassView<'_>) -> Plan {
        let order = steering::order(self.view, class);
        let refusal = self.refusal(&order);
        let by = self.spill_by(&order.tiers);
        let health: Vec<TierHealth> = order.tiers.iter().map(|localities| self.health(localities, by)).collect();
        let steering = &self.view.steering;
        let loads = spill::spread(
            &health,
            Spreading {
                overprovisioning_percent: steering.overprovisioning_percent,
                panic_threshold_percent: steering.panic_threshold_percent,
                by,
            },
        );
        let levels = self.levels(&order.tiers, &loads, steering::policies(self.view, class));
        let tiers = order.tiers.into_iter().zip(loads).map(|(localities, load)| Tier {
            localities: localities.into(),
            load_percent: load.percent,
            degraded_percent: load.degraded_percent,
            panic: load.panic,
        });
        let limit = (!self.view.limits.is_unlimited()).then(|| bound(self.view, self.view.limits, |_| true));
        Plan { tiers: tiers.collect(), levels, limit, refusal }
    }

    /// By capacity only where every locality of the plan has one: a sum of connections and weights would mean nothing.
    fn spill_by(&self, tiers: &[Vec<LocalityIx>]) -> SpillBy {
        let known = |ix: &LocalityIx| {
            self.view.localities[usize::from(ix.0)].capacity.is_some() || self.by_locality[usize::from(ix.0)].is_empty()
        };
        match self.view.steering.spill_by {
            SpillBy::Capacity if tiers.iter().flatten().all(known) => SpillBy::Capacity,
            _ => SpillBy::Weight,
        }
    }

    fn health(&self, localities: &[LocalityIx], by: SpillBy) -> TierHealth {
        let mut health = TierHealth::default();
        let mut shared = 0;
        for &locality in localities {
            let part = self.health_of(locality, by);
            health.up += part.up;
            health.degraded += part.degraded;
            health.total += part.total;
            health.built_for += part.built_for;
            health.endpoints += part.endpoints;
            shared += part.up * u64::from(part.share);
        }
        let share = shared.checked_div(health.up).and_then(|share| u32::try_from(share).ok());
        health.share = share.map_or(100, |share| share.max(1));
        health
    }

    fn health_of(&self, ix: LocalityIx, by: SpillBy) -> TierHealth {
        let locality = &self.view.localities[usize::from(ix.0)];
        let mut health = TierHealth { share: locality.share.as_percent().into(), ..TierHealth::default() };
        for (_, endpoint) in self.endpoints(&[ix]).filter(|(_, endpoint)| endpoint.standing.takes_in_panic()) {
            let weight = u64::from(endpoint.weight.get());
            health.total += weight;
            health.endpoints += 1;
            if endpoint.standing.takes_new() {
                *(if endpoint.degraded { &mut health.degraded } else { &mut health.up }) += weight;
            }
        }
        let here = &self.by_locality[usize::from(ix.0)];
        if let (SpillBy::Capacity, Some(capacity)) = (by, locality.capacity.filter(|_| !here.is_empty())) {
            // What is declared is for all of its endpoints, whatever their standing.
            let weight = here.iter().map(|ix| u64::from(self.view.endpoints[ix.0 as usize].weight.get())).sum();
            health.measure_by(capacity.get().into(), weight);
        }
        health
    }

    /// What is drawn from: the tiers first, and behind them the degraded endpoints of each.
    fn levels(&mut self, tiers: &[Vec<LocalityIx>], loads: &[TierLoad], policies: Policies) -> Box<[Level]> {
        let healthy = tiers.iter().zip(loads).enumerate().map(|(tier, (localities, load))| {
            let readiness = if load.panic { Readiness::Panic } else { Readiness::Healthy };
            let limits = self.limits_of_all(localities);
            let set = self.set(localities, readiness, policies);
            Level { tier, degraded: false, percent: load.percent, limits, set }
        });
        let mut levels: Vec<Level> = healthy.collect();
        for (tier, (localities, load)) in tiers.iter().zip(loads).enumerate().filter(|(_, (_, load))| !load.panic) {
            let set = self.set(localities, Readiness::Degraded, policies);
            if !set.candidates().is_empty() {
                let limits = self.limits_of_all(localities);
                levels.push(Level { tier, degraded: true, percent: load.degraded_percent, limits, set });
            }
        }
        levels.into()
    }

    /// The limits that these localities have in common: those of their priority, if it is the same.
    fn limits_of_all(&self, localities: &[LocalityIx]) -> Option<Arc<Limited>> {
        let priority = |ix: &LocalityIx| self.view.localities[usize::from(ix.0)].priority;
        let first = localities.first()?;
        let alike = localities.iter().all(|ix| priority(ix) == priority(first));
        self.limits[usize::from(first.0)].clone().filter(|_| alike)
    }

    fn set(&mut self, localities: &[LocalityIx], readiness: Readiness, policies: Policies) -> Arc<CandidateSet> {
        let key = (Box::from(localities), readiness, policies);
        if let Some(set) = self.sets.0.get(&key) {
            return Arc::clone(set);
        }
        let candidates = self.endpoints(localities).filter(|(_, endpoint)| readiness.admits(endpoint));
        let candidate = |(ix, endpoint): (EndpointIx, &Endpoint)| {
            let at = usize::from(endpoint.locality.0);
            Candidate::new(ix, endpoint, &self.view.localities[at], self.limits[at].clone())
        };
        let members = self
            .endpoints(localities)
            .map(|(ix, endpoint)| (Arc::clone(&endpoint.name), endpoint.table_weight.unwrap_or(endpoint.weight), ix));
        let groups = localities.iter().map(|ix| Arc::clone(&self.view.localities[usize::from(ix.0)].group));
        let set = Arc::new(CandidateSet::new(Parts {
            candidates: candidates.map(candidate).collect(),
            members: members.collect(),
            groups: groups.collect(),
            policy: policies.0,
            request_policy: policies.1,
            tables: &self.view.tables,
        }));
        self.sets.0.insert(key, Arc::clone(&set));
        set
    }

    /// The endpoints of these localities, save of those that are out of service.
    fn endpoints(&self, localities: &[LocalityIx]) -> impl Iterator<Item = (EndpointIx, &'v Endpoint)> {
        let view = self.view;
        localities
            .iter()
            .filter(|locality| view.localities[usize::from(locality.0)].share != Share::NONE)
            .flat_map(|locality| &self.by_locality[usize::from(locality.0)])
            .map(move |&ix| (ix, &view.endpoints[ix.0 as usize]))
    }

    fn refusal(&self, order: &steering::Order) -> Refusal {
        let in_plan = order.tiers.iter().flatten().map(|locality| self.by_locality[usize::from(locality.0)].len());
        let in_plan: usize = in_plan.sum();
        let in_all: usize = self.by_locality.iter().map(Vec::len).sum();
        match in_all {
            0 => Refusal::NoEndpoints,
            _ if order.strict && in_plan < in_all => Refusal::Strict,
            _ => Refusal::Plain,
        }
    }
}

/// The limits on a locality of this priority; `summed` if a policy has to know what it holds even without one.
fn limited(view: &ClusterView, priority: u32, group: &Arc<Group>, summed: bool) -> Option<Arc<Limited>> {
    let of_all = (!view.limits.is_unlimited()).then(|| bound(view, view.limits, |_| true));
    let of_priority = view.limits_of(priority).map(|limits| bound(view, limits, |other| other == priority));
    let bounds: Box<[Bound]> = [of_all, of_priority].into_iter().flatten().collect();
    (summed || !bounds.is_empty()).then(|| Arc::new(Limited { group: Arc::clone(group), bounds }))
}

/// Limits on the localities of these priorities together.
fn bound(view: &ClusterView, limits: Limits, counts: impl Fn(u32) -> bool) -> Bound {
    let groups: Box<[Arc<Group>]> = view
        .localities
        .iter()
        .filter(|locality| counts(locality.priority))
        .map(|locality| Arc::clone(&locality.group))
        .collect();
    let at = |endpoint: &&Endpoint| view.localities.get(usize::from(endpoint.locality.0));
    let held = view.endpoints.iter().filter(|endpoint| at(endpoint).is_some_and(|at| counts(at.priority)));
    let held: u64 = held.map(|endpoint| u64::from(endpoint.load.leases())).sum();
    let counted: u64 = groups.iter().map(|group| u64::from(group.connections())).sum();
    let uncounted = u32::try_from(held.saturating_sub(counted)).unwrap_or(u32::MAX);
    Bound { groups, uncounted, limits }
}

impl TierHealth {
    /// Weights become shares of a capacity that is declared for all of them.
    fn measure_by(&mut self, capacity: u64, weight: u64) {
        let share = |part: u64| {
            u64::try_from(u128::from(part) * u128::from(capacity) / u128::from(weight.max(1))).unwrap_or(u64::MAX)
        };
        (self.up, self.degraded, self.total) = (share(self.up), share(self.degraded), share(self.total));
        self.built_for = capacity;
    }
}

impl Readiness {
    fn admits(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Healthy => endpoint.standing.takes_new() && !endpoint.degraded,
            Self::Degraded => endpoint.standing.takes_new() && endpoint.degraded,
            Self::Panic => endpoint.standing.takes_in_panic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        endpoint::Locality,
        snapshot::Policy,
        steering::{Criterion, Steering},
    };

    fn view() -> ClusterView {
        let endpoint = |locality| Endpoint { name: "e".into(), locality: LocalityIx(locality), ..Endpoint::default() };
        ClusterView {
            endpoints: (0..3).map(endpoint).collect(),
            localities: (0..3).map(|_| Locality::default()).collect(),
            policy: Policy::P2C,
            request_policy: Policy::RoundRobin,
            steering: Steering { criteria: vec![Criterion::Distance], ..Steering::default() },
            ..ClusterView::default()
        }
    }

    #[test]
    fn classes_with_a_tier_in_common_share_its_candidates() {
        let view = view();
        let mut compiler = Compiler::new(&view);
        let near_first = [Some(0.0), Some(1000.0), Some(1000.0)];
        let far_first = [Some(1000.0), Some(0.0), Some(0.0)];
        let one = compiler.compile(&ClassView { rule: None, distances_km: &near_first });
        let other = compiler.compile(&ClassView { rule: None, distances_km: &far_first });
        assert!(Arc::ptr_eq(&one.levels[0].set, &other.levels[1].set));
        assert!(Arc::ptr_eq(&one.levels[1].set, &other.levels[0].set));
    }

    #[test]
    fn a_plan_keeps_what_it_needs_when_the_view_is_gone() {
        let view = view();
        let plan = compile(&view, &ClassView::default());
        drop(view);
        assert_eq!(plan.endpoints_of(0).count(), 3);
    }
}
