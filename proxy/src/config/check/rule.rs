//! `[[clusters.NAME.rules]]`.

use std::collections::BTreeMap;

use geoip::CountryCode;
use ipnet::IpNet;
use policies::LocalityIx;

use super::address;
use super::findings::Scope;
use crate::config::diagnostic::Place;
use crate::config::raw::cluster::CriterionName;
use crate::config::raw::{OneOrMany, Placed, RawCluster, RawRule};
use crate::config::{GeoIp, Rule};

const CONTINENTS: [&str; 7] = ["AF", "AN", "AS", "EU", "NA", "OC", "SA"];

/// The rules of one cluster; `None` if one of them is wrong.
pub(super) fn all(cluster: &RawCluster, geoip: &GeoIp, scope: &mut Scope<'_, '_>) -> Option<Vec<Rule>> {
    let mut checked: Vec<Option<Rule>> = Vec::new();
    let mut seen = Seen::default();
    for raw in &cluster.rules {
        let scope = &mut scope.below("rules", raw.span());
        let rule = rule(raw, cluster, scope);
        if let Some(rule) = &rule {
            seen.check(rule, raw, scope);
        }
        checked.push(rule);
    }
    warn_of_rules_without_effect(cluster, geoip, scope);
    checked.into_iter().collect()
}

fn rule(raw: &RawRule, cluster: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<Rule> {
    let networks = every(&raw.network, "network", scope, address::network);
    let countries = every(&raw.country, "country", scope, country);
    let continents = every(&raw.continent, "continent", scope, continent);
    let localities = localities(&raw.localities, cluster, scope);
    Some(Rule {
        networks: networks?,
        countries: countries?,
        continents: continents?,
        localities: localities?,
        strict: raw.strict,
    })
}

/// Each value checked; `None` if one is wrong, or if the list is written and empty: read as "everyone", an emptied list
/// would send all clients where some were meant to go.
fn every<T>(
    values: &OneOrMany,
    key: &str,
    scope: &mut Scope<'_, '_>,
    check: impl Fn(&Placed<String>, &mut Scope<'_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    if values.is_empty() && values.span().is_some() {
        let problem = scope.error(values.span(), format!("`{key}` is empty"));
        problem.help("leave the key out; a rule without any match is for everyone");
        return None;
    }
    let checked: Vec<Option<T>> = values.iter().map(|value| check(value, scope)).collect();
    checked.into_iter().collect()
}

fn country(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<[u8; 2]> {
    if let Some(code) = country_code(value) {
        return Some(code);
    }
    let problem = scope.error(value.span(), format!("`{}` is not a country code", **value));
    problem.help(match value.to_uppercase() {
        upper if upper == "UK" => "the United Kingdom is `GB`".to_owned(),
        upper if country_code(&upper).is_some() => format!("write `{upper}`"),
        _ => "ISO 3166-1 alpha-2 in upper case, such as `DE`".to_owned(),
    });
    None
}

/// A code in upper case that stands for a country.
fn country_code(code: &str) -> Option<[u8; 2]> {
    let bytes = two_capitals(code)?;
    CountryCode::parse(code).and_then(geoip::continent_of).map(|_| bytes)
}

fn continent(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<[u8; 2]> {
    if CONTINENTS.contains(&value.as_str()) {
        return two_capitals(value);
    }
    let problem = scope.error(value.span(), format!("`{}` is not a continent code", **value));
    problem.help(match value.to_uppercase() {
        upper if CONTINENTS.contains(&upper.as_str()) => format!("write `{upper}`"),
        _ => format!("one of: `{}`", CONTINENTS.join("`, `")),
    });
    None
}

fn two_capitals(code: &str) -> Option<[u8; 2]> {
    <[u8; 2]>::try_from(code.as_bytes()).ok().filter(|code| code.iter().all(u8::is_ascii_uppercase))
}

fn localities(names: &OneOrMany, cluster: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<Vec<LocalityIx>> {
    if names.is_empty() {
        scope.error(names.span(), "`localities` is empty: these clients would have nowhere to go");
        return None;
    }
    let mut checked = Vec::new();
    for name in names.iter() {
        let locality = locality(name, cluster, scope);
        if locality.is_some() && checked.contains(&locality) {
            scope.error(name.span(), format!("`{}` stands twice in `localities`", **name));
        }
        checked.push(locality);
    }
    checked.into_iter().collect()
}

fn locality(name: &Placed<String>, cluster: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<LocalityIx> {
    if let Some(at) = cluster.localities.keys().position(|known| known == name) {
        return u16::try_from(at).ok().map(LocalityIx);
    }
    let path = scope.path.trim_end_matches(".rules").to_owned();
    if !scope.findings.was_refused(&format!("{path}.localities.{}", **name)) {
        let known: Vec<String> = cluster.localities.keys().map(|known| format!("`{}`", **known)).collect();
        let problem = scope.error(name.span(), format!("no locality of this cluster is named `{}`", **name));
        problem.help(match known.is_empty() {
            true => format!("define it in [{path}.localities.NAME]"),
            false => format!("defined here: {}", known.join(", ")),
        });
    }
    None
}

/// What a rule matches.
type Matches = (Vec<IpNet>, Vec<[u8; 2]>, Vec<[u8; 2]>);

/// The rules before.
#[derive(Default)]
struct Seen {
    everyone: Option<Place>,
    matches: BTreeMap<Matches, Place>,
}

impl Seen {
    fn check(&mut self, rule: &Rule, raw: &Placed<RawRule>, scope: &mut Scope<'_, '_>) {
        let mut matches = (rule.networks.clone(), rule.countries.clone(), rule.continents.clone());
        matches.0.sort();
        matches.1.sort();
        matches.2.sort();
        let place = scope.at(raw.span());
        if let Some(first) = &self.everyone {
            let message = format!("this rule can never match: the one on {} is for everyone", scope.mention(first));
            scope.warning(raw.span(), message).help("the first rule that matches counts; put the general one last");
        } else if let Some(first) = self.matches.get(&matches) {
            let message = format!("this rule can never match: the one on {} matches the same", scope.mention(first));
            scope.warning(raw.span(), message).help("the first rule that matches counts; remove one of them");
        }
        if matches == Matches::default() {
            self.everyone.get_or_insert(place.clone());
        }
        self.matches.entry(matches).or_insert(place);
    }
}

fn warn_of_rules_without_effect(cluster: &RawCluster, geoip: &GeoIp, scope: &mut Scope<'_, '_>) {
    let Some(first) = cluster.rules.first() else { return };
    if !cluster.steer.iter().any(|criterion| **criterion == CriterionName::Rules) && !scope.was_refused("steer") {
        let problem = scope.warning(first.span(), "rules have no effect: `steer` does not name them");
        problem.help("steer = [\"rules\", ...]");
    }
    let by_place = cluster.rules.iter().flat_map(|rule| rule.country.iter().chain(rule.continent.iter())).next();
    let no_places = geoip.databases.is_empty() && geoip.overrides.is_none() && !scope.findings.was_refused("geoip");
    if let (Some(by_place), true) = (by_place, no_places) {
        let problem = scope.warning(by_place.span(), "no client matches this: nothing says in which country one is");
        problem.help("name `databases` or `overrides` in [geoip]");
    }
}
