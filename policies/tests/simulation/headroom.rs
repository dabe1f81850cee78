//! Load-aware spill-over as a closed loop: a near locality of 1000 connections, a far one of 4000, and more clients than the
//! near one should carry.

use policies::{Headroom, Policy, Share, Shedding, Used};

use crate::{
    edge::{Edge, cluster, exponential, tick},
    tunnels::Tunnels,
};

const CAPACITIES: [u64; 2] = [1000, 4000];
pub(crate) const LIFETIME: f64 = 300.0;
/// As many clients at rest.
pub(crate) const CLIENTS: f64 = 1500.0;

/// The utilisation of the near locality, second by second.
pub(crate) fn run(seconds: u32, seed: u64) -> Vec<f64> {
    let mut view = cluster(Policy::P2C, &[10, 40]);
    let mut edge = Edge::new(&view, seed);
    let mut tunnels = Tunnels::default();
    let mut shedding = [Shedding::new(); 2];
    let mut next = 0.0;
    let mut near = Vec::new();
    for second in 0..seconds {
        let used = [0, 1].map(|tier: u16| {
            let endpoints = view.endpoints.iter().filter(|endpoint| endpoint.locality.0 == tier);
            let connections = endpoints.map(|endpoint| u64::from(endpoint.load.leases())).sum();
            Some(Used { connections, capacity: CAPACITIES[usize::from(tier)] })
        });
        Shedding::update(&Headroom::default(), &mut shedding, &used, tick(second.into()));
        for (locality, shedding) in view.localities.iter_mut().zip(shedding) {
            locality.share = Share::ALL.without(shedding.percent());
        }
        edge.sees(&view);
        near.extend(used[0].map(|used| used.utilisation()));
        while next < f64::from(second + 1) {
            tunnels.leave(next);
            let pick = edge.must_pick(None, next);
            tunnels.add(pick, next + exponential(LIFETIME, &mut edge.dice));
            next += exponential(LIFETIME / CLIENTS, &mut edge.dice);
        }
    }
    near
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    /// At rest 1500 · (1 − (u − 0.6) / 0.4) = 1000 · u, so u is 0.789. Counts of random clients vary by their root, 2.8 %.
    #[test]
    fn the_near_locality_settles_where_what_it_sheds_is_what_it_cannot_hold() {
        let seed = Seed::of_this_run();
        let near = run(2400, seed.get());
        let settled = &near[1200..];
        let mean = settled.iter().sum::<f64>() / settled.len() as f64;
        assert!((mean - 0.789).abs() < 0.025, "{mean}");
        assert!(settled.iter().all(|&used| (0.65..0.93).contains(&used)), "{settled:?}");
    }
}
