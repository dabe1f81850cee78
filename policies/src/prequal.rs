//! Hot-cold lexicographic choice (HCL) of Prequal: leave out who is full, and take the fastest of the others.
//!
//! From "Load is not what you should balance: Introducing Prequal" (Wydrowski and others, NSDI 2024, arXiv 2312.10172).
//! Endpoints with more requests in flight (RIF) than most of the pool are hot. Of the cold ones the least latency wins.
//! Blends of the two signals into one number did worse there, as did either signal alone.
//!
//! Latency is compared **at the same RIF**. A median of whatever finished last tells how long it took to be served when
//! the queue was as it was then; an endpoint that just drained still looks slow, one that just filled looks fast, and
//! the crowd swings between them. So each sample is kept with the RIF that it met on arrival, and looked up by the RIF
//! that the next request would meet.
//!
//! Where this differs from the paper, and why it holds:
//!
//! - There, a client sends probes that fly beside the requests, and pools their answers: a probe costs a message and grows
//!   old, hence the rules on how often to reuse one and which to remove. Here each endpoint keeps its signals, and reading
//!   one costs a memory load. Every pick draws its pool anew, nothing in it is older than the signals themselves, and there
//!   is nothing to remove. A pool of one is that endpoint.
//! - There, each use adds 1 to the probe's RIF, as the client hears no sooner what became of it. Here every request holds
//!   a lease, so our own part of the RIF is exact in both directions, and a report contributes only the part of others.
//! - There, the border between hot and cold is a quantile of the RIF in recent probes. Here it is that of the pool. One of
//!   the pool is always cold then, and the paper's second rule (all are hot: least RIF) has no case.
//! - There, the server estimates its latency over all clients. Here the edge does, over its own requests, and so an
//!   endpoint that it avoids gives no samples. Therefore an estimate falls with time, until somebody tries it again.
//! - Failures: the paper only mentions that servers which fail fast attract traffic. Here a failure counts as Linkerd's
//!   penalty, whatever the RIF.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    dice::{high, low},
    endpoint::Weight,
    peak_ewma::LatencyCell,
    stamped::{Stamped, StampedCell, age, f32_of, micros, millis},
    tick::Tick,
};

/// How many endpoints one pick looks at (the paper's m).
pub const POOL: usize = 16;

/// What an operator may set about HCL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotCold {
    /// The share of the pool that may be cold, 0 to 1. 0 compares RIF alone, 1 latency alone; 0.6 to 0.9 do well in the
    /// paper. By default its 2^-0.25. Where nearly everything is busy and an edge sees much of the traffic, lower is better.
    pub hot_quantile: f32,
    /// How long a report of an endpoint counts. By default the paper's 1 s for a probe. Where reports come with health
    /// probes, this has to be longer than their interval.
    pub report_age: Duration,
    /// How fast a latency that nothing renews falls, as in [`LatencyCell`].
    pub decay: Duration,
    /// The latency of an endpoint that has not answered yet.
    pub default_rtt: Duration,
}

impl Default for HotCold {
    fn default() -> Self {
        Self {
            hot_quantile: 0.840_896_4,
            report_age: Duration::from_secs(1),
            decay: LatencyCell::DECAY,
            default_rtt: LatencyCell::DEFAULT_RTT,
        }
    }
}

/// What one endpoint looks like to a pick that would add a request to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signal {
    /// Requests in flight with the new one, divided by the weight.
    pub rif: f32,
    /// How long a request takes that meets this RIF, in microseconds.
    pub latency: f32,
}

/// The position of the best in `pool`: the fastest whose RIF is not above the quantile, and of equally fast ones the
/// least RIF, then the first. `None` if the pool is empty. Only the first [`POOL`] are looked at.
///
/// The quantile is the element at `⌊hot_quantile · (n − 1)⌋` in ascending order. So of two endpoints with different RIF
/// the fuller is always hot, and in a small cluster the rule is still more than latency alone. For that, a cluster of up
/// to [`POOL`] endpoints should put each in its pool once instead of drawing with repetition.
pub fn choose(pool: &[Signal], hot_quantile: f32) -> Option<usize> {
    let pool = &pool[..pool.len().min(POOL)];
    let border = position_of_quantile(pool.len().checked_sub(1)?, hot_quantile);
    let mut rifs = [f32::INFINITY; POOL];
    for (rif, signal) in rifs.iter_mut().zip(pool) {
        *rif = signal.rif;
    }
    let keys = pool.iter().map(|signal| {
        // Above the element at the border are those, and only those, which exceed more elements than stand before it.
        // Counting them has no branch that could be mispredicted, and costs less than to sort.
        let exceeds: u32 = rifs.iter().map(|&rif| u32::from(rif < signal.rif)).sum();
        Key::new(exceeds > border, *signal)
    });
    keys.zip(0..).min_by_key(|&(key, _)| key).map(|(_, at)| at)
}

