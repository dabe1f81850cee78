//! Which localities come first, seen through compiled plans.

use std::net::IpAddr;

use policies::{
    Area, ClassView, ClientPlace, ClusterView, Criterion, Kind, LocalityIx, LocalityOrder, Matched, NoPick, Policy,
    Rule, RuleIndex, Standing, Steering, Subdivision, compile, explain,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::cluster::{With, Worker, cluster, endpoint, policies as every_policy};

/// One endpoint in each of `n` localities, ordered by these criteria.
fn view(n: u16, criteria: &[Criterion]) -> ClusterView {
    let mut view = cluster(Policy::P2C, (0..n).map(endpoint).collect());
    view.steering.criteria = criteria.to_vec();
    view
}

fn tiers(view: &ClusterView, class: ClassView<'_>) -> Vec<Vec<u16>> {
    let plan = compile(view, &class);
    plan.tiers().iter().map(|tier| tier.localities().iter().map(|locality| locality.0).collect()).collect()
}

fn rule(localities: &[u16], strict: bool) -> Rule {
    Rule { localities: localities.iter().copied().map(LocalityIx).collect(), strict, ..Rule::default() }
}

const ALL: [Criterion; 4] = [Criterion::Rules, Criterion::Distance, Criterion::Rtt, Criterion::Priority];

#[test]
fn distances_within_one_band_are_tied_and_the_unknown_comes_last() {
    let view = view(5, &[Criterion::Distance]);
    let class = ClassView { rule: None, distances_km: &[Some(900.0), Some(499.9), None, Some(0.0), Some(999.0)] };
    assert_eq!(tiers(&view, class), [vec![1, 3], vec![0, 4], vec![2]]);
}

#[test]
fn without_any_distance_the_criterion_ties_everything() {
    let view = view(3, &[Criterion::Distance]);
    assert_eq!(tiers(&view, ClassView::default()), [[0, 1, 2]]);
    let nonsense = [Some(f64::NAN), Some(-1.0), Some(f64::INFINITY)];
    assert_eq!(tiers(&view, ClassView { rule: None, distances_km: &nonsense }), [[0, 1, 2]]);
    assert_eq!(tiers(&view, ClassView { rule: None, distances_km: &[None, Some(3.0)] }), [vec![1], vec![0, 2]]);
}

#[test]
fn a_band_that_is_no_width_counts_as_the_default() {
    for band in [0.0, -3.0, f64::NAN] {
        let mut view = view(2, &[Criterion::Distance]);
        view.steering.distance_band_km = band;
        let class = |far| [Some(0.0), Some(far)];
        assert_eq!(tiers(&view, ClassView { rule: None, distances_km: &class(499.0) }).len(), 1);
        assert_eq!(tiers(&view, ClassView { rule: None, distances_km: &class(501.0) }).len(), 2);
    }
}

#[test]
fn rtt_bands_order_and_the_unmeasured_comes_last() {
    let mut view = view(4, &[Criterion::Rtt]);
    for (locality, band) in view.localities.iter_mut().zip([Some(1), None, Some(0), Some(1)]) {
        locality.rtt_band = band;
    }
    assert_eq!(tiers(&view, ClassView::default()), [vec![2], vec![0, 3], vec![1]]);
}

#[test]
fn each_criterion_orders_only_what_the_ones_before_left_tied() {
    let mut view = view(4, &ALL);
    for (locality, (band, priority)) in view.localities.iter_mut().zip([(1, 0), (0, 7), (0, 5), (0, 0)]) {
        (locality.rtt_band, locality.priority) = (Some(band), priority);
    }
    view.steering.rules = vec![rule(&[0, 1, 2], false)];
    let distances = [Some(100.0), Some(100.0), Some(100.0), Some(0.0)];
    // 3 is nearest by every figure and still last: the rule comes first.
    assert_eq!(tiers(&view, ClassView { rule: Some(0), distances_km: &distances }), [[2], [1], [0], [3]]);
    assert_eq!(tiers(&view, ClassView { rule: None, distances_km: &distances }), [[3], [2], [1], [0]]);
}

#[test]
fn the_order_of_criteria_decides_between_near_to_the_client_and_near_to_the_edge() {
    let class = ClassView { rule: None, distances_km: &[Some(9000.0), Some(100.0)] };
    let order = |criteria: &[Criterion]| {
        let mut view = view(2, criteria);
        view.localities[0].rtt_band = Some(0);
        view.localities[1].rtt_band = Some(2);
        tiers(&view, class)
    };
    assert_eq!(order(&[Criterion::Distance, Criterion::Rtt]), [[1], [0]]);
    assert_eq!(order(&[Criterion::Rtt, Criterion::Distance]), [[0], [1]]);
}

#[test]
fn the_localities_of_a_rule_are_a_set_that_comes_first() {
    let mut view = view(4, &[Criterion::Rules]);
    view.steering.rules = vec![rule(&[3, 1], false)];
    assert_eq!(tiers(&view, ClassView { rule: Some(0), distances_km: &[] }), [[1, 3], [0, 2]]);
}

#[test]
fn a_rule_that_names_nothing_prefers_nothing_unless_it_is_strict() {
    let mut view = view(2, &[Criterion::Rules]);
    view.steering.rules = vec![rule(&[], false), rule(&[], true)];
    assert_eq!(tiers(&view, ClassView { rule: Some(0), distances_km: &[] }), [[0, 1]]);
    let class = ClassView { rule: Some(1), distances_km: &[] };
    assert!(tiers(&view, class).is_empty());
    assert_eq!(Worker::new(1).pick(&compile(&view, &class)).unwrap_err(), NoPick::StrictRefused);
}

#[test]
fn a_strict_rule_refuses_rather_than_leaves_even_in_panic_or_when_it_is_full() {
    let strict = ClassView { rule: Some(0), distances_km: &[] };
    for in_the_way in
        [endpoint(0).standing(Standing::Draining), endpoint(0).standing(Standing::Maintenance), endpoint(0).max(1)]
    {
        // Even where `rules` is not among the criteria.
        for criteria in [&ALL[..], &[], &[Criterion::Rtt]] {
            let mut view = cluster(Policy::P2C, vec![in_the_way.clone(), endpoint(1)]);
            view.steering.criteria = criteria.to_vec();
            view.steering.rules = vec![rule(&[0], true)];
            let plan = compile(&view, &strict);
            let _held = view.endpoints[0].load.reserve(None);
            assert_eq!(Worker::new(1).pick(&plan).unwrap_err(), NoPick::StrictRefused);
        }
    }
    let mut down = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Down), endpoint(1)]);
    down.steering.rules = vec![rule(&[0], true)];
    assert_eq!(Worker::new(1).pick(&compile(&down, &strict)).unwrap().endpoint.0, 0, "panic stays inside the rule");
}

