//! What lowers, limits or overrides a pick, and how each pair of these goes together.
//!
//! The order in which they act: limits of cluster and priority, stickiness, tier (health, share, degraded, panic), policy
//! (weight and slow start), and at last the lease (max-connections, accept rate).

use std::{num::NonZeroU32, time::Duration};

use policies::{
    ClusterView, Criterion, Endpoint, EndpointIx, Kind, Limits, NoPick, Pick, Policy, Reason, Share, SpillBy, Standing,
    Tick, Weight, compile,
};

use crate::cluster::{ANYBODY, With, Worker, cluster, endpoint, policies};

const PICKS: u32 = 10_000;

/// How often each endpoint is picked when nobody stays.
fn shares(view: &ClusterView, worker: &mut Worker) -> Vec<u32> {
    let plan = compile(view, &ANYBODY);
    let mut counts = vec![0; view.endpoints.len()];
    for _ in 0..PICKS {
        if let Ok(pick) = worker.pick(&plan) {
            counts[pick.endpoint.0 as usize] += 1;
        }
    }
    counts
}

/// Five standard deviations of a share of [`PICKS`].
fn near(count: u32, share: f64) -> bool {
    let expected = f64::from(PICKS) * share;
    (f64::from(count) - expected).abs() <= 5.0 * (expected * (1.0 - share)).sqrt() + 1.0
}

/// Where two thousand clients with keys of their own go.
fn places(view: &ClusterView) -> Vec<u32> {
    let plan = compile(view, &ANYBODY);
    let mut worker = Worker::new(1);
    let place = |key: u64| {
        worker.key = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        worker.pick(&plan).unwrap().endpoint.0
    };
    (0..2000).map(place).collect()
}

fn max(max: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(max)
}

fn limits(max_connections: u32, max_pending: u32) -> Limits {
    Limits { max_connections: max(max_connections), max_pending: max(max_pending) }
}

/// The policies that draw in proportion; least-connections has no draws and the hash policies have their tables.
const DRAWING: [Policy; 2] = [Policy::RoundRobin, Policy::Random];

// Slow start …

#[test]
fn slow_start_scales_weight() {
    for policy in DRAWING {
        // 4 × 25 % and 1 × 100 %.
        let view = cluster(policy, vec![endpoint(0).weight(4).warming_up(25), endpoint(0)]);
        let counts = shares(&view, &mut Worker::new(1));
        assert!(near(counts[0], 0.5), "{policy:?}: {counts:?}");
    }
}

#[test]
fn slow_start_is_not_in_the_cost_that_two_choices_compare() {
    // The new one has as much for its weight as the old one: nothing but the draws holds it back.
    let view = cluster(Policy::P2C, vec![endpoint(0).warming_up(10), endpoint(0)]);
    let counts = shares(&view, &mut Worker::new(2));
    // Drawn with a chance of 1/11 each time, and ties go to the first drawn: about 1/11 in the long run.
    assert!(counts[0] > PICKS / 20 && counts[0] < PICKS / 5, "{counts:?}");
}

#[test]
fn least_connections_ramps_by_its_cost() {
    let view = cluster(Policy::LeastConnections, vec![endpoint(0).warming_up(25), endpoint(0)]);
    let (counts, _held) = Worker::new(1).fill(&view, 1000);
    assert_eq!(counts, [200, 800]);
}

#[test]
fn when_all_are_new_nobody_is_held_back() {
    for policy in DRAWING {
        let view = cluster(policy, vec![endpoint(0).warming_up(10), endpoint(0).warming_up(10)]);
        let counts = shares(&view, &mut Worker::new(3));
        assert!(near(counts[0], 0.5), "{policy:?}: {counts:?}");
    }
}

