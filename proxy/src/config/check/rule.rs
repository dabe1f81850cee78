//! `[[clusters.NAME.rules]]`, and `[clusters.NAME.map]`, which becomes rules after them.

use std::collections::BTreeMap;
use std::fmt::Display;

use policies::{Area, LocalityIx, LocalityOrder, Matched};

use super::area::{self, Geography};
use super::findings::Scope;
use super::policy::Known;
use super::shadow::{self, Value, Written};
use super::{address, cluster};
use crate::config::raw::cluster::{CriterionName, OrderName, PolicyName};
use crate::config::raw::{OneOrMany, Placed, RawCluster, RawRule};
use crate::config::{Rule, RuleOrigin};

/// What a rule needs to know of its cluster.
pub(super) struct Around<'a> {
    pub(super) cluster: &'a RawCluster,
    pub(super) geography: &'a Geography,
    pub(super) policies: &'a Known,
}

/// As the number of a rule is part of the key of a client class.
const MOST_RULES: usize = 65_535;

/// The rules of one cluster and after them its map, from narrow to wide; `None` if something of it is wrong.
pub(super) fn all(around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Option<Vec<Rule>> {
    let mut rules: Vec<Option<Written>> = Vec::new();
    for (raw, nth) in around.cluster.rules.iter().zip(1..) {
        rules.push(rule(raw, nth, around, &mut scope.below("rules", raw.span())));
    }
    rules.extend(map(around, scope));
    if rules.len() > MOST_RULES {
        scope.error(None, format!("more than {MOST_RULES} rules and entries of the map"));
    }
    warn_of_unknowable_clients(&rules, around, scope);
    warn_of_rules_without_effect(around, scope);
    warn_of_map_without_effect(around, scope);
    for written in rules.iter().flatten() {
        warn_of_nobody_in_service(written, around, scope);
    }
    let complete = rules.iter().all(Option::is_some);
    let written: Vec<Written> = rules.into_iter().flatten().collect();
    // A rule without a key that was refused looks wider than it is meant.
    if !scope.was_refused("rules") {
        shadow::warn(&written, scope);
    }
    complete.then(|| written.into_iter().map(|written| written.rule).collect())
}

fn rule(raw: &Placed<RawRule>, nth: usize, around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Option<Written> {
    let mut values = Vec::new();
    let networks = every(&raw.network, "network", Matched::Network, &mut values, scope, address::network);
    let asns = every(&raw.asn, "asn", Matched::Asn, &mut values, scope, area::asn);
    let subdivisions =
        every(&raw.subdivision, "subdivision", Matched::Subdivision, &mut values, scope, area::subdivision);
    let countries = every(&raw.country, "country", Matched::Country, &mut values, scope, area::country);
    let continents = every(&raw.continent, "continent", Matched::Continent, &mut values, scope, area::continent);
    let way = way(raw, around, scope);
    let criteria = match &raw.steer {
        Some(steer) => cluster::criteria(steer, scope).map(Some),
        None => Some(None),
    };
    let policy = |name: Option<PolicyName>| name.map_or(Some(None), |name| around.policies.named(name).map(Some));
    let way = way?;
    let terms = policies::Rule {
        networks: networks?,
        asns: asns?,
        subdivisions: subdivisions?,
        countries: countries?,
        continents: continents?,
        criteria: criteria?,
        policy: policy(raw.policy)?,
        request_policy: policy(raw.request_policy)?,
        ..way.terms()
    };
    Some(Written { rule: Rule { origin: RuleOrigin::Rule(nth), terms }, span: raw.span(), values })
}

/// Each value checked; `None` if one is wrong, or if the list is written and empty: read as "everyone", an emptied list
/// would send all clients where some were meant to go.
fn every<R: Display, T: Copy + PartialEq>(
    written: &OneOrMany<R>,
    key: &str,
    what: impl Fn(T) -> Matched,
    values: &mut Vec<Value>,
    scope: &mut Scope<'_, '_>,
    check: impl Fn(&Placed<R>, &mut Scope<'_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    if written.is_empty() && written.span().is_some() {
        let problem = scope.error(written.span(), format!("`{key}` is empty"));
        problem.help("leave the key out; a rule without any match is for everyone");
        return None;
    }
    let mut checked: Vec<Option<T>> = Vec::new();
    for one in written.iter() {
        let found = check(one, scope);
        if found.is_some() && checked.contains(&found) {
            scope.warning(one.span(), format!("`{}` stands twice in `{key}`", **one));
        } else if let Some(found) = found {
            values.push(Value { what: what(found), text: one.to_string(), span: one.span() });
        }
        checked.push(found);
    }
    checked.into_iter().collect()
}

/// Where the clients of a rule go.
#[derive(Debug, Clone, Default)]
struct Way {
    localities: Vec<LocalityIx>,
    order: LocalityOrder,
    fallback: Fallback,
}

/// What follows the localities.
#[derive(Debug, Clone, Default)]
struct Fallback {
    localities: Vec<LocalityIx>,
    /// Nothing follows those.
    strict: bool,
}

impl Way {
    fn terms(self) -> policies::Rule {
        policies::Rule {
            fallback: self.fallback.localities,
            strict: self.fallback.strict,
            localities: self.localities,
            order: self.order,
            ..policies::Rule::default()
        }
    }
}

fn way(raw: &RawRule, around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Option<Way> {
    let localities = destination(&raw.localities, "localities", around, scope);
    let fallback = fallback(&raw.fallback, "fallback", around, scope);
    let fallback = with_strict(fallback?, raw, scope);
    let order = order(raw.order.as_deref().copied().unwrap_or(OrderName::Steered));
    match localities? {
        Destination::Localities(localities) => {
            let fallback = fallback?;
            for name in raw.fallback.iter().filter(|name| raw.localities.contains(name)) {
                scope.error(name.span(), format!("`{}` stands in `localities` already", **name));
            }
            Some(Way { localities, order, fallback })
        }
        Destination::Word(word) => {
            let written = [
                ("order", raw.order.as_ref().and_then(Placed::span)),
                ("fallback", raw.fallback.span()),
                ("strict", raw.strict.as_ref().and_then(Placed::span)),
            ];
            let mut fits = true;
            for (key, span) in written.into_iter().filter(|(_, span)| span.is_some()) {
                let message = format!("`{key}` means nothing with `localities = \"{}\"`", word.as_str());
                scope.error(span, message).help("leave it out");
                fits = false;
            }
            fits.then(|| word.way())
        }
    }
}

/// `strict` is another word for a fallback to nothing, so both must say the same.
fn with_strict(fallback: Fallback, raw: &RawRule, scope: &mut Scope<'_, '_>) -> Option<Fallback> {
    let Some(strict) = &raw.strict else { return Some(fallback) };
    let fits = match **strict {
        true => raw.fallback.span().is_none() || (fallback.strict && fallback.localities.is_empty()),
        false => !fallback.strict,
    };
    if !fits {
        let problem = scope.error(strict.span(), "`strict` and `fallback` contradict each other");
        problem.help("`strict = true` is `fallback = \"none\"`; leave one of them out");
        return None;
    }
    Some(Fallback { strict: **strict, ..fallback })
}

fn order(name: OrderName) -> LocalityOrder {
    match name {
        OrderName::Steered => LocalityOrder::Steered,
        OrderName::AsWritten => LocalityOrder::AsWritten,
    }
}

/// What `localities` of a rule or an entry of the map say.
enum Destination {
    Localities(Vec<LocalityIx>),
    Word(Word),
}

/// What can stand in the place of localities.
#[derive(Clone, Copy)]
enum Word {
    Auto,
    Refuse,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Word::Auto => "auto",
            Word::Refuse => "refuse",
        }
    }

    fn way(self) -> Way {
        let strict = matches!(self, Word::Refuse);
        Way { fallback: Fallback { localities: vec![], strict }, ..Way::default() }
    }
}

fn destination(written: &OneOrMany, key: &str, around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Option<Destination> {
    let word = written.single().and_then(|single| {
        [Word::Auto, Word::Refuse].into_iter().find(|word| word.as_str() == single.as_str()).zip(Some(single))
    });
    if let Some((word, single)) = word {
        return is_unambiguous(single, around, scope).then_some(Destination::Word(word));
    }
    if written.is_empty() {
        let problem = scope.error(written.span(), format!("`{key}` is empty: these clients would have nowhere to go"));
        problem.help("\"refuse\" refuses them; \"auto\" steers them as if nothing were said of them");
        return None;
    }
    localities(written, key, around, scope).map(Destination::Localities)
}

/// Whether a word with a meaning is no name, too.
fn is_unambiguous(word: &Placed<String>, around: &Around<'_>, scope: &mut Scope<'_, '_>) -> bool {
    let is_name = around.cluster.localities.contains_key(word);
    if is_name {
        let problem = scope.error(word.span(), format!("`{}` has a meaning here, and is a locality's name", **word));
        problem.help("give the locality another name");
    }
    !is_name
}

/// `any`, `none`, or localities with or without `any` behind them.
fn fallback(written: &OneOrMany, key: &str, around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Option<Fallback> {
    let Some(last) = written.last() else {
        if written.span().is_some() {
            let problem = scope.error(written.span(), format!("`{key}` is empty"));
            problem.help("\"none\": nothing follows; \"any\": all other localities do");
            return None;
        }
        return Some(Fallback::default());
    };
    let open = last.as_str() == "any";
    let alone = written.len() == 1;
    if open && !is_unambiguous(last, around, scope) {
        return None;
    }
    if alone && last.as_str() == "none" {
        let nothing = Fallback { localities: vec![], strict: true };
        return is_unambiguous(last, around, scope).then_some(nothing);
    }
    let named = &written[..written.len() - usize::from(open)];
    let localities = localities(named, key, around, scope)?;
    Some(Fallback { localities, strict: !open })
}

fn localities(
    names: &[Placed<String>],
    key: &str,
    around: &Around<'_>,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<LocalityIx>> {
    let mut checked = Vec::new();
    for name in names {
        let locality = locality(name, around.cluster, scope);
        if locality.is_some() && checked.contains(&locality) {
            scope.error(name.span(), format!("`{}` stands twice in `{key}`", **name));
        }
        checked.push(locality);
    }
    checked.into_iter().collect()
}

fn locality(name: &Placed<String>, cluster: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<LocalityIx> {
    if let Some(at) = cluster.localities.keys().position(|known| known == name) {
        return u16::try_from(at).ok().map(LocalityIx);
    }
    let path: Vec<&str> = scope.path.split('.').collect();
    let path = path[..path.len().min(2)].join(".");
    if !scope.findings.was_refused(&format!("{path}.localities.{}", **name)) {
        let known: Vec<String> = cluster.localities.keys().map(|known| format!("`{}`", **known)).collect();
        let problem = scope.error(name.span(), format!("no locality of this cluster is named `{}`", **name));
        problem.help(match (name.as_str(), known.is_empty()) {
            ("auto" | "refuse" | "none", _) => format!("`{}` stands alone, and not in a list", **name),
            ("any", _) => "`any` can stand alone in `fallback`, or at the end of its list".to_owned(),
            (_, true) => format!("define it in [{path}.localities.NAME]"),
            (_, false) => format!("defined here: {}", known.join(", ")),
        });
    }
    None
}

/// The entries of the map, the narrowest first.
fn map(around: &Around<'_>, scope: &mut Scope<'_, '_>) -> Vec<Option<Written>> {
    let cluster = around.cluster;
    let fallback = fallback(&cluster.map_fallback, "map-fallback", around, scope);
    let scope = &mut scope.below("map", None);
    let mut wrong = Vec::new();
    let mut entries = BTreeMap::new();
    let mut written: Vec<_> = cluster.map.iter().collect();
    written.sort_by_key(|(key, _)| key.span().map(|span| span.start));
    for (key, localities) in written {
        let area = area::path(key, scope);
        let destination = destination(localities, key, around, scope);
        let (Some(area), Some(destination), Some(fallback)) = (area, destination, &fallback) else {
            wrong.push(None);
            continue;
        };
        let way = match destination {
            Destination::Word(word) => word.way(),
            Destination::Localities(localities) => {
                let mut fallback = fallback.clone();
                fallback.localities.retain(|locality| !localities.contains(locality));
                Way { localities, order: order(cluster.map_order), fallback }
            }
        };
        let terms = area.rule(way.terms());
        let values = value(area, key).into_iter().collect();
        let rule = Rule { origin: RuleOrigin::Map(key.as_str().into()), terms };
        let first = entries.insert(area, Written { rule, span: key.span(), values });
        if let Some(first) = first {
            let (key, place) = (&**key, scope.mention(&scope.at(first.span)));
            let message = format!("`{key}` is the same area as `{}` on {place}", first.rule.origin.name());
            scope
                .error(entries[&area].span.clone(), message)
                .help("a path may leave out the continent; keep one of them");
        }
    }
    entries.into_values().map(Some).chain(wrong).collect()
}

fn value(area: Area, key: &Placed<String>) -> Option<Value> {
    let what = match area {
        Area::Subdivision(subdivision) => Matched::Subdivision(subdivision),
        Area::Country(code) => Matched::Country(code),
        Area::Continent(code) => Matched::Continent(code),
        Area::World => return None,
    };
    Some(Value { what, text: key.to_string(), span: key.span() })
}

/// Each kind of fact is said once: the first value that needs it stands for all.
fn warn_of_unknowable_clients(rules: &[Option<Written>], around: &Around<'_>, scope: &mut Scope<'_, '_>) {
    let kind = |what: &Matched| match what {
        Matched::Continent(_) => std::mem::discriminant(&Matched::Country(*b"--")),
        other => std::mem::discriminant(other),
    };
    let mut said = Vec::new();
    let mut values: Vec<&Value> = rules.iter().flatten().flat_map(|written| &written.values).collect();
    values.sort_by_key(|value| value.span.as_ref().map(|span| span.start));
    for value in values {
        if !said.contains(&kind(&value.what))
            && around.geography.warn_if_unknowable(&value.what, value.span.clone(), scope)
        {
            said.push(kind(&value.what));
        }
    }
}

/// A rule whose localities decide nothing, because what steers its clients does not ask for them.
fn warn_of_rules_without_effect(around: &Around<'_>, scope: &mut Scope<'_, '_>) {
    let cluster = around.cluster;
    let of_cluster = names_rules(&cluster.steer) || scope.was_refused("steer");
    let mut said = false;
    for raw in &cluster.rules {
        let is_strict = raw.strict.as_deref() == Some(&true) || raw.fallback.last().is_some_and(|last| **last != "any");
        if is_strict || is_word(&raw.localities) {
            continue;
        }
        match &raw.steer {
            Some(own) if !names_rules(own) => {
                let message = "the localities of this rule have no effect: its `steer` does not name `rules`";
                scope.warning(own.span(), message).help("steer = [\"rules\", ...]");
            }
            None if !of_cluster && !said && raw.policy.is_none() && raw.request_policy.is_none() => {
                let problem = scope.warning(raw.span(), "rules have no effect: `steer` does not name them");
                problem.help("steer = [\"rules\", ...]");
                said = true;
            }
            _ => {}
        }
    }
}

/// Words decide whatever `steer` says.
fn is_word(localities: &OneOrMany) -> bool {
    localities.single().is_some_and(|word| matches!(word.as_str(), "auto" | "refuse"))
}

fn warn_of_map_without_effect(around: &Around<'_>, scope: &mut Scope<'_, '_>) {
    let cluster = around.cluster;
    let is_strict = cluster.map_fallback.last().is_some_and(|last| **last != "any");
    let placed = cluster.map.iter().filter(|(_, to)| !is_word(to)).map(|(key, _)| key);
    let Some(key) = placed.min_by_key(|key| key.span().map(|span| span.start)) else { return };
    if !is_strict && !names_rules(&cluster.steer) && !scope.was_refused("steer") {
        let problem =
            scope.warning(key.span(), "the localities of the map have no effect: `steer` does not name `rules`");
        problem.help("steer = [\"rules\", ...]");
    }
}

/// Clients with a strict rule go nowhere else, so shares of nothing refuse them.
fn warn_of_nobody_in_service(written: &Written, around: &Around<'_>, scope: &mut Scope<'_, '_>) {
    let Rule { origin, terms } = &written.rule;
    let has_no_share = |ix: &LocalityIx| {
        around.cluster.localities.values().nth(usize::from(ix.0)).is_some_and(|locality| locality.share.0 == 0)
    };
    let mut all = terms.localities.iter().chain(&terms.fallback);
    if terms.strict && !terms.localities.is_empty() && all.all(has_no_share) {
        let message = format!("{origin} refuses its clients: each of its localities is at `share = \"0%\"`");
        let problem = scope.warning(written.span.clone(), message);
        problem.help("give one of them a share, or let others follow with `fallback = \"any\"`");
    }
}

fn names_rules(steer: &[Placed<CriterionName>]) -> bool {
    steer.iter().any(|criterion| **criterion == CriterionName::Rules)
}
