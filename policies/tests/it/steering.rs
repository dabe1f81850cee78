//! Which localities come first, seen through compiled plans.

use std::net::IpAddr;

use policies::{
    ClassView, ClientPlace, ClusterView, Criterion, LocalityIx, NoPick, Policy, Rule, Standing, Steering, compile,
};

use crate::cluster::{With, Worker, cluster, endpoint};

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
    }
}

#[test]
fn the_first_rule_that_matches_counts() {
    let steering = Steering {
        rules: vec![
            Rule { networks: vec!["10.1.0.0/16".parse().unwrap()], ..Rule::default() },
            Rule { countries: vec![*b"DE", *b"FR"], ..Rule::default() },
            Rule { networks: vec!["2001:db8::/32".parse().unwrap()], continents: vec![*b"EU"], ..Rule::default() },
            Rule::default(),
        ],
        ..Steering::default()
    };
    let check = |client, rule| assert_eq!(steering.first_match(&client), Some(rule), "{client:?}");
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
    let steering = Steering { rules: vec![Rule { countries: vec![*b"de"], ..Rule::default() }], ..Steering::default() };
    assert_eq!(steering.first_match(&client("10.0.0.1", Some("US"), None)), None);
    assert_eq!(steering.first_match(&client("10.0.0.1", None, Some("EU"))), None);
    assert_eq!(steering.first_match(&client("10.0.0.1", Some("DE"), None)), Some(0), "codes have no case");
}

#[test]
fn networks_cover_ipv4_clients_however_either_is_written() {
    let check = |network: &str, address: &str, want: bool| {
        let rule = Rule { networks: vec![network.parse().unwrap()], ..Rule::default() };
        let steering = Steering { rules: vec![rule], ..Steering::default() };
        assert_eq!(steering.first_match(&client(address, None, None)).is_some(), want, "{network} {address}");
    };
    check("10.0.0.0/8", "::ffff:10.9.9.9", true);
    check("::ffff:10.0.0.0/104", "10.9.9.9", true);
    check("::ffff:10.0.0.0/104", "::ffff:11.9.9.9", false);
    check("0.0.0.0/0", "2001:db8::1", false);
    check("::/0", "10.0.0.1", false);
    check("::/0", "2001:db8::1", true);
}
