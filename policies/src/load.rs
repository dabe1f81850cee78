//! How much an endpoint carries, counted by leases.
//!
//! A count that is incremented here and decremented there drifts as soon as one path is forgotten. So nobody decrements:
//! whoever has a connection or a request on an endpoint holds a [`Lease`], and its drop is the only way to give it back.
//! The [`Load`] belongs to the endpoint's identity (cluster and address) and outlives every snapshot that shows it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// What is counted for one endpoint, shared by all workers and all snapshots.
///
/// It has a cache line of its own, so that workers busy with one endpoint do not slow the counters of its neighbours.
/// The count is relaxed: it orders no other memory, and every change is one atomic step.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    leases: AtomicU32,
}

impl Load {
    pub fn new() -> Self {
        Self::default()
    }

    /// Leases held at this moment.
    pub fn leases(&self) -> u32 {
        self.leases.load(Relaxed)
    }

    /// Takes one more lease, unless `max` are held already (`None`: unless the counter itself is full).
    ///
    /// The check and the count are one step: however many workers ask at once, the maximum is never passed.
    pub fn reserve(self: &Arc<Self>, max: Option<NonZeroU32>) -> Option<Lease> {
        let max = max.map_or(u32::MAX, NonZeroU32::get);
        let one_more = |held: u32| (held < max).then(|| held + 1);
        self.leases.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Lease(Arc::clone(self)))
    }
}

/// One connection or request on an endpoint. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a lease that is dropped at once counts nothing"]
pub struct Lease(Arc<Load>);

impl Lease {
    /// The load that this lease is counted in.
    pub fn load(&self) -> &Arc<Load> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let load = Arc::new(Load::new());
        let first = load.reserve(None);
        let second = load.reserve(None);
        assert_eq!(load.leases(), 2);
        drop(first);
        assert_eq!(load.leases(), 1);
        drop(second);
        assert_eq!(load.leases(), 0);
    }

    #[test]
    fn a_full_endpoint_gives_no_lease_and_counts_none() {
        let load = Arc::new(Load::new());
        let max = NonZeroU32::new(1);
        let held = load.reserve(max);
        assert!(held.is_some());
        assert!(load.reserve(max).is_none());
        assert_eq!(load.leases(), 1);
        drop(held);
        assert!(load.reserve(max).is_some());
    }

    #[test]
    fn a_maximum_that_was_lowered_under_the_count_lets_nobody_in() {
        let load = Arc::new(Load::new());
        let _held: Vec<_> = (0..5).map(|_| load.reserve(None)).collect();
        assert!(load.reserve(NonZeroU32::new(3)).is_none());
        assert_eq!(load.leases(), 5);
    }

    #[test]
    fn many_threads_at_once_never_pass_the_maximum() {
        let load = Arc::new(Load::new());
        let max = NonZeroU32::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let lease = load.reserve(max);
                        assert!(load.leases() <= 10);
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(load.leases(), 0);
    }
}
