//! The first rule that matches, without asking each of them.
//!
//! A map of the world has hundreds of rules, and one is looked for with every connection. Each kind of match is a sorted
//! table here, with the first rule that names the value; the first of all that a client's own values are found in is the
//! answer. Networks are cut into ranges of addresses that do not overlap, each with the first rule around it.

use std::{cmp::Reverse, collections::BinaryHeap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::rule::{ClientPlace, Rule, Subdivision};

/// Answers as [`Steering::first_match`](crate::Steering::first_match) does, in a time that hardly grows with the rules.
#[derive(Debug, Clone, Default)]
pub struct RuleIndex {
    ipv4: Ranges,
    ipv6: Ranges,
    asns: Table<u32>,
    subdivisions: Table<Subdivision>,
    countries: Table<[u8; 2]>,
    continents: Table<[u8; 2]>,
    everybody: Option<usize>,
}

impl RuleIndex {
    pub fn new(rules: &[Rule]) -> Self {
        let named = || rules.iter().enumerate().flat_map(|(at, rule)| rule.networks.iter().map(move |net| (net, at)));
        let ranges =
            |ipv4: bool| named().map(|(net, at)| (normal(net), at)).filter(move |(net, _)| is_ipv4(net) == ipv4);
        let capitals = |code: &[u8; 2]| code.map(|byte| byte.to_ascii_uppercase());
        Self {
            ipv4: Ranges::new(ranges(true)),
            ipv6: Ranges::new(ranges(false)),
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
        if address.is_ipv4() { self.ipv4.find(number(address)) } else { self.ipv6.find(number(address)) }
    }
}

/// Where the answer changes, in ascending order: from this address on, the first rule with a network around it.
#[derive(Debug, Clone, Default)]
struct Ranges(Box<[(u128, Option<usize>)]>);

impl Ranges {
    /// From networks of one kind, each with the position of its rule.
    fn new(networks: impl Iterator<Item = (IpNet, usize)>) -> Self {
        let mut networks: Vec<(u128, u128, usize)> =
            networks.map(|(net, rule)| (number(net.network()), number(net.broadcast()), rule)).collect();
        networks.sort_unstable();
        let mut borders: Vec<u128> =
            networks.iter().flat_map(|(first, last, _)| [Some(*first), last.checked_add(1)]).flatten().collect();
        borders.sort_unstable();
        borders.dedup();
        let mut coming = networks.into_iter().peekable();
        // The earliest rule is on top. One whose network has ended is taken away when it gets there, and not before.
        let mut around = BinaryHeap::new();
        let mut ranges: Vec<(u128, Option<usize>)> = Vec::new();
        for border in borders {
            while let Some((_, last, rule)) = coming.next_if(|(first, ..)| *first <= border) {
                around.push(Reverse((rule, last)));
            }
            while around.peek().is_some_and(|Reverse((_, last))| *last < border) {
                around.pop();
            }
            let rule = around.peek().map(|Reverse((rule, _))| *rule);
            if ranges.last().is_none_or(|(_, before)| *before != rule) {
                ranges.push((border, rule));
            }
        }
        Self(ranges.into())
    }

    fn find(&self, address: u128) -> Option<usize> {
        let behind = self.0.partition_point(|(from, _)| *from <= address);
        self.0[behind.checked_sub(1)?].1
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
}

fn is_ipv4(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(_))
}

/// Addresses of one kind in their order.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
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
