//! The time of a pick does not grow with the number of endpoints, save for least-connections, whose law it is.
//!
//! From a hundred endpoints to ten thousand a scan takes a hundred times as long, and what misses the caches a few times.
//! Ten times is the border, the quickest of several rounds counts, and that holds on any machine however busy it is.
//! Figures are in docs/performance.md.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use policies::{Pick, Tick};

use edge::{Edge, cluster};
use every_policy::every_policy;

#[path = "simulation/edge.rs"]
#[expect(dead_code, reason = "simulations need more of it")]
mod edge;

#[path = "shared/every_policy.rs"]
mod every_policy;

/// The quickest of some rounds of a hundred picks.
#[expect(clippy::disallowed_methods, reason = "how long picks take is the question")]
fn quickest(edge: &mut Edge) -> Duration {
    let round = |_| {
        let start = Instant::now();
        for key in 0..100_u64 {
            let key = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(black_box(edge.pick_at(key, Tick::default())).is_ok());
        }
        start.elapsed()
    };
    (0..20).map(round).min().expect("there were rounds")
}

#[test]
fn a_pick_among_ten_thousand_endpoints_takes_no_longer_than_among_a_hundred() {
    for (name, policy) in every_policy() {
        let [few, many] = [100, 10_000].map(|endpoints| {
            let mut edge = Edge::new(&cluster(policy, &[endpoints]), 1);
            let key = |nth: u32| Some(u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let held = (0..300).map(|nth| edge.pick_at(key(nth), Tick::default()));
            let _held: Vec<Pick> = held.filter_map(Result::ok).collect();
            quickest(&mut edge)
        });
        let grows = many > 10 * few;
        assert_eq!(grows, name == "least-connections", "{name}: {few:?} and {many:?} for a hundred picks");
    }
}
