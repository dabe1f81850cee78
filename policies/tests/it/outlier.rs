//! Outlier detection as its callers see it: outcomes go in, ejections and returns come out.

use std::time::Duration;

use policies::{
    Cause, Failure, FailurePercentage, Kind, OutlierChange, OutlierCounters, OutlierDetector, OutlierEndpoint,
    OutlierEvent, OutlierRules, SeededDice, SuccessRate, Term, Tick,
};
use proptest::prelude::*;

fn at(seconds: u64) -> Tick {
    Tick(Duration::from_secs(seconds))
}

/// A cluster, its detector, and dice.
struct Fleet {
    rules: OutlierRules,
    detector: OutlierDetector,
    counters: Vec<OutlierCounters>,
    takes_new: Vec<bool>,
    proven: Option<Tick>,
    dice: SeededDice,
}

impl Fleet {
    fn new(endpoints: usize, rules: OutlierRules) -> Fleet {
        Fleet {
            rules,
            detector: OutlierDetector::new(),
            counters: (0..endpoints).map(|_| OutlierCounters::new()).collect(),
            takes_new: vec![true; endpoints],
            proven: None,
            dice: SeededDice::new(7),
        }
    }

    fn run(&mut self, seconds: u64) -> Vec<OutlierChange> {
        let both = self.counters.iter().zip(&self.takes_new);
        let proven = self.proven;
        let endpoints: Vec<_> =
            both.map(|(counters, takes_new)| OutlierEndpoint { counters, takes_new: *takes_new, proven }).collect();
        self.detector.run(&self.rules, &endpoints, at(seconds), &mut self.dice)
    }

    fn fail(&self, endpoint: usize, times: u32) {
        (0..times).for_each(|_| self.counters[endpoint].failed(Kind::Tunnel, Failure::Connect));
    }

    fn serve(&self, endpoint: usize, successes: u32, failures: u32) {
        (0..failures).for_each(|_| self.counters[endpoint].failed(Kind::Request, Failure::GatewayError));
        (0..successes).for_each(|_| self.counters[endpoint].succeeded(Kind::Request));
    }

    fn ejected(&self) -> Vec<usize> {
        (0..self.counters.len()).filter(|endpoint| self.counters[*endpoint].is_ejected()).collect()
    }
}

/// Envoy's figures, with its zero jitter.
fn envoys() -> OutlierRules {
    OutlierRules { jitter_percent: 0, ..OutlierRules::default() }
}

fn ejected(change: &OutlierChange) -> (usize, u64, u32, String) {
    match &change.event {
        OutlierEvent::Ejected { cause, rest, nth } => (change.endpoint, rest.as_secs(), *nth, cause.to_string()),
        other => panic!("not an ejection: {other:?}"),
    }
}

#[test]
fn five_failures_in_a_row_eject_at_once_for_thirty_seconds() {
    let mut fleet = Fleet::new(10, envoys());
    assert_eq!(fleet.run(1), []);
    fleet.fail(3, 4);
    assert_eq!(fleet.run(2), []);
    fleet.fail(3, 1);
    let changes = fleet.run(2);
    assert_eq!(changes.len(), 1);
    assert_eq!(ejected(&changes[0]), (3, 30, 1, "5 connect failures in a row".to_owned()));
    assert_eq!(fleet.counters[3].ejection().now, Some(Term { began: at(2), until: at(32), unreachable: true }));
    assert_eq!(fleet.run(31), []);
    let returned = OutlierEvent::Returned { after: Duration::from_secs(30), early: false };
    assert_eq!(fleet.run(32), [OutlierChange { endpoint: 3, event: returned }]);
    assert_eq!(fleet.ejected(), [0; 0]);
}

#[test]
fn one_success_between_failures_starts_the_count_anew() {
    let mut fleet = Fleet::new(10, envoys());
    for _ in 0..20 {
        fleet.fail(0, 4);
        fleet.counters[0].succeeded(Kind::Tunnel);
        assert_eq!(fleet.run(1), []);
    }
}

/// An endpoint that answers every request and fails every tunnel is out all the same.
#[test]
fn good_requests_do_not_hide_tunnels_that_fail() {
    let mut fleet = Fleet::new(10, envoys());
    for _ in 0..5 {
        fleet.counters[0].failed(Kind::Tunnel, Failure::RefusedUpgrade);
        fleet.serve(0, 100, 0);
    }
    assert_eq!(ejected(&fleet.run(1)[0]).3, "5 refused upgrades in a row");
}