/// The position of the quantile in ascending order of `last + 1` elements.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a position in the pool, rounded down; no number is position 0"
)]
fn position_of_quantile(last: usize, quantile: f32) -> u32 {
    (quantile.clamp(0.0, 1.0) * last as f32) as u32
}

/// The order of choice: cold before hot, then less latency, then less RIF. The bits of numbers from 0 up sort as they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl Key {
    #[inline]
    fn new(hot: bool, signal: Signal) -> Self {
        let bits = |number: f32| u64::from(number.max(0.0).to_bits());
        Self(u64::from(hot) << 63 | bits(signal.latency) << 32 | bits(signal.rif))
    }
}

/// What is known of one endpoint's load and speed. All workers feed and read it; no lock, no allocation.
#[derive(Debug, Default)]
pub struct ServerSignal {
    /// The last report: when in the upper half; in the lower the requests of others, plus one. Zero is no report.
    report: AtomicU64,
    /// Latency by the RIF on arrival, see [`bucket`].
    by_rif: [StampedCell; BUCKETS],
    /// What failures cost. It holds whatever the RIF: a broken endpoint is broken at any.
    failures: LatencyCell,
}

/// Two for each doubling: an estimate serves RIF that differ by a third or a half, and the last one all from 3072 up.
const BUCKETS: usize = 24;

/// How much of an estimate is left after another sample of the same RIF: the average of about the last eight.
const KEPT: f32 = 7.0 / 8.0;

impl Clone for ServerSignal {
    fn clone(&self) -> Self {
        Self {
            report: AtomicU64::new(self.report.load(Relaxed)),
            by_rif: self.by_rif.clone(),
            failures: self.failures.clone(),
        }
    }
}

impl ServerSignal {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what the endpoint says of itself: the requests it has in flight from everybody, while `own` are from here.
    ///
    /// A latency that it reports beside goes to [`observe`](Self::observe) with the same RIF.
    pub fn report(&self, rif: u32, own: u32, now: Tick) {
        let others = rif.saturating_sub(own).saturating_add(1);
        self.report.store(u64::from(millis(now)) << 32 | u64::from(others), Relaxed);
    }

    /// The requests in flight: `own`, which the caller counts, and those of others, if a report younger than `report_age`
    /// told of them.
    ///
    /// An endpoint that does not report is thus never taken for fuller than it is. That it may be fuller shows in its
    /// latency, which is measured and not reported.
    #[inline]
    pub fn rif(&self, own: u32, now: Tick, report_age: Duration) -> u32 {
        let report = self.report.load(Relaxed);
        let (at, others) = (high(report), low(report));
        let counts = others > 0 && is_within(report_age, age(at, millis(now)));
        if counts { own.saturating_add(others - 1) } else { own }
    }

    /// Takes the time of one answer. `rif` is what [`rif`](Self::rif) said when the request was sent, with itself.
    pub fn observe(&self, took: Duration, rif: u32, now: Tick, decay: Duration) {
        let (took, now) = (micros(took), millis(now));
        self.by_rif[bucket(rif)].update(|before| {
            if before.value > 0.0 { before.blended(took, KEPT, now, decay) } else { before.with(took, now) }
        });
    }

    /// Takes a failed request: for a while the endpoint looks no faster than `penalty`, or than the time it took to fail.
    pub fn observe_failure(&self, took: Duration, now: Tick, decay: Duration, penalty: Duration) {
        self.failures.observe_failure(took, now, decay, penalty);
    }

    /// What a pick compares. `own` are the leases held now, without the one that the pick would add.
    pub fn signal(&self, own: u32, weight: Weight, now: Tick, settings: &HotCold) -> Signal {
        let rif = self.rif(own, now, settings.report_age).saturating_add(1);
        let failures = self.failures.cost(now, settings.decay, Duration::ZERO);
        let latency = self.latency(rif, now, settings.decay).unwrap_or_else(|| micros(settings.default_rtt));
        Signal { rif: f32_of(rif) / f32::from(weight.get()), latency: latency.max(failures) }
    }

