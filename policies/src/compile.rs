//! From a view of the cluster to a plan, off the data path.

use std::{collections::HashMap, sync::Arc};

use crate::{
    candidates::{Candidate, CandidateSet},
    endpoint::{Endpoint, EndpointIx, LocalityIx, Standing},
    plan::{Plan, Refusal, Tier},
    snapshot::{ClassView, ClusterView},
    spill::{self, TierHealth},
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
    sets: HashMap<(Box<[LocalityIx]>, Readiness), Arc<CandidateSet>>,
}

/// Which endpoints a tier picks from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Readiness {
    Ordinary,
    Panic,
}

impl<'v> Compiler<'v> {
    pub fn new(view: &'v ClusterView) -> Self {
        let mut by_locality = vec![Vec::new(); view.localities.len()];
        for (ix, endpoint) in (0..=u32::MAX).map(EndpointIx).zip(&view.endpoints) {
            if let Some(locality) = by_locality.get_mut(usize::from(endpoint.locality.0)) {
                locality.push(ix);
            }
        }
        Self { view, by_locality, sets: HashMap::new() }
    }

    pub fn compile(&mut self, class: &ClassView<'_>) -> Plan {
        let order = steering::order(self.view, class);
        let health: Vec<TierHealth> = order.tiers.iter().map(|localities| self.health(localities)).collect();
        let steering = &self.view.steering;
        let loads = spill::spread(&health, steering.overprovisioning_percent, steering.panic_threshold_percent);
        let refusal = self.refusal(&order);
        let tiers = order.tiers.into_iter().zip(loads).map(|(localities, load)| {
            let readiness = if load.panic { Readiness::Panic } else { Readiness::Ordinary };
            let set = self.set(&localities, readiness);
            Tier { localities: localities.into(), load_percent: load.percent, panic: load.panic, set }
        });
        Plan { tiers: tiers.collect(), refusal }
    }

    fn health(&self, localities: &[LocalityIx]) -> TierHealth {
        let mut health = TierHealth::default();
        for (_, endpoint) in self.endpoints(localities).filter(|(_, endpoint)| endpoint.standing.takes_in_panic()) {
            let weight = u64::from(endpoint.weight.get());
            health.total_weight += weight;
            health.endpoints += 1;
            if endpoint.standing.takes_new() {
                health.up_weight += weight;
            }
        }
        health
    }

    fn set(&mut self, localities: &[LocalityIx], readiness: Readiness) -> Arc<CandidateSet> {
        let key = (Box::from(localities), readiness);
        if let Some(set) = self.sets.get(&key) {
            return Arc::clone(set);
        }
        let candidates = self
            .endpoints(localities)
            .filter(|(_, endpoint)| readiness.admits(endpoint.standing))
            .map(|(ix, endpoint)| Candidate::new(ix, endpoint))
            .collect();
        let set = Arc::new(CandidateSet::new(candidates, self.view.policy, self.view.request_policy));
        self.sets.insert(key, Arc::clone(&set));
        set
    }

    fn endpoints(&self, localities: &[LocalityIx]) -> impl Iterator<Item = (EndpointIx, &'v Endpoint)> {
        let view = self.view;
        localities
            .iter()
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

impl Readiness {
    fn admits(self, standing: Standing) -> bool {
        match self {
            Self::Ordinary => standing.takes_new(),
            Self::Panic => standing.takes_in_panic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        endpoint::{Locality, Weight},
        load::Load,
        snapshot::Policy,
        steering::{Criterion, Steering},
    };

    fn view() -> ClusterView {
        let endpoint = |locality| Endpoint {
            name: "e".into(),
            locality: LocalityIx(locality),
            weight: Weight::default(),
            max_connections: None,
            standing: Standing::Up,
            load: Arc::new(Load::new()),
        };
        let locality = Locality { name: "l".into(), priority: 0, rtt_band: None, rtt_ms: None };
        ClusterView {
            endpoints: (0..3).map(endpoint).collect(),
            localities: vec![locality; 3],
            policy: Policy::P2C,
            request_policy: Policy::RoundRobin,
            steering: Steering { criteria: vec![Criterion::Distance], ..Steering::default() },
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
        assert!(Arc::ptr_eq(&one.tiers[0].set, &other.tiers[1].set));
        assert!(Arc::ptr_eq(&one.tiers[1].set, &other.tiers[0].set));
        assert_eq!(compiler.sets.len(), 2);
    }

    #[test]
    fn a_plan_keeps_what_it_needs_when_the_view_is_gone() {
        let view = view();
        let plan = compile(&view, &ClassView::default());
        drop(view);
        assert_eq!(plan.tiers()[0].endpoints().count(), 3);
    }
}
