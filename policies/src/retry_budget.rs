//! How many clients may be on a further try at a time.
//!
//! A try that failed is repeated elsewhere, which is right for one bad endpoint and wrong when many fail at once: then
//! every client knocks several times, and what is left drowns. The budget ties retries to what the cluster carries
//! (Envoy: `retry_budget` of the circuit breakers, with 20 % and 3 as its defaults; Linkerd and Finagle have the same
//! 20 % of requests).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// The limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRules {
    /// Retries at a time, as a share of what is active. Default: 20.
    pub share_percent: u8,
    /// So many are allowed however little is active. Default: 3.
    pub min: u32,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self { share_percent: 20, min: 3 }
    }
}

impl RetryRules {
    /// Retries at a time when this much is active.
    pub fn limit(&self, active: u32) -> u32 {
        let share = u64::from(active) * u64::from(self.share_percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min)
    }
}

/// The retries of one cluster that are under way.
#[derive(Debug, Default)]
pub struct RetryBudget {
    retrying: AtomicU32,
}

impl RetryBudget {
    pub fn new() -> Self {
        Self::default()
    }

    /// Retries under way at this moment.
    pub fn retrying(&self) -> u32 {
        self.retrying.load(Relaxed)
    }

    /// Takes one retry out of the budget, or `None` when it is used up. `active` is what the cluster carries now: leases
    /// of tunnels and requests, those that are being connected included.
    ///
    /// The check and the count are one step: however many workers ask at once, the limit is never passed.
    pub fn take(self: &Arc<Self>, rules: RetryRules, active: u32) -> Option<Retry> {
        let limit = rules.limit(active);
        let one_more = |retrying: u32| (retrying < limit).then(|| retrying + 1);
        self.retrying.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Retry(Arc::clone(self)))
    }
}

/// One retry under way. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a retry that is dropped at once limits nothing"]
pub struct Retry(Arc<RetryBudget>);

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limit_is_a_fifth_of_what_is_active_and_three_at_least() {
        let limit = |active| RetryRules::default().limit(active);
        assert_eq!([0, 1, 15, 19, 20, 100, 100_000].map(limit), [3, 3, 3, 3, 4, 20, 20_000]);
        let all = RetryRules { share_percent: 100, min: 0 };
        assert_eq!([0, u32::MAX].map(|active| all.limit(active)), [0, u32::MAX]);
    }

    #[test]
    fn a_retry_counts_until_it_is_dropped() {
        let budget = Arc::new(RetryBudget::new());
        let mut held: Vec<Retry> = (0..3).filter_map(|_| budget.take(RetryRules::default(), 0)).collect();
        assert_eq!((held.len(), budget.retrying()), (3, 3));
        assert!(budget.take(RetryRules::default(), 10).is_none());
        held.pop();
        assert!(budget.take(RetryRules::default(), 10).is_some());
        drop(held);
        assert_eq!(budget.retrying(), 0);
    }

    #[test]
    fn what_stops_being_active_lets_no_further_retry_in() {
        let budget = Arc::new(RetryBudget::new());
        let held: Vec<Option<Retry>> = (0..10).map(|_| budget.take(RetryRules::default(), 50)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(budget.take(RetryRules::default(), 50).is_none());
        assert!(budget.take(RetryRules::default(), 5).is_none());
    }

    #[test]
    fn many_threads_at_once_never_pass_the_limit() {
        let budget = Arc::new(RetryBudget::new());
        let rules = RetryRules { share_percent: 0, min: 5 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let retry = budget.take(rules, 1_000);
                        assert!(budget.retrying() <= 5);
                        drop(retry);
                    }
                });
            }
        });
        assert_eq!(budget.retrying(), 0);
    }

    proptest! {
        #[test]
        fn any_order_of_takes_and_drops_keeps_the_limit(steps in prop::collection::vec((any::<bool>(), 0u32..100), 0..200)) {
            let budget = Arc::new(RetryBudget::new());
            let mut held = Vec::new();
            for (take, active) in steps {
                if take {
                    let before = budget.retrying();
                    let taken = budget.take(RetryRules::default(), active);
                    prop_assert_eq!(taken.is_some(), before < RetryRules::default().limit(active));
                    held.extend(taken);
                } else {
                    held.pop();
                }
                prop_assert_eq!(budget.retrying() as usize, held.len());
            }
        }
    }
}
