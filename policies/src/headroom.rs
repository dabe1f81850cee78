//! Load-aware spill-over: a locality that gets full sends some of its new clients on, while others have room.
//!
//! Nearness comes first until it costs service. Above a utilisation a locality sheds a share of its new clients to the
//! next tier, and takes them back when it is well below (hysteresis). The share grows and shrinks at a limited slope, so
//! that a wave of clients does not slosh between regions. Where everybody is equally full, going farther helps nobody,
//! and nothing is shed: the rule of Envoy's `load_aware_locality`, whose threshold of 10 points is taken over.
//!
//! Connections that are there stay; only new clients go elsewhere.

use std::time::Duration;

use crate::tick::Tick;

/// When a locality sheds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    /// Above this utilisation (0 to 1) shedding begins.
    pub above: f64,
    /// Below this one it ends. More than `above` counts as that.
    pub below: f64,
    /// How fast the share that is shed may change: this much (0 to 1) in a second.
    pub slope_per_second: f64,
}

impl Headroom {
    /// 70 %: the example of Meta's ServiceRouter for going on to the next ring.
    pub const ABOVE: f64 = 0.70;
    /// Ten points of hysteresis.
    pub const BELOW: f64 = 0.60;
    /// Ten points of the traffic in a second.
    pub const SLOPE_PER_SECOND: f64 = 0.10;
    /// How much emptier the others have to be, on average, for shedding to begin (Envoy's `variance_threshold`). It goes
    /// on while they are emptier at all, or it would start and stop at this border.
    const ADVANTAGE: f64 = 0.10;
}

impl Default for Headroom {
    fn default() -> Self {
        Self { above: Self::ABOVE, below: Self::BELOW, slope_per_second: Self::SLOPE_PER_SECOND }
    }
}

/// How full a locality is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    pub connections: u64,
    /// What its endpoints that are up can hold; zero if none is.
    pub capacity: u64,
}

impl Used {
    /// 0 is empty, 1 is full; a locality without capacity is full.
    #[expect(clippy::cast_precision_loss, reason = "counts of connections")]
    pub fn utilisation(&self) -> f64 {
        if self.capacity == 0 { 1.0 } else { self.connections as f64 / self.capacity as f64 }
    }
}

/// What one locality sheds. It belongs to the locality's identity: keep it over reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shedding {
    share: f64,
    active: bool,
    updated: Option<Tick>,
}

impl Shedding {
    pub fn new() -> Self {
        Self::default()
    }

    /// The share of new clients that is sent on, in whole percent.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100 by construction")]
    pub fn percent(&self) -> u8 {
        (self.share * 100.0).round() as u8
    }

    /// One round for all localities of a cluster, once for each control tick. Entry by entry, `used` belongs to `states`;
    /// one whose capacity nobody declared (`None`) sheds nothing and takes part in no average.
    pub fn update(headroom: &Headroom, states: &mut [Self], used: &[Option<Used>], now: Tick) {
        let used = |ix: usize| used.get(ix).copied().flatten();
        let targets: Vec<f64> = (0..states.len())
            .map(|ix| {
                let (Some(here), Some(others)) =
                    (used(ix), sum((0..states.len()).filter(|&at| at != ix).filter_map(used)))
                else {
                    return 0.0;
                };
                states[ix].target(headroom, here.utilisation(), others.utilisation())
            })
            .collect();
        for (state, target) in states.iter_mut().zip(targets) {
            state.approach(headroom, target, now);
        }
    }

