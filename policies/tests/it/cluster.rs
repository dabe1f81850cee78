//! Clusters in few words, and a worker that picks from them.

use std::{num::NonZeroU32, time::Duration};

use policies::{
    AcceptRate, BalanceFactor, ClassView, ClusterView, Cursors, Endpoint, EndpointIx, Kind, Latency, Locality,
    LocalityIx, NoPick, Pick, PickContext, Plan, Policy, RingSize, SeededDice, SlowStart, Standing, Steering,
    TableSize, Tick, Tried, Weight, compile,
};

/// A cluster of localities `l0`, `l1`, … with priorities in that order and nothing else that orders them.
pub(crate) fn cluster(policy: Policy, mut endpoints: Vec<Endpoint>) -> ClusterView {
    for (ix, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.name = format!("10.0.{}.{}:5222", ix / 256, ix % 256).into();
    }
    let localities = endpoints.iter().map(|endpoint| endpoint.locality.0 + 1).max().unwrap_or(1);
    ClusterView {
        endpoints,
        localities: (0..localities).map(locality).collect(),
        policy,
        request_policy: policy,
        steering: Steering { criteria: vec![policies::Criterion::Priority], ..Steering::default() },
        ..ClusterView::default()
    }
}

pub(crate) fn locality(ix: u16) -> Locality {
    Locality { name: format!("l{ix}").into(), priority: ix.into(), ..Locality::default() }
}

/// An endpoint of weight 1 that is up.
pub(crate) fn endpoint(locality: u16) -> Endpoint {
    Endpoint { locality: LocalityIx(locality), ..Endpoint::default() }
}

/// Short forms of what tests change about an endpoint.
pub(crate) trait With {
    fn weight(self, weight: u16) -> Self;
    fn standing(self, standing: Standing) -> Self;
    fn max(self, max: u32) -> Self;
    fn rate(self, per_second: f64) -> Self;
    fn degraded(self) -> Self;
    /// As it is after this many seconds of a slow start of a hundred.
    fn warming_up(self, seconds: u64) -> Self;
}

impl With for Endpoint {
    fn weight(mut self, weight: u16) -> Self {
        self.weight = Weight::new(weight).unwrap();
        self
    }

    fn standing(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    fn max(mut self, max: u32) -> Self {
        self.max_connections = NonZeroU32::new(max);
        self
    }

    fn rate(mut self, per_second: f64) -> Self {
        self.accept_rate = AcceptRate::per_second(per_second);
        self
    }

    fn degraded(mut self) -> Self {
        self.degraded = true;
        self
    }

    fn warming_up(mut self, seconds: u64) -> Self {
        let slow_start = SlowStart { window: Duration::from_secs(100), aggression: 1.0, least_percent: 1 };
        self.ramp = slow_start.ramp(Some(Tick::default()), Tick(Duration::from_secs(seconds)));
        self
    }
}

/// Every policy, with small tables.
pub(crate) fn policies() -> Vec<Policy> {
    let (size, balance) = (TableSize::new(1009).unwrap(), Some(BalanceFactor::default()));
    let ring = RingSize::new(256, 1024).unwrap();
    vec![
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::Random,
        Policy::P2C,
        Policy::PeakEwma { choices: 2, latency: Latency::default() },
        Policy::Prequal {
            choices: 16,
            hot_above_percent: 84,
            report_age: Duration::from_secs(5),
            latency: Latency::default(),
        },
        Policy::Maglev { size, balance: None },
        Policy::Maglev { size, balance },
        Policy::RingHash { size: ring, balance: None },
        Policy::RingHash { size: ring, balance },
    ]
}

/// Clients of whom nothing is known.
pub(crate) const ANYBODY: ClassView<'static> = ClassView { rule: None, distances_km: &[] };

pub(crate) struct Worker {
    pub(crate) dice: SeededDice,
    pub(crate) cursors: Cursors,
    pub(crate) tried: Tried,
    pub(crate) now: Tick,
    pub(crate) key: Option<u64>,
    pub(crate) pin: Option<EndpointIx>,
}

impl Worker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: SeededDice::new(seed),
            cursors: Cursors::new(seed),
            tried: Tried::new(),
            now: Tick::default(),
            key: None,
            pin: None,
        }
    }

    pub(crate) fn context(&mut self) -> PickContext<'_, SeededDice> {
        let mut cx = PickContext::new(&mut self.dice, &mut self.cursors, &self.tried, self.now);
        (cx.key, cx.pin) = (self.key, self.pin);
        cx
    }

    pub(crate) fn pick(&mut self, plan: &Plan) -> Result<Pick, NoPick> {
        plan.pick(Kind::Tunnel, &mut self.context())
    }

    /// Compiles for anybody and picks once.
    pub(crate) fn pick_from(&mut self, view: &ClusterView) -> Result<Pick, NoPick> {
        self.pick(&compile(view, &ANYBODY))
    }

    pub(crate) fn has_tried(mut self, endpoints: &[u32]) -> Self {
        for &endpoint in endpoints {
            assert!(self.tried.push(EndpointIx(endpoint)));
        }
        self
    }

    /// Picks `n` times, keeps every lease, and counts the picks of each endpoint.
    pub(crate) fn fill(&mut self, view: &ClusterView, n: u32) -> (Vec<u32>, Vec<Pick>) {
        let plan = compile(view, &ANYBODY);
        let picks: Vec<Pick> = (0..n).map(|_| self.pick(&plan).unwrap()).collect();
        let mut counts = vec![0; view.endpoints.len()];
        for pick in &picks {
            counts[pick.endpoint.0 as usize] += 1;
        }
        (counts, picks)
    }
}
