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
#[derive(Debug, Clone, Copy)]
pub(crate) struct TierHealth {
    /// What its endpoints that take new connections can carry: their weight, or their capacity.
    pub(crate) up: u64,
    /// The same of those that are degraded.
    pub(crate) degraded: u64,
    /// What these and those that would take connections in panic can carry.
    pub(crate) total: u64,
    /// The capacity that is declared, also of those that drain or are out of service: what the tier was sized for.
    pub(crate) built_for: u64,
    /// How many they are.
    pub(crate) endpoints: u64,
    /// How much of what steering sends here may come, 1 to 100.
    pub(crate) share: u32,
}

impl Default for TierHealth {
    fn default() -> Self {
        Self { up: 0, degraded: 0, total: 0, built_for: 0, endpoints: 0, share: 100 }
    }
}

/// What one tier gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TierLoad {
    /// 0 to 100; all tiers together have 100, with what their degraded endpoints get.
    pub(crate) percent: u32,
    pub(crate) degraded_percent: u32,
    pub(crate) panic: bool,
}

/// What a tier's health is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SpillBy {
    /// Its own weight, as Envoy does: a tier that is whole can carry everything.
    #[default]
    Weight,
    /// The capacity of the first tier, which is sized for the ordinary load: two servers that stand in for ten carry a
    /// fifth of it, whole as they are. What drains or is out of service counts there: its clients have to go somewhere.
    Capacity,
}

/// How tiers share the traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spreading {
    pub(crate) overprovisioning_percent: u32,
    pub(crate) panic_threshold_percent: u32,
    pub(crate) by: SpillBy,
}

/// The share of each tier.
pub(crate) fn spread(tiers: &[TierHealth], how: Spreading) -> Vec<TierLoad> {
    let carries = |part: fn(&TierHealth) -> u64| -> Vec<u32> {
        tiers.iter().map(|tier| tier.carries(part(tier), tiers, how)).collect()
    };
    let (healthy, degraded) = (carries(|tier| tier.up), carries(|tier| tier.degraded));
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    let threshold = how.panic_threshold_percent.min(100);
    let panic: Vec<bool> = tiers.iter().map(|tier| available < 100 && tier.is_in_panic(threshold)).collect();
    let (percents, degraded) = match available {
        _ if panic.iter().all(|&panics| panics) => (by_endpoints(tiers), vec![0; tiers.len()]),
        0 => (hundred_to(0, tiers.len()), vec![0; tiers.len()]),
        _ => by_health(&healthy, &degraded, available),
    };
    let percents = shed(percents, &healthy, tiers);
    percents
        .into_iter()
        .zip(degraded)
        .zip(panic)
        .map(|((percent, degraded_percent), panic)| match panic {
            // In panic they are picked with all the others.
            true => TierLoad { percent: percent + degraded_percent, degraded_percent: 0, panic },
            false => TierLoad { percent, degraded_percent, panic },
        })
        .collect()
}

impl TierHealth {
    /// How much of all traffic `part` of this tier can carry, 0 to 100.
    fn carries(&self, part: u64, tiers: &[TierHealth], how: Spreading) -> u32 {
        let sized_for = match how.by {
            SpillBy::Weight => self.total,
            SpillBy::Capacity => tiers.iter().map(|tier| tier.built_for).find(|&built_for| built_for > 0).unwrap_or(0),
        };
        if sized_for == 0 {
            return 0;
        }
        let percent = u128::from(how.overprovisioning_percent.max(100)) * u128::from(part) / u128::from(sized_for);
        u32::try_from(percent.min(100)).expect("at most 100")
    }

    /// Whether less than `threshold` percent of it works, overprovisioning left aside.
    fn is_in_panic(&self, threshold: u32) -> bool {
        let works = u128::from(self.up) + u128::from(self.degraded);
        threshold > 0 && (self.total == 0 || works * 100 < u128::from(threshold) * u128::from(self.total))
    }
}