#[test]
fn slow_start_lowers_the_accept_rate_too() {
    let view = cluster(Policy::P2C, vec![endpoint(0).rate(1000.0).warming_up(10)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    // A tenth of a second's worth of a tenth of the rate.
    assert_eq!((0..1000).filter(|_| worker.pick(&plan).is_ok()).count(), 10);
}

#[test]
fn slow_start_moves_no_key_of_a_table() {
    for policy in policies().into_iter().filter(|policy| policy.goes_by_key()) {
        let whole = places(&cluster(policy, vec![endpoint(0), endpoint(0), endpoint(0)]));
        let warming = places(&cluster(policy, vec![endpoint(0).warming_up(1), endpoint(0), endpoint(0)]));
        assert_eq!(whole, warming, "{policy:?}");
    }
}

#[test]
fn slow_start_does_not_lower_what_a_full_endpoint_may_hold() {
    let view = cluster(Policy::P2C, vec![endpoint(0).warming_up(1).max(5)]);
    assert_eq!(Worker::new(1).fill(&view, 5).0, [5]);
}

#[test]
fn a_pin_does_not_wait_for_a_slow_start() {
    let view = cluster(Policy::Random, vec![endpoint(0).warming_up(1), endpoint(0)]);
    let mut worker = Worker::new(1);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(shares(&view, &mut worker), [PICKS, 0]);
}

#[test]
fn what_drains_holds_no_slow_start_back_and_keeps_its_own_for_its_return() {
    for policy in DRAWING {
        let drains = || endpoint(0).warming_up(25).standing(Standing::Draining);
        let view = cluster(policy, vec![drains(), endpoint(0).warming_up(25), endpoint(0)]);
        let counts = shares(&view, &mut Worker::new(15));
        assert!(counts[0] == 0 && near(counts[1], 0.2), "25 % against one: {policy:?}: {counts:?}");
        // What drains is no old endpoint that those who are new would wait for.
        let old = endpoint(0).standing(Standing::Draining);
        let view = cluster(policy, vec![old, endpoint(0).warming_up(10), endpoint(0).warming_up(10)]);
        let counts = shares(&view, &mut Worker::new(16));
        assert!(counts[0] == 0 && near(counts[1], 0.5), "{policy:?}: {counts:?}");
        // A drain that is called off changes nothing of how new it is.
        let view = cluster(policy, vec![drains().standing(Standing::Up), endpoint(0)]);
        let counts = shares(&view, &mut Worker::new(17));
        assert!(near(counts[0], 0.2), "{policy:?}: {counts:?}");
    }
}

#[test]
fn slow_start_goes_on_in_panic() {
    let down = || endpoint(0).standing(Standing::Down);
    let view = cluster(Policy::Random, vec![down().warming_up(25), down(), down(), down()]);
    let counts = shares(&view, &mut Worker::new(3));
    assert!(near(counts[0], 0.25 / 3.25), "{counts:?}");
}

#[test]
fn slow_start_lets_nobody_in_to_an_ejected_endpoint() {
    for policy in policies() {
        let view =
            cluster(policy, vec![endpoint(0).standing(Standing::Suspect).warming_up(99), endpoint(0), endpoint(0)]);
        assert_eq!(shares(&view, &mut Worker::new(3))[0], 0, "{policy:?}");
    }
}

// Weight …

#[test]
fn weight_and_share_multiply_inside_a_tier() {
    let mut view = cluster(Policy::Random, vec![endpoint(0).weight(2), endpoint(1)]);
    view.localities.iter_mut().for_each(|locality| locality.priority = 0);
    view.localities[0].share = Share::percent(25).unwrap();
    let counts = shares(&view, &mut Worker::new(4));
    // 2 × 25 % against 1.
    assert!(near(counts[0], 1.0 / 3.0), "{counts:?}");
}

#[test]
fn weight_does_not_lift_what_an_endpoint_may_hold_or_take() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0).weight(1000).max(3), endpoint(0)]);
        let (counts, _held) = Worker::new(5).fill(&view, 100);
        assert_eq!(counts, [3, 97], "{policy:?}");
        let view = cluster(policy, vec![endpoint(0).weight(1000).rate(50.0), endpoint(0)]);
        assert_eq!(Worker::new(5).fill(&view, 100).0, [5, 95], "{policy:?}");
    }
}

#[test]
fn the_weight_of_what_drains_counts_nowhere() {
    let view =
        cluster(Policy::P2C, vec![endpoint(0).weight(1000).standing(Standing::Draining), endpoint(0), endpoint(1)]);
    let counts = shares(&view, &mut Worker::new(1));
    assert_eq!(counts, [0, PICKS, 0], "its weight is no lost health either");
}

#[test]
fn the_weight_of_what_is_ejected_is_lost_health() {
    let view = cluster(Policy::Random, vec![endpoint(0).standing(Standing::Suspect), endpoint(0), endpoint(1)]);
    let counts = shares(&view, &mut Worker::new(6));
    assert!(counts[0] == 0 && near(counts[1], 0.7) && near(counts[2], 0.3), "{counts:?}");
}

