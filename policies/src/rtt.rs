//! What is known of the round-trip time to an endpoint.
//!
//! Several figures, because they answer different questions. What steers is the **filtered** one: a moving average over
//! the lowest round trips of a short window. Queues and busy servers only ever add to a round trip, so a spike that is over
//! within the window never counts, while a new route is followed within a dozen probes. The **minimum** over a longer time
//! is the distance. The plain **average** is how it feels now, and the **deviation** how unsteady that is (both as TCP
//! keeps them). **Loss** and **confidence** say how far to trust all of these; nothing steers by them.
//!
//! Samples may come at any pace: those of one round (a third of the window) count once, by the lowest of them.

use std::time::Duration;

use crate::tick::Tick;

/// Round-trip times of one endpoint, from samples. Small, and never allocates.
#[derive(Debug, Clone)]
pub struct RttEstimate {
    window: Duration,
    /// The lowest sample of each round of the window, in a ring by the number of the round.
    rounds: [Option<Round>; ROUNDS],
    /// Ten windows, in a ring by the number of the part. Moving on in sixths, it always covers at least five of them.
    history: [Option<Part>; PARTS],
    recent: Option<Recent>,
    /// The last sample or failure.
    latest: Tick,
    samples: u64,
}

#[derive(Debug, Clone, Copy)]
struct Round {
    number: u64,
    lowest: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    number: u64,
    lowest: Option<Duration>,
    answered: u32,
    failed: u32,
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    at: Tick,
    average: Duration,
    deviation: Duration,
    /// The filtered figure as it was when the round of the last sample began.
    settled: Duration,
    /// Rounds that had a sample, this one included.
    rounds: u32,
}

/// What is known of a round trip at some moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtt {
    /// The filtered figure: what steers.
    pub rtt: Duration,
    /// 0 to 1, see [`RttEstimate::figure`].
    pub confidence: f32,
    /// Since the last sample.
    pub age: Duration,
    /// See [`RttEstimate::loss`].
    pub loss: f32,
}

const ROUNDS: usize = 3;
const PARTS: usize = 6;
const WINDOWS_OF_HISTORY: u32 = 10;

/// Deviations that are small beside this change no confidence: to an endpoint 0.1 ms away, 0.1 ms is nothing.
const UNFELT: Duration = Duration::from_millis(2);

impl RttEstimate {
    /// Three probes of the usual interval (2 s): one of them met no queue, and after three a new route is believed.
    pub const WINDOW: Duration = Duration::from_secs(6);

    pub fn new() -> Self {
        Self::with_window(Self::WINDOW)
    }

    /// Windows under 3 ns count as that.
    pub fn with_window(window: Duration) -> Self {
        Self {
            window: window.max(Duration::from_nanos(3)),
            rounds: [None; ROUNDS],
            history: [None; PARTS],
            recent: None,
            latest: Tick::default(),
            samples: 0,
        }
    }

    /// Another window from now on. Averages are kept; what the old window held is forgotten.
    pub fn set_window(&mut self, window: Duration) {
        let changed = Self::with_window(window);
        if changed.window != self.window {
            *self = Self { recent: self.recent, latest: self.latest, samples: self.samples, ..changed };
        }
    }

    /// Takes one measurement. A failed probe is not a long round trip: see [`Self::failed`].
    pub fn sample(&mut self, rtt: Duration, now: Tick) {
        let now = self.advance(now);
        self.samples += 1;
        // What was known before so long a silence is no measure of the path that answers now.
        let recent = self.recent.filter(|recent| now.since(recent.at) <= self.history_length());
        let number = self.round_number(now);
        let (settled, rounds) = match recent {
            None => (rtt, 1),
            Some(recent) if self.round_number(recent.at) == number => (recent.settled, recent.rounds),
            Some(recent) => (self.filtered().unwrap_or(rtt), recent.rounds.saturating_add(1)),
        };
        let (average, deviation) = recent.map_or((rtt, rtt / 2), |recent| recent.moved_by(rtt));
        self.recent = Some(Recent { at: now, average, deviation, settled, rounds });

        let slot = &mut self.rounds[slot(number, ROUNDS)];
        let lowest = slot.filter(|round| round.number == number).map_or(rtt, |round| round.lowest.min(rtt));
        *slot = Some(Round { number, lowest });
        let part = self.part(now);
        part.answered = part.answered.saturating_add(1);
        part.lowest = Some(part.lowest.map_or(rtt, |lowest| lowest.min(rtt)));
    }

    /// Takes a probe that failed or timed out. It counts as loss, and moves no figure.
    pub fn failed(&mut self, now: Tick) {
        let now = self.advance(now);
        let part = self.part(now);
        part.failed = part.failed.saturating_add(1);
    }

