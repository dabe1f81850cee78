//! Which localities come first for a class of clients.
//!
//! Steering is a list of criteria, and each orders only what the ones before it left tied. What is still tied at the end
//! forms one tier, and the endpoints of a tier are one set of candidates: inside it load decides, not nearness. That is
//! why distance and round-trip time are cut into bands. A blend of both into one score ("latency times a plus load times
//! b") was left out on purpose: its factors cannot be explained to anybody, and no setting of them beats bands.

use crate::{
    endpoint::{Locality, LocalityIx},
    rule::{ClientPlace, Rule},
    snapshot::{ClassView, ClusterView, Policy},
    spill::SpillBy,
};

/// How localities are ordered, and how traffic spills from one tier to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Steering {
    /// Each orders what the ones before left tied.
    pub criteria: Vec<Criterion>,
    /// Kilometres. Distances that fall into the same band are tied. Anything but a positive number counts as
    /// [`Steering::DISTANCE_BAND_KM`].
    pub distance_band_km: f64,
    /// The first that matches a client counts.
    pub rules: Vec<Rule>,
    /// How much of its ordinary load a tier can carry when it must, in percent. Less than 100 counts as 100.
    pub overprovisioning_percent: u32,
    /// Under this share of healthy endpoints, in percent, a tier that is needed uses its failed endpoints too. Zero
    /// disables panic; more than 100 counts as 100.
    pub panic_threshold_percent: u32,
    /// What a tier's health is measured against.
    pub spill_by: SpillBy,
}

impl Steering {
    /// About the distance that costs 8 ms of round trip (see [`prior_rtt`](crate::prior_rtt)): nearer than that, nobody notices.
    pub const DISTANCE_BAND_KM: f64 = 500.0;
    /// Envoy's default.
    pub const OVERPROVISIONING_PERCENT: u32 = 140;
    /// Envoy's default.
    pub const PANIC_THRESHOLD_PERCENT: u32 = 50;

    /// The position of the first rule that matches the client.
    pub fn first_match(&self, client: &ClientPlace) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(client))
    }
}

impl Default for Steering {
    /// The criteria of an edge that serves clients far and near: rules, then distance, then round-trip time.
    fn default() -> Self {
        Self {
            criteria: vec![Criterion::Rules, Criterion::Distance, Criterion::Rtt],
            distance_band_km: Self::DISTANCE_BAND_KM,
            rules: Vec::new(),
            overprovisioning_percent: Self::OVERPROVISIONING_PERCENT,
            panic_threshold_percent: Self::PANIC_THRESHOLD_PERCENT,
            spill_by: SpillBy::Weight,
        }
    }
}

/// One way to order localities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Criterion {
    /// Those that the matching rule names come before the others, its fallback next.
    Rules,
    /// By the band of the distance from the client.
    Distance,
    /// By the band of the round-trip time from this edge.
    Rtt,
    /// By their number, lowest first.
    Priority,
}

impl Criterion {
    /// The word that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Distance => "distance",
            Self::Rtt => "rtt",
            Self::Priority => "priority",
        }
    }
}

/// The localities of a class, best tier first.
pub(crate) struct Order {
    pub(crate) tiers: Vec<Vec<LocalityIx>>,
    /// Whether a strict rule governs the class, so that only the localities above exist for it.
    pub(crate) strict: bool,
}

/// What the criteria see of one locality. Lower comes first in each; unknown figures come last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rank {
    /// By the rule; those that it does not name come last.
    pub(crate) preference: Option<u32>,
    pub(crate) distance_km: Option<f64>,
    pub(crate) distance_band: Option<u32>,
    pub(crate) rtt_band: Option<u8>,
    pub(crate) priority: u32,
}

