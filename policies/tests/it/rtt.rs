//! Steering by noisy round trips, simulated: how often it changes its mind, and how soon it follows a new route.
//!
//! The figures to match are those of two sites at 40 and 41 ms, one probe a round. Whoever takes the lower of two raw
//! figures changes sides 470 times in 1000 probes; an average by eighths with a band of 10 % and 2 ms and a dwell of six
//! probes does so 0.02 times, and follows a shift of 20 ms within about 11 probes. Queues are taken to add an
//! exponentially distributed time, of 3.6 ms in the mean, which is what gives the first figure.

use std::time::Duration;

use policies::{BandState, Dice, LocalityRtt, RttBands, RttEstimate, SeededDice, Tick};

const QUEUE_MS: f64 = 3.6;

/// The band of 10 % around 40 ms.
fn narrow() -> RttBands {
    RttBands { limits: vec![Duration::from_millis(4)], ..RttBands::default() }
}

/// Sites that are probed once a round, and the bands that they are in.
struct Sites {
    bands: RttBands,
    estimates: Vec<RttEstimate>,
    states: Vec<BandState>,
    dice: SeededDice,
    rounds: u32,
}

impl Sites {
    fn new(bands: RttBands, count: usize, seed: u64) -> Sites {
        Sites {
            bands,
            estimates: vec![RttEstimate::new(); count],
            states: vec![BandState::new(); count],
            dice: SeededDice::new(seed),
            rounds: 0,
        }
    }

    /// One probe of each; true when one of them changed its band.
    fn round(&mut self, paths_ms: &[f64]) -> bool {
        let now = Tick(self.rounds * RttEstimate::WINDOW / 3);
        self.rounds += 1;
        for (estimate, path_ms) in self.estimates.iter_mut().zip(paths_ms) {
            estimate.sample(through_a_queue(*path_ms, &mut self.dice), now);
        }
        let figure = |estimate: &RttEstimate| {
            let rtt = estimate.figure(now, Duration::from_secs(30))?;
            Some(LocalityRtt { rtt: rtt.rtt, confidence: Some(rtt.confidence) })
        };
        let before = self.states.clone();
        let figures: Vec<_> = self.estimates.iter().map(figure).collect();
        self.bands.update(&mut self.states, &figures);
        before.iter().zip(&self.states).any(|(before, after)| before.band().is_some() && before.band() != after.band())
    }

    fn flips(&mut self, paths_ms: &[f64], rounds: u32) -> u32 {
        (0..rounds).map(|_| u32::from(self.round(paths_ms))).sum()
    }

    /// Rounds until the first site is no longer among the nearest.
    fn rounds_until_left(&mut self, paths_ms: &[f64]) -> u32 {
        (1..=1_000)
            .find(|_| {
                self.round(paths_ms);
                self.states[0].band() != Some(0)
            })
            .expect("a shift is followed")
    }
}

fn through_a_queue(path_ms: f64, dice: &mut SeededDice) -> Duration {
    let share = (f64::from(dice.below(1 << 30)) + 0.5) / f64::from(1 << 30);
    Duration::from_secs_f64((path_ms - QUEUE_MS * share.ln()) / 1000.0)
}

fn mean_rounds_until_left(bands: &RttBands) -> f64 {
    const RUNS: u32 = 500;
    let rounds = |seed: u32| {
        let mut sites = Sites::new(bands.clone(), 2, seed.into());
        sites.flips(&[40.0, 41.0], 100);
        sites.rounds_until_left(&[60.0, 41.0])
    };
    f64::from((0..RUNS).map(rounds).sum::<u32>()) / f64::from(RUNS)
}

#[test]
fn the_lower_of_two_raw_figures_changes_sides_at_every_other_probe() {
    let mut dice = SeededDice::new(1);
    let sides: Vec<bool> =
        (0..100_001).map(|_| through_a_queue(40.0, &mut dice) < through_a_queue(41.0, &mut dice)).collect();
    let flips = sides.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((45_000..49_000).contains(&flips), "470 in 1000, within 5 %: {flips} in 100 000");
}

#[test]
fn bands_change_at_most_twice_in_a_hundred_thousand_probes() {
    for (bands, name) in [(narrow(), "10 % of 40 ms"), (RttBands::default(), "default")] {
        let flips = Sites::new(bands, 2, 2).flips(&[40.0, 41.0], 100_000);
        assert!(flips <= 2, "0.02 in 1000: {flips} in 100 000 with bands {name}");
    }
}

#[test]
fn a_site_right_at_a_border_is_calm_too() {
    // The queues of both add up to more than the hysteresis now and then: ten times the figure of two like sites.
    for tenths in (80..=120_u32).step_by(5) {
        let mut sites = Sites::new(RttBands::default(), 2, tenths.into());
        let paths = [40.0, 40.0 + f64::from(tenths) / 10.0];
        sites.flips(&paths, 100);
        let flips = sites.flips(&paths, 20_000);
        assert!(flips <= 4, "0.2 in 1000: {flips} in 20 000, {tenths} tenths of a millisecond farther");
    }
}

#[test]
fn a_shift_of_twenty_milliseconds_is_followed_within_about_eleven_probes() {
    let mean = mean_rounds_until_left(&narrow());
    assert!((9.0..=13.0).contains(&mean), "11 probes, within 20 %: {mean}");
    let mean = mean_rounds_until_left(&RttBands::default());
    assert!((13.0..=17.0).contains(&mean), "with the default bands, of 10 ms: {mean}");
}