/// Envoy: 30 s more for each ejection in a row, 300 s at most, and one step back for each interval without.
#[test]
fn ejections_get_longer_and_calm_intervals_make_them_shorter() {
    let mut fleet = Fleet::new(10, envoys());
    let mut now = 0;
    let mut lengths = Vec::new();
    for _ in 0..12 {
        fleet.fail(0, 5);
        let changes = fleet.run(now);
        let change = changes.iter().find(|change| matches!(change.event, OutlierEvent::Ejected { .. })).unwrap();
        lengths.push(ejected(change).1);
        now += ejected(change).1;
        assert!(matches!(fleet.run(now)[0].event, OutlierEvent::Returned { .. }));
    }
    assert_eq!(lengths, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
    // Ten in a row are remembered; four calm intervals take four of them back.
    (1..=4).for_each(|interval| assert_eq!(fleet.run(now + 10 * interval), []));
    fleet.fail(0, 5);
    assert_eq!(ejected(&fleet.run(now + 41)[0]).1, 210);
}

#[test]
fn the_return_is_spread_over_a_fifth_of_the_time() {
    let mut rests = Vec::new();
    for seed in 0..200 {
        let mut fleet = Fleet::new(10, OutlierRules::default());
        fleet.dice = SeededDice::new(seed);
        fleet.fail(0, 5);
        let OutlierEvent::Ejected { rest, .. } = fleet.run(1)[0].event else { panic!("not an ejection") };
        rests.push(rest);
    }
    let (least, most) = (rests.iter().min().unwrap(), rests.iter().max().unwrap());
    assert!(*least >= Duration::from_secs(30) && *least < Duration::from_millis(30_500), "{least:?}");
    assert!(*most <= Duration::from_secs(36) && *most > Duration::from_millis(35_500), "{most:?}");
    rests.dedup();
    assert!(rests.len() > 190, "equal dice alone give equal times");
}

/// A server that was restarted: clients and probes could not connect, and now probes can.
#[test]
fn probes_that_bring_an_endpoint_up_again_end_an_ejection_for_connect_failures_and_no_other() {
    for (failure, proven, is_back) in [
        (Failure::Connect, Some(at(6)), true),
        (Failure::Connect, Some(at(4)), false),
        (Failure::Connect, None, false),
        (Failure::RefusedUpgrade, Some(at(6)), false),
        (Failure::EarlyClose, Some(at(6)), false),
    ] {
        let mut fleet = Fleet::new(10, envoys());
        fleet.fail(0, 4);
        fleet.counters[0].failed(Kind::Tunnel, failure);
        fleet.run(5);
        assert_eq!(fleet.ejected(), [0]);
        fleet.proven = proven;
        let returned = OutlierEvent::Returned { after: Duration::from_secs(2), early: true };
        let want = if is_back { vec![OutlierChange { endpoint: 0, event: returned }] } else { vec![] };
        assert_eq!(fleet.run(7), want, "{failure:?} {proven:?}");
    }
}

#[test]
fn of_ten_that_fail_together_one_is_ejected_and_nine_are_spared() {
    let mut fleet = Fleet::new(10, envoys());
    (0..10).for_each(|endpoint| fleet.fail(endpoint, 5));
    let changes = fleet.run(1);
    assert_eq!(fleet.ejected(), [0]);
    let spared = changes.iter().filter(|change| matches!(change.event, OutlierEvent::Spared { .. })).count();
    assert_eq!((changes.len(), spared), (10, 9));
    // Whoever was spared needs five more failures to be looked at again.
    assert_eq!(fleet.run(2), []);
}

#[test]
fn the_last_endpoint_that_takes_clients_stays() {
    let mut alone = Fleet::new(1, envoys());
    alone.fail(0, 5);
    assert!(matches!(alone.run(1)[0].event, OutlierEvent::Spared { .. }));
    let mut fleet = Fleet::new(3, OutlierRules { max_ejected_percent: 100, ..envoys() });
    fleet.takes_new = vec![true, false, true];
    (0..3).for_each(|endpoint| fleet.fail(endpoint, 5));
    fleet.run(1);
    assert_eq!(fleet.ejected(), [0], "the second is out already, and the third is the last that takes clients");
}

/// Down by probes, drained or in maintenance: nobody is helped by an ejection, and it would spare one that fails.
#[test]
fn an_endpoint_that_is_out_already_is_not_ejected_and_uses_no_slot() {
    let mut fleet = Fleet::new(10, envoys());
    fleet.takes_new[0] = false;
    fleet.fail(0, 5);
    assert_eq!(fleet.run(1), []);
    fleet.fail(1, 5);
    assert_eq!(ejected(&fleet.run(2)[0]).0, 1);
    // What it did while it was out is not held against it.
    fleet.takes_new[0] = true;
    assert_eq!(fleet.run(3), []);
}

#[test]
fn an_ejected_endpoint_that_goes_down_as_well_leaves_its_slot_to_others() {
    let mut fleet = Fleet::new(10, envoys());
    fleet.fail(0, 5);
    fleet.run(1);
    fleet.fail(1, 5);
    assert!(matches!(fleet.run(2)[0].event, OutlierEvent::Spared { .. }), "one of ten is out");
    fleet.takes_new[0] = false;
    fleet.fail(1, 5);
    assert_eq!(ejected(&fleet.run(3)[0]).0, 1);
    assert_eq!(fleet.ejected(), [0, 1]);
    // Both count again, and nobody is brought back for it.
    fleet.takes_new[0] = true;
    fleet.fail(2, 5);
    let changes = fleet.run(4);
    assert!(matches!(changes[..], [OutlierChange { endpoint: 2, event: OutlierEvent::Spared { .. } }]), "{changes:?}");
}

#[test]
fn a_share_of_zero_only_looks() {
    let mut fleet = Fleet::new(10, OutlierRules { max_ejected_percent: 0, ..envoys() });
    fleet.fail(0, 5);
    assert!(matches!(fleet.run(1)[0].event, OutlierEvent::Spared { cause: Cause::InARow { .. } }));
}

/// Envoy's example: rates of 50 and four times 100 have the threshold 52.
#[test]
fn a_success_rate_far_below_its_peers_ejects_at_the_end_of_the_interval() {
    let mut fleet = Fleet::new(5, OutlierRules { consecutive: 0, ..envoys() });
    fleet.run(0);
    fleet.serve(0, 50, 50);
    (1..5).for_each(|endpoint| fleet.serve(endpoint, 100, 0));
    assert_eq!(fleet.run(9), []);
    let changes = fleet.run(10);
    let text = "50.0% of its requests succeeded, under the limit of 52.0% (average 90.0%)";
    assert_eq!(ejected(&changes[0]), (0, 30, 1, text.to_owned()));
    // The next interval starts from nothing.
    assert_eq!(fleet.run(20), []);
}

#[test]
fn little_volume_or_few_peers_are_no_comparison() {
    let rules = OutlierRules { consecutive: 0, ..envoys() };
    for (endpoints, volume) in [(5, 99), (4, 100)] {
        let mut fleet = Fleet::new(endpoints, rules.clone());
        fleet.run(0);
        fleet.serve(0, 0, volume);
        (1..endpoints).for_each(|endpoint| fleet.serve(endpoint, volume, 0));
        assert_eq!(fleet.run(10), [], "{endpoints} endpoints with {volume}");
    }
}

#[test]
fn the_failure_percentage_counts_only_when_it_is_asked_for() {
    for (rule, want) in [(None, 0), (Some(FailurePercentage::default()), 1)] {
        let rules = OutlierRules { consecutive: 0, success_rate: None, failure_percentage: rule, ..envoys() };
        let mut fleet = Fleet::new(5, rules);
        fleet.run(0);
        fleet.serve(0, 15, 85);
        (1..5).for_each(|endpoint| fleet.serve(endpoint, 16, 84));
        let changes = fleet.run(10);
        assert_eq!(changes.len(), want);
        assert!(changes.iter().all(|change| ejected(change).3 == "85.0% of its requests failed"), "{changes:?}");
    }
}

#[test]
fn turning_detection_off_brings_everybody_back() {
    let mut fleet = Fleet::new(10, envoys());
    fleet.fail(4, 5);
    fleet.run(1);
    let endpoints: Vec<_> =
        fleet.counters.iter().map(|counters| OutlierEndpoint { counters, takes_new: true, proven: None }).collect();
    let changes = fleet.detector.release(&endpoints, at(11));
    let returned = OutlierEvent::Returned { after: Duration::from_secs(10), early: true };
    assert_eq!(changes, [OutlierChange { endpoint: 4, event: returned }]);
    assert_eq!(fleet.counters[4].ejection(), policies::Ejection::default());
}

/// What it is for: of ten endpoints one fails half of what it gets for five minutes. Clients go to whoever is not
/// ejected, each to the next in turn; each second an endpoint in service gets 20 of them.
#[test]
fn a_bad_endpoint_among_ten_loses_most_of_its_clients_and_nobody_else_any() {
    for seed in 0..20 {
        let mut fleet = Fleet::new(10, OutlierRules::default());
        fleet.dice = SeededDice::new(seed);
        let mut clients = SeededDice::new(seed + 1_000);
        let (mut failed, mut others_ejected, mut returns) = (0, 0, 0);
        for second in 0..600 {
            let bad = second < 300;
            for endpoint in (0..10).filter(|endpoint| !fleet.counters[*endpoint].is_ejected()) {
                for _ in 0..20 {
                    if endpoint == 0 && bad && policies::Dice::below(&mut clients, 2) == 0 {
                        failed += 1;
                        fleet.fail(0, 1);
                    } else {
                        fleet.counters[endpoint].succeeded(Kind::Tunnel);
                    }
                }
            }
            for change in fleet.run(second) {
                others_ejected += usize::from(change.endpoint != 0);
                returns += usize::from(matches!(change.event, OutlierEvent::Returned { .. }));
            }
        }
        assert_eq!(others_ejected, 0, "seed {seed}");
        assert!(returns >= 2, "seed {seed}: it is tried again and again");
        // Without detection half of 300 * 20 clients would have failed.
        assert!(failed < 3_000 / 3, "seed {seed}: {failed} failed");
        assert_eq!(fleet.ejected(), [0; 0], "seed {seed}: it is back once it is well");
        assert_eq!(fleet.counters[0].ejection().in_a_row, 0, "seed {seed}: and forgiven");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Fail(usize, usize, u32),
    Succeed(usize, u32),
    Standing(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u64..40).prop_map(Step::Wait),
        (0usize..30, 0..Failure::ALL.len(), 1u32..130).prop_map(|(who, how, times)| Step::Fail(who, how, times)),
        (0usize..30, 1u32..130).prop_map(|(who, times)| Step::Succeed(who, times)),
        (0usize..30, any::<bool>()).prop_map(|(who, takes)| Step::Standing(who, takes)),
    ];
    prop::collection::vec(step, 0..60)
}

fn rules() -> impl Strategy<Value = OutlierRules> {
    (0u32..8, 0u8..=100, 0u8..=100, any::<bool>(), any::<bool>()).prop_map(
        |(consecutive, share, jitter, rate, limit)| OutlierRules {
            consecutive,
            max_ejected_percent: share,
            jitter_percent: jitter,
            success_rate: rate.then(SuccessRate::default),
            failure_percentage: limit.then(FailurePercentage::default),
            ..OutlierRules::default()
        },
    )
}

proptest! {
    /// Whatever happens: no ejection passes the share of those that would take clients or takes the last one, nobody is
    /// ejected who is out already, and every ejection ends in time.
    #[test]
    fn no_order_of_events_breaks_the_rules(endpoints in 1usize..30, rules in rules(), steps in steps(), seed: u64) {
        let most = rules.most_ejected(endpoints);
        let longest = rules.max_ejection.mul_f64(1.0 + f64::from(rules.jitter_percent) / 100.0);
        let mut fleet = Fleet::new(endpoints, rules);
        fleet.dice = SeededDice::new(seed);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Fail(who, how, times) => {
                    let kind = if how < 5 { Kind::Tunnel } else { Kind::Request };
                    (0..times).for_each(|_| fleet.counters[who % endpoints].failed(kind, Failure::ALL[how]));
                }
                Step::Succeed(who, times) => {
                    (0..times).for_each(|_| fleet.counters[who % endpoints].succeeded(Kind::Request));
                }
                Step::Standing(who, takes) => fleet.takes_new[who % endpoints] = takes,
            }
            let changes = fleet.run(now);
            let ejected = fleet.ejected();
            let is_ejection = |change: &&OutlierChange| matches!(change.event, OutlierEvent::Ejected { .. });
            for change in changes.iter().filter(is_ejection) {
                prop_assert!(fleet.takes_new[change.endpoint]);
                let used = ejected.iter().filter(|endpoint| fleet.takes_new[**endpoint]).count();
                prop_assert!(used <= most, "{} of {} with {} allowed", used, endpoints, most);
                let stays = |endpoint: usize| fleet.takes_new[endpoint] && !ejected.contains(&endpoint);
                prop_assert!((0..endpoints).any(stays));
            }
            for endpoint in ejected {
                let Term { began, until, .. } = fleet.counters[endpoint].ejection().now.unwrap();
                prop_assert!(until > at(now) && until.since(began) <= longest + Duration::from_millis(1));
            }
        }
        fleet.rules.consecutive = 0;
        fleet.rules.success_rate = None;
        fleet.rules.failure_percentage = None;
        fleet.run(now + longest.as_secs() + 1);
        prop_assert_eq!(fleet.ejected(), Vec::<usize>::new());
    }
}