    /// What steers: the moving average, in which each round counts for an eighth, of the lowest round trip within the
    /// window up to that round. For the first three rounds the lowest alone. `None` without any sample.
    pub fn filtered(&self) -> Option<Duration> {
        let recent = self.recent?;
        let last = self.round_number(recent.at);
        let in_window = |round: &&Round| last.saturating_sub(round.number) < ROUNDS as u64;
        let lowest = self.rounds.iter().flatten().filter(in_window).map(|round| round.lowest).min();
        let lowest = lowest.unwrap_or(recent.settled);
        Some(if recent.rounds as usize <= ROUNDS { lowest } else { an_eighth_towards(recent.settled, lowest) })
    }

    /// The filtered figure with what it is worth. `None` without a sample, or if the last is older than `max_age`: then
    /// the endpoint counts as not measured.
    ///
    /// Confidence is the product of three shares: `n / (n + 2)` for the `n` samples of the last ten windows; 1 while the
    /// last sample is at most a window old, and from there falling in a line to 0 at `max_age`; and
    /// `(rtt + 2 ms) / (rtt + 2 ms + deviation)`. So it rises with samples, and falls with age and deviation.
    pub fn figure(&self, now: Tick, max_age: Duration) -> Option<Rtt> {
        let rtt = self.filtered()?;
        let recent = self.recent?;
        let age = now.since(recent.at);
        if age > max_age {
            return None;
        }
        let confidence = self.evidence() * self.freshness(age, max_age) * steadiness(rtt, recent.deviation);
        Some(Rtt { rtt, confidence, age, loss: self.loss().unwrap_or(0.0) })
    }

    /// The lowest round trip of the ten windows that ended with the last sample or failure.
    pub fn min(&self) -> Option<Duration> {
        self.in_history().filter_map(|part| part.lowest).min()
    }

    /// The moving average, in which each sample counts for an eighth (RFC 6298).
    pub fn ewma(&self) -> Option<Duration> {
        self.recent.map(|recent| recent.average)
    }

    /// The mean deviation from that average, in which each sample counts for a quarter (RFC 6298).
    pub fn deviation(&self) -> Option<Duration> {
        self.recent.map(|recent| recent.deviation)
    }

    /// Which share of those ten windows' measurements failed, 0 to 1. `None` before the first.
    pub fn loss(&self) -> Option<f32> {
        let (answered, failed) = self
            .in_history()
            .fold((0_u32, 0_u32), |sum, part| (sum.0.saturating_add(part.answered), sum.1.saturating_add(part.failed)));
        let all = answered.saturating_add(failed);
        (all > 0).then(|| failed as f32 / all as f32)
    }

    /// How many samples there were in all.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// How long ago the last sample came.
    pub fn last_sample_age(&self, now: Tick) -> Option<Duration> {
        self.recent.map(|recent| now.since(recent.at))
    }

    fn evidence(&self) -> f32 {
        let samples = self.in_history().fold(0_u32, |sum, part| sum.saturating_add(part.answered)) as f32;
        samples / (samples + 2.0)
    }

    fn freshness(&self, age: Duration, max_age: Duration) -> f32 {
        if age <= self.window {
            return 1.0;
        }
        (max_age.saturating_sub(age)).as_secs_f32() / (max_age.saturating_sub(self.window)).as_secs_f32()
    }

    /// Samples of several sources can arrive a little out of order. The windows never move back.
    fn advance(&mut self, now: Tick) -> Tick {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn in_history(&self) -> impl Iterator<Item = &Part> {
        let last = self.part_number(self.latest);
        self.history.iter().flatten().filter(move |part| last.saturating_sub(part.number) < PARTS as u64)
    }

    fn part(&mut self, at: Tick) -> &mut Part {
        let number = self.part_number(at);
        let slot = &mut self.history[slot(number, PARTS)];
        if slot.is_none_or(|part| part.number != number) {
            *slot = None;
        }
        slot.get_or_insert(Part { number, lowest: None, answered: 0, failed: 0 })
    }

    fn round_number(&self, at: Tick) -> u64 {
        whole_times(self.window / 3, at.0)
    }

    fn part_number(&self, at: Tick) -> u64 {
        whole_times(self.history_length() / 6, at.0)
    }

    fn history_length(&self) -> Duration {
        self.window.saturating_mul(WINDOWS_OF_HISTORY)
    }
}

impl Default for RttEstimate {
    fn default() -> Self {
        Self::new()
    }
}

impl Recent {
    /// Average and deviation. The deviation is from the average as it was before this sample: RFC 6298 insists on it.
    fn moved_by(self, rtt: Duration) -> (Duration, Duration) {
        let deviation = self.deviation.saturating_mul(3).saturating_add(self.average.abs_diff(rtt)) / 4;
        (an_eighth_towards(self.average, rtt), deviation)
    }
}

fn an_eighth_towards(average: Duration, new: Duration) -> Duration {
    average.saturating_mul(7).saturating_add(new) / 8
}

fn steadiness(rtt: Duration, deviation: Duration) -> f32 {
    let felt = rtt.saturating_add(UNFELT).as_secs_f32();
    felt / (felt + deviation.as_secs_f32())
}

fn whole_times(length: Duration, time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / length.as_nanos()).unwrap_or(u64::MAX)
}

