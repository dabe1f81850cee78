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
    time::Duration,
};

use crate::{
    accept_rate::{AcceptRate, Pace},
    group::{Group, Held},
    peak_ewma::LatencyCell,
    plan::Kind,
    prequal::ServerSignal,
    snapshot::{Latency, Policy},
    tick::Tick,
};

/// What is counted for one endpoint, shared by all workers and all snapshots.
///
/// It has a cache line of its own, so that workers busy with one endpoint do not slow the counters of its neighbours.
/// The count is relaxed: it orders no other memory, and every change is one atomic step.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    leases: AtomicU32,
    pace: Pace,
    /// For tunnels, whose connects are timed, and for requests, whose answers are: one says nothing about the other.
    latency: [LatencyCell; 2],
    signal: [ServerSignal; 2],
}

/// How a request or a connect ended, for the policies that go by latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub took: Duration,
    pub failed: bool,
    /// The requests in flight that it met on arrival, itself included, as [`Load::in_flight`] told.
    pub in_flight: u32,
}

impl Load {
    pub fn new() -> Self {
        Self::default()
    }

    /// One that holds this many already, for a pick that is made again.
    pub(crate) fn holding(leases: u32) -> Self {
        Self { leases: AtomicU32::new(leases), ..Self::default() }
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
        Some(Lease { load: Arc::clone(self), held: None })
    }

    /// Learns from one answer, if the policy goes by latency. Never give it how long a tunnel lived.
    pub fn answered(&self, kind: Kind, answer: Answer, policy: Policy, now: Tick) {
        let Some(Latency { decay, failure_penalty, .. }) = policy.latency() else { return };
        let Answer { took, failed, in_flight } = answer;
        let (latency, signal) = (&self.latency[kind.index()], &self.signal[kind.index()]);
        match policy {
            Policy::Prequal { .. } if failed => signal.observe_failure(took, now, decay, failure_penalty),
            Policy::Prequal { .. } => signal.observe(took, in_flight, now, decay),
            _ if failed => latency.observe_failure(took, now, decay, failure_penalty),
            _ => latency.observe(took, now, decay),
        }
    }

    /// The same figures in a load of its own, for a look that must neither count nor use anything up.
    pub(crate) fn copied(&self) -> Self {
        Self {
            leases: AtomicU32::new(self.leases()),
            pace: self.pace.clone(),
            latency: self.latency.clone(),
            signal: self.signal.clone(),
        }
    }

    /// The endpoint says how many requests it has in flight from everybody.
    pub fn reported(&self, in_flight: u32, now: Tick) {
        self.signal.iter().for_each(|signal| signal.report(in_flight, self.leases(), now));
    }

    /// The requests in flight, as far as is known: our own, and those of others if a report is young enough.
    pub fn in_flight(&self, report_age: Duration, now: Tick) -> u32 {
        self.signal[0].rif(self.leases(), now, report_age)
    }

    /// What peak EWMA takes a request to cost here, in microseconds.
    pub fn latency_micros(&self, kind: Kind, latency: &Latency, now: Tick) -> f32 {
        self.latency[kind.index()].cost(now, latency.decay, latency.default)
    }

    pub(crate) fn signal(&self, kind: Kind) -> &ServerSignal {
        &self.signal[kind.index()]
    }

    /// Whether one more connection would be on time at this rate. Takes nothing.
    pub fn admits(&self, rate: AcceptRate, now: Tick) -> bool {
        self.pace.admits(rate, now)
    }

    /// How long until one more connection is on time at this rate.
    pub fn wait(&self, rate: AcceptRate, now: Tick) -> Duration {
        self.pace.wait(rate, now)
    }

    /// Counts one more connection at this rate, if it is on time. What was taken is not given back: a connection that
    /// fails has cost the endpoint its login all the same.
    pub(crate) fn take_turn(&self, rate: AcceptRate, now: Tick) -> bool {
        self.pace.take(rate, now)
    }
}

/// One connection or request on an endpoint. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a lease that is dropped at once counts nothing"]
pub struct Lease {
    load: Arc<Load>,
    /// Only where somebody limits or needs the sum of a locality.
    held: Option<Held>,
}

impl Lease {
    /// The load that this lease is counted in.
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// The endpoint has accepted: from here on the lease no longer counts as pending.
    pub fn connected(&mut self) {
        if let Some(held) = &mut self.held {
            held.connected();
        }
    }

    /// Counts this lease in the group of its locality, too.
    pub(crate) fn enter(&mut self, group: &Arc<Group>) {
        self.held = Some(Held::enter(group));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.leases.fetch_sub(1, Relaxed);
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