#[test]
fn a_strict_rule_that_leaves_nothing_out_is_not_what_refuses() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Draining)]);
    view.steering.rules = vec![rule(&[0], true)];
    let plan = compile(&view, &ClassView { rule: Some(0), distances_km: &[] });
    assert_eq!(Worker::new(1).pick(&plan).unwrap_err(), NoPick::NoneReady);
}

#[test]
fn a_rule_from_another_snapshot_that_does_not_exist_here_is_no_rule() {
    let view = view(2, &[Criterion::Rules]);
    assert_eq!(tiers(&view, ClassView { rule: Some(9), distances_km: &[] }), [[0, 1]]);
}

#[test]
fn localities_without_endpoints_pass_their_traffic_on() {
    let mut view = view(2, &[Criterion::Priority]);
    view.endpoints.remove(0);
    let pick = Worker::new(1).pick(&compile(&view, &ClassView::default())).unwrap();
    assert_eq!((pick.locality, pick.tier), (LocalityIx(1), 1));
}

fn client(address: &str, country: Option<&str>, continent: Option<&str>) -> ClientPlace {
    let code = |text: &str| text.as_bytes().try_into().unwrap();
    ClientPlace {
        address: Some(address.parse::<IpAddr>().unwrap()),
        country: country.map(code),
        continent: continent.map(code),
        ..ClientPlace::default()
    }
}

