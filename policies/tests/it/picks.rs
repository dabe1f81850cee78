//! One pick at a time: tiers, refusals and their reasons.

use policies::{Kind, NoPick, Policy, Reason, Standing, compile};

use crate::cluster::{ANYBODY, With, Worker, cluster, endpoint, policies};

#[test]
fn the_first_tier_gets_everything_while_it_is_healthy() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0), endpoint(0), endpoint(1)]);
        let mut worker = Worker::new(1);
        let (counts, picks) = worker.fill(&view, 100);
        // Five standard deviations of a fair coin (a client without a key is a random key); the others look at counts or take turns.
        let by_dice = policy == Policy::Random || policy.goes_by_key();
        let tolerance = if by_dice { 25 } else { 5 };
        assert!(counts[0].abs_diff(50) < tolerance && counts[2] == 0, "{policy:?}: {counts:?}");
        assert!(picks.iter().all(|pick| pick.tier == 0 && pick.reason == Reason::Preferred));
    }
}

#[test]
fn half_a_tier_down_spills_thirty_percent() {
    let view = cluster(Policy::P2C, vec![endpoint(0), endpoint(0).standing(Standing::Down), endpoint(1)]);
    let (counts, picks) = Worker::new(2).fill(&view, 10_000);
    assert_eq!(counts[1], 0);
    // Standard deviation 46.
    assert!(counts[2].abs_diff(3000) < 230, "{counts:?}");
    assert!(picks.iter().all(|pick| (pick.reason == Reason::Spill) == (pick.tier == 1)));
}

#[test]
fn in_panic_failed_endpoints_are_used_and_leaving_ones_are_not() {
    for policy in policies() {
        let view = cluster(policy, Standing::ALL.into_iter().map(|standing| endpoint(0).standing(standing)).collect());
        let plan = compile(&view, &ANYBODY);
        assert!(plan.tiers()[0].panic());
        let (counts, picks) = Worker::new(3).fill(&view, 300);
        let used: Vec<Standing> = Standing::ALL
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(standing, _)| standing)
            .collect();
        assert_eq!(used, [Standing::Up, Standing::Suspect, Standing::Down], "{policy:?}");
        assert!(picks.iter().all(|pick| pick.reason == Reason::Panic));
    }
}

#[test]
fn without_panic_a_cluster_with_nothing_up_refuses() {
    let mut view = cluster(Policy::P2C, vec![endpoint(0).standing(Standing::Down)]);
    assert_eq!(Worker::new(1).pick_from(&view).map(|pick| pick.reason), Ok(Reason::Panic));
    view.steering.panic_threshold_percent = 0;
    assert_eq!(Worker::new(1).pick_from(&view).unwrap_err(), NoPick::NoneReady);
}

#[test]
fn a_full_endpoint_is_passed_over_then_the_tier() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0).max(1), endpoint(0).max(2), endpoint(1).max(1)]);
        let plan = compile(&view, &ANYBODY);
        let mut worker = Worker::new(4);
        let (counts, picks) = worker.fill(&view, 4);
        assert_eq!(counts, [1, 2, 1], "{policy:?}");
        assert_eq!(picks[3].reason, Reason::Spill);
        assert_eq!(worker.pick(&plan).unwrap_err(), NoPick::AllFull);
        drop(picks);
        assert!(worker.pick(&plan).is_ok());
    }
}

#[test]
fn the_last_place_in_a_large_cluster_is_found_by_every_policy() {
    for policy in policies() {
        let view = cluster(policy, (0..500).map(|_| endpoint(0).max(1)).collect());
        let (counts, _picks) = Worker::new(5).fill(&view, 500);
        assert!(counts.iter().all(|&count| count == 1), "{policy:?}");
    }
}

#[test]
fn an_endpoint_that_failed_this_client_is_not_picked_again() {
    for policy in policies() {
        let view = cluster(policy, vec![endpoint(0), endpoint(0), endpoint(1)]);
        let plan = compile(&view, &ANYBODY);
        for _ in 0..20 {
            assert_eq!(Worker::new(6).has_tried(&[1]).pick(&plan).unwrap().endpoint.0, 0, "{policy:?}");
        }
        let spilled = Worker::new(6).has_tried(&[0, 1]).pick(&plan).unwrap();
        assert_eq!((spilled.endpoint.0, spilled.reason), (2, Reason::Spill));
        assert_eq!(Worker::new(6).has_tried(&[0, 1, 2]).pick(&plan).unwrap_err(), NoPick::AllTried);
    }
}

