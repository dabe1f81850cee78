//! What is known of the round-trip time to an endpoint.
//!
//! Three figures, because they answer different questions. The minimum over a window is the distance: queues and busy
//! servers only ever add to it. The moving average is how it feels now. The deviation says how much to trust either.

use std::time::Duration;

use crate::tick::Tick;

/// Round-trip times of one endpoint, from samples. Small, and never allocates.
#[derive(Debug, Clone)]
pub struct RttEstimate {
    /// The lowest sample of each part of the window, in a ring by the number of the part.
    parts: [Option<Part>; PARTS],
    part_length: Duration,
    recent: Option<Recent>,
    samples: u64,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    number: u128,
    lowest: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    at: Tick,
    average: Duration,
    deviation: Duration,
}

/// The window moves on in sixths: the minimum always covers at least five of them, and needs no list of samples.
const PARTS: usize = 6;

impl RttEstimate {
    /// The window of the minimum. Long enough for a dozen probes of the usual interval (5 s), so that one of them met no
    /// queue; short enough to follow a new route within a minute.
    pub const WINDOW: Duration = Duration::from_secs(60);

    pub fn new() -> Self {
        Self::with_window(Self::WINDOW)
    }

    /// Windows under 6 ns count as that.
    pub fn with_window(window: Duration) -> Self {
        let part_length = (window / 6).max(Duration::from_nanos(1));
        Self { parts: [None; PARTS], part_length, recent: None, samples: 0 }
    }

    /// Takes one measurement. A failed probe is not a long round trip: it belongs to health and does not come here.
    pub fn sample(&mut self, rtt: Duration, now: Tick) {
        // Samples of several sources can arrive a little out of order. The window never moves back.
        let now = self.recent.map_or(now, |recent| recent.at.max(now));
        self.samples += 1;
        self.recent = Some(match self.recent {
            None => Recent { at: now, average: rtt, deviation: rtt / 2 },
            Some(recent) => recent.moved_by(rtt, now),
        });
        let number = self.part_number(now);
        let slot = usize::try_from(number % PARTS as u128).expect("a remainder of six");
        let lowest = match self.parts[slot] {
            Some(part) if part.number == number => part.lowest.min(rtt),
            _ => rtt,
        };
        self.parts[slot] = Some(Part { number, lowest });
    }

    /// The lowest round trip of the window that ended with the last sample. `None` without any sample.
    pub fn min(&self) -> Option<Duration> {
        let last = self.part_number(self.recent?.at);
        let in_window = |part: &&Part| part.number + PARTS as u128 > last;
        self.parts.iter().flatten().filter(in_window).map(|part| part.lowest).min()
    }

    /// The moving average, in which each sample counts for an eighth (RFC 6298).
    pub fn ewma(&self) -> Option<Duration> {
        self.recent.map(|recent| recent.average)
    }

    /// The mean deviation from that average, in which each sample counts for a quarter (RFC 6298).
    pub fn deviation(&self) -> Option<Duration> {
        self.recent.map(|recent| recent.deviation)
    }

    /// How many samples there were in all.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// How long ago the last sample came. After three probe intervals the figures are old news.
    pub fn last_sample_age(&self, now: Tick) -> Option<Duration> {
        self.recent.map(|recent| now.since(recent.at))
    }

    fn part_number(&self, at: Tick) -> u128 {
        at.0.as_nanos() / self.part_length.as_nanos()
    }
}

impl Default for RttEstimate {
    fn default() -> Self {
        Self::new()
    }
}

impl Recent {
    /// The deviation first, from the average as it was before this sample: RFC 6298 insists on that order.
    fn moved_by(self, rtt: Duration, at: Tick) -> Self {
        Self {
            at,
            deviation: self.deviation.saturating_mul(3).saturating_add(self.average.abs_diff(rtt)) / 4,
            average: self.average.saturating_mul(7).saturating_add(rtt) / 8,
        }
    }
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

    #[test]
    fn the_minimum_forgets_what_left_the_window() {
        let mut rtt = RttEstimate::new();
        assert_eq!(rtt.min(), None);
        rtt.sample(ms(20), at(0));
        rtt.sample(ms(50), at(5));
        assert_eq!(rtt.min(), Some(ms(20)));
        rtt.sample(ms(50), at(59));
        assert_eq!(rtt.min(), Some(ms(20)), "59 seconds are within the window");
        rtt.sample(ms(50), at(61));
        assert_eq!(rtt.min(), Some(ms(50)), "the window has moved on");
    }

    #[test]
    fn after_a_long_silence_only_the_new_sample_counts() {
        let mut rtt = RttEstimate::new();
        rtt.sample(ms(1), at(0));
        rtt.sample(ms(90), at(100_000));
        assert_eq!(rtt.min(), Some(ms(90)));
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
        let mut rtt = RttEstimate::with_window(Duration::ZERO);
        rtt.sample(Duration::MAX, Tick(Duration::MAX));
        rtt.sample(Duration::MAX, at(0));
        rtt.sample(Duration::ZERO, at(0));
        assert_eq!(rtt.min(), Some(Duration::ZERO));
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