fn division(text: &str) -> Subdivision {
    let (country, code) = text.split_once('-').unwrap();
    Subdivision::new(country.as_bytes().try_into().unwrap(), code).unwrap()
}

/// The first of these rules that matches, by both ways to look for it.
fn first_match(rules: &[Rule], client: &ClientPlace) -> Option<usize> {
    let found = Steering { rules: rules.to_vec(), ..Steering::default() }.first_match(client);
    assert_eq!(RuleIndex::new(rules).first_match(client), found, "the index, for {client:?}");
    found
}

#[test]
fn the_first_rule_that_matches_counts() {
    let rules = [
        Rule { networks: vec!["10.1.0.0/16".parse().unwrap()], ..Rule::default() },
        Rule { countries: vec![*b"DE", *b"FR"], ..Rule::default() },
        Rule { networks: vec!["2001:db8::/32".parse().unwrap()], continents: vec![*b"EU"], ..Rule::default() },
        Rule::default(),
    ];
    let check = |client, rule| assert_eq!(first_match(&rules, &client), Some(rule), "{client:?}");
    check(client("10.1.2.3", Some("DE"), Some("EU")), 0);
    check(client("::ffff:10.1.2.3", None, None), 0);
    check(client("10.2.2.3", Some("FR"), Some("EU")), 1);
    check(client("10.2.2.3", Some("PL"), Some("EU")), 2);
    check(client("2001:db8::7", Some("US"), Some("NA")), 2);
    check(client("10.2.2.3", Some("US"), Some("NA")), 3);
    check(ClientPlace::default(), 3);
}

#[test]
fn without_a_rule_for_everybody_most_match_none() {
    let rules = [Rule { countries: vec![*b"de"], ..Rule::default() }];
    assert_eq!(first_match(&rules, &client("10.0.0.1", Some("US"), None)), None);
    assert_eq!(first_match(&rules, &client("10.0.0.1", None, Some("EU"))), None);
    assert_eq!(first_match(&rules, &client("10.0.0.1", Some("DE"), None)), Some(0), "codes have no case");
}

#[test]
fn networks_cover_ipv4_clients_however_either_is_written() {
    let check = |network: &str, address: &str, want: bool| {
        let rules = [Rule { networks: vec![network.parse().unwrap()], ..Rule::default() }];
        assert_eq!(first_match(&rules, &client(address, None, None)).is_some(), want, "{network} {address}");
    };
    check("10.0.0.0/8", "::ffff:10.9.9.9", true);
    check("::ffff:10.0.0.0/104", "10.9.9.9", true);
    check("::ffff:10.0.0.0/104", "::ffff:11.9.9.9", false);
    check("0.0.0.0/0", "2001:db8::1", false);
    check("::/0", "10.0.0.1", false);
    check("::/0", "2001:db8::1", true);
}

#[test]
fn a_rule_matches_by_autonomous_system_and_by_subdivision() {
    let rules = [
        Rule { asns: vec![64_512, 15_169], ..Rule::default() },
        Rule { subdivisions: vec![division("DE-BY"), division("US-CA")], ..Rule::default() },
    ];
    let check = |asn: Option<u32>, subdivision: Option<&str>, want| {
        let client = ClientPlace { asn, subdivision: subdivision.map(division), ..ClientPlace::default() };
        assert_eq!(first_match(&rules, &client), want, "{client:?}");
    };
    check(Some(15_169), None, Some(0));
    check(Some(15_169), Some("DE-BY"), Some(0));
    check(Some(1), Some("DE-BY"), Some(1));
    check(Some(1), Some("de-by"), Some(1));
    check(Some(1), Some("US-BY"), None);
    check(None, Some("DE-B"), None);
    check(None, None, None);
}