/// Groups the localities of a class into tiers.
pub(crate) fn order(view: &ClusterView, class: &ClassView<'_>) -> Order {
    let strict = preferring_rule(view, class).is_some_and(|rule| rule.strict);
    let criteria = criteria(view, class);
    let mut ranked: Vec<(Vec<u32>, LocalityIx)> = localities(view)
        .map(|(ix, locality)| (ix, rank(view, class, ix, locality)))
        .filter(|(_, rank)| !(strict && rank.preference.is_none()))
        .map(|(ix, rank)| (criteria.iter().map(|&by| rank.by(by)).collect(), ix))
        .collect();
    // Locality indices break ties of the sort only, so that equal inputs give equal tables.
    ranked.sort_unstable();
    let tiers = ranked.chunk_by(|a, b| a.0 == b.0).map(|tied| tied.iter().map(|&(_, ix)| ix).collect()).collect();
    Order { tiers, strict }
}

/// What the criteria see of one locality.
pub(crate) fn rank(view: &ClusterView, class: &ClassView<'_>, ix: LocalityIx, locality: &Locality) -> Rank {
    let distance_km =
        class.distances_km.get(usize::from(ix.0)).copied().flatten().filter(|km| *km >= 0.0 && km.is_finite());
    Rank {
        preference: preferring_rule(view, class).and_then(|rule| rule.preference(ix)),
        distance_km,
        distance_band: distance_km.map(|km| distance_band(km, view.steering.distance_band_km)),
        rtt_band: locality.rtt_band,
        priority: locality.priority,
    }
}

/// The localities with their positions; those past the last possible [`LocalityIx`] cannot be named and do not exist.
pub(crate) fn localities(view: &ClusterView) -> impl Iterator<Item = (LocalityIx, &Locality)> {
    (0..=u16::MAX).map(LocalityIx).zip(&view.localities)
}

impl Rank {
    fn by(&self, criterion: Criterion) -> u32 {
        match criterion {
            Criterion::Rules => self.preference.unwrap_or(u32::MAX),
            Criterion::Distance => self.distance_band.unwrap_or(u32::MAX),
            Criterion::Rtt => self.rtt_band.map_or(u32::MAX, u32::from),
            Criterion::Priority => self.priority,
        }
    }
}

/// What decides between localities for this class.
pub(crate) fn criteria<'a>(view: &'a ClusterView, class: &ClassView<'_>) -> &'a [Criterion] {
    rule(view, class).and_then(|rule| rule.criteria.as_ref()).unwrap_or(&view.steering.criteria)
}

/// The policies of this class: for tunnels, and for requests.
pub(crate) fn policies(view: &ClusterView, class: &ClassView<'_>) -> (Policy, Policy) {
    let rule = rule(view, class);
    let tunnels = rule.and_then(|rule| rule.policy).unwrap_or(view.policy);
    let requests = rule.and_then(|rule| rule.request_policy).unwrap_or(view.request_policy);
    (tunnels, requests)
}

/// Every policy that some class of the view has.
pub(crate) fn every_policy(view: &ClusterView) -> impl Iterator<Item = Policy> {
    let of_rules = view.steering.rules.iter().flat_map(|rule| [rule.policy, rule.request_policy]).flatten();
    [view.policy, view.request_policy].into_iter().chain(of_rules)
}

/// The rule of this class. One from another snapshot that does not exist here is no rule.
pub(crate) fn rule<'a>(view: &'a ClusterView, class: &ClassView<'_>) -> Option<&'a Rule> {
    view.steering.rules.get(class.rule?)
}

fn preferring_rule<'a>(view: &'a ClusterView, class: &ClassView<'_>) -> Option<&'a Rule> {
    rule(view, class).filter(|rule| rule.prefers())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and a cast from float saturates"
)]
fn distance_band(km: f64, band_km: f64) -> u32 {
    let band_km = if band_km > 0.0 { band_km } else { Steering::DISTANCE_BAND_KM };
    // The last number means "unknown", which must stay behind the farthest known place.
    ((km / band_km).floor() as u32).min(u32::MAX - 1)
}