/// Each tier takes what it can carry of what is left, the healthy endpoints of all before the degraded ones of any; what
/// rounding loses goes to the first that can carry anything.
fn by_health(healthy: &[u32], degraded: &[u32], available: u32) -> (Vec<u32>, Vec<u32>) {
    let mut left = 100;
    let mut take = |carries: &u32| {
        let percent = (carries * 100 / available).min(left);
        left -= percent;
        percent
    };
    let mut percents: Vec<u32> = healthy.iter().map(&mut take).collect();
    let mut degraded_percents: Vec<u32> = degraded.iter().map(&mut take).collect();
    if let Some(first) = healthy.iter().position(|&carries| carries > 0) {
        percents[first] += left;
    } else if let Some(first) = degraded.iter().position(|&carries| carries > 0) {
        degraded_percents[first] += left;
    }
    (percents, degraded_percents)
}

/// Tiers that may have only a share of what would come pass the rest on to the next that works. What nobody behind them
/// takes comes back: a lowered share is a wish, and no reason to refuse anybody.
fn shed(mut percents: Vec<u32>, healthy: &[u32], tiers: &[TierHealth]) -> Vec<u32> {
    let mut on_the_way = 0;
    for (ix, tier) in tiers.iter().enumerate() {
        if percents[ix] == 0 && (on_the_way == 0 || healthy[ix] == 0) {
            continue;
        }
        let offered = percents[ix] + on_the_way;
        percents[ix] = offered * tier.share.min(100) / 100;
        on_the_way = offered - percents[ix];
    }
    let works = (0..tiers.len()).rev().find(|&ix| percents[ix] > 0).unwrap_or(0);
    if let Some(last) = percents.get_mut(works) {
        *last += on_the_way;
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
    fn up(up: u64) -> TierHealth {
        TierHealth { up, total: 100, endpoints: 100, ..TierHealth::default() }
    }

    fn how(panic_threshold_percent: u32) -> Spreading {
        Spreading { overprovisioning_percent: 140, panic_threshold_percent, by: SpillBy::Weight }
    }

    fn percents(tiers: &[TierHealth], panic_threshold: u32) -> Vec<u32> {
        spread(tiers, how(panic_threshold)).iter().map(|load| load.percent).collect()
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
            let panic = spread(&healthy.map(up), how(50)).iter().map(|load| load.panic).collect::<Vec<_>>();
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
        let tier = |endpoints| TierHealth { total: endpoints * 9, endpoints, ..TierHealth::default() };
        assert_eq!(percents(&[tier(1), tier(2)], 50), [34, 66]);
        assert_eq!(percents(&[tier(0), tier(2), tier(1)], 50), [0, 67, 33]);
        assert_eq!(percents(&[tier(0), tier(0)], 50), [100, 0]);
    }

    #[test]
    fn what_drains_is_no_failure() {
        // One of two endpoints drains: it is not in the sum, and the other one is all there is.
        let tiers = [TierHealth { up: 1, total: 1, endpoints: 1, ..TierHealth::default() }, up(100)];
        assert_eq!(percents(&tiers, 50), [100, 0]);
    }

    #[test]
    fn nothing_to_spread_over_is_no_fault() {
        assert_eq!(spread(&[], how(50)), []);
        assert_eq!(percents(&[TierHealth::default()], 0), [100]);
    }

    /// `HostSet::degradedHosts` in Envoy's `load_balancer_impl_base_test.cc`: degraded levels come behind all healthy ones.
    #[test]
    fn degraded_endpoints_get_what_the_healthy_ones_of_all_tiers_cannot_carry() {
        let check = |tiers: &[(u64, u64)], want: &[(u32, u32)]| {
            let tiers: Vec<TierHealth> =
                tiers.iter().map(|&(healthy, degraded)| TierHealth { degraded, ..up(healthy) }).collect();
            let got: Vec<(u32, u32)> =
                spread(&tiers, how(0)).iter().map(|load| (load.percent, load.degraded_percent)).collect();
            assert_eq!(got, want, "{tiers:?}");
        };
        check(&[(100, 0)], &[(100, 0)]);
        check(&[(72, 28)], &[(100, 0)]);
        check(&[(50, 50)], &[(70, 30)]);
        check(&[(0, 100)], &[(0, 100)]);
        // The degraded endpoints of the first tier are worse than the healthy ones of the second.
        check(&[(50, 50), (100, 0)], &[(70, 0), (30, 0)]);
        check(&[(25, 75), (25, 75)], &[(35, 30), (35, 0)]);
        check(&[(0, 50), (0, 50)], &[(0, 70), (0, 30)]);
    }

    #[test]
    fn a_share_passes_the_rest_on_to_the_next_tier_that_works() {
        let tier = |up_weight, share| TierHealth { share, ..up(up_weight) };
        assert_eq!(percents(&[tier(100, 90), tier(100, 100)], 50), [90, 10]);
        assert_eq!(percents(&[tier(100, 90), tier(0, 100), tier(100, 100)], 50), [90, 0, 10]);
        assert_eq!(percents(&[tier(100, 50), tier(100, 50), tier(100, 100)], 50), [50, 25, 25]);
        // Half of the first is gone, so it has 70, and of these may have half.
        assert_eq!(percents(&[tier(50, 50), tier(100, 100)], 50), [35, 65]);
    }

    #[test]
    fn a_share_that_nobody_else_can_take_over_comes_back() {
        let tier = |up_weight, share| TierHealth { share, ..up(up_weight) };
        assert_eq!(percents(&[tier(100, 10)], 50), [100]);
        assert_eq!(percents(&[tier(100, 10), tier(0, 100)], 50), [100, 0]);
        assert_eq!(percents(&[tier(100, 10), tier(100, 20)], 50), [10, 90]);
    }

    /// Envoy's documented trap: a tier of two behind one of ten counts as able to carry everything. Here it does not.
    #[test]
    fn by_capacity_a_small_tier_gets_no_more_than_it_can_hold() {
        let tier = |up, total| TierHealth { up, total, built_for: total, endpoints: total, ..TierHealth::default() };
        let by = |by, tiers: &[TierHealth]| -> Vec<u32> {
            spread(tiers, Spreading { by, ..how(50) }).iter().map(|load| load.percent).collect()
        };
        let lost = [tier(0, 10), tier(2, 2), tier(10, 10)];
        assert_eq!(by(SpillBy::Weight, &lost), [0, 100, 0]);
        // 1.4 times two tenths.
        assert_eq!(by(SpillBy::Capacity, &lost), [0, 28, 72]);
        assert_eq!(by(SpillBy::Capacity, &[tier(5, 10), tier(2, 2), tier(10, 10)]), [70, 28, 2]);
        assert_eq!(by(SpillBy::Capacity, &[tier(10, 10), tier(2, 2)]), [100, 0]);
        // A first tier without endpoints is not what the others are measured against, one that drains is.
        assert_eq!(by(SpillBy::Capacity, &[tier(0, 0), tier(2, 2)]), [0, 100]);
        let drains = |up, built_for| TierHealth { built_for, ..tier(up, up) };
        assert_eq!(by(SpillBy::Capacity, &[drains(0, 10), tier(2, 2), tier(10, 10)]), [0, 28, 72]);
        assert_eq!(by(SpillBy::Capacity, &[drains(5, 10), tier(10, 10)]), [70, 30]);
    }

    proptest! {
        #[test]
        fn all_tiers_together_always_get_everything(
            healths in prop::collection::vec((0_u64..=300, 0_u64..=300, 0_u64..=300, 1_u32..=100), 1..8),
            overprovisioning_percent in 0_u32..1000,
            panic_threshold_percent in 0_u32..200,
            by_capacity in any::<bool>(),
        ) {
            let tiers: Vec<TierHealth> = healths
                .iter()
                .map(|&(up, degraded, down, share)| {
                    let total = up + degraded + down;
                    TierHealth { up, degraded, total, built_for: total, endpoints: total, share }
                })
                .collect();
            let by = if by_capacity { SpillBy::Capacity } else { SpillBy::Weight };
            let loads = spread(&tiers, Spreading { overprovisioning_percent, panic_threshold_percent, by });
            prop_assert_eq!(loads.iter().map(|load| load.percent + load.degraded_percent).sum::<u32>(), 100);
            if tiers.iter().any(|tier| tier.up + tier.degraded > 0) {
                for (tier, load) in tiers.iter().zip(&loads) {
                    prop_assert!(load.percent == 0 || tier.up > 0 || load.panic, "{tiers:?} {loads:?}");
                    prop_assert!(load.degraded_percent == 0 || tier.degraded > 0);
                }
            }
        }
    }
}