fn slot(number: u64, slots: usize) -> usize {
    usize::try_from(number % slots as u64).expect("less than the number of slots")
}

/// What the round trip over this distance would likely be, where nothing has been measured.
///
/// Light in fibre needs 1 ms for the round trip over 100 km. Cables do not run straight, which adds 60 %, and the
/// endpoint itself takes 2 ms. Anything that is no distance counts as 0 km, and nothing on Earth is farther than 20 038 km.
pub fn prior_rtt(distance_km: f64) -> Duration {
    const FARTHEST_KM: f64 = 20_038.0;
    let km = if distance_km > 0.0 { distance_km.min(FARTHEST_KM) } else { 0.0 };
    Duration::from_secs_f64((km / 100.0 * 1.6 + 2.0) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    /// One sample every two seconds, which is one a round, from second zero on.
    fn sampled(samples: impl IntoIterator<Item = u64>) -> RttEstimate {
        let mut rtt = RttEstimate::new();
        samples.into_iter().zip((0..).step_by(2)).for_each(|(sample, second)| rtt.sample(ms(sample), at(second)));
        rtt
    }

    fn confidence(rtt: &RttEstimate, now: u64) -> f32 {
        rtt.figure(at(now), ms(30_000)).unwrap().confidence
    }

    #[test]
    fn spikes_that_are_over_within_the_window_do_not_move_the_figure() {
        let mut rtt = sampled(std::iter::repeat_n(40, 10));
        for second in [20, 22] {
            rtt.sample(ms(900), at(second));
            assert_eq!(rtt.filtered(), Some(ms(40)));
        }
        rtt.sample(ms(40), at(24));
        assert_eq!(rtt.filtered(), Some(ms(40)));
        assert!(rtt.ewma() > Some(ms(150)), "the plain average feels them: {:?}", rtt.ewma());
        assert_eq!(rtt.min(), Some(ms(40)));
    }

    #[test]
    fn a_first_sample_that_met_a_queue_is_forgotten_with_the_second() {
        assert_eq!(sampled([300]).filtered(), Some(ms(300)));
        assert_eq!(sampled([300, 40]).filtered(), Some(ms(40)));
        assert_eq!(sampled([300, 40, 40, 40, 40]).filtered(), Some(ms(40)));
    }

    #[test]
    fn a_longer_route_is_followed_by_an_eighth_a_round_from_the_third_round_on() {
        let after = |rounds| sampled([80; 10].into_iter().chain(std::iter::repeat_n(160, rounds))).filtered().unwrap();
        assert_eq!(after(2), ms(80));
        assert_eq!(after(3), ms(90));
        assert_eq!(after(4), Duration::from_micros(98_750));
        assert!(after(30) > ms(155));
    }

    #[test]
    fn a_shorter_route_is_followed_at_once_by_an_eighth_a_round() {
        let after = |rounds| sampled([80; 10].into_iter().chain(std::iter::repeat_n(40, rounds))).filtered().unwrap();
        assert_eq!(after(1), ms(75));
        assert!(after(20) < ms(43));
    }

    #[test]
    fn many_samples_of_one_round_count_as_the_lowest_of_them() {
        let mut rtt = sampled([80; 10]);
        for sample in [75, 40, 90, 60] {
            rtt.sample(ms(sample), at(21));
        }
        assert_eq!(rtt.filtered(), Some(ms(75)));
    }

    #[test]
    fn the_minimum_forgets_what_left_its_minute() {
        let mut rtt = RttEstimate::new();
        assert_eq!((rtt.min(), rtt.filtered(), rtt.loss()), (None, None, None));
        rtt.sample(ms(20), at(0));
        rtt.sample(ms(50), at(5));
        assert_eq!(rtt.min(), Some(ms(20)));
        rtt.sample(ms(50), at(59));
        assert_eq!(rtt.min(), Some(ms(20)), "59 seconds are within the minute");
        rtt.sample(ms(50), at(61));
        assert_eq!(rtt.min(), Some(ms(50)), "the minute has moved on");
    }

    #[test]
    fn after_a_long_silence_only_the_new_sample_counts() {
        let mut rtt = sampled([1; 20]);
        rtt.sample(ms(90), at(100_000));
        assert_eq!((rtt.min(), rtt.filtered(), rtt.ewma()), (Some(ms(90)), Some(ms(90)), Some(ms(90))));
        assert_eq!(rtt.samples(), 21);
    }

    #[test]
    fn average_and_deviation_move_as_rfc_6298_says() {
        let mut rtt = RttEstimate::new();
        rtt.sample(ms(80), at(0));
        assert_eq!((rtt.ewma(), rtt.deviation()), (Some(ms(80)), Some(ms(40))));
        rtt.sample(ms(160), at(5));
        assert_eq!((rtt.ewma(), rtt.deviation()), (Some(ms(90)), Some(ms(50))));
    }

    #[test]
    fn failures_are_loss_and_move_no_figure() {
        let mut rtt = sampled([40; 8]);
        (16..20).step_by(2).for_each(|second| rtt.failed(at(second)));
        assert_eq!(rtt.loss(), Some(0.2));
        assert_eq!((rtt.filtered(), rtt.min(), rtt.samples()), (Some(ms(40)), Some(ms(40)), 8));
        rtt.failed(at(200));
        assert_eq!(rtt.loss(), Some(1.0), "what left the history is forgotten");
        assert_eq!(rtt.figure(at(200), ms(30_000)), None);
    }

    #[test]
    fn a_figure_older_than_its_maximum_age_is_not_measured() {
        let rtt = sampled([40; 10]);
        let figure = rtt.figure(at(18), ms(30_000)).unwrap();
        assert_eq!((figure.rtt, figure.age, figure.loss), (ms(40), Duration::ZERO, 0.0));
        assert!(rtt.figure(at(48), ms(30_000)).is_some());
        assert_eq!(rtt.figure(at(49), ms(30_000)), None);
    }

    #[test]
    fn confidence_rises_with_samples_and_falls_with_age_and_deviation() {
        let after = |samples: usize| sampled(vec![40; samples]);
        let by_samples: Vec<f32> = (1..10).map(|samples| confidence(&after(samples), 2 * samples as u64 - 2)).collect();
        assert!(by_samples.is_sorted() && by_samples[0] < 0.3 && by_samples[8] > 0.75, "{by_samples:?}");
        let by_age: Vec<f32> = (18..=48).map(|second| confidence(&after(10), second)).collect();
        assert!(by_age.is_sorted_by(|a, b| a >= b), "{by_age:?}");
        assert_eq!((by_age[6], by_age[30]), (by_age[0], 0.0), "a window is no age, and the maximum is the end");
        let unsteady = sampled([40, 90, 40, 120, 40, 80, 40, 100, 40, 70]);
        assert!(confidence(&unsteady, 18) < by_age[0]);
    }

    #[test]
    fn another_window_keeps_the_averages_and_forgets_the_minima() {
        let mut rtt = sampled([40; 10]);
        rtt.set_window(ms(900));
        assert_eq!((rtt.filtered(), rtt.ewma(), rtt.min()), (Some(ms(40)), Some(ms(40)), None));
        rtt.sample(ms(48), at(20));
        assert_eq!((rtt.filtered(), rtt.min()), (Some(ms(41)), Some(ms(48))));
        rtt.set_window(ms(900));
        assert_eq!(rtt.min(), Some(ms(48)), "the same window is no change");
    }

    #[test]
    fn a_sample_that_arrives_late_is_counted_and_moves_no_window_back() {
        let mut rtt = RttEstimate::new();
        rtt.sample(ms(30), at(100));
        rtt.sample(ms(10), at(20));
        assert_eq!(rtt.min(), Some(ms(10)));
        assert_eq!(rtt.samples(), 2);
        assert_eq!(rtt.last_sample_age(at(103)), Some(Duration::from_secs(3)));
        assert_eq!(rtt.last_sample_age(at(90)), Some(Duration::ZERO));
    }

    #[test]
    fn absurd_samples_break_nothing() {
        for window in [Duration::ZERO, Duration::MAX] {
            let mut rtt = RttEstimate::with_window(window);
            rtt.sample(Duration::MAX, Tick(Duration::MAX));
            rtt.failed(at(0));
            rtt.sample(Duration::MAX, at(0));
            rtt.sample(Duration::ZERO, at(0));
            assert_eq!(rtt.min(), Some(Duration::ZERO));
            let figure = rtt.figure(Tick(Duration::MAX), Duration::MAX).unwrap();
            assert!((0.0..=1.0).contains(&figure.confidence), "{figure:?}");
        }
    }

    #[test]
    fn the_prior_grows_with_the_distance_from_two_milliseconds() {
        let micros = |km| prior_rtt(km).as_micros();
        assert_eq!(micros(0.0), 2_000);
        assert_eq!(micros(1_000.0), 18_000);
        assert_eq!(micros(10_000.0), 162_000);
        assert_eq!(micros(-5.0), 2_000);
        assert_eq!(micros(f64::NAN), 2_000);
        assert_eq!(micros(f64::INFINITY), micros(20_038.0));
    }
}
