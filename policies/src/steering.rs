//! Which localities come first for a class of clients.
//!
//! Steering is a list of criteria, and each orders only what the ones before it left tied. What is still tied at the end
//! forms one tier, and the endpoints of a tier are one set of candidates: inside it load decides, not nearness. That is
//! why distance and round-trip time are cut into bands. A blend of both into one score ("latency times a plus load times
//! b") was left out on purpose: its factors cannot be explained to anybody, and no setting of them beats bands.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    endpoint::{Locality, LocalityIx},
    snapshot::{ClassView, ClusterView},
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
    /// Those that the matching rule names come before the others.
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

/// Where some clients should go.
///
/// It matches when any of its lists that are not empty matches the client. A rule without any list matches everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub networks: Vec<IpNet>,
    /// ISO 3166-1 alpha-2.
    pub countries: Vec<[u8; 2]>,
    /// `AF`, `AN`, `AS`, `EU`, `NA`, `OC`, `SA`.
    pub continents: Vec<[u8; 2]>,
    /// A set: its order means nothing, the other criteria order it.
    pub localities: Vec<LocalityIx>,
    /// Only these localities exist for the clients that match: they are refused rather than sent elsewhere. This holds
    /// wherever [`Criterion::Rules`] stands and even if it is missing, because where data may live must not depend on an
    /// order of preference.
    pub strict: bool,
}

impl Rule {
    fn matches(&self, client: &ClientPlace) -> bool {
        let for_everybody = self.networks.is_empty() && self.countries.is_empty() && self.continents.is_empty();
        for_everybody
            || client.address.is_some_and(|address| self.networks.iter().any(|net| covers(net, address)))
            || client.country.is_some_and(|country| names(&self.countries, country))
            || client.continent.is_some_and(|continent| names(&self.continents, continent))
    }
}

/// What rules can ask about a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientPlace {
    pub address: Option<IpAddr>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<[u8; 2]>,
    pub continent: Option<[u8; 2]>,
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
    pub(crate) outside_rule: bool,
    pub(crate) distance_km: Option<f64>,
    pub(crate) distance_band: Option<u32>,
    pub(crate) rtt_band: Option<u8>,
    pub(crate) priority: u32,
}

/// Groups the localities of a class into tiers.
pub(crate) fn order(view: &ClusterView, class: &ClassView<'_>) -> Order {
    let strict = matching_rule(view, class).is_some_and(|rule| rule.strict);
    let mut ranked: Vec<(Vec<u32>, LocalityIx)> = localities(view)
        .map(|(ix, locality)| (ix, rank(view, class, ix, locality)))
        .filter(|(_, rank)| !(strict && rank.outside_rule))
        .map(|(ix, rank)| (view.steering.criteria.iter().map(|&by| rank.by(by)).collect(), ix))
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
        outside_rule: matching_rule(view, class).is_some_and(|rule| !rule.localities.contains(&ix)),
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
            Criterion::Rules => u32::from(self.outside_rule),
            Criterion::Distance => self.distance_band.unwrap_or(u32::MAX),
            Criterion::Rtt => self.rtt_band.map_or(u32::MAX, u32::from),
            Criterion::Priority => self.priority,
        }
    }
}

/// The rule of this class. One that names no locality and is not strict prefers nothing, which is as if it were not there.
fn matching_rule<'a>(view: &'a ClusterView, class: &ClassView<'_>) -> Option<&'a Rule> {
    let rule = view.steering.rules.get(class.rule?)?;
    (rule.strict || !rule.localities.is_empty()).then_some(rule)
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

fn names(codes: &[[u8; 2]], code: [u8; 2]) -> bool {
    codes.iter().any(|named| named.eq_ignore_ascii_case(&code))
}

/// Whether a network covers an address. Both may be written as IPv4 inside IPv6 (`::ffff:10.0.0.1`), which is how a
/// dual-stack socket reports IPv4 clients. An IPv6 network that is merely wide, like `::/0`, covers no IPv4 client.
fn covers(network: &IpNet, address: IpAddr) -> bool {
    match (network, address.to_canonical()) {
        (IpNet::V6(network), IpAddr::V4(address)) => {
            network.prefix_len() >= 96
                && network.addr().to_ipv4_mapped().is_some()
                && network.contains(&address.to_ipv6_mapped())
        }
        (network, address) => network.contains(&address),
    }
}
