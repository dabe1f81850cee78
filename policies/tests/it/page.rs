//! What docs/policies.md shows of steering is what comes out.

use policies::{ClassView, ClientPlace, ClusterView, Criterion, LocalityIx, Policy, Rule, Steering, compile};

use crate::cluster::{cluster, endpoint};

const LOCALITIES: [&str; 4] = ["frankfurt", "dublin", "virginia", "singapore"];
const ORDERS: [&[Criterion]; 3] = [
    &[Criterion::Rules, Criterion::Distance, Criterion::Rtt],
    &[Criterion::Rules, Criterion::Rtt, Criterion::Distance],
    &[Criterion::Priority],
];

/// An edge in Frankfurt: bands of the round-trip time from there.
fn view(criteria: &[Criterion]) -> ClusterView {
    let mut view = cluster(Policy::P2C, (0..4).map(endpoint).collect());
    for (locality, band) in view.localities.iter_mut().zip([0, 1, 3, 3]) {
        locality.rtt_band = Some(band);
    }
    let to = |locality| Rule { localities: vec![LocalityIx(locality)], ..Rule::default() };
    view.steering = Steering {
        criteria: criteria.to_vec(),
        rules: vec![Rule { countries: vec![*b"DE"], ..to(0) }, Rule { continents: vec![*b"AS"], ..to(3) }],
        ..Steering::default()
    };
    view
}

/// The localities as the page writes them.
fn order(criteria: &[Criterion], place: ClientPlace, distances_km: &[Option<f64>]) -> String {
    let view = view(criteria);
    let class = ClassView { rule: view.steering.first_match(&place), distances_km };
    let plan = compile(&view, &class);
    let tier = |tier: &policies::Tier| {
        tier.localities().iter().map(|ix| LOCALITIES[usize::from(ix.0)]).collect::<Vec<_>>().join(" = ")
    };
    plan.tiers().iter().map(tier).collect::<Vec<_>>().join(" > ")
}

#[test]
fn the_page_shows_the_orders_that_come_out() {
    let place = |country: &[u8; 2], continent: &[u8; 2]| ClientPlace {
        country: Some(*country),
        continent: Some(*continent),
        ..ClientPlace::default()
    };
    // Great circles in kilometres, in the order of the localities.
    let clients = [
        ("Berlin", place(b"DE", b"EU"), Some([420.0, 1320.0, 6720.0, 9920.0])),
        ("London", place(b"GB", b"EU"), Some([640.0, 460.0, 5930.0, 10_850.0])),
        ("New York", place(b"US", b"NA"), Some([6200.0, 5110.0, 400.0, 15_340.0])),
        ("Tokyo", place(b"JP", b"AS"), Some([9350.0, 9590.0, 10_920.0, 5320.0])),
        ("unknown", ClientPlace::default(), None),
    ];
    let page = include_str!("../../../docs/policies.md");
    let words = ORDERS.map(|order| {
        let words = order.iter().map(|criterion| format!("\"{}\"", criterion.as_str())).collect::<Vec<_>>();
        format!("`[{}]`", words.join(", "))
    });
    let mut table = format!("| client | {} |\n|---|---|---|---|\n", words.join(" | "));
    for (name, place, distances) in clients {
        let distances: Vec<Option<f64>> = distances.into_iter().flatten().map(Some).collect();
        let orders = ORDERS.map(|criteria| order(criteria, place, &distances));
        table += &format!("| {name} | {} |\n", orders.join(" | "));
    }
    assert!(page.contains(&table), "docs/policies.md should have this table:\n{table}");
}