/// Of ten parts two are left, which carry 28 %; by their number two of three would carry 93 %.
#[test]
fn a_tier_that_loses_its_heaviest_endpoint_loses_its_weight() {
    for standing in [Standing::Suspect, Standing::Down] {
        let heavy = endpoint(0).weight(8).standing(standing);
        let view = cluster(Policy::Random, vec![heavy, endpoint(0), endpoint(0), endpoint(1)]);
        let counts = shares(&view, &mut Worker::new(16));
        assert!(near(counts[3], 0.72), "{counts:?}");
    }
}

#[test]
fn weight_counts_in_panic_too() {
    let down = || endpoint(0).standing(Standing::Down);
    let view = cluster(Policy::Random, vec![down().weight(3), down()]);
    let counts = shares(&view, &mut Worker::new(5));
    assert!(near(counts[0], 0.75), "{counts:?}");
}

#[test]
fn a_pin_does_not_ask_for_weight() {
    let view = cluster(Policy::P2C, vec![endpoint(0), endpoint(0).weight(1000)]);
    let mut worker = Worker::new(5);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(shares(&view, &mut worker), [PICKS, 0]);
}

// Limits on one endpoint …

#[test]
fn room_and_turns_do_not_bring_back_what_drains_or_is_ejected() {
    for policy in policies() {
        for standing in [Standing::Draining, Standing::Maintenance, Standing::Suspect] {
            let roomy = endpoint(0).standing(standing).max(1000).rate(1e6);
            let view = cluster(policy, vec![roomy, endpoint(0).max(2), endpoint(0).rate(10.0)]);
            let plan = compile(&view, &ANYBODY);
            let mut worker = Worker::new(7);
            let held: Vec<Pick> = std::iter::from_fn(|| worker.pick(&plan).ok()).collect();
            assert!(held.len() == 3 && held.iter().all(|pick| pick.endpoint.0 != 0), "{policy:?} {standing}");
        }
    }
}

#[test]
fn a_full_endpoint_stays_full_in_panic_and_for_its_sticky_clients() {
    for policy in policies() {
        let down = |max| endpoint(0).standing(Standing::Down).max(max);
        let view = cluster(policy, vec![down(1), down(2)]);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(7);
        worker.pin = Some(EndpointIx(0));
        let held: Vec<Pick> = (0..3).map(|_| worker.pick(&plan).unwrap()).collect();
        assert!(held.iter().all(|pick| pick.reason == Reason::Panic));
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::AllFull, "{policy:?}");
    }
    let view = cluster(Policy::P2C, vec![endpoint(0).max(1), endpoint(0)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(7);
    worker.pin = Some(EndpointIx(0));
    let first = worker.pick(&plan).unwrap();
    let second = worker.pick(&plan).unwrap();
    assert_eq!((first.endpoint.0, first.reason), (0, Reason::Sticky));
    assert_eq!((second.endpoint.0, second.reason), (1, Reason::Preferred));
}

#[test]
fn an_accept_rate_sends_on_to_the_others_then_to_the_next_tier_then_nowhere() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0).rate(10.0), endpoint(0).rate(10.0), endpoint(1).rate(20.0)]);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(8);
        let picks: Vec<Pick> = std::iter::from_fn(|| worker.pick(&plan).ok()).collect();
        let places: Vec<u16> = picks.iter().map(|pick| pick.locality.0).collect();
        assert_eq!(places, [0, 0, 1, 1], "{policy:?}");
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited);
        worker.now = Tick(Duration::from_millis(100));
        assert_eq!(worker.pick(&plan).unwrap().locality.0, 0, "{policy:?}");
    }
}

#[test]
fn a_refused_pick_takes_no_turn_of_an_accept_rate_and_no_lease() {
    let view = cluster(Policy::P2C, vec![endpoint(0).rate(10.0).max(1)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    let held = worker.pick(&plan).unwrap();
    worker.now = Tick(Duration::from_secs(1));
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::AllFull);
    drop(held);
    assert!(worker.pick(&plan).is_ok(), "the turn that was not taken is still there");
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited);
    assert_eq!(view.endpoints[0].load.leases(), 0);
}

