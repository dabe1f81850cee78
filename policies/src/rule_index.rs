//! The first rule that matches, without asking each of them.
//!
//! A map of the world has hundreds of rules, and one is looked for with every connection. Each kind of match is a sorted
//! table here, with the first rule that names the value; the first of all that a client's own values are found in is the
//! answer. Networks are looked for once for each prefix length in use.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::rule::{ClientPlace, Rule, Subdivision};

/// Answers as [`Steering::first_match`](crate::Steering::first_match) does, in a time that hardly grows with the rules.
#[derive(Debug, Clone, Default)]
pub struct RuleIndex {
    networks: Table<IpNet>,
    /// Prefix lengths in use.
    ipv4_lengths: Vec<u8>,
    ipv6_lengths: Vec<u8>,
    asns: Table<u32>,
    subdivisions: Table<Subdivision>,
    countries: Table<[u8; 2]>,
    continents: Table<[u8; 2]>,
    everybody: Option<usize>,
}

impl RuleIndex {
    pub fn new(rules: &[Rule]) -> Self {
        let networks = Table::new(rules, |rule| rule.networks.iter().map(normal));
        let lengths = |ipv4: bool| {
            let of_kind = networks.keys().filter(|net| matches!(net, IpNet::V4(_)) == ipv4);
            let mut lengths: Vec<u8> = of_kind.map(IpNet::prefix_len).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        };
        let capitals = |code: &[u8; 2]| code.map(|byte| byte.to_ascii_uppercase());
        Self {
            ipv4_lengths: lengths(true),
            ipv6_lengths: lengths(false),
            networks,
            asns: Table::new(rules, |rule| rule.asns.iter().copied()),
            subdivisions: Table::new(rules, |rule| rule.subdivisions.iter().map(|named| named.in_capitals())),
            countries: Table::new(rules, |rule| rule.countries.iter().map(capitals)),
            continents: Table::new(rules, |rule| rule.continents.iter().map(capitals)),
            everybody: rules.iter().position(Rule::is_for_everybody),
        }
    }

    /// The position of the first rule that matches the client. Allocates nothing.
    pub fn first_match(&self, client: &ClientPlace) -> Option<usize> {
        let capitals = |code: [u8; 2]| code.map(|byte| byte.to_ascii_uppercase());
        [
            client.address.and_then(|address| self.network(address)),
            client.asn.and_then(|asn| self.asns.find(&asn)),
            client.subdivision.and_then(|named| self.subdivisions.find(&named.in_capitals())),
            client.country.and_then(|code| self.countries.find(&capitals(code))),
            client.continent.and_then(|code| self.continents.find(&capitals(code))),
            self.everybody,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn network(&self, address: IpAddr) -> Option<usize> {
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() { &self.ipv4_lengths } else { &self.ipv6_lengths };
        let around = lengths.iter().filter_map(|&length| IpNet::new(address, length).ok());
        around.filter_map(|network| self.networks.find(&network.trunc())).min()
    }
}

/// Values that rules name, sorted, each with the first rule that names it.
#[derive(Debug, Clone)]
struct Table<K>(Box<[(K, usize)]>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord + Copy> Table<K> {
    fn new<'r, I: Iterator<Item = K>>(rules: &'r [Rule], named: impl Fn(&'r Rule) -> I) -> Self {
        let mut entries: Vec<(K, usize)> =
            rules.iter().enumerate().flat_map(|(at, rule)| named(rule).map(move |key| (key, at))).collect();
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        Self(entries.into())
    }

    fn find(&self, key: &K) -> Option<usize> {
        self.0.binary_search_by(|(named, _)| named.cmp(key)).ok().map(|at| self.0[at].1)
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }
}

/// Without bits behind the prefix, and IPv4 where it is written inside IPv6, as addresses are looked for.
fn normal(network: &IpNet) -> IpNet {
    let network = network.trunc();
    match network {
        IpNet::V6(net) if net.prefix_len() >= 96 => (net.addr().to_ipv4_mapped())
            .and_then(|address| Ipv4Net::new(address, net.prefix_len() - 96).ok())
            .map_or(network, IpNet::from),
        _ => network,
    }
}