    /// Grows from nothing at `below` to everything when it is full.
    fn target(&mut self, headroom: &Headroom, here: f64, others: f64) -> f64 {
        let below = headroom.below.min(headroom.above).min(0.99);
        let (limit, advantage) = if self.active { (below, 0.0) } else { (headroom.above, Headroom::ADVANTAGE) };
        self.active = here > limit && here > others + advantage;
        if self.active { ((here - below) / (1.0 - below)).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn approach(&mut self, headroom: &Headroom, target: f64, now: Tick) {
        let elapsed = self.updated.map_or(Duration::from_secs(1), |before| now.since(before));
        let step = headroom.slope_per_second * elapsed.as_secs_f64();
        self.share =
            if self.share < target { (self.share + step).min(target) } else { (self.share - step).max(target) };
        self.updated = Some(now);
    }
}

fn sum(used: impl Iterator<Item = Used>) -> Option<Used> {
    used.reduce(|a, b| Used { connections: a.connections + b.connections, capacity: a.capacity + b.capacity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn used(connections: u64) -> Option<Used> {
        Some(Used { connections, capacity: 100 })
    }

    /// What the first of two localities sheds, second by second.
    fn shed(utilisations: &[(u64, u64)]) -> Vec<u8> {
        let mut states = [Shedding::new(); 2];
        (0..)
            .zip(utilisations)
            .map(|(second, &(here, other))| {
                Shedding::update(&Headroom::default(), &mut states, &[used(here), used(other)], at(second));
                states[0].percent()
            })
            .collect()
    }

    #[test]
    fn shedding_begins_above_seventy_percent_grows_ten_points_a_second_and_ends_below_sixty() {
        assert_eq!(shed(&[(70, 10); 3]), [0, 0, 0]);
        // At 80 % the target is (0.8 - 0.6) / 0.4.
        assert_eq!(shed(&[(80, 10); 7]), [10, 20, 30, 40, 50, 50, 50]);
        // Between the two borders it goes on as it was.
        assert_eq!(shed(&[(80, 10), (65, 10), (65, 10), (60, 10), (60, 10), (65, 10)]), [10, 13, 13, 3, 0, 0]);
    }

    #[test]
    fn nothing_is_shed_to_those_who_are_as_full() {
        assert_eq!(shed(&[(90, 81); 3]), [0, 0, 0]);
        assert_eq!(shed(&[(90, 79); 3]), [10, 20, 30]);
        // Once begun, it goes on while the others are emptier, and then ends.
        assert_eq!(shed(&[(90, 79), (90, 81), (90, 89), (90, 90), (90, 90)]), [10, 20, 30, 20, 10]);
    }

    #[test]
    fn a_full_locality_sheds_everything_in_the_end_and_one_without_capacity_too() {
        let mut states = [Shedding::new(); 2];
        for second in 0..20 {
            let used = [Some(Used { connections: 0, capacity: 0 }), used(10)];
            Shedding::update(&Headroom::default(), &mut states, &used, at(second));
        }
        assert_eq!(states.map(|state| state.percent()), [100, 0]);
    }

    #[test]
    fn a_locality_of_unknown_capacity_neither_sheds_nor_counts() {
        let mut states = [Shedding::new(); 2];
        Shedding::update(&Headroom::default(), &mut states, &[None, used(99)], at(0));
        assert_eq!(states.map(|state| state.percent()), [0, 0]);
    }

    /// The closed loop: clients come at a constant rate to a near locality of 1000 and a far one of 4000, and stay. The
    /// near one settles between its borders and does not swing.
    #[test]
    fn the_loop_settles_without_swinging() {
        let mut states = [Shedding::new(); 2];
        let (mut near, mut far) = (0.0_f64, 0.0_f64);
        let mut history = Vec::new();
        for second in 0..4000 {
            let round = |connections: f64, capacity| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
                Some(Used { connections: connections as u64, capacity })
            };
            Shedding::update(&Headroom::default(), &mut states, &[round(near, 1000), round(far, 4000)], at(second));
            let share = f64::from(states[0].percent()) / 100.0;
            // Five a second, a mean stay of 300 s: 1500 in all at rest.
            near += 5.0 * (1.0 - share) - near / 300.0;
            far += 5.0 * share - far / 300.0;
            history.push(near);
        }
        let settled = &history[3000..];
        let (low, high) = settled.iter().fold((f64::MAX, 0.0_f64), |(low, high), &now| (low.min(now), high.max(now)));
        assert!(low > 600.0 && high < 850.0 && high - low < 60.0, "{low} to {high}");
    }

    proptest! {
        #[test]
        fn no_input_moves_a_share_faster_than_the_slope_or_out_of_its_range(
            rounds in prop::collection::vec((0_u64..300, 0_u64..300, 0_u64..5), 1..50),
        ) {
            let mut states = [Shedding::new(); 2];
            let (mut now, mut before) = (0, 0.0);
            for (here, other, pause) in rounds {
                now += pause;
                let elapsed = if states[0].updated.is_none() { 1 } else { pause };
                Shedding::update(&Headroom::default(), &mut states, &[used(here), used(other)], at(now));
                let share = states[0].share;
                prop_assert!((0.0..=1.0).contains(&share));
                prop_assert!((share - before).abs() <= 0.1 * elapsed as f64 + 1e-9);
                before = share;
            }
        }
    }
}