#[test]
fn an_accept_rate_is_kept_in_panic() {
    let view = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Down).rate(10.0)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    assert_eq!(worker.pick(&plan).map(|pick| pick.reason), Ok(Reason::Panic));
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited);
}

#[test]
fn what_is_ejected_takes_no_turn_of_its_accept_rate_and_lends_it_to_nobody() {
    for policy in policies() {
        // Three quarters stay, so nobody panics.
        let ejected = endpoint(0).rate(10.0).standing(Standing::Suspect);
        let rated = || endpoint(0).rate(10.0);
        let mut view = cluster(policy, vec![ejected, rated(), rated(), rated()]);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(18);
        let picks: Vec<Pick> = std::iter::from_fn(|| worker.pick(&plan).ok()).collect();
        let mut places: Vec<u32> = picks.iter().map(|pick| pick.endpoint.0).collect();
        places.sort_unstable();
        assert_eq!(places, [1, 2, 3], "{policy:?}");
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited, "{policy:?}");
        // It returns at the same moment, with its own turn and no other.
        view.endpoints[0].standing = Standing::Up;
        let plan = compile(&view, &ANYBODY);
        assert_eq!(worker.pick(&plan).map(|pick| pick.endpoint.0), Ok(0), "{policy:?}");
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited, "{policy:?}");
    }
}

#[test]
fn an_ejected_endpoint_keeps_its_accept_rate_in_panic() {
    for policy in policies() {
        let ejected = || endpoint(0).rate(10.0).standing(Standing::Suspect);
        let view = cluster(policy, vec![ejected(), ejected()]);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(19);
        let picks: Vec<Pick> = std::iter::from_fn(|| worker.pick(&plan).ok()).collect();
        assert_eq!(picks.len(), 2, "one turn each: {policy:?}");
        assert!(picks.iter().all(|pick| pick.reason == Reason::Panic), "{policy:?}");
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited, "{policy:?}");
    }
}

#[test]
fn a_pinned_client_waits_for_no_accept_rate() {
    let view = cluster(Policy::P2C, vec![endpoint(0).rate(10.0), endpoint(0)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(worker.pick(&plan).unwrap().endpoint.0, 0);
    assert_eq!(worker.pick(&plan).unwrap().endpoint.0, 1);
}

// Limits of a cluster and a priority …

#[test]
fn a_limit_of_the_cluster_holds_over_all_tiers_and_policies() {
    for policy in policies() {
        let mut view = cluster(policy, vec![endpoint(0), endpoint(0), endpoint(1)]);
        view.limits = limits(3, 0);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(9);
        let mut held: Vec<Pick> = (0..3).map(|_| worker.pick(&plan).unwrap()).collect();
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::LimitReached, "{policy:?}");
        held.pop();
        assert!(worker.pick(&plan).is_ok());
    }
}

#[test]
fn a_limit_of_a_priority_sends_on_to_the_next_one() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1)]);
    view.priority_limits = vec![(0, limits(2, 0))];
    let (counts, _held) = Worker::new(1).fill(&view, 5);
    assert_eq!(counts, [2, 3]);
}

#[test]
fn pending_connections_are_limited_until_they_are_connected() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0)]);
    view.limits = limits(0, 1);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    let mut first = worker.pick(&plan).unwrap();
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::LimitReached);
    first.lease.connected();
    let second = worker.pick(&plan).unwrap();
    drop(first);
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::LimitReached);
    drop(second);
    assert_eq!(view.localities[0].group.pending() + view.localities[0].group.connections(), 0);
}

#[test]
fn limits_are_kept_in_panic_and_for_sticky_clients() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Down)]);
    view.limits = limits(1, 0);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    worker.pin = Some(EndpointIx(0));
    let _held = worker.pick(&plan).unwrap();
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::LimitReached);
}

#[test]
fn of_several_obstacles_the_one_that_passes_soonest_is_told() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).max(1), endpoint(0).rate(10.0)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    let _held: Vec<Pick> = (0..2).map(|_| worker.pick(&plan).unwrap()).collect();
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::RateLimited);
    // A limit that is reached may be lifted by any client that leaves, so it is told before the two others.
    view.limits = limits(3, 0);
    let limited = compile(&view, &ANYBODY);
    worker.now = Tick(Duration::from_secs(1));
    let _last = worker.pick(&limited).unwrap();
    assert_eq!(worker.pick(&limited).unwrap_err(), NoPick::LimitReached);
}

