//! Round-trip times cut into bands, so that steering by them is calm.
//!
//! Sites at 40 and 41 ms are the same to a user, and whoever always takes the lower of two noisy figures sends everybody
//! to and fro. So localities are put into bands by how much farther they are than the nearest, and a locality moves to
//! another band only when it is clearly past the border (hysteresis) for several rounds in a row (dwell).

use std::time::Duration;

/// Where the bands end and how calm they are.
#[derive(Debug, Clone, PartialEq)]
pub struct RttBands {
    /// How much farther than the nearest locality each band reaches, ascending. What is beyond the last is in one more
    /// band. Default: 10, 35 and 80 ms.
    pub limits: Vec<Duration>,
    /// How far past a limit a locality must be to change its band, as a share of that limit. Default: 0.10; what
    /// is no positive number counts as zero.
    pub hysteresis_ratio: f64,
    /// The least that this is, though never more than half of the limit, or a narrow band could not be entered again.
    /// Default: 2 ms.
    pub hysteresis_floor: Duration,
    /// For how many rounds in a row it must be there. Zero counts as one. Default: 6.
    pub dwell: u32,
}

/// The round trip to a locality, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalityRtt {
    pub rtt: Duration,
    /// That of the measurement ([`Rtt`](crate::Rtt)). `None`: nothing was measured, and the figure is the
    /// [`prior_rtt`](crate::prior_rtt) by distance.
    pub confidence: Option<f32>,
}

impl LocalityRtt {
    pub fn is_measured(&self) -> bool {
        self.confidence.is_some()
    }
}

impl Default for RttBands {
    fn default() -> Self {
        Self {
            limits: [10, 35, 80].map(Duration::from_millis).to_vec(),
            hysteresis_ratio: 0.10,
            hysteresis_floor: Duration::from_millis(2),
            dwell: 6,
        }
    }
}

impl RttBands {
    /// One round for all localities of a cluster. Entry by entry, `rtts` belongs to `states`; see [`BandState::update`].
    pub fn update(&self, states: &mut [BandState], rtts: &[Option<LocalityRtt>]) {
        let best = rtts.iter().flatten().map(|known| known.rtt).min();
        let rtts = rtts.iter().copied().chain(std::iter::repeat(None));
        for (state, rtt) in states.iter_mut().zip(rtts) {
            state.update(self, rtt, best);
        }
    }

    /// The band that a figure falls into, without any memory.
    fn plain(&self, farther: Duration) -> usize {
        self.limits.iter().filter(|&&limit| farther > limit).count()
    }

    /// Which way a locality in `band` wants to move, if it is clearly past a border.
    fn pull(&self, band: usize, farther: Duration) -> Option<Direction> {
        let outer = self.limits.get(band).map(|&limit| limit.saturating_add(self.hysteresis(limit)));
        let inner =
            band.checked_sub(1).and_then(|inner| self.limits.get(inner)).map(|&limit| limit - self.hysteresis(limit));
        if outer.is_some_and(|outer| farther > outer) {
            Some(Direction::Farther)
        } else if inner.is_some_and(|inner| farther < inner) {
            Some(Direction::Nearer)
        } else {
            None
        }
    }

    fn hysteresis(&self, limit: Duration) -> Duration {
        let share = Duration::try_from_secs_f64(limit.as_secs_f64() * self.hysteresis_ratio).unwrap_or_default();
        share.max(self.hysteresis_floor).min(limit / 2)
    }
}

/// The band of one locality, with what it takes to change it. It belongs to the locality's identity: keep it over reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BandState {
    band: Option<usize>,
    /// The band was found by a prior, before anything had been measured.
    guessed: bool,
    pull: Option<Direction>,
    /// For how many rounds in a row.
    pulled: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Nearer,
    Farther,
}

impl BandState {
    pub fn new() -> Self {
        Self::default()
    }

    /// 0 is the nearest. `None` while nothing is known.
    pub fn band(&self) -> Option<u8> {
        self.band.map(|band| u8::try_from(band).unwrap_or(u8::MAX))
    }

    /// Takes the figure of this locality and the lowest of all, once for each round.
    ///
    /// The first figure counts at once, and so does the first measurement after a prior: what was a guess needs no calm.
    /// After that the band changes when `dwell` figures in a row were past the same border and clear of its hysteresis,
    /// and then to the band of the last. A locality without any figure has no band.
    pub fn update(&mut self, bands: &RttBands, rtt: Option<LocalityRtt>, best: Option<Duration>) -> Option<u8> {
        let Some(known) = rtt else {
            *self = Self::default();
            return None;
        };
        let farther = known.rtt.saturating_sub(best.unwrap_or(known.rtt));
        match self.band {
            // A reload can take bands away.
            Some(band) if band <= bands.limits.len() && !(self.guessed && known.is_measured()) => {
                self.pulled(bands, bands.pull(band, farther), farther);
            }
            _ => *self = Self { guessed: !known.is_measured(), ..Self::settled(bands.plain(farther)) },
        }
        self.band()
    }

    fn pulled(&mut self, bands: &RttBands, pull: Option<Direction>, farther: Duration) {
        self.pulled = match pull {
            None => 0,
            Some(_) if pull == self.pull => self.pulled.saturating_add(1),
            Some(_) => 1,
        };
        self.pull = pull;
        if self.pulled >= bands.dwell.max(1) {
            *self = Self { guessed: self.guessed, ..Self::settled(bands.plain(farther)) };
        }
    }

