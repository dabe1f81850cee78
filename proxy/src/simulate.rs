//! What a configuration would do with clients that came before, or that are made up: `warbler simulate`, and the clients of
//! `warbler diff`.
//!
//! Each client is picked for by [`ClusterPlan::pick`](crate::cluster::ClusterPlan::pick), the function that routes live
//! traffic, on plans that are compiled from the configuration as an edge compiles them, and it holds its lease until it
//! leaves. Only the clock is simulated: it jumps from one arrival, end or control tick (every second) to the next. Two
//! configurations are two worlds that see the same clients at the same time with the same dice, so that what
//! differs comes from the configurations.
//!
//! What is not simulated: packets, connect times, and how long it takes until a failure is noticed (one tick here).

pub mod countries;
pub mod crowd;
pub mod outage;

mod moves;
mod tally;
mod world;

pub mod picture;
pub mod report;

use std::time::Duration;

use policies::{Dice, SeededDice};

use self::moves::Landings;
pub use self::outage::Outage;
pub use self::report::Report;
use self::world::World;
use crate::config::Config;
use crate::trace::{LONGEST_SPAN, Visit, days};

/// What happens besides the clients.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Equal seeds give equal runs.
    pub seed: u64,
    /// How many clients come for each one of the trace: 1.5 lets every second one come twice, 0.5 leaves half of them out.
    pub load: f64,
    pub outages: Vec<Outage>,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario { seed: 1, load: 1.0, outages: Vec::new() }
    }
}

/// Why nothing can be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error("{0}")]
    Geo(String),
    #[error("no locality or endpoint is named `{name}`; there are: {known}")]
    Nowhere { name: String, known: String },
    #[error("there are no clients: nothing was simulated")]
    NoClients,
    #[error(
        "the clients come in {} days, and at most {} are simulated: generate fewer of them or raise --rate",
        days(*.0), days(LONGEST_SPAN)
    )]
    TooLong(Duration),
}

impl SimulateError {
    /// Whether the command line asks for what there is not.
    pub fn is_usage(&self) -> bool {
        matches!(self, SimulateError::Nowhere { .. } | SimulateError::TooLong(_))
    }
}

/// Clients and the worlds that they come to. First everybody is admitted, then it runs.
pub struct Simulation {
    scenario: Scenario,
    worlds: Vec<World>,
    arrivals: Vec<Arrival>,
    dice: SeededDice,
}

/// One client, in whatever world.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// Microseconds since 1970.
    at: u64,
    /// Microseconds.
    lasts: u64,
}

/// A client that comes again because of the load comes so much later than the first time, at most: the shape of the day
/// stays, and nobody comes twice at once.
const LATEST_COPY_US: u32 = 10_000_000;

impl Simulation {
    /// One world for each configuration; the names are what the report calls them.
    ///
    /// # Errors
    /// When a database cannot be read, or an outage names a locality that none of the configurations has.
    pub fn new(scenario: Scenario, configs: Vec<(String, Config)>) -> Result<Simulation, SimulateError> {
        for outage in &scenario.outages {
            outage.check(configs.iter().map(|(_, config)| config))?;
        }
        let worlds = configs.into_iter().map(|(name, config)| World::new(name, config, &scenario));
        let worlds = worlds.collect::<Result<_, _>>()?;
        let dice = SeededDice::new(scenario.seed);
        Ok(Simulation { scenario, worlds, arrivals: Vec::new(), dice })
    }

    /// Takes a client of a trace in, as often as the load asks for.
    pub fn admit(&mut self, visit: &Visit<'_>) {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for copy in 0..self.copies() {
            let later = if copy == 0 { 0 } else { u64::from(self.dice.below(LATEST_COPY_US)) };
            self.arrivals.push(Arrival { at: micros(visit.at).saturating_add(later), lasts: micros(visit.lasts) });
            for world in &mut self.worlds {
                world.admit(visit);
            }
        }
    }

    /// Lets everybody come, stay and leave; it ends with the last arrival.
    ///
    /// # Errors
    /// When nobody was admitted, or when they come in a longer time than [`LONGEST_SPAN`], which is a slip.
    pub fn run(mut self) -> Result<Report, SimulateError> {
        // A log is in the order of the ends, and a trace may be in any.
        let mut order: Vec<usize> = (0..self.arrivals.len()).collect();
        order.sort_by_key(|&nth| self.arrivals[nth].at);
        let (Some(&first), Some(&last)) = (order.first(), order.last()) else { return Err(SimulateError::NoClients) };
        let began = self.arrivals[first].at;
        let span = self.arrivals[last].at - began;
        // A trace was measured when it was read; the copies of its last client are no reason to refuse it.
        if Duration::from_micros(span.saturating_sub(LATEST_COPY_US.into())) > LONGEST_SPAN {
            return Err(SimulateError::TooLong(Duration::from_micros(span)));
        }
        self.worlds.iter_mut().for_each(|world| world.start(span));
        let mut landings = Landings::default();
        for nth in order {
            let Arrival { at, lasts } = self.arrivals[nth];
            // The same for every world, whatever the ones before it did to their dice.
            let seed = self.dice.next_u64();
            let mut landed = [None; 2];
            for (world, landing) in self.worlds.iter_mut().zip(&mut landed) {
                world.advance(at - began);
                *landing = Some(world.arrive(nth, lasts, &mut SeededDice::new(seed)));
            }
            if let [Some(old), Some(new)] = landed {
                landings.add(old, new);
            }
        }
        let moves = match &self.worlds[..] {
            [old, new] => Some(landings.moves(&old.names(), &new.names())),
            _ => None,
        };
        let clients = self.arrivals.len() as u64;
        let runs = self.worlds.into_iter().map(|world| world.report(span)).collect();
        let Scenario { seed, load, .. } = self.scenario;
        Ok(Report { clients, seconds: seconds(span), seed, load, lines: None, runs, moves })
    }

    /// The whole part for sure, and one more with the chance that is left.
    fn copies(&mut self) -> u64 {
        let whole = self.scenario.load.floor();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the load is from 0 to 1000")]
        let copies = whole as u64;
        let rest = self.scenario.load - whole;
        copies + u64::from(rest > 0.0 && fraction(&mut self.dice) < rest)
    }
}

/// A number from 0 to 1, the 1 not included.
fn fraction(dice: &mut impl Dice) -> f64 {
    const STEPS: f64 = 9_007_199_254_740_992.0;
    (dice.next_u64() >> 11) as f64 / STEPS
}

/// From microseconds.
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