#[test]
fn subdivisions_are_a_country_and_up_to_three_letters_or_digits() {
    for good in ["DE-BY", "FR-2A", "CZ-106", "GB-ENG", "UA-9"] {
        assert_eq!(division(good).to_string(), good);
    }
    for (country, code) in [(*b"DE", ""), (*b"DE", "BYXX"), (*b"DE", "B-"), (*b"1E", "BY"), (*b"DE", "\u{f6}")] {
        assert_eq!(Subdivision::new(country, code), None, "{code}");
    }
}

#[test]
fn a_match_says_what_it_is_by_the_narrowest_first() {
    let rule = Rule {
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        asns: vec![64_512],
        subdivisions: vec![division("DE-BY")],
        countries: vec![*b"DE"],
        continents: vec![*b"EU"],
        ..Rule::default()
    };
    let mut client = ClientPlace { asn: Some(64_512), ..client("10.0.0.1", Some("DE"), Some("EU")) };
    client.subdivision = Some(division("DE-BY"));
    let mut said = Vec::new();
    let forget: [fn(&mut ClientPlace); 5] = [
        |client| client.address = None,
        |client| client.asn = None,
        |client| client.subdivision = None,
        |client| client.country = None,
        |client| client.continent = None,
    ];
    for forget in forget {
        said.push(rule.matched(&client).unwrap().to_string());
        forget(&mut client);
    }
    assert_eq!(said, ["network 10.0.0.0/8", "AS64512", "subdivision DE-BY", "country DE", "continent EU"]);
    assert_eq!(rule.matched(&client), None);
    assert_eq!(Rule::default().matched(&client), Some(Matched::Everybody));
}

fn ix(localities: &[u16]) -> Vec<LocalityIx> {
    localities.iter().copied().map(LocalityIx).collect()
}

#[test]
fn localities_as_written_are_tiers_of_preference_and_the_fallback_follows() {
    let check = |rule: &Rule, want: &[&[u16]]| {
        let mut view = view(5, &[Criterion::Rules]);
        view.steering.rules = vec![rule.clone()];
        assert_eq!(tiers(&view, ClassView { rule: Some(0), distances_km: &[] }), want, "{rule:?}");
    };
    let mut rule = Rule { localities: ix(&[3, 1]), fallback: ix(&[4, 0]), ..Rule::default() };
    check(&rule, &[&[1, 3], &[0, 4], &[2]]);
    rule.strict = true;
    check(&rule, &[&[1, 3], &[0, 4]]);
    rule.order = LocalityOrder::AsWritten;
    check(&rule, &[&[3], &[1], &[4], &[0]]);
    rule.strict = false;
    check(&rule, &[&[3], &[1], &[4], &[0], &[2]]);
    rule.fallback.clear();
    check(&rule, &[&[3], &[1], &[0, 2, 4]]);
    rule.strict = true;
    check(&rule, &[&[3], &[1]]);
}

#[test]
fn a_fallback_is_all_that_a_strict_rule_falls_back_to() {
    let down = |locality| endpoint(locality).standing(Standing::Maintenance);
    let mut view = cluster(Policy::P2C, vec![down(0), endpoint(1), endpoint(2)]);
    // Even where `rules` is not among the criteria.
    for criteria in [&ALL[..], &[], &[Criterion::Rtt]] {
        view.steering.criteria = criteria.to_vec();
        view.steering.rules = vec![Rule { fallback: ix(&[1]), ..rule(&[0], true) }];
        let class = ClassView { rule: Some(0), distances_km: &[] };
        let mut worker = Worker::new(1);
        assert_eq!(worker.pick(&compile(&view, &class)).unwrap().locality, LocalityIx(1));
        view.endpoints[1].standing = Standing::Draining;
        assert_eq!(worker.pick(&compile(&view, &class)).unwrap_err(), NoPick::StrictRefused);
        view.endpoints[1].standing = Standing::Up;
    }
}

