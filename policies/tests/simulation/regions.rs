//! The loss of a region and its return: three tiers of a hundred endpoints, and clients that come and go.

use policies::{Policy, Standing};

use crate::{
    edge::{Edge, cluster, exponential},
    tunnels::Tunnels,
};

const EACH: u32 = 100;
const LIFETIME: f64 = 300.0;
const ARRIVALS_PER_SECOND: f64 = 10.0;

/// What one stage of the failure came to.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The share of the arrivals that each tier had.
    pub(crate) shares: [f64; 3],
    /// What each tier holds at the end.
    pub(crate) held: [usize; 3],
    pub(crate) arrivals: f64,
}

/// Goes through these numbers of endpoints of the first tier that are up, and stays with each for `seconds`. Clients of
/// endpoints that fail come back at once.
pub(crate) fn run(policy: Policy, up: &[usize], seconds: f64, seed: u64) -> Vec<Stage> {
    let mut view = cluster(policy, &[EACH; 3]);
    let mut edge = Edge::new(&view, seed);
    let mut tunnels = Tunnels::default();
    let mut now = 0.0;
    let mut stage = |&up: &usize| {
        for (ix, endpoint) in view.endpoints.iter_mut().take(EACH as usize).enumerate() {
            endpoint.standing = if ix < up { Standing::Up } else { Standing::Down };
        }
        edge.sees(&view);
        let broken_off = tunnels.break_off(|place| (up..EACH as usize).contains(&place));
        let mut counts = [0.0; 3];
        let mut connect = |edge: &mut Edge, tunnels: &mut Tunnels, now| {
            let pick = edge.must_pick(None, now);
            counts[usize::from(pick.locality.0)] += 1.0;
            tunnels.add(pick, now + exponential(LIFETIME, &mut edge.dice));
        };
        (0..broken_off).for_each(|_| connect(&mut edge, &mut tunnels, now));
        let end = now + seconds;
        while now < end {
            tunnels.leave(now);
            connect(&mut edge, &mut tunnels, now);
            now += exponential(1.0 / ARRIVALS_PER_SECOND, &mut edge.dice);
        }
        let arrivals: f64 = counts.iter().sum();
        let held = |tier: usize| {
            let endpoints = view.endpoints.iter().filter(|endpoint| usize::from(endpoint.locality.0) == tier);
            endpoints.map(|endpoint| endpoint.load.leases() as usize).sum()
        };
        Stage { shares: counts.map(|count| count / arrivals), held: [0, 1, 2].map(held), arrivals }
    };
    up.iter().map(&mut stage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    /// Envoy's arithmetic (arch_overview/upstream/load_balancing/priority): overprovisioning of 140 % carries a loss of 28 of
    /// a hundred; then 1.4 times what is up stays, and the rest goes to the next tier.
    #[test]
    fn what_a_failing_region_cannot_carry_goes_to_the_next_and_comes_back() {
        let seed = Seed::of_this_run();
        let table: [(usize, [f64; 3]); 7] = [
            (100, [1.0, 0.0, 0.0]),
            (72, [1.0, 0.0, 0.0]),
            (71, [0.99, 0.01, 0.0]),
            (50, [0.7, 0.3, 0.0]),
            (25, [0.35, 0.65, 0.0]),
            (0, [0.0, 1.0, 0.0]),
            (100, [1.0, 0.0, 0.0]),
        ];
        let stages = run(Policy::P2C, &table.map(|(up, _)| up), LIFETIME, seed.get());
        for (stage, (up, shares)) in stages.iter().zip(table) {
            for (got, want) in stage.shares.into_iter().zip(shares) {
                let deviation = (want * (1.0 - want) / stage.arrivals).sqrt();
                assert!((got - want).abs() <= 5.0 * deviation, "{up} of 100 up: {got}, and {want} expected");
            }
        }
        // Tunnels stay where they are: a lifetime after the return the second tier still has 1/e of what it had.
        let (lost, back) = (stages[5].held, stages[6].held);
        assert_eq!(lost[0], 0);
        let kept = back[1] as f64 / lost[1] as f64;
        assert!((kept - (-1.0_f64).exp()).abs() < 0.06, "{kept}");
    }
}