// Stickiness …

#[test]
fn a_pin_is_kept_against_policy_key_and_tier() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0), endpoint(0), endpoint(1)]);
        let mut worker = Worker::new(10);
        (worker.pin, worker.key) = (Some(EndpointIx(2)), Some(77));
        let pick = worker.pick_from(&view).unwrap();
        assert_eq!((pick.endpoint.0, pick.reason, pick.tier), (2, Reason::Sticky, 1), "{policy:?}");
    }
}

#[test]
fn a_pin_is_let_go_when_its_endpoint_leaves_fails_or_failed_this_client() {
    for standing in [Standing::Suspect, Standing::Draining, Standing::Maintenance, Standing::Down] {
        let view = cluster(Policy::P2C, vec![endpoint(0).standing(standing), endpoint(0), endpoint(0), endpoint(0)]);
        let mut worker = Worker::new(1);
        worker.pin = Some(EndpointIx(0));
        assert_ne!(worker.pick_from(&view).unwrap().endpoint.0, 0, "{standing}");
    }
    let view = cluster(Policy::P2C, vec![endpoint(0), endpoint(0)]);
    let mut worker = Worker::new(1).has_tried(&[0]);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(worker.pick_from(&view).unwrap().endpoint.0, 1);
    worker.pin = Some(EndpointIx(99));
    assert_eq!(worker.pick_from(&view).unwrap().reason, Reason::Preferred);
}

#[test]
fn a_pin_does_not_reopen_a_locality_that_is_out_of_service() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1)]);
    view.localities[0].share = Share::NONE;
    let mut worker = Worker::new(1);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(worker.pick_from(&view).unwrap().endpoint.0, 1);
}

#[test]
fn a_pin_holds_for_a_degraded_endpoint_and_in_a_lowered_share() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).degraded(), endpoint(0), endpoint(1)]);
    view.localities[0].share = Share::percent(1).unwrap();
    let mut worker = Worker::new(1);
    worker.pin = Some(EndpointIx(0));
    assert_eq!(shares(&view, &mut worker), [PICKS, 0, 0]);
}

// Shares of localities …

#[test]
fn ten_percent_of_a_locality_can_be_shifted_and_the_rest_stays() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1)]);
    view.localities[0].share = Share::percent(90).unwrap();
    let counts = shares(&view, &mut Worker::new(11));
    assert!(near(counts[1], 0.1), "{counts:?}");
}

#[test]
fn a_locality_out_of_service_gets_nothing_in_panic_either() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1).standing(Standing::Down)]);
    view.localities[0].share = Share::NONE;
    let counts = shares(&view, &mut Worker::new(1));
    assert_eq!(counts, [0, PICKS]);
    view.localities[1].share = Share::NONE;
    assert_eq!(Worker::new(1).pick_from(&view).unwrap_err(), NoPick::NoneReady);
}

#[test]
fn a_shift_does_not_empty_a_locality_that_nobody_can_stand_in_for() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1).standing(Standing::Maintenance)]);
    view.localities[0].share = Share::percent(10).unwrap();
    assert_eq!(shares(&view, &mut Worker::new(1)), [PICKS, 0]);
}

// Degraded …

#[test]
fn degraded_endpoints_wait_until_the_healthy_ones_of_all_tiers_are_too_few() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0).degraded(), endpoint(0), endpoint(1)]);
        let counts = shares(&view, &mut Worker::new(12));
        assert!(counts[0] == 0 && near(counts[1], 0.7) && near(counts[2], 0.3), "{policy:?}: {counts:?}");
        let alone = cluster(policy, vec![endpoint(0).degraded(), endpoint(0)]);
        let plan = compile(&alone, &ANYBODY);
        assert_eq!((plan.tiers()[0].load_percent(), plan.tiers()[0].degraded_percent()), (70, 30));
        let counts = shares(&alone, &mut Worker::new(13));
        assert!(near(counts[0], 0.3), "{policy:?}: {counts:?}");
    }
}