    fn settled(band: usize) -> Self {
        Self { band: Some(band), guessed: false, pull: None, pulled: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Dice, SeededDice};

    fn ms(ms: u64) -> Option<LocalityRtt> {
        measured(Duration::from_millis(ms))
    }

    fn measured(rtt: Duration) -> Option<LocalityRtt> {
        Some(LocalityRtt { rtt, confidence: Some(1.0) })
    }

    fn prior(ms: u64) -> Option<LocalityRtt> {
        Some(LocalityRtt { rtt: Duration::from_millis(ms), confidence: None })
    }

    /// The bands of two localities after these updates, the first of which is always at 10 ms.
    fn second_after(updates: &[u64]) -> Vec<Option<u8>> {
        let bands = RttBands::default();
        let mut states = [BandState::new(); 2];
        updates
            .iter()
            .map(|&farther| {
                bands.update(&mut states, &[ms(10), ms(10 + farther)]);
                assert_eq!(states[0].band(), Some(0));
                states[1].band()
            })
            .collect()
    }

    #[test]
    fn the_first_figure_decides_at_once() {
        for (farther, band) in [(0, 0), (10, 0), (11, 1), (35, 1), (36, 2), (80, 2), (81, 3), (5000, 3)] {
            assert_eq!(second_after(&[farther]), [Some(band)], "{farther} ms");
        }
    }

    #[test]
    fn a_band_changes_after_six_clear_figures_in_a_row_and_not_before() {
        assert_eq!(second_after(&[0, 20, 20, 20, 20, 20, 20]), [0, 0, 0, 0, 0, 0, 1].map(Some));
        assert_eq!(second_after(&[20, 0, 0, 0, 0, 0, 0]), [1, 1, 1, 1, 1, 1, 0].map(Some));
    }

    #[test]
    fn one_figure_within_the_hysteresis_starts_the_count_again() {
        let settled = second_after(&[0, 20, 20, 20, 20, 20, 12, 20, 20, 20, 20, 20]);
        assert!(settled.iter().all(|&band| band == Some(0)), "{settled:?}");
    }

    #[test]
    fn a_jump_over_several_bands_is_one_change() {
        assert_eq!(second_after(&[0, 200, 200, 200, 200, 200, 200]).last(), Some(&Some(3)));
    }

    #[test]
    fn noise_around_a_border_never_changes_the_band() {
        let bands = RttBands::default();
        let mut dice = SeededDice::new(3);
        let mut state = BandState::new();
        let best = Some(Duration::from_millis(40));
        state.update(&bands, ms(50), best);
        for _ in 0..10_000 {
            let noisy = Duration::from_micros(u64::from(48_100 + dice.below(3_800)));
            assert_eq!(state.update(&bands, measured(noisy), best), Some(0));
        }
    }

    #[test]
    fn a_shift_of_twenty_milliseconds_is_followed_within_eleven_updates() {
        let updates: Vec<u64> = std::iter::once(0).chain(std::iter::repeat_n(20, 11)).collect();
        assert_eq!(second_after(&updates).last(), Some(&Some(1)));
    }

    #[test]
    fn when_the_nearest_gets_far_the_order_turns_after_the_dwell() {
        let bands = RttBands::default();
        let mut states = [BandState::new(); 2];
        bands.update(&mut states, &[ms(10), ms(30)]);
        for _ in 0..6 {
            assert_eq!(states.map(|state| state.band()), [Some(0), Some(1)]);
            bands.update(&mut states, &[ms(90), ms(30)]);
        }
        assert_eq!(states.map(|state| state.band()), [Some(2), Some(0)]);
    }

    #[test]
    fn the_first_measurement_replaces_a_prior_at_once_and_the_way_back_takes_the_dwell() {
        let bands = RttBands::default();
        let mut states = [BandState::new(); 2];
        let mut second = |rtt| {
            bands.update(&mut states, &[ms(10), rtt]);
            states[1].band()
        };
        assert_eq!([second(prior(200)), second(ms(15))], [3, 0].map(Some));
        let back: Vec<_> = (0..6).map(|_| second(prior(200))).collect();
        assert_eq!(back, [0, 0, 0, 0, 0, 3].map(Some));
        assert_eq!(second(ms(15)), Some(3), "measured before: calm now");
    }

    #[test]
    fn without_a_figure_there_is_no_band_and_no_memory() {
        let bands = RttBands::default();
        let mut states = [BandState::new(); 3];
        bands.update(&mut states, &[ms(10), ms(100)]);
        assert_eq!(states.map(|state| state.band()), [Some(0), Some(3), None]);
        bands.update(&mut states, &[ms(10)]);
        assert_eq!(states.map(|state| state.band()), [Some(0), None, None]);
        bands.update(&mut states, &[ms(10), ms(10)]);
        assert_eq!(states[1].band(), Some(0));
    }

    #[test]
    fn bands_that_a_reload_took_away_are_left_at_once() {
        let mut state = BandState::new();
        let best = Some(Duration::from_millis(10));
        state.update(&RttBands::default(), ms(200), best);
        let fewer = RttBands { limits: vec![Duration::from_millis(10)], ..RttBands::default() };
        assert_eq!(state.update(&fewer, ms(200), best), Some(1));
    }

    #[test]
    fn odd_settings_break_nothing() {
        for (ratio, limit) in [(f64::NAN, Duration::MAX), (f64::INFINITY, Duration::ZERO), (-1.0, Duration::MAX)] {
            let bands = RttBands { limits: vec![limit], hysteresis_ratio: ratio, dwell: 0, ..RttBands::default() };
            let mut state = BandState::new();
            for rtt in [Duration::ZERO, Duration::MAX, Duration::from_millis(1)] {
                assert!(state.update(&bands, measured(rtt), Some(Duration::ZERO)).is_some());
            }
        }
    }
}
