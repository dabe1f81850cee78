//! Rules and entries of a map that can never decide, because an earlier rule matches first.

use std::ops::Range;

use ipnet::IpNet;
use policies::{ClientPlace, Matched, RuleIndex};

use super::findings::Scope;
use crate::config::{Rule, RuleOrigin};

/// A rule that passed, with the places of what it says.
pub(super) struct Written {
    pub(super) rule: Rule,
    pub(super) span: Option<Range<usize>>,
    /// What it matches; nothing if it is for everyone.
    pub(super) values: Vec<Value>,
}

/// One of the values that a rule matches.
pub(super) struct Value {
    pub(super) what: Matched,
    pub(super) text: String,
    pub(super) span: Option<Range<usize>>,
}

const FIRST_COUNTS: &str = "the first rule that matches counts; put the narrower one first";

pub(super) fn warn(all: &[Written], scope: &mut Scope<'_, '_>) {
    let earlier = Earlier::new(all);
    for (at, written) in all.iter().enumerate() {
        let taken: Vec<(&Value, Taker)> =
            written.values.iter().filter_map(|value| Some((value, earlier.taker(at, &value.what)?))).collect();
        let everyone = earlier.taker(at, &Matched::Everybody);
        match (&written.rule.origin, everyone) {
            (RuleOrigin::Map(_), Some(taker)) => {
                let message = format!("the map decides nothing: {} is for everyone", taker.mention(all, scope));
                scope.warning(written.span.clone(), message).help("rules come before the map; remove the rule");
                return;
            }
            (RuleOrigin::Rule(_), Some(taker)) => {
                let message = format!("this rule can never match: {} is for everyone", taker.mention(all, scope));
                let problem = scope.warning(written.span.clone(), message);
                problem.help("the first rule that matches counts; put the general one last");
            }
            (RuleOrigin::Rule(_), None) if !taken.is_empty() && taken.len() == written.values.len() => {
                warn_of_whole_rule(all, written, &taken, scope);
            }
            (_, None) => taken.iter().for_each(|(value, taker)| warn_of_value(all, value, taker, scope)),
        }
    }
}

fn warn_of_whole_rule(all: &[Written], written: &Written, taken: &[(&Value, Taker)], scope: &mut Scope<'_, '_>) {
    let mut takers: Vec<&Taker> = taken.iter().map(|(_, taker)| taker).collect();
    takers.dedup_by_key(|taker| taker.at);
    let mut mentions: Vec<String> = takers.iter().map(|taker| taker.mention(all, scope)).collect();
    mentions.dedup();
    let same = takers.len() == 1
        && taken.iter().all(|(value, taker)| taker.by == value.what)
        && all[takers[0].at].values.len() == written.values.len();
    let (what, help) = match (same, &mentions[..]) {
        (true, _) => ("matches the same", "the first rule that matches counts; remove one of them"),
        (false, [_]) => ("matches all of it", FIRST_COUNTS),
        (false, _) => ("match all of it", FIRST_COUNTS),
    };
    let message = format!("this rule can never match: {} {what}", mentions.join(" and "));
    scope.warning(written.span.clone(), message).help(help);
}

fn warn_of_value(all: &[Written], value: &Value, taker: &Taker, scope: &mut Scope<'_, '_>) {
    let message = format!("`{}` decides nothing here: {} matches {}", value.text, taker.mention(all, scope), taker.by);
    scope.warning(value.span.clone(), message).help(FIRST_COUNTS);
}

/// An earlier rule that matches first, and by what.
struct Taker {
    at: usize,
    by: Matched,
}

impl Taker {
    fn mention(&self, all: &[Written], scope: &Scope<'_, '_>) -> String {
        format!("the one on {}", scope.mention(&scope.at(all[self.at].span.clone())))
    }
}

/// Every rule, to be asked which one takes a value before another does.
struct Earlier<'a> {
    all: &'a [Written],
    index: RuleIndex,
    networks: Vec<(usize, IpNet)>,
}

impl<'a> Earlier<'a> {
    fn new(all: &'a [Written]) -> Earlier<'a> {
        let terms: Vec<policies::Rule> = all.iter().map(|written| written.rule.terms.clone()).collect();
        let networks = terms.iter().enumerate().flat_map(|(at, rule)| rule.networks.iter().map(move |net| (at, *net)));
        Earlier { all, index: RuleIndex::new(&terms), networks: networks.collect() }
    }

    /// The first rule before the one at `at` that matches every client of whom this is true.
    fn taker(&self, at: usize, what: &Matched) -> Option<Taker> {
        if let Matched::Network(network) = what {
            let around = |(_, other): &&(usize, IpNet)| other.contains(network);
            let (first, by) = self.networks.iter().take_while(|(before, _)| *before < at).find(around)?;
            return Some(Taker { at: *first, by: Matched::Network(*by) });
        }
        let client = client(what);
        let first = self.index.first_match(&client).filter(|first| *first < at)?;
        let by = self.all[first].rule.terms.matched(&client)?;
        Some(Taker { at: first, by })
    }
}

/// The least that is known of every client of whom this is true.
fn client(what: &Matched) -> ClientPlace {
    let anybody = ClientPlace::default();
    let in_country = |code: [u8; 2]| {
        let country = geoip::CountryCode::parse(&String::from_utf8_lossy(&code));
        let continent = country.and_then(geoip::continent_of).map(geoip::ContinentCode::bytes);
        ClientPlace { country: Some(code), continent, ..anybody }
    };
    match *what {
        Matched::Asn(asn) => ClientPlace { asn: Some(asn), ..anybody },
        Matched::Subdivision(subdivision) => {
            ClientPlace { subdivision: Some(subdivision), ..in_country(subdivision.country) }
        }
        Matched::Country(code) => in_country(code),
        Matched::Continent(code) => ClientPlace { continent: Some(code), ..anybody },
        Matched::Network(_) | Matched::Everybody => anybody,
    }
}
