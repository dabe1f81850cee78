//! What is counted on one endpoint.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::plan::Kind;
use crate::tick::Tick;

/// How an endpoint failed a client. What is a client's own doing is none of these, and neither is a WebSocket that was
/// closed as WebSockets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// It did not accept the connection, or not in time.
    Connect,
    /// It broke off the TLS handshake, or showed a certificate that is not believed.
    Tls,
    /// It did not agree to an upgrade: an answer of class 5xx, none that is HTTP, or none in time.
    RefusedUpgrade,
    /// It ended a tunnel soon after that had begun.
    EarlyClose,
    /// It answered nothing for a long time while a client waited.
    Silence,
    /// It answered 502, 503 or 504, or broke off before or within its answer.
    GatewayError,
    /// It answered with another status of class 5xx.
    ServerError,
}

impl Failure {
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Tls,
        Self::RefusedUpgrade,
        Self::EarlyClose,
        Self::Silence,
        Self::GatewayError,
        Self::ServerError,
    ];

    /// The word that metrics see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect-failure",
            Self::Tls => "tls-failure",
            Self::RefusedUpgrade => "refused-upgrade",
            Self::EarlyClose => "early-close",
            Self::Silence => "silence",
            Self::GatewayError => "gateway-error",
            Self::ServerError => "server-error",
        }
    }

    /// What people read after a number: `connect failures`.
    fn counted(self, count: u32) -> &'static str {
        let (one, many) = match self {
            Self::Connect => ("connect failure", "connect failures"),
            Self::Tls => ("TLS failure", "TLS failures"),
            Self::RefusedUpgrade => ("refused upgrade", "refused upgrades"),
            Self::EarlyClose => ("early close", "early closes"),
            Self::Silence => ("silence", "silences"),
            Self::GatewayError => ("gateway error", "gateway errors"),
            Self::ServerError => ("server error", "server errors"),
        };
        if count == 1 { one } else { many }
    }
}

/// The outcomes on one endpoint, and its ejection. Belongs to the endpoint's identity, as its load does.
///
/// Workers count with relaxed atomics: each outcome is counted once, and none orders other memory. The ejection is the
/// control thread's; it alone changes it.
#[derive(Debug, Default)]
pub struct OutlierCounters {
    tunnels: Lane,
    requests: Lane,
    ejection: Mutex<Ejection>,
}

/// The counters of one kind of traffic, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Lane {
    /// Of the running interval.
    successes: AtomicU32,
    failures: AtomicU32,
    /// Since the last success, by [`Failure`].
    in_a_row: [AtomicU32; Failure::ALL.len()],
}

/// Whether an endpoint is ejected, and what is remembered of earlier times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ejection {
    /// `None` when the endpoint is not ejected.
    pub now: Option<Term>,
    /// Ejections in a row: one more by each, one less by each interval without.
    pub in_a_row: u32,
    /// When the last one ended.
    pub returned: Option<Tick>,
}

/// One ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    pub began: Tick,
    pub until: Tick,
    /// It is for connect failures alone.
    pub unreachable: bool,
}

impl OutlierCounters {
    pub fn new() -> Self {
        Self::default()
    }

    /// The endpoint did what a client wanted of it.
    pub fn succeeded(&self, kind: Kind) {
        let lane = self.lane(kind);
        lane.successes.fetch_add(1, Relaxed);
        lane.end_streak();
    }

    /// The endpoint failed a client.
    pub fn failed(&self, kind: Kind, failure: Failure) {
        let lane = self.lane(kind);
        lane.failures.fetch_add(1, Relaxed);
        lane.in_a_row[failure as usize].fetch_add(1, Relaxed);
    }

    /// Failures since the last success.
    pub fn streak(&self, kind: Kind) -> Streak {
        Streak(self.lane(kind).in_a_row.each_ref().map(|count| count.load(Relaxed)))
    }

    pub fn ejection(&self) -> Ejection {
        *self.lock()
    }

    pub fn is_ejected(&self) -> bool {
        self.ejection().now.is_some()
    }

    pub(super) fn end_streak(&self, kind: Kind) {
        self.lane(kind).end_streak();
    }

    /// Successes and failures of the interval that ends now. An outcome that is counted meanwhile is in this interval or
    /// in the next, never in both or in none.
    pub(super) fn take_interval(&self, kind: Kind) -> (u32, u32) {
        let lane = self.lane(kind);
        (lane.successes.swap(0, Relaxed), lane.failures.swap(0, Relaxed))
    }