#[test]
fn a_degraded_endpoint_takes_over_when_the_healthy_ones_are_full_or_gone() {
    let view = cluster(Policy::P2C, vec![endpoint(0).degraded(), endpoint(0).max(1), endpoint(0), endpoint(0).max(1)]);
    let counts = Worker::new(1).fill(&view, 6).0;
    assert_eq!(counts[0], 0, "a healthy one has room: {counts:?}");
    let view = cluster(Policy::P2C, vec![endpoint(0).degraded(), endpoint(0).max(1)]);
    let (counts, picks) = Worker::new(1).fill(&view, 6);
    assert_eq!(counts, [5, 1]);
    assert!(picks.iter().any(|pick| pick.reason == Reason::Degraded));
    let view = cluster(Policy::P2C, vec![endpoint(0).degraded(), endpoint(0).standing(Standing::Draining)]);
    assert_eq!(shares(&view, &mut Worker::new(1)), [PICKS, 0]);
}

#[test]
fn in_panic_degraded_and_failed_endpoints_are_alike() {
    let down = || endpoint(0).standing(Standing::Down);
    let view = cluster(Policy::Random, vec![endpoint(0).degraded(), down(), down(), down()]);
    let counts = shares(&view, &mut Worker::new(14));
    assert!(counts.iter().all(|&count| near(count, 0.25)), "{counts:?}");
}

/// Ten endpoints of which one is degraded carry 14 %, and in panic they carry it together.
#[test]
fn what_degraded_endpoints_can_carry_goes_to_their_tier_in_panic_too() {
    let down = |locality| endpoint(locality).standing(Standing::Down);
    let mut endpoints = vec![endpoint(0), endpoint(0), endpoint(0), down(0), down(0), endpoint(1).degraded()];
    endpoints.extend((0..9).map(|_| down(1)));
    let view = cluster(Policy::Random, endpoints);
    let counts = shares(&view, &mut Worker::new(15));
    assert!(near(counts[5..].iter().sum(), 0.14), "{counts:?}");
}

// Health and hash tables …

#[test]
fn keys_come_back_to_a_member_that_recovers_and_nobody_elses_move() {
    for policy in policies().into_iter().filter(|policy| policy.goes_by_key()) {
        let mut view = cluster(policy, (0..10).map(|_| endpoint(0)).collect());
        let before = places(&view);
        for standing in [Standing::Down, Standing::Draining, Standing::Suspect] {
            view.endpoints[3].standing = standing;
            let without = places(&view);
            assert!(without.iter().all(|&place| place != 3));
            for (was, is) in before.iter().zip(&without) {
                assert!(was == is || *was == 3, "{policy:?}: a key of {was} moved to {is}");
            }
        }
        view.endpoints[3].standing = Standing::Up;
        assert_eq!(before, places(&view), "{policy:?}");
    }
}

#[test]
fn a_table_is_built_once_for_one_membership_whatever_its_health() {
    let policy = policies().into_iter().find(|policy| policy.goes_by_key()).unwrap();
    let mut view = cluster(policy, (0..10).map(|_| endpoint(0)).collect());
    let first = compile(&view, &ANYBODY);
    view.endpoints[3].standing = Standing::Down;
    let second = compile(&view, &ANYBODY);
    assert_eq!(view.tables.in_use(), 1);
    view.endpoints[3].weight = Weight::new(2).unwrap();
    let third = compile(&view, &ANYBODY);
    assert_eq!(view.tables.in_use(), 2);
    drop((first, second));
    assert_eq!(view.tables.in_use(), 1);
    drop(third);
}

/// Mirrokni et al.: with a factor c nobody has more than ceil(c × average), however skewed the keys are.
#[test]
fn bounded_load_holds_for_a_crowd_with_one_key() {
    for policy in policies().into_iter().filter(|policy| {
        matches!(policy, Policy::Maglev { balance: Some(_), .. } | Policy::RingHash { balance: Some(_), .. })
    }) {
        let view = cluster(policy, (0..10).map(|_| endpoint(0)).collect());
        let mut worker = Worker::new(1);
        worker.key = Some(42);
        let (counts, _held) = worker.fill(&view, 1000);
        assert!(counts.iter().all(|&count| count <= 125), "{policy:?}: {counts:?}");
        assert_eq!(counts.iter().filter(|&&count| count > 0).count(), 8, "1000 at 125 each: {counts:?}");
    }
}

