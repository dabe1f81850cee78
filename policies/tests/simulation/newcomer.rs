//! An endpoint that comes back empty among nine that carry everything.
//!
//! Clients come evenly, stay for half an hour on average, and are 20 000 at any time.

use policies::{AcceptRate, Policy, SlowStart, Standing};

use crate::{
    edge::{Edge, cluster, exponential, place, tick},
    tunnels::Tunnels,
};

pub(crate) const ENDPOINTS: u32 = 10;
pub(crate) const LIFETIME: f64 = 1800.0;
const CLIENTS: f64 = 20_000.0;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) policy: Policy,
    pub(crate) slow_start: Option<SlowStart>,
    /// New connections in a second, for each endpoint.
    pub(crate) accept_rate: Option<f64>,
    /// How many times as many clients come as usual.
    pub(crate) rush: f64,
    pub(crate) seed: u64,
}

impl Scenario {
    pub(crate) fn of(policy: Policy, seed: u64) -> Self {
        Self { policy, slow_start: None, accept_rate: None, rush: 1.0, seed }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Seconds until the newcomer first carries nine tenths of the average, if that was reached.
    pub(crate) level_after: Option<f64>,
    /// Its share of the arrivals in each whole second.
    pub(crate) shares: Vec<f64>,
}

impl Outcome {
    /// Its share of the arrivals between two seconds.
    pub(crate) fn share(&self, seconds: std::ops::Range<usize>) -> f64 {
        let count = seconds.len() as f64;
        self.shares[seconds].iter().sum::<f64>() / count
    }
}

/// Lets the newcomer in at second 0 and watches for so many seconds.
pub(crate) fn run(scenario: &Scenario, seconds: u32) -> Outcome {
    let mut view = cluster(scenario.policy, &[ENDPOINTS]);
    view.endpoints[0].standing = Standing::Maintenance;
    let mut edge = Edge::new(&view, scenario.seed);
    let mut tunnels = Tunnels::default();
    while (tunnels.len() as f64) < CLIENTS {
        let until = exponential(LIFETIME, &mut edge.dice);
        tunnels.add(edge.must_pick(None, 0.0), until);
    }
    for endpoint in &mut view.endpoints {
        endpoint.accept_rate = scenario.accept_rate.and_then(AcceptRate::per_second);
    }
    view.endpoints[0].standing = Standing::Up;
    edge.sees(&view);

    let mut outcome = Outcome::default();
    let mut next = 0.0;
    for second in 0..seconds {
        let (start, end) = (f64::from(second), f64::from(second + 1));
        if let Some(slow_start) = scenario.slow_start {
            view.endpoints[0].ramp = slow_start.ramp(Some(tick(0.0)), tick(start));
            edge.sees(&view);
        }
        let (mut came, mut here) = (0.0_f64, 0.0);
        while next < end {
            tunnels.leave(next);
            let until = next + exponential(LIFETIME, &mut edge.dice);
            came += 1.0;
            // With accept rates a crowd of chance finds everybody early. Whoever is refused is gone.
            if let Ok(pick) = edge.pick(None, next) {
                here += f64::from(u8::from(place(&pick) == 0));
                tunnels.add(pick, until);
            }
            next += exponential(LIFETIME / CLIENTS / scenario.rush, &mut edge.dice);
        }
        outcome.shares.push(here / came.max(1.0));
        let fair = tunnels.len() as f64 / f64::from(ENDPOINTS);
        if outcome.level_after.is_none() && f64::from(view.endpoints[0].load.leases()) >= 0.9 * fair {
            outcome.level_after = Some(end);
        }
    }
    outcome
}

/// When a newcomer that gets this share of the arrivals carries nine tenths of the average: it has
/// `share · n · (1 − e^(−t / lifetime))` of that.
pub(crate) fn level_after(share: f64) -> f64 {
    -LIFETIME * (1.0 - 0.9 / (share * f64::from(ENDPOINTS))).ln()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::seed::Seed;

    const MINUTE: SlowStart = SlowStart { window: Duration::from_secs(60), aggression: 1.0, least_percent: 10 };

    /// The herd bound: who is drawn with a chance of p each time is among two with 2p at most.
    #[test]
    fn among_two_choices_a_newcomer_gets_two_shares_and_of_least_connections_everything() {
        let seed = Seed::of_this_run();
        let share = |policy| run(&Scenario::of(policy, seed.get()), 100).share(0..100);
        let two = share(Policy::P2C);
        // 0.199: the second draw is repeated once if it was the first again. Standard deviation 0.012.
        assert!((two - 0.199).abs() < 0.06, "{two}");
        assert!((share(Policy::P2c { choices: 4 }) - 0.366).abs() < 0.08);
        assert!((share(Policy::LeastConnections) - 1.0).abs() < 1e-9);
    }

    /// Protection has its price: 1084 s with two choices, 509 with four, 170 with all, and 4145 in turn.
    #[test]
    fn to_level_takes_minutes_with_two_choices_and_hours_in_turn() {
        let seed = Seed::of_this_run();
        for (policy, share, tolerance) in [
            (Policy::P2C, 0.199, 0.08),
            (Policy::P2c { choices: 4 }, 0.366, 0.08),
            (Policy::LeastConnections, 1.0, 0.08),
            (Policy::RoundRobin, 0.1, 0.12),
        ] {
            let level = run(&Scenario::of(policy, seed.get()), 6000).level_after.expect("6000 s are enough");
            let want = level_after(share);
            assert!((level / want - 1.0).abs() < tolerance, "{policy:?}: {level}, and {want} expected");
        }
    }

    /// With a weight of w a newcomer is drawn in at most two of w / (9 + w) of the picks.
    #[test]
    fn slow_start_keeps_the_rush_from_a_newcomer_among_two_choices() {
        let seed = Seed::of_this_run();
        let scenario = Scenario { rush: 20.0, ..Scenario::of(Policy::P2C, seed.get()) };
        let (without, with) = (run(&scenario, 60), run(&Scenario { slow_start: Some(MINUTE), ..scenario }, 60));
        assert!(without.share(0..6) > 0.17, "{}", without.share(0..6));
        assert!(with.share(0..6) < 0.03, "{}", with.share(0..6));
        assert!(with.share(6..12) < 0.05, "{}", with.share(6..12));
        assert!((with.share(54..60) - 0.19).abs() < 0.04, "{}", with.share(54..60));
    }

    /// Least connections fills a newcomer up to its ramp at once, and then as fast as the ramp rises. Where fewer clients
    /// come than that, it gets all of them, slow start or not: only an accept rate holds them off.
    #[test]
    fn with_least_connections_slow_start_alone_does_not_keep_the_rush_away_and_an_accept_rate_does() {
        let seed = Seed::of_this_run();
        let usual = Scenario { slow_start: Some(MINUTE), ..Scenario::of(Policy::LeastConnections, seed.get()) };
        assert!((run(&usual, 60).share(0..60) - 1.0).abs() < 1e-9);
        let limited = Scenario { accept_rate: Some(5.0), ..usual };
        let outcome = run(&limited, 90);
        // Half a connection a second at first, of eleven that come.
        assert!(outcome.share(1..6) < 0.12, "{}", outcome.share(1..6));
        // One each 0.2 s and the time until somebody comes, 0.09 s: 3.4 of eleven.
        assert!((outcome.share(60..90) - 0.31).abs() < 0.08, "{}", outcome.share(60..90));
        // In a rush the ramp is filled soon, and holds.
        let rush = Scenario { rush: 20.0, ..usual };
        let outcome = run(&rush, 60);
        assert!(outcome.share(0..1) > 0.8 && outcome.share(10..50) < 0.35, "{}", outcome.share(10..50));
    }
}