    /// Starts anew, as for an endpoint that returns: what was counted before says nothing about it now.
    pub(super) fn forget(&self) {
        for kind in KINDS {
            self.end_streak(kind);
            self.take_interval(kind);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ejection> {
        // Plain values, never left half changed.
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Tunnel => &self.tunnels,
            Kind::Request => &self.requests,
        }
    }
}

pub(super) const KINDS: [Kind; 2] = [Kind::Tunnel, Kind::Request];

impl Lane {
    fn end_streak(&self) {
        // Read before it is written: in good times workers share this line without taking it from each other.
        for count in self.in_a_row.iter().filter(|count| count.load(Relaxed) > 0) {
            count.store(0, Relaxed);
        }
    }
}

/// Failures in a row, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak([u32; Failure::ALL.len()]);

impl Streak {
    pub fn length(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The kind of most of them; of equal ones the first.
    pub fn chief(&self) -> Failure {
        let most = self.0.iter().max().copied().unwrap_or(0);
        self.counts().find(|(_, count)| *count == most).map_or(Failure::Connect, |(failure, _)| failure)
    }

    /// Nothing but connect failures.
    pub fn is_unreachable(&self) -> bool {
        self.counts().all(|(failure, count)| failure == Failure::Connect || count == 0)
    }

    fn counts(&self) -> impl Iterator<Item = (Failure, u32)> + '_ {
        Failure::ALL.into_iter().zip(self.0)
    }
}

/// `5 connect failures in a row`, or `5 failures in a row (3 connect failures, 2 early closes)`.
impl fmt::Display for Streak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = self.counts().filter(|(_, count)| *count > 0);
        match (kinds.next(), kinds.next()) {
            (Some((failure, count)), None) => write!(f, "{count} {} in a row", failure.counted(count)),
            _ => {
                write!(f, "{} failures in a row", self.length())?;
                let parts = self.counts().filter(|(_, count)| *count > 0);
                let parts: Vec<String> =
                    parts.map(|(failure, count)| format!("{count} {}", failure.counted(count))).collect();
                write!(f, " ({})", parts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_success_ends_the_streak_of_its_kind_of_traffic_alone() {
        let counters = OutlierCounters::new();
        for kind in KINDS {
            (0..3).for_each(|_| counters.failed(kind, Failure::Connect));
        }
        counters.succeeded(Kind::Request);
        assert_eq!(counters.streak(Kind::Request).length(), 0);
        assert_eq!(counters.streak(Kind::Tunnel).length(), 3);
        assert_eq!(counters.take_interval(Kind::Request), (1, 3));
        assert_eq!(counters.take_interval(Kind::Request), (0, 0));
    }

    #[test]
    fn a_streak_says_what_it_is_made_of() {
        let check = |failures: &[Failure], want: &str, chief| {
            let counters = OutlierCounters::new();
            failures.iter().for_each(|failure| counters.failed(Kind::Tunnel, *failure));
            let streak = counters.streak(Kind::Tunnel);
            assert_eq!((streak.to_string().as_str(), streak.chief()), (want, chief));
        };
        check(&[Failure::Connect; 5], "5 connect failures in a row", Failure::Connect);
        check(&[Failure::RefusedUpgrade], "1 refused upgrade in a row", Failure::RefusedUpgrade);
        check(
            &[Failure::EarlyClose, Failure::Connect, Failure::EarlyClose],
            "3 failures in a row (1 connect failure, 2 early closes)",
            Failure::EarlyClose,
        );
    }

    #[test]
    fn many_threads_lose_no_count() {
        let counters = OutlierCounters::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for nth in 0..10_000 {
                        if nth % 4 == 0 {
                            counters.failed(Kind::Tunnel, Failure::EarlyClose);
                        } else {
                            counters.succeeded(Kind::Tunnel);
                        }
                    }
                });
            }
        });
        assert_eq!(counters.take_interval(Kind::Tunnel), (30_000, 10_000));
    }

    fn outcomes() -> impl Strategy<Value = Vec<(bool, Option<usize>)>> {
        prop::collection::vec((any::<bool>(), prop::option::of(0..Failure::ALL.len())), 0..60)
    }

    fn count(counters: &OutlierCounters, outcomes: &[(bool, Option<usize>)]) {
        for (tunnel, outcome) in outcomes {
            let kind = if *tunnel { Kind::Tunnel } else { Kind::Request };
            match outcome {
                None => counters.succeeded(kind),
                Some(failure) => counters.failed(kind, Failure::ALL[*failure]),
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_outcomes_changes_no_count_of_the_interval(
            (first, second) in outcomes().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            let (one, other) = (OutlierCounters::new(), OutlierCounters::new());
            count(&one, &first);
            count(&other, &second);
            for kind in KINDS {
                prop_assert_eq!(one.take_interval(kind), other.take_interval(kind));
            }
        }

        #[test]
        fn a_streak_is_what_failed_since_the_last_success(all in outcomes()) {
            let counters = OutlierCounters::new();
            count(&counters, &all);
            for kind in KINDS {
                let of_kind = all.iter().rev().filter(|(tunnel, _)| *tunnel == (kind == Kind::Tunnel));
                let failed = of_kind.take_while(|(_, outcome)| outcome.is_some()).count();
                prop_assert_eq!(counters.streak(kind).length() as usize, failed);
            }
        }
    }
}
