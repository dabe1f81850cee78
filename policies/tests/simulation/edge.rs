//! A cluster, and an edge that picks from it.

use std::time::Duration;

use policies::{
    ClassView, ClusterView, Criterion, Cursors, Dice, Endpoint, Kind, Locality, LocalityIx, NoPick, Pick, PickContext,
    Plan, Policy, SeededDice, Steering, Tick, Tried, compile,
};

/// So many endpoints of weight 1 in each of some localities, which are tiers in this order.
pub(crate) fn cluster(policy: Policy, endpoints: &[u32]) -> ClusterView {
    let localities = || (0..=u16::MAX).zip(endpoints);
    let endpoint = |(locality, number)| Endpoint {
        name: format!("10.{locality}.{}.{}:5222", number / 256, number % 256).into(),
        locality: LocalityIx(locality),
        ..Endpoint::default()
    };
    let locality = |ix| Locality { name: format!("l{ix}").into(), priority: u32::from(ix), ..Locality::default() };
    ClusterView {
        endpoints: localities().flat_map(|(ix, &count)| (0..count).map(move |nth| (ix, nth))).map(endpoint).collect(),
        localities: localities().map(|(ix, _)| locality(ix)).collect(),
        policy,
        request_policy: policy,
        steering: Steering { criteria: vec![Criterion::Priority], ..Steering::default() },
        ..ClusterView::default()
    }
}

/// Random draws for one choice, power of so many choices for more.
pub(crate) fn best_of(choices: u8) -> Policy {
    if choices == 1 { Policy::Random } else { Policy::P2c { choices } }
}

/// One worker with a plan. It picks for clients of whom nothing is known.
pub(crate) struct Edge {
    plan: Plan,
    pub(crate) dice: SeededDice,
    cursors: Cursors,
}

impl Edge {
    pub(crate) fn new(view: &ClusterView, seed: u64) -> Self {
        Self { plan: compile(view, &ClassView::default()), dice: SeededDice::new(seed), cursors: Cursors::new(seed) }
    }

    /// The control tick.
    pub(crate) fn sees(&mut self, view: &ClusterView) {
        self.plan = compile(view, &ClassView::default());
    }

    pub(crate) fn pick(&mut self, key: Option<u64>, now: f64) -> Result<Pick, NoPick> {
        self.pick_at(key, tick(now))
    }

    pub(crate) fn pick_at(&mut self, key: Option<u64>, now: Tick) -> Result<Pick, NoPick> {
        let tried = Tried::new();
        let mut cx = PickContext::new(&mut self.dice, &mut self.cursors, &tried, now);
        cx.key = key;
        self.plan.pick(Kind::Tunnel, &mut cx)
    }

    /// Picks where nothing can be in the way.
    pub(crate) fn must_pick(&mut self, key: Option<u64>, now: f64) -> Pick {
        self.pick(key, now).expect("nothing limits this cluster")
    }
}

/// The position of the picked endpoint.
pub(crate) fn place(pick: &Pick) -> usize {
    pick.endpoint.0 as usize
}

pub(crate) fn tick(seconds: f64) -> Tick {
    Tick(Duration::from_secs_f64(seconds))
}

/// Evenly distributed between 0 and 1, and neither of them.
pub(crate) fn uniform(dice: &mut impl Dice) -> f64 {
    (f64::from(dice.below(u32::MAX)) + 0.5) / f64::from(u32::MAX)
}

/// A time until something happens that is as likely at any moment.
pub(crate) fn exponential(mean: f64, dice: &mut impl Dice) -> f64 {
    -mean * uniform(dice).ln()
}