#[test]
fn without_a_bound_a_key_stays_at_its_member_up_to_the_members_own_limit() {
    for policy in policies().into_iter().filter(|policy| {
        matches!(policy, Policy::Maglev { balance: None, .. } | Policy::RingHash { balance: None, .. })
    }) {
        let endpoints: Vec<Endpoint> = (0..10).map(|_| endpoint(0).max(100)).collect();
        let view = cluster(policy, endpoints);
        let mut worker = Worker::new(1);
        worker.key = Some(42);
        let (counts, _held) = worker.fill(&view, 101);
        let mut sorted = counts.clone();
        sorted.sort_unstable();
        assert_eq!(sorted[8..], [1, 100], "{policy:?}: {counts:?}");
    }
}

#[test]
fn a_key_goes_to_one_tier_while_the_tier_spills_over() {
    let policy = policies().into_iter().find(|policy| policy.goes_by_key()).unwrap();
    let view = cluster(policy, vec![endpoint(0), endpoint(0).standing(Standing::Down), endpoint(1)]);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    let mut spilled = 0;
    for key in 0..1000 {
        worker.key = Some(key);
        let places: Vec<u16> =
            (0..3).map(|_| plan.pick(Kind::Tunnel, &mut worker.context()).unwrap().locality.0).collect();
        assert!(places.iter().all(|place| *place == places[0]));
        spilled += u32::from(places[0] == 1);
    }
    assert_eq!(spilled, 300);
}

// What was there before …

#[test]
fn a_limit_that_comes_later_counts_those_who_were_there() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1)]);
    let (_, mut before) = Worker::new(1).fill(&view, 3);
    view.limits = limits(5, 0);
    assert_eq!(view.unsettled(), 3);
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(2);
    let _after: Vec<Pick> = (0..2).map(|_| worker.pick(&plan).unwrap()).collect();
    assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::LimitReached);
    before.pop();
    assert_eq!(view.unsettled(), 2);
    let recompiled = compile(&view, &ANYBODY);
    let _in_its_place = worker.pick(&recompiled).unwrap();
    assert_eq!(worker.pick(&recompiled).unwrap_err(), NoPick::LimitReached);
}

#[test]
fn a_pin_does_not_go_over_the_bound_of_a_hash_policy() {
    let bounded = policies().into_iter().filter(|policy| matches!(policy, Policy::Maglev { balance: Some(_), .. }));
    for policy in bounded {
        let view = cluster(policy, (0..4).map(|_| endpoint(0)).collect());
        let mut worker = Worker::new(1);
        worker.pin = Some(EndpointIx(0));
        let (counts, _held) = worker.fill(&view, 100);
        // ceil(1.25 × 100 / 4).
        assert!(counts[0] <= 32, "{counts:?}");
    }
}

#[test]
fn bounded_load_is_measured_by_those_who_may_be_picked() {
    let bounded =
        policies().into_iter().find(|policy| matches!(policy, Policy::Maglev { balance: Some(_), .. })).unwrap();
    let mut view = cluster(bounded, (0..4).map(|_| endpoint(0)).collect());
    let (_, _held) = Worker::new(1).fill(&view, 400);
    for leaving in &mut view.endpoints[..2] {
        leaving.standing = Standing::Draining;
    }
    // About 200 are on the two that stay; one more of one key after the other fills them to 1.25 times what they have.
    let before = view.endpoints[2].load.leases() + view.endpoints[3].load.leases();
    let mut worker = Worker::new(2);
    worker.key = Some(7);
    let (_, _more) = worker.fill(&view, 40);
    let most = view.endpoints.iter().skip(2).map(|endpoint| endpoint.load.leases()).max().unwrap();
    let bound = (before + 40) * 125 / 200 + 1;
    assert!(most <= bound, "{most} over {bound}");
}

#[test]
fn a_weight_that_changes_by_the_hour_moves_no_key() {
    for policy in policies().into_iter().filter(|policy| matches!(policy, Policy::Maglev { balance: None, .. })) {
        let mut view = cluster(policy, (0..5).map(|_| endpoint(0).weight(100)).collect());
        let before = places(&view);
        view.endpoints[0].table_weight = Some(view.endpoints[0].weight);
        view.endpoints[0].weight = Weight::new(73).unwrap();
        assert_eq!(before, places(&view));
        assert_eq!(view.tables.in_use(), 0, "and no table outlives its plans");
    }
}