#[test]
fn a_rule_has_its_own_criteria() {
    let mut view = view(3, &[Criterion::Priority]);
    view.localities[2].rtt_band = Some(0);
    view.steering.rules = vec![Rule { criteria: Some(vec![Criterion::Rtt]), ..Rule::default() }];
    assert_eq!(tiers(&view, ClassView::default()), [[0], [1], [2]]);
    assert_eq!(tiers(&view, ClassView { rule: Some(0), distances_km: &[] }), [vec![2], vec![0, 1]]);
}

#[test]
fn a_rule_has_its_own_policies_and_shares_no_tables_with_other_ones() {
    let mut view = cluster(Policy::RoundRobin, vec![endpoint(0), endpoint(0)]);
    view.request_policy = Policy::P2C;
    view.steering.rules = vec![
        Rule { policy: Some(Policy::LeastConnections), ..Rule::default() },
        Rule { request_policy: Some(Policy::RoundRobin), ..Rule::default() },
    ];
    let policies = |rule| {
        let class = ClassView { rule, distances_km: &[] };
        [Kind::Tunnel, Kind::Request].map(|kind| explain(&view, &class, kind, &mut Worker::new(1).context()).policy)
    };
    assert_eq!(policies(None), [Policy::RoundRobin, Policy::P2C]);
    assert_eq!(policies(Some(0)), [Policy::LeastConnections, Policy::P2C]);
    assert_eq!(policies(Some(1)), [Policy::RoundRobin, Policy::RoundRobin]);

    // What picks do, and not only what is said of them: with one connection held, turns come to the busy one, too.
    let mut compiler = policies::Compiler::new(&view);
    let mut picked = |rule| {
        let plan = compiler.compile(&ClassView { rule, distances_km: &[] });
        let _held = view.endpoints[0].load.reserve(None);
        let mut worker = Worker::new(1);
        let mut seen = [0, 1].map(|_| worker.pick(&plan).unwrap().endpoint.0);
        seen.sort_unstable();
        seen
    };
    assert_eq!(picked(None), [0, 1]);
    assert_eq!(picked(Some(0)), [1, 1]);
    assert_eq!(picked(Some(1)), [0, 1]);
}

/// Sums of leases are kept only where a policy asks for them, and the policy of a rule may be the only one.
#[test]
fn a_policy_with_bounded_load_holds_its_bound_as_the_policy_of_a_rule() {
    let bounded = every_policy().into_iter().filter(|policy| {
        matches!(policy, Policy::Maglev { balance: Some(_), .. } | Policy::RingHash { balance: Some(_), .. })
    });
    for policy in bounded {
        let mut view = cluster(Policy::RoundRobin, (0..10).map(|_| endpoint(0)).collect());
        view.steering.rules = vec![Rule { policy: Some(policy), ..Rule::default() }];
        let plan = compile(&view, &ClassView { rule: Some(0), distances_km: &[] });
        let mut worker = Worker::new(1);
        worker.key = Some(42);
        let held: Vec<_> = (0..1000).map(|_| worker.pick(&plan).unwrap()).collect();
        let most = view.endpoints.iter().map(|endpoint| endpoint.load.leases()).max();
        assert!(most <= Some(125), "{policy:?}: {most:?} of {}", held.len());
    }
}

/// What gdnsd does: down the levels that the map has, from the continent on, as far as they match the client.
fn nested_look_up(map: &[(Area, Vec<LocalityIx>)], client: &ClientPlace) -> Option<Vec<LocalityIx>> {
    let entry = |area: Area| map.iter().find(|(known, _)| *known == area).map(|(_, localities)| localities.clone());
    let mut found = entry(Area::World);
    found = client.continent.and_then(|code| entry(Area::Continent(code))).or(found);
    found = client.country.and_then(|code| entry(Area::Country(code))).or(found);
    client.subdivision.and_then(|subdivision| entry(Area::Subdivision(subdivision))).or(found)
}

