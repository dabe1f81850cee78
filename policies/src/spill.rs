//! How traffic divides between tiers when the first cannot carry it all.
//!
//! Envoy's priority arithmetic, in whole percents (its documentation, "Priority levels" and "Panic threshold", and
//! `load_balancer_impl.cc`). A tier counts as whole until it has lost more than its overprovisioning covers: with 140 %
//! it keeps everything down to 71 % healthy, and what it then cannot carry goes to the next. Only when all tiers
//! together cannot carry 100 % does a tier doubt its health checks (panic) and use its failed endpoints too.
//!
//! Envoy counts endpoints; here they count by weight, so that losing the one big server is felt. Endpoints that drain or
//! are in maintenance leave the sum: taking one of two away on purpose is not a failure of the other.

/// What is known of one tier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TierHealth {
    /// Weight of the endpoints that take new connections.
    pub(crate) up_weight: u64,
    /// Weight of these and of those that would take them in panic.
    pub(crate) total_weight: u64,
    /// How many they are.
    pub(crate) endpoints: u64,
}

/// What one tier gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TierLoad {
    /// 0 to 100; all tiers together have 100.
    pub(crate) percent: u32,
    pub(crate) panic: bool,
}

/// The share of each tier. `overprovisioning` and `panic_threshold` in percent.
pub(crate) fn spread(tiers: &[TierHealth], overprovisioning: u32, panic_threshold: u32) -> Vec<TierLoad> {
    let health: Vec<u32> = tiers.iter().map(|tier| tier.health(overprovisioning.max(100))).collect();
    let available = health.iter().sum::<u32>().min(100);
    let panic: Vec<bool> =
        tiers.iter().map(|tier| available < 100 && tier.is_in_panic(panic_threshold.min(100))).collect();
    let percents = match available {
        _ if panic.iter().all(|&panics| panics) => by_endpoints(tiers),
        0 => hundred_to(0, tiers.len()),
        _ => by_health(&health, available),
    };
    percents.into_iter().zip(panic).map(|(percent, panic)| TierLoad { percent, panic }).collect()
}

impl TierHealth {
    /// How much of all traffic this tier can carry, 0 to 100.
    fn health(&self, overprovisioning: u32) -> u32 {
        if self.total_weight == 0 {
            return 0;
        }
        let percent = u64::from(overprovisioning) * self.up_weight / self.total_weight;
        u32::try_from(percent.min(100)).expect("at most 100")
    }

    /// Whether less than `threshold` percent of the weight is up, overprovisioning left aside.
    fn is_in_panic(&self, threshold: u32) -> bool {
        threshold > 0 && (self.total_weight == 0 || self.up_weight * 100 < u64::from(threshold) * self.total_weight)
    }
}

/// Each tier takes what it can carry of what is left; what rounding loses goes to the first that can carry anything.
fn by_health(health: &[u32], available: u32) -> Vec<u32> {
    let mut left = 100;
    let mut percents: Vec<u32> = health
        .iter()
        .map(|health| {
            let percent = (health * 100 / available).min(left);
            left -= percent;
            percent
        })
        .collect();
    if let Some(first) = health.iter().position(|&health| health > 0) {
        percents[first] += left;
    }
    percents
}

/// In total panic nothing is known of health, so every endpoint gets the same.
fn by_endpoints(tiers: &[TierHealth]) -> Vec<u32> {
    let all: u64 = tiers.iter().map(|tier| tier.endpoints).sum();
    let Some(first) = tiers.iter().position(|tier| tier.endpoints > 0) else {
        return hundred_to(0, tiers.len());
    };
    let share =
        |tier: &TierHealth| u32::try_from(tier.endpoints * 100 / all).expect("a part of the whole is at most 100");
    let mut percents: Vec<u32> = tiers.iter().map(share).collect();
    percents[first] += 100 - percents.iter().sum::<u32>();
    percents
}

