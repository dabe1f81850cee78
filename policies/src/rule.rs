//! Which clients a rule is for, and what it says of them.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{endpoint::LocalityIx, snapshot::Policy, steering::Criterion};

/// Where some clients should go, and how they are treated.
///
/// It matches when any of its lists that are not empty matches the client. A rule without any list matches everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub networks: Vec<IpNet>,
    /// Numbers of autonomous systems.
    pub asns: Vec<u32>,
    pub subdivisions: Vec<Subdivision>,
    /// ISO 3166-1 alpha-2.
    pub countries: Vec<[u8; 2]>,
    /// `AF`, `AN`, `AS`, `EU`, `NA`, `OC`, `SA`.
    pub continents: Vec<[u8; 2]>,
    /// Those that come first; `order` says whether as a set or one after the other.
    pub localities: Vec<LocalityIx>,
    /// Those that come next, before any other.
    pub fallback: Vec<LocalityIx>,
    pub order: LocalityOrder,
    /// Only the localities above exist for the clients that match: they are refused rather than sent elsewhere. This
    /// holds wherever [`Criterion::Rules`] stands and even if it is missing, because where data may live must not depend
    /// on an order of preference.
    pub strict: bool,
    /// Instead of the criteria of the cluster.
    pub criteria: Option<Vec<Criterion>>,
    /// Instead of the cluster's policy for tunnels.
    pub policy: Option<Policy>,
    /// Instead of the cluster's policy for requests.
    pub request_policy: Option<Policy>,
}

/// What the order of a rule's localities means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum LocalityOrder {
    /// Nothing: they are a set, and the other criteria order it.
    #[default]
    Steered,
    /// Preference: the second gets what the first cannot carry, whatever the criteria after the rules say.
    AsWritten,
}

/// A division of a country as ISO 3166-2 names it, `DE-BY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subdivision {
    /// ISO 3166-1 alpha-2.
    pub country: [u8; 2],
    /// One to three letters or digits, filled up with zeros.
    pub code: [u8; 3],
}

/// What rules can ask about a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientPlace {
    pub address: Option<IpAddr>,
    pub asn: Option<u32>,
    pub subdivision: Option<Subdivision>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<[u8; 2]>,
    pub continent: Option<[u8; 2]>,
}

/// What a rule has in common with a client that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    Network(IpNet),
    Asn(u32),
    Subdivision(Subdivision),
    Country([u8; 2]),
    Continent([u8; 2]),
    /// The rule asks for nothing.
    Everybody,
}

impl Rule {
    pub fn matches(&self, client: &ClientPlace) -> bool {
        self.matched(client).is_some()
    }

    /// Why it matches, the narrowest reason first; `None` if it does not.
    pub fn matched(&self, client: &ClientPlace) -> Option<Matched> {
        if self.is_for_everybody() {
            return Some(Matched::Everybody);
        }
        let network = |address| self.networks.iter().find(|network| covers(network, address)).copied();
        let asn = |asn| self.asns.contains(&asn);
        let subdivision = |client: &Subdivision| self.subdivisions.iter().any(|named| named.is(client));
        (client.address.and_then(network).map(Matched::Network))
            .or_else(|| client.asn.filter(|&number| asn(number)).map(Matched::Asn))
            .or_else(|| client.subdivision.filter(subdivision).map(Matched::Subdivision))
            .or_else(|| client.country.filter(|code| names(&self.countries, code)).map(Matched::Country))
            .or_else(|| client.continent.filter(|code| names(&self.continents, code)).map(Matched::Continent))
    }

    pub fn is_for_everybody(&self) -> bool {
        self.networks.is_empty()
            && self.asns.is_empty()
            && self.subdivisions.is_empty()
            && self.countries.is_empty()
            && self.continents.is_empty()
    }

    /// How much the rule wants a locality, 0 the most; `None` for those that it does not name.
    pub(crate) fn preference(&self, locality: LocalityIx) -> Option<u32> {
        let position = |list: &[LocalityIx]| list.iter().position(|&named| named == locality);
        let (first, next) = (position(&self.localities), position(&self.fallback));
        let preference = match self.order {
            LocalityOrder::Steered => first.map(|_| 0).or(next.map(|_| 1)),
            LocalityOrder::AsWritten => first.or(next.map(|at| self.localities.len() + at)),
        };
        preference.map(|preference| u32::try_from(preference).unwrap_or(u32::MAX))
    }

    /// Whether the rule changes anything about where its clients go: one that names no locality and is not strict
    /// prefers nothing.
    pub(crate) fn prefers(&self) -> bool {
        self.strict || !self.localities.is_empty() || !self.fallback.is_empty()
    }
}

impl Subdivision {
    /// From the two letters of a country and one to three letters or digits; `None` for anything else. In upper case.
    pub fn new(country: [u8; 2], code: &str) -> Option<Self> {
        let fitting = (1..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !fitting || !country.iter().all(u8::is_ascii_alphabetic) {
            return None;
        }
        let mut padded = [0; 3];
        padded[..code.len()].copy_from_slice(code.as_bytes());
        Some(Self { country, code: padded }.in_capitals())
    }

    fn is(&self, other: &Self) -> bool {
        self.in_capitals() == other.in_capitals()
    }

    pub(crate) fn in_capitals(self) -> Self {
        Self { country: self.country.map(|b| b.to_ascii_uppercase()), code: self.code.map(|b| b.to_ascii_uppercase()) }
    }
}

/// `DE-BY`
impl fmt::Display for Subdivision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.split(|&byte| byte == 0).next().unwrap_or_default();
        write!(f, "{}-{}", String::from_utf8_lossy(&self.country), String::from_utf8_lossy(code))
    }
}

/// `country DE`
impl fmt::Display for Matched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => write!(f, "network {network}"),
            Self::Asn(asn) => write!(f, "AS{asn}"),
            Self::Subdivision(subdivision) => write!(f, "subdivision {subdivision}"),
            Self::Country(code) => write!(f, "country {}", String::from_utf8_lossy(code)),
            Self::Continent(code) => write!(f, "continent {}", String::from_utf8_lossy(code)),
            Self::Everybody => f.write_str("everybody"),
        }
    }
}

fn names(codes: &[[u8; 2]], code: &[u8; 2]) -> bool {
    codes.iter().any(|named| named.eq_ignore_ascii_case(code))
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
