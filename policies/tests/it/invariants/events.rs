//! What may happen to a cluster, as proptest draws it.

use std::num::NonZeroU32;

use policies::{
    AcceptRate, ClusterView, Endpoint, Kind, Limits, LocalityIx, LocalityOrder, Policy, Rule, Share, Standing, Weight,
};
use proptest::prelude::*;

use crate::cluster::{cluster, locality, policies};

/// Localities of every cluster here; each is a priority of its own.
pub(super) const LOCALITIES: u16 = 4;

/// Things are named by a number that is counted round, so that every event means something in every cluster.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Pick(Client),
    /// The endpoint of one lease accepts.
    Connected(usize),
    /// The end of one tunnel.
    End(usize),
    Join(Endpoint),
    /// An endpoint is no longer there. Its leases live on.
    Leave(usize),
    /// One that had left is there again, with what it still holds.
    Return(usize),
    Change(usize, Change),
    /// An operator, or a locality that gets full.
    Share(u16, Share),
    Limits(Limits),
    PriorityLimits(u16, Limits),
    /// So many milliseconds go by.
    Time(u64),
    /// The files are read again, and say something else.
    Reload(Box<Settings>),
    /// The control tick: what changed gets into the plan.
    Recompile,
}

#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) tried: Vec<u32>,
    pub(super) pin: Option<u32>,
    pub(super) key: Option<u64>,
}

/// What may become of one endpoint.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Standing(Standing),
    Weight(Weight),
    Max(Option<NonZeroU32>),
    Move(LocalityIx),
    Degraded(bool),
    /// It came up in this moment.
    SlowStart,
}

/// What the files say of the cluster as a whole.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    policy: Policy,
    request_policy: Policy,
    rule: Rule,
    panic_threshold_percent: u32,
}

impl Settings {
    pub(super) fn apply(self, view: &mut ClusterView) {
        view.policy = self.policy;
        view.request_policy = self.request_policy;
        view.steering.rules = vec![self.rule];
        view.steering.panic_threshold_percent = self.panic_threshold_percent;
    }
}

pub(super) fn view() -> impl Strategy<Value = ClusterView> {
    (prop::collection::vec(endpoint(), 0..12), settings()).prop_map(|(endpoints, settings)| {
        let mut view = cluster(Policy::P2C, endpoints);
        view.localities = (0..LOCALITIES).map(locality).collect();
        settings.apply(&mut view);
        view
    })
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..80)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        24 => client().prop_map(Event::Pick),
        4 => any::<usize>().prop_map(Event::Connected),
        8 => any::<usize>().prop_map(Event::End),
        3 => endpoint().prop_map(Event::Join),
        2 => any::<usize>().prop_map(Event::Leave),
        2 => any::<usize>().prop_map(Event::Return),
        8 => (any::<usize>(), change()).prop_map(|(which, change)| Event::Change(which, change)),
        2 => (0..LOCALITIES, share()).prop_map(|(ix, share)| Event::Share(ix, share)),
        1 => limits().prop_map(Event::Limits),
        1 => (0..LOCALITIES, limits()).prop_map(|(ix, limits)| Event::PriorityLimits(ix, limits)),
        4 => (1_u64..2_000).prop_map(Event::Time),
        1 => settings().prop_map(|settings| Event::Reload(Box::new(settings))),
        8 => Just(Event::Recompile),
    ]
}

fn client() -> impl Strategy<Value = Client> {
    let kind = prop_oneof![Just(Kind::Tunnel), Just(Kind::Request)];
    let (tried, pin) = (prop::collection::vec(0_u32..12, 0..4), prop::option::weighted(0.3, 0_u32..14));
    (kind, tried, pin, any::<Option<u64>>()).prop_map(|(kind, tried, pin, key)| Client { kind, tried, pin, key })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => standing().prop_map(Change::Standing),
        1 => weight().prop_map(Change::Weight),
        1 => max().prop_map(Change::Max),
        1 => (0..LOCALITIES).prop_map(|ix| Change::Move(LocalityIx(ix))),
        1 => any::<bool>().prop_map(Change::Degraded),
        1 => Just(Change::SlowStart),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let accept_rate = prop_oneof![3 => Just(None), 1 => (0.5_f64..50.0).prop_map(AcceptRate::per_second)];
    let degraded = prop::bool::weighted(0.2);
    (0..LOCALITIES, weight(), max(), accept_rate, degraded, standing()).prop_map(
        |(locality, weight, max_connections, accept_rate, degraded, standing)| Endpoint {
            locality: LocalityIx(locality),
            weight,
            max_connections,
            accept_rate,
            degraded,
            standing,
            ..Endpoint::default()
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    (policy(), policy(), rule(), prop_oneof![Just(0), Just(50)]).prop_map(
        |(policy, request_policy, rule, panic_threshold_percent)| Settings {
            policy,
            request_policy,
            rule,
            panic_threshold_percent,
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let localities = || prop::collection::vec((0..=LOCALITIES).prop_map(LocalityIx), 0..3);
    let order = prop_oneof![Just(LocalityOrder::Steered), Just(LocalityOrder::AsWritten)];
    (localities(), localities(), order, any::<bool>(), prop::option::of(policy())).prop_map(
        |(localities, fallback, order, strict, policy)| Rule {
            localities,
            fallback,
            order,
            strict,
            policy,
            ..Rule::default()
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![4 => prop::sample::select(policies()), 1 => (2_u8..5).prop_map(|choices| Policy::P2c { choices })]
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![4 => Just(Standing::Up), 3 => prop::sample::select(Standing::ALL.to_vec())]
}

fn weight() -> impl Strategy<Value = Weight> {
    (1_u16..50).prop_map(|weight| Weight::new(weight).unwrap())
}

fn max() -> impl Strategy<Value = Option<NonZeroU32>> {
    prop_oneof![Just(None), (1_u32..4).prop_map(NonZeroU32::new)]
}

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![Just(Share::ALL), Just(Share::NONE), (0_u8..=100).prop_map(|percent| Share::percent(percent).unwrap())]
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = || prop_oneof![2 => Just(None), 1 => (1_u32..12).prop_map(NonZeroU32::new)];
    (limit(), limit()).prop_map(|(max_connections, max_pending)| Limits { max_connections, max_pending })
}
