//! Quick requests among long polls, which are answered when there is something to say: their time says nothing about the
//! endpoint. Twenty equal endpoints; a hundred quick requests of 20 ms and twenty polls of up to 25 s come in a second.

use std::time::Duration;

use policies::{Answer, Kind, Latency, Pick, Policy};

use crate::{
    edge::{Edge, cluster, exponential, place, tick, uniform},
    seed::Seed,
};

const ENDPOINTS: u32 = 20;
const QUICK: f64 = 0.020;
const POLL: f64 = 25.0;
const MINUTES: f64 = 10.0;

/// The most that one endpoint held at the end of a minute, by the average of all at that moment; the mean of the minutes
/// after the first two, in which the polls gather.
fn fullest(policy: Policy, seed: u64) -> f64 {
    let view = cluster(policy, &[ENDPOINTS]);
    let mut edge = Edge::new(&view, seed);
    let mut waiting: Vec<(f64, f64, Pick)> = Vec::new();
    let (mut now, mut minute, mut seen) = (0.0, 1.0, Vec::new());
    while minute <= MINUTES {
        now += exponential(1.0 / 120.0, &mut edge.dice);
        let (over, held) = std::mem::take(&mut waiting).into_iter().partition::<Vec<_>, _>(|&(end, ..)| end <= now);
        waiting = held;
        for (end, took, pick) in over {
            let answer = Answer { took: Duration::from_secs_f64(took), failed: false, in_flight: 1 };
            view.endpoints[place(&pick)].load.answered(Kind::Tunnel, answer, policy, tick(end));
        }
        if now > minute * 60.0 {
            minute += 1.0;
            let most = view.endpoints.iter().map(|endpoint| endpoint.load.leases()).max().expect("there are twenty");
            seen.push(f64::from(most) * f64::from(ENDPOINTS) / waiting.len() as f64);
        }
        let poll = uniform(&mut edge.dice) < 20.0 / 120.0;
        let took = if poll { uniform(&mut edge.dice) * POLL } else { QUICK };
        let pick = edge.must_pick(None, now);
        waiting.push((now + took, took, pick));
    }
    let settled = &seen[2..];
    settled.iter().sum::<f64>() / settled.len() as f64
}

/// Why `p2c` is the default for requests, too: docs/decisions/0007-p2c-for-requests.md.
#[test]
fn long_polls_mislead_a_policy_that_goes_by_latency() {
    let seed = Seed::of_this_run();
    let by_requests = fullest(Policy::P2C, seed.get());
    let by_latency = fullest(Policy::PeakEwma { choices: 2, latency: Latency::default() }, seed.get());
    assert!(by_requests < 1.3, "{by_requests}");
    assert!(by_latency > 1.1 * by_requests, "{by_latency}; by requests: {by_requests}");
}