    /// The latency at this RIF, or at the nearest of which there is a sample; one within `decay` goes before older ones.
    #[inline]
    fn latency(&self, rif: u32, now: Tick, decay: Duration) -> Option<f32> {
        let (own, now) = (bucket(rif), millis(now));
        let exact = self.by_rif[own].load();
        let best =
            exact.filter(|estimate| is_within(decay, estimate.age(now))).or_else(|| self.nearest(own, now, decay));
        best.map(|estimate| estimate.fallen(now, decay))
    }

    #[cold]
    fn nearest(&self, own: usize, now: u32, decay: Duration) -> Option<Stamped> {
        let mut older = None;
        for estimate in outward(own).filter_map(|at| self.by_rif[at].load()) {
            if is_within(decay, estimate.age(now)) {
                return Some(estimate);
            }
            older = older.or(Some(estimate));
        }
        older
    }
}

fn is_within(limit: Duration, age_ms: u32) -> bool {
    u128::from(age_ms) <= limit.as_millis()
}

/// 0, 1, 2, 3, 4–5, 6–7, 8–11, 12–15, and so on: the two leading bits and the number of the others.
fn bucket(rif: u32) -> usize {
    let Some(doublings) = rif.checked_ilog2().filter(|&doublings| doublings > 0) else {
        return rif as usize;
    };
    let second_bit = rif >> (doublings - 1) & 1;
    BUCKETS.min((2 * doublings + second_bit) as usize + 1) - 1
}