#[test]
fn explaining_uses_nothing_up() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).rate(10.0).max(1)]);
    view.limits = limits(1, 1);
    let mut worker = Worker::new(1);
    for _ in 0..5 {
        let explained = policies::explain(&view, &ANYBODY, Kind::Tunnel, &mut worker.context());
        assert_eq!(explained.outcome.map(|choice| choice.endpoint), Ok(EndpointIx(0)));
    }
    assert!(worker.pick_from(&view).is_ok(), "the one turn and the one place are still there");
}

/// Only what is limited is counted, so what is not can be held for ever without a plan that is compiled again and again.
#[test]
fn what_no_limit_asks_for_leaves_nothing_to_settle() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0), endpoint(1)]);
    view.localities[1].priority = 1;
    for limited in [limits(10, 10), Limits::default()] {
        view.priority_limits = vec![(1, limited)];
        let plan = compile(&view, &ANYBODY);
        let _held = Worker::new(1).pick(&plan).unwrap();
        assert_eq!(view.endpoints.iter().map(|endpoint| endpoint.load.leases()).sum::<u32>(), 1);
        assert_eq!(view.unsettled(), 0, "{limited:?}");
    }
}

// Capacity …

/// Two servers stand in for ten: by weight they are whole and get everything, by capacity a fifth and its reserve.
#[test]
fn by_capacity_a_locality_gets_what_it_is_built_for_whatever_its_weights() {
    let down = |locality| endpoint(locality).standing(Standing::Down);
    let mut view = cluster(Policy::Random, vec![down(0), endpoint(1).weight(100), endpoint(2)]);
    view.steering.spill_by = SpillBy::Capacity;
    for (locality, capacity) in view.localities.iter_mut().zip([10_000, 2_000, 10_000]) {
        locality.capacity = max(capacity);
    }
    let counts = shares(&view, &mut Worker::new(17));
    assert!(counts[0] == 0 && near(counts[1], 0.28) && near(counts[2], 0.72), "{counts:?}");
    // A sum of connections and weights would mean nothing: while one has none, all go by weights.
    view.localities[2].capacity = None;
    assert_eq!(shares(&view, &mut Worker::new(18)), [0, PICKS, 0]);
}

// Bands of the round trip …

/// Bands order localities, and nothing else: what lowers an endpoint lowers it against those of its own tier.
#[test]
fn a_band_decides_between_localities_whatever_is_said_of_their_endpoints() {
    type Change = fn(Endpoint) -> Endpoint;
    let changes: [Change; 4] = [
        |endpoint| endpoint.weight(1),
        |endpoint| endpoint.warming_up(10),
        |endpoint| endpoint.max(100_000),
        |endpoint| endpoint.rate(1e6),
    ];
    let pick = |near: Vec<Endpoint>| {
        let far = (0..2).map(|_| endpoint(1).weight(1000));
        let mut view = cluster(Policy::P2C, near.into_iter().chain(far).collect());
        view.steering.criteria = vec![Criterion::Rtt];
        (view.localities[0].rtt_band, view.localities[1].rtt_band) = (Some(0), Some(1));
        shares(&view, &mut Worker::new(19))
    };
    for change in changes {
        assert_eq!(pick(vec![change(endpoint(0).weight(3)), endpoint(0)])[2..], [0, 0]);
    }
    // What is degraded or out takes its weight along, and the next band gets that.
    let counts = pick(vec![endpoint(0).degraded(), endpoint(0)]);
    assert!(near(counts[2] + counts[3], 0.3), "{counts:?}");
    for standing in [Standing::Suspect, Standing::Down] {
        let counts = pick(vec![endpoint(0).standing(standing), endpoint(0)]);
        assert!(near(counts[2] + counts[3], 0.3), "{counts:?}");
    }
    assert_eq!(pick(vec![endpoint(0).standing(Standing::Draining), endpoint(0)]), [0, PICKS, 0, 0]);
}

#[test]
fn a_full_band_passes_its_clients_on_and_a_pin_does_not_ask_for_bands() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).max(2), endpoint(1)]);
    view.steering.criteria = vec![Criterion::Rtt];
    (view.localities[0].rtt_band, view.localities[1].rtt_band) = (Some(0), Some(1));
    assert_eq!(Worker::new(20).fill(&view, 6).0, [2, 4]);
    let mut worker = Worker::new(21);
    worker.pin = Some(EndpointIx(1));
    assert_eq!(shares(&view, &mut worker), [0, PICKS]);
}