fn hundred_to(tier: usize, tiers: usize) -> Vec<u32> {
    (0..tiers).map(|ix| if ix == tier { 100 } else { 0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tier of a hundred endpoints of weight 1, this many of them up.
    fn up(up_weight: u64) -> TierHealth {
        TierHealth { up_weight, total_weight: 100, endpoints: 100 }
    }

    fn percents(tiers: &[TierHealth], panic_threshold: u32) -> Vec<u32> {
        spread(tiers, 140, panic_threshold).iter().map(|load| load.percent).collect()
    }

    #[test]
    fn traffic_spills_as_in_the_tables_of_envoys_documentation() {
        // arch_overview/upstream/load_balancing/priority. The last row is 36, 36, 28 there, which is rounded; the code
        // rounds down and gives the rest to the first.
        let check = |healthy: &[u64], want: &[u32]| {
            let tiers: Vec<TierHealth> = healthy.iter().copied().map(up).collect();
            assert_eq!(percents(&tiers, 0), want, "{healthy:?}");
        };
        check(&[100, 100], &[100, 0]);
        check(&[72, 72], &[100, 0]);
        check(&[71, 71], &[99, 1]);
        check(&[50, 50], &[70, 30]);
        check(&[25, 100], &[35, 65]);
        check(&[25, 25], &[50, 50]);
        check(&[100, 100, 100], &[100, 0, 0]);
        check(&[72, 72, 100], &[100, 0, 0]);
        check(&[71, 71, 100], &[99, 1, 0]);
        check(&[50, 50, 100], &[70, 30, 0]);
        check(&[25, 100, 100], &[35, 65, 0]);
        check(&[25, 25, 100], &[35, 35, 30]);
        check(&[25, 25, 20], &[37, 35, 28]);
        check(&[0, 100], &[0, 100]);
        check(&[0, 0], &[100, 0]);
    }

    #[test]
    fn a_tier_panics_only_while_all_together_cannot_carry_everything() {
        // arch_overview/upstream/load_balancing/panic_threshold.
        let check = |healthy: [u64; 2], want: [bool; 2]| {
            let panic = spread(&healthy.map(up), 140, 50).iter().map(|load| load.panic).collect::<Vec<_>>();
            assert_eq!(panic, want, "{healthy:?}");
        };
        check([72, 72], [false, false]);
        check([71, 71], [false, false]);
        check([50, 60], [false, false]);
        check([25, 100], [false, false]);
        check([25, 25], [true, true]);
        check([5, 65], [true, false]);
        check([0, 0], [true, true]);
        check([49, 0], [true, true]);
        check([50, 0], [false, true]);
    }

    #[test]
    fn in_total_panic_each_tier_gets_as_much_as_it_has_endpoints() {
        let tier = |endpoints| TierHealth { up_weight: 0, total_weight: endpoints * 9, endpoints };
        assert_eq!(percents(&[tier(1), tier(2)], 50), [34, 66]);
        assert_eq!(percents(&[tier(0), tier(2), tier(1)], 50), [0, 67, 33]);
        assert_eq!(percents(&[tier(0), tier(0)], 50), [100, 0]);
    }

    #[test]
    fn what_drains_is_no_failure() {
        // One of two endpoints drains: it is not in the sum, and the other one is all there is.
        let tiers = [TierHealth { up_weight: 1, total_weight: 1, endpoints: 1 }, up(100)];
        assert_eq!(percents(&tiers, 50), [100, 0]);
    }

    #[test]
    fn nothing_to_spread_over_is_no_fault() {
        assert_eq!(spread(&[], 140, 50), []);
        assert_eq!(percents(&[TierHealth::default()], 0), [100]);
    }

    proptest! {
        #[test]
        fn all_tiers_together_always_get_everything(
            healths in prop::collection::vec((0_u64..=300, 0_u64..=300), 1..8),
            overprovisioning in 0_u32..1000,
            panic_threshold in 0_u32..200,
        ) {
            let tiers: Vec<TierHealth> = healths
                .iter()
                .map(|&(up, down)| TierHealth { up_weight: up, total_weight: up + down, endpoints: up + down })
                .collect();
            let loads = spread(&tiers, overprovisioning, panic_threshold);
            prop_assert_eq!(loads.iter().map(|load| load.percent).sum::<u32>(), 100);
            if tiers.iter().any(|tier| tier.up_weight > 0) {
                for (tier, load) in tiers.iter().zip(&loads) {
                    prop_assert!(load.percent == 0 || tier.up_weight > 0 || load.panic);
                }
            }
        }
    }
}
