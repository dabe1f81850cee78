//! What `explain` says, and that it is what picks do.

use policies::{
    Choice, ClassView, Criterion, Eligibility, Kind, LocalityIx, NoPick, Policy, Rule, Standing, Steering, compile,
    explain,
};

use crate::cluster::{ANYBODY, With, Worker, cluster, endpoint};

#[test]
fn an_explanation_tells_of_every_locality_and_endpoint_why() {
    let mut view = cluster(
        Policy::P2C,
        vec![
            endpoint(2),
            endpoint(0).standing(Standing::Draining),
            endpoint(0),
            endpoint(0).max(1),
            endpoint(0),
            endpoint(1),
        ],
    );
    view.steering = Steering {
        rules: vec![Rule { localities: vec![LocalityIx(0), LocalityIx(2)], strict: true, ..Rule::default() }],
        criteria: vec![Criterion::Rules, Criterion::Distance, Criterion::Rtt],
        ..Steering::default()
    };
    (view.localities[2].rtt_ms, view.localities[2].rtt_band) = (Some(31.5), Some(1));
    view.endpoints.push(endpoint(99));
    let _full = view.endpoints[3].load.reserve(None);
    let class = ClassView { rule: Some(0), distances_km: &[Some(100.0), Some(200.0), Some(1200.0)] };
    let mut worker = Worker::new(1).has_tried(&[4]);

    let explained = explain(&view, &class, Kind::Tunnel, &mut worker.context());

    assert_eq!((explained.rule, explained.strict), (Some(0), true));
    let localities: Vec<_> = explained
        .localities
        .iter()
        .map(|l| (l.name.as_ref(), l.tier, l.in_rule, l.distance_band, l.rtt_band, l.load_percent, l.panic))
        .collect();
    assert_eq!(
        localities,
        [
            ("l0", Some(0), true, Some(0), None, 100, false),
            ("l2", Some(1), true, Some(2), Some(1), 0, false),
            ("l1", None, false, Some(0), None, 0, false),
        ]
    );
    assert_eq!(explained.localities[1].rtt_ms, Some(31.5));
    let endpoints: Vec<_> = explained.endpoints.iter().map(|e| (e.endpoint.0, e.eligibility)).collect();
    assert_eq!(
        endpoints,
        [
            (1, Eligibility::NotReady),
            (2, Eligibility::Eligible),
            (3, Eligibility::Full),
            (4, Eligibility::Tried),
            (0, Eligibility::Eligible),
            (5, Eligibility::OutsideStrictRule),
            (6, Eligibility::NoLocality),
        ]
    );
    assert_eq!(explained.outcome.map(|choice| choice.endpoint.0), Ok(2));
}

#[test]
fn an_explanation_chooses_what_the_same_worker_would_have_picked() {
    let view = cluster(Policy::P2C, (0..40).map(|ix| endpoint(ix % 4).weight(ix + 1)).collect());
    for seed in 0..50 {
        let picked = Worker::new(seed).pick(&compile(&view, &ANYBODY)).map(|pick| Choice::from(&pick));
        let explained = explain(&view, &ANYBODY, Kind::Tunnel, &mut Worker::new(seed).context());
        assert_eq!(explained.outcome, picked);
    }
}

#[test]
fn an_explanation_keeps_no_lease() {
    let view = cluster(Policy::P2C, vec![endpoint(0).max(1)]);
    let mut worker = Worker::new(1);
    for _ in 0..3 {
        let explained = explain(&view, &ANYBODY, Kind::Request, &mut worker.context());
        assert!(explained.outcome.is_ok());
        assert_eq!(explained.endpoints[0].leases, 0);
    }
    assert_eq!(view.endpoints[0].load.leases(), 0);
}

#[test]
fn a_refusal_is_explained_too() {
    let view = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Draining)]);
    let explained = explain(&view, &ANYBODY, Kind::Tunnel, &mut Worker::new(1).context());
    assert_eq!(explained.outcome, Err(NoPick::NoneReady));
    assert_eq!(explained.endpoints[0].eligibility, Eligibility::NotReady);
}