/// All buckets, the nearest first; of two that are equally near the fuller one, which promises less.
fn outward(from: usize) -> impl Iterator<Item = usize> {
    let fuller = move |distance| (from + distance < BUCKETS).then_some(from + distance);
    let emptier = move |distance| (distance > 0).then(|| from.checked_sub(distance)).flatten();
    (0..BUCKETS).flat_map(move |distance| [fuller(distance), emptier(distance)]).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: fn() -> HotCold = HotCold::default;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Tick {
        Tick(Duration::from_millis(ms))
    }

    #[track_caller]
    fn check(hot_quantile: f32, pool: &[(f32, f32)], want: Option<usize>) {
        let pool: Vec<Signal> = pool.iter().map(|&(rif, latency)| Signal { rif, latency }).collect();
        assert_eq!(choose(&pool, hot_quantile), want, "{pool:?}");
    }

    #[test]
    fn the_fastest_of_the_cold_is_chosen() {
        let q = HotCold::default().hot_quantile;
        check(q, &[], None);
        check(q, &[(9.0, 100.0)], Some(0));
        // The fuller of two is hot, however fast.
        check(q, &[(2.0, 1.0), (1.0, 100.0)], Some(1));
        // Equally full: nobody is hot, and latency decides.
        check(q, &[(2.0, 100.0), (2.0, 1.0)], Some(1));
        // Of five, the quantile 0.84 is the fourth: one is hot.
        check(q, &[(5.0, 1.0), (4.0, 2.0), (1.0, 9.0), (2.0, 9.0), (3.0, 9.0)], Some(1));
        // Two share the highest RIF, which then is the quantile: neither is hot.
        check(q, &[(5.0, 1.0), (5.0, 2.0), (1.0, 9.0), (2.0, 9.0), (3.0, 9.0)], Some(0));
        // Equally fast: the less full, then the first.
        check(q, &[(3.0, 7.0), (1.0, 7.0), (1.0, 7.0), (4.0, 7.0)], Some(1));
    }

    #[test]
    fn the_quantile_goes_from_rif_alone_to_latency_alone() {
        let pool = [(1.0, 50.0), (2.0, 40.0), (3.0, 30.0), (4.0, 20.0), (5.0, 10.0)];
        for (quantile, want) in [(0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2), (0.76, 3), (0.99, 3), (1.0, 4)] {
            check(quantile, &pool, Some(want));
        }
        // Out of range, and no number at all: the nearest that makes sense.
        check(-1.0, &pool, Some(0));
        check(7.0, &pool, Some(4));
        check(f32::NAN, &pool, Some(0));
    }

    #[test]
    fn only_as_many_as_the_pool_holds_are_looked_at() {
        let mut pool = vec![(1.0, 50.0); POOL];
        pool.push((0.0, 0.0));
        check(0.84, &pool, Some(0));
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_cold_and_no_cold_one_is_faster(
            pool in prop::collection::vec((0_u8..20, 0_u8..20), 1..=POOL), quantile in 0.0_f32..=1.0,
        ) {
            let pool: Vec<Signal> =
                pool.into_iter().map(|(rif, latency)| Signal { rif: rif.into(), latency: latency.into() }).collect();
            let chosen = pool[choose(&pool, quantile).unwrap()];
            // The definition, with a sort.
            let mut rifs: Vec<f32> = pool.iter().map(|signal| signal.rif).collect();
            rifs.sort_by(f32::total_cmp);
            let border = rifs[position_of_quantile(rifs.len() - 1, quantile) as usize];
            prop_assert!(chosen.rif <= border);
            for cold in pool.iter().filter(|signal| signal.rif <= border) {
                prop_assert!((chosen.latency, chosen.rif) <= (cold.latency, cold.rif));
            }
        }
    }

    #[test]
    fn buckets_are_two_for_each_doubling() {
        let first: Vec<u32> = (0..5000).filter(|&rif| rif == 0 || bucket(rif) > bucket(rif - 1)).collect();
        assert_eq!(first[..12], [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]);
        assert_eq!(first.last(), Some(&3072));
        assert_eq!((bucket(3072), bucket(u32::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn every_bucket_is_visited_once_the_nearest_first() {
        for from in 0..BUCKETS {
            let visited: Vec<usize> = outward(from).collect();
            assert!(visited.is_sorted_by_key(|at| at.abs_diff(from)));
            let mut all = visited;
            all.sort_unstable();
            assert_eq!(all, (0..BUCKETS).collect::<Vec<_>>());
        }
    }

    #[test]
    fn latency_is_that_of_the_rif_which_the_next_request_would_meet() {
        let server = ServerSignal::new();
        for _ in 0..40 {
            server.observe(ms(10), 1, at(0), SETTINGS().decay);
            server.observe(ms(200), 20, at(0), SETTINGS().decay);
        }
        let latency = |own| server.signal(own, Weight::default(), at(0), &SETTINGS()).latency;
        let near = |got: f32, want: f32| assert!((got - want).abs() < want * 0.01, "{got}, {want}");
        near(latency(0), 10_000.0);
        near(latency(19), 200_000.0);
        // Without a sample of its own, the nearest serves: 3 is nearer to 1 than to 20, and 5 000 to 20.
        near(latency(2), 10_000.0);
        near(latency(5_000), 200_000.0);
    }

    #[test]
    fn an_estimate_falls_while_nobody_renews_it_and_a_newer_neighbour_goes_before() {
        let server = ServerSignal::new();
        let latency = |now| server.signal(0, Weight::default(), now, &SETTINGS()).latency;
        assert!((latency(at(0)) - 30_000.0).abs() < 1.0, "the default");
        server.observe(ms(400), 1, at(0), SETTINGS().decay);
        assert!((latency(at(6_931)) - 200_000.0).abs() < 100.0);
        assert!(latency(at(60_000)) < 1_000.0);
        server.observe(ms(70), 8, at(60_000), SETTINGS().decay);
        assert!((latency(at(60_000)) - 70_000.0).abs() < 1.0);
    }

    #[test]
    fn a_report_adds_the_requests_of_others_until_it_is_old() {
        let server = ServerSignal::new();
        let rif = |own, now| server.rif(own, now, ms(1_000));
        assert_eq!(rif(3, at(0)), 3);
        server.report(10, 4, at(500));
        assert_eq!(rif(4, at(500)), 10);
        // Our own part stays exact in both directions.
        assert_eq!((rif(6, at(1_000)), rif(0, at(1_000))), (12, 6));
        assert_eq!((rif(6, at(1_500)), rif(6, at(1_501))), (12, 6));
        // A report that missed some of ours takes nothing away.
        server.report(2, 5, at(2_000));
        assert_eq!(rif(5, at(2_000)), 5);
        server.report(u32::MAX, 0, at(2_000));
        assert_eq!(rif(u32::MAX, at(2_000)), u32::MAX);
    }

    #[test]
    fn rif_is_compared_by_weight_and_latency_is_not() {
        let server = ServerSignal::new();
        server.observe(ms(10), 8, at(0), SETTINGS().decay);
        let signal = server.signal(7, Weight::new(4).unwrap(), at(0), &SETTINGS());
        assert_eq!(signal, Signal { rif: 2.0, latency: 10_000.0 });
    }

    #[test]
    fn a_failure_counts_at_any_rif() {
        let server = ServerSignal::new();
        let settings = HotCold::default();
        for rif in [1, 10, 100] {
            server.observe(ms(5), rif, at(0), settings.decay);
        }
        server.observe_failure(ms(1), at(0), settings.decay, LatencyCell::PENALTY);
        for own in [0, 9, 99] {
            let latency = server.signal(own, Weight::default(), at(0), &settings).latency;
            assert!((latency - 5e6).abs() < 1.0, "{latency}");
        }
        assert!(server.signal(0, Weight::default(), at(120_000), &settings).latency < 1_000.0);
    }
}