fn area() -> impl Strategy<Value = Area> {
    let areas = [
        Area::World,
        Area::Continent(*b"EU"),
        Area::Continent(*b"NA"),
        Area::Country(*b"DE"),
        Area::Country(*b"FR"),
        Area::Country(*b"US"),
        Area::Subdivision(division("DE-BY")),
        Area::Subdivision(division("DE-BE")),
        Area::Subdivision(division("US-CA")),
    ];
    select(areas.to_vec())
}

/// Clients of the places that maps and rules here speak of, each known down to some level.
fn somebody() -> impl Strategy<Value = ClientPlace> {
    let places = [("EU", "DE", "BY"), ("EU", "DE", "BE"), ("EU", "FR", "75"), ("NA", "US", "CA"), ("NA", "CA", "QC")];
    let code = |text: &str| <[u8; 2]>::try_from(text.as_bytes()).unwrap();
    (select(places.to_vec()), 0..4, any::<u8>(), 64_500..64_504_u32).prop_map(
        move |((continent, country, subdivision), known, host, asn)| ClientPlace {
            address: Some(match host % 5 {
                0 => IpAddr::from([0x2001, 0xdb8 + u16::from(host) % 2, 0, 0, 0, 0, 0, 1]),
                1 => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a01, u16::from(host)]),
                _ => IpAddr::from([10, host % 3, 0, host]),
            }),
            asn: Some(asn),
            continent: (known > 0).then(|| code(continent)),
            country: (known > 1).then(|| code(country)),
            subdivision: (known > 2).then(|| Subdivision::new(code(country), subdivision).unwrap()),
        },
    )
}

/// Any list may be empty, so that some rules are for everybody.
fn any_rule() -> impl Strategy<Value = Rule> {
    let networks = [
        "10.0.0.0/8",
        "10.0.0.0/16",
        "::ffff:10.1.0.0/112",
        "10.2.0.0/24",
        "10.2.0.7/32",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/32",
        "2001:db8::1/128",
    ];
    let networks = networks.map(|network| network.parse().unwrap()).to_vec();
    let subdivisions = ["DE-BY", "DE-BE", "US-CA"].map(division).to_vec();
    let parts = (
        vec(select(networks), 0..2),
        vec(64_500..64_504_u32, 0..2),
        vec(select(subdivisions), 0..2),
        vec(select(vec![*b"DE", *b"fr", *b"US"]), 0..2),
        vec(select(vec![*b"EU", *b"NA"]), 0..2),
    );
    parts.prop_map(|(networks, asns, subdivisions, countries, continents)| Rule {
        networks,
        asns,
        subdivisions,
        countries,
        continents,
        ..Rule::default()
    })
}

proptest! {
    #[test]
    fn a_flattened_map_decides_as_the_nested_look_up_does(areas in vec(area(), 0..9), client in somebody()) {
        let mut map: Vec<(Area, Vec<LocalityIx>)> = areas.into_iter().zip(0..).map(|(area, at)| (area, ix(&[at]))).collect();
        map.sort();
        map.dedup_by_key(|(area, _)| *area);
        let rules: Vec<Rule> = (map.iter())
            .map(|(area, localities)| area.rule(Rule { localities: localities.clone(), ..Rule::default() }))
            .collect();
        let found = first_match(&rules, &client).map(|at| rules[at].localities.clone());
        prop_assert_eq!(found, nested_look_up(&map, &client));
    }

    #[test]
    fn the_index_finds_the_rule_that_asking_each_would(rules in vec(any_rule(), 0..8), client in somebody()) {
        let steering = Steering { rules: rules.clone(), ..Steering::default() };
        prop_assert_eq!(RuleIndex::new(&rules).first_match(&client), steering.first_match(&client));
    }
}