#[test]
fn full_and_tried_together_count_as_full() {
    let view = cluster(Policy::P2C, vec![endpoint(0), endpoint(0).max(1)]);
    let plan = compile(&view, &ANYBODY);
    let _held = Worker::new(1).has_tried(&[0]).pick(&plan).unwrap();
    assert_eq!(Worker::new(1).has_tried(&[0]).pick(&plan).unwrap_err(), NoPick::AllFull);
}

#[test]
fn every_refusal_says_what_stands_in_the_way() {
    let refusal = |endpoints| Worker::new(1).pick_from(&cluster(Policy::P2C, endpoints)).unwrap_err();
    assert_eq!(refusal(vec![]), NoPick::NoEndpoints);
    assert_eq!(refusal(vec![endpoint(0).standing(Standing::Draining)]), NoPick::NoneReady);
    assert_eq!(refusal(vec![endpoint(0).standing(Standing::Maintenance)]), NoPick::NoneReady);
    let mut nowhere = cluster(Policy::P2C, vec![endpoint(0), endpoint(7)]);
    nowhere.localities.clear();
    assert_eq!(Worker::new(1).pick_from(&nowhere).unwrap_err(), NoPick::NoEndpoints);
    let labels: std::collections::BTreeSet<&str> = NoPick::ALL.into_iter().map(NoPick::as_str).collect();
    assert_eq!(labels.len(), NoPick::ALL.len());
}

#[test]
fn tunnels_and_requests_each_follow_their_own_policy() {
    let mut view = cluster(Policy::LeastConnections, vec![endpoint(0), endpoint(0)]);
    view.request_policy = Policy::RoundRobin;
    let _busy: Vec<_> = (0..10).map(|_| view.endpoints[0].load.reserve(None)).collect();
    let plan = compile(&view, &ANYBODY);
    let mut worker = Worker::new(1);
    let mut counts = |kind| {
        let picks = (0..10).map(|_| plan.pick(kind, &mut worker.context()).unwrap().endpoint.0);
        picks.filter(|&endpoint| endpoint == 0).count()
    };
    assert_eq!(counts(Kind::Tunnel), 0);
    assert_eq!(counts(Kind::Request), 5);
}

#[test]
fn a_round_goes_on_where_it_was_after_a_recompilation_that_changed_nothing() {
    let view = cluster(Policy::RoundRobin, vec![endpoint(0), endpoint(0), endpoint(0)]);
    let mut worker = Worker::new(9);
    let turns: Vec<u32> = (0..9).map(|_| worker.pick_from(&view.clone()).unwrap().endpoint.0).collect();
    assert!(turns.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "{turns:?}");
}

#[test]
fn the_same_inputs_give_the_same_picks() {
    for policy in policies() {
        let run = || {
            let view = cluster(policy, (0..10).map(|ix| endpoint(ix % 3).weight(ix + 1)).collect());
            Worker::new(77).fill(&view, 500).1.iter().map(|pick| pick.endpoint).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn leases_outlive_the_snapshot_and_the_endpoint() {
    let view = cluster(Policy::P2C, vec![endpoint(0)]);
    let load = std::sync::Arc::clone(&view.endpoints[0].load);
    let pick = Worker::new(1).pick_from(&view).unwrap();
    drop(view);
    assert_eq!(load.leases(), 1);
    drop(pick);
    assert_eq!(load.leases(), 0);
}

#[test]
fn workers_that_pick_at_once_fill_every_place_and_no_more() {
    for policy in policies() {
        let view = cluster(policy, (0..10).map(|ix| endpoint(ix % 2).max(50)).collect());
        let plan = compile(&view, &ANYBODY);
        let held = std::thread::scope(|scope| {
            let worker = |seed| {
                let (plan, endpoints) = (&plan, &view.endpoints);
                scope.spawn(move || {
                    let mut worker = Worker::new(seed);
                    let mut held = Vec::new();
                    // Losing the race for a last place can refuse one client early; only a full cluster refuses for good.
                    loop {
                        match worker.pick(plan) {
                            Ok(pick) => held.push(pick),
                            Err(_) if endpoints.iter().all(|endpoint| endpoint.load.leases() == 50) => return held,
                            Err(_) => {}
                        }
                    }
                })
            };
            let workers: Vec<_> = (0..4).map(worker).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(held.len(), 500, "{policy:?}");
        assert!(view.endpoints.iter().all(|endpoint| endpoint.load.leases() == 50));
    }
}
