//! Servers with a queue of their own, edges that choose among them, and a clock that jumps from event to event.
//!
//! A server shares its speed evenly among the requests that it has (processor sharing), as a busy machine does. An
//! antagonist, which is another tenant of the machine, takes most of the speed away now and then. Edges know only what
//! passes through them: their own requests, the times of the answers, and the load that an answer reports.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "there are a few thousand of whatever is counted here"
)]

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use policies::{Dice, HotCold, LatencyCell, POOL, SeededDice, ServerSignal, Tick, Weight, choose};

/// How edges choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    Random,
    /// Smooth weighted round robin, with weights that are exactly the mean speed of each server.
    WeightedRoundRobin,
    /// Power of two choices by the requests that this edge has there.
    OwnRequests,
    /// Power of two choices by peak EWMA; without the penalty a failure counts as the time that it took.
    PeakEwma {
        penalty: Duration,
    },
    /// Hot and cold at a quantile. Not `by_rif` forgets with how many others a request was served.
    HotCold {
        quantile: f32,
        by_rif: bool,
        penalty: Duration,
    },
}

impl Rule {
    pub(crate) const PREQUAL: Self = Self::HotCold { quantile: 0.84, by_rif: true, penalty: LatencyCell::PENALTY };
    pub(crate) const PEAK_EWMA: Self = Self::PeakEwma { penalty: LatencyCell::PENALTY };
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) edges: usize,
    /// The speed of each server without an antagonist; a request takes 10 ms on average at speed 1, alone.
    pub(crate) speeds: Vec<f64>,
    /// How many requests a server serves at its full speed each. More share it evenly.
    pub(crate) cores: usize,
    /// What an antagonist leaves of the speed. Antagonists stay for 1 s and leave for 4 s, both on average.
    pub(crate) under_antagonist: f64,
    /// The share of the mean total speed that the arriving work needs.
    pub(crate) load: f64,
    pub(crate) seconds: f64,
    /// A server that answers everything at once with an error.
    pub(crate) broken: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    /// Seconds, of requests that arrived after the first fifth of the time, sorted.
    latencies: Vec<f64>,
    /// Requests that each server got in that time.
    pub(crate) shares: Vec<u32>,
}

impl Outcome {
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies[(self.latencies.len() as f64 * quantile) as usize] * 1000.0
    }
}

const WORK: f64 = 0.010;
const ANTAGONIST_STAYS: f64 = 1.0;
const ANTAGONIST_LEAVES: f64 = 4.0;

/// Runs until every request that arrived has its answer.
pub(crate) fn run(scenario: &Scenario, rule: Rule) -> Outcome {
    let mut world = World::new(scenario, rule);
    let mut order = 0;
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now = f64::from_bits(at);
        world.happens(event);
        for (at, event) in world.upcoming.drain(..) {
            order += 1;
            world.events.push(Reverse((at.to_bits(), order, event)));
        }
    }
    world.outcome.latencies.sort_by(f64::total_cmp);
    world.outcome
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    /// The first of a server's requests is done, if none came or went since.
    Departure {
        server: usize,
        version: u64,
    },
    Antagonist {
        server: usize,
        comes: bool,
    },
}

struct World<'a> {
    scenario: &'a Scenario,
    rule: Rule,
    dice: SeededDice,
    now: f64,
    /// By time, of which the bits sort as the number does, and then by the order in which they were planned.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    upcoming: Vec<(f64, Event)>,
    servers: Vec<Server>,
    edges: Vec<Edge>,
    /// Mean time between arrivals.
    interval: f64,
    outcome: Outcome,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, rule: Rule) -> Self {
        let cycle = ANTAGONIST_STAYS + ANTAGONIST_LEAVES;
        let left = (ANTAGONIST_LEAVES + ANTAGONIST_STAYS * scenario.under_antagonist) / cycle;
        let speed: f64 = scenario.speeds.iter().sum::<f64>() * left;
        let mut world = Self {
            scenario,
            rule,
            dice: SeededDice::new(scenario.seed),
            now: 0.0,
            events: BinaryHeap::new(),
            upcoming: vec![(0.0, Event::Arrival)],
            servers: scenario.speeds.iter().map(|&speed| Server::new(speed, scenario.cores)).collect(),
            edges: (0..scenario.edges).map(|_| Edge::new(scenario)).collect(),
            interval: WORK / (speed * scenario.load * scenario.cores as f64),
            outcome: Outcome { latencies: Vec::new(), shares: vec![0; scenario.speeds.len()] },
        };
        for server in 0..scenario.speeds.len() {
            let at = exponential(ANTAGONIST_LEAVES, &mut world.dice);
            world.upcoming.push((at, Event::Antagonist { server, comes: true }));
        }
        for (order, (at, event)) in (0..).zip(world.upcoming.drain(..)) {
            world.events.push(Reverse((at.to_bits(), order, event)));
        }
        world
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrival(),
            Event::Departure { server, version } if self.servers[server].version == version => self.departure(server),
            Event::Departure { .. } => {}
            Event::Antagonist { server, comes } => self.antagonist(server, comes),
        }
    }

    fn arrival(&mut self) {
        let (edge, work) = (self.dice.below(self.edges.len() as u32) as usize, exponential(WORK, &mut self.dice));
        let server = self.edges[edge].pick(self.rule, tick(self.now), &mut self.dice);
        if self.now > self.scenario.seconds / 5.0 {
            self.outcome.shares[server] += 1;
        }
        let rif = self.edges[edge].starts(server, tick(self.now));
        let work = if self.scenario.broken == Some(server) { WORK / 100.0 } else { work };
        self.servers[server].starts(Request { edge, rif, arrived: self.now }, work, self.now);
        self.plan_departure(server);
        let next = self.now + exponential(self.interval, &mut self.dice);
        if next < self.scenario.seconds {
            self.upcoming.push((next, Event::Arrival));
        }
    }

    fn departure(&mut self, server: usize) {
        let request = self.servers[server].ends(self.now);
        self.plan_departure(server);
        let took = self.now - request.arrived;
        if request.arrived > self.scenario.seconds / 5.0 {
            self.outcome.latencies.push(took);
        }
        let answer = Answer {
            took: Duration::from_secs_f64(took),
            rif: request.rif,
            failed: self.scenario.broken == Some(server),
            reported: self.servers[server].requests.len() as u32,
        };
        self.edges[request.edge].ends(server, answer, self.rule, tick(self.now));
    }

    fn antagonist(&mut self, server: usize, comes: bool) {
        if self.now > self.scenario.seconds {
            return;
        }
        let full = self.scenario.speeds[server];
        let speed = if comes { full * self.scenario.under_antagonist } else { full };
        self.servers[server].changes_speed(speed, self.now);
        self.plan_departure(server);
        let lasts = if comes { ANTAGONIST_STAYS } else { ANTAGONIST_LEAVES };
        let next = self.now + exponential(lasts, &mut self.dice);
        self.upcoming.push((next, Event::Antagonist { server, comes: !comes }));
    }

    fn plan_departure(&mut self, server: usize) {
        let state = &mut self.servers[server];
        state.version += 1;
        if let Some(at) = state.next_end() {
            self.upcoming.push((at, Event::Departure { server, version: state.version }));
        }
    }
}

struct Request {
    edge: usize,
    rif: u32,
    arrived: f64,
}

/// Each request gets the same share of the speed. `served` is what a request that was there from the beginning would have
/// got, so a request ends when that reaches what it was on arrival plus the work.
struct Server {
    speed: f64,
    cores: usize,
    served: f64,
    at: f64,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    requests: Slots,
    version: u64,
}

impl Server {
    fn new(speed: f64, cores: usize) -> Self {
        Self { speed, cores, served: 0.0, at: 0.0, ends: BinaryHeap::new(), requests: Slots::default(), version: 0 }
    }

    fn serves_until(&mut self, now: f64) {
        self.served += (now - self.at) * self.speed_of_each();
        self.at = now;
    }

    fn speed_of_each(&self) -> f64 {
        self.speed * self.cores as f64 / self.requests.len().max(self.cores) as f64
    }

    fn starts(&mut self, request: Request, work: f64, now: f64) {
        self.serves_until(now);
        let slot = self.requests.put(request);
        self.ends.push(Reverse(((self.served + work).to_bits(), slot)));
    }

    fn ends(&mut self, now: f64) -> Request {
        self.serves_until(now);
        let Reverse((_, slot)) = self.ends.pop().unwrap();
        self.requests.take(slot)
    }

    fn changes_speed(&mut self, speed: f64, now: f64) {
        self.serves_until(now);
        self.speed = speed;
    }

    fn next_end(&self) -> Option<f64> {
        let &Reverse((at, _)) = self.ends.peek()?;
        let left = (f64::from_bits(at) - self.served).max(0.0);
        Some(self.at + left / self.speed_of_each())
    }
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Request>>,
    free: Vec<usize>,
}

impl Slots {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn put(&mut self, request: Request) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(request);
        slot
    }

    fn take(&mut self, slot: usize) -> Request {
        self.free.push(slot);
        self.slots[slot].take().unwrap()
    }
}

struct Answer {
    took: Duration,
    rif: u32,
    failed: bool,
    reported: u32,
}

struct Edge {
    own: Vec<u32>,
    signals: Vec<ServerSignal>,
    cells: Vec<LatencyCell>,
    /// Of smooth weighted round robin.
    weights: Vec<f64>,
    turns: Vec<f64>,
    /// Shuffled anew as far as a pool reaches.
    all: Vec<usize>,
}

impl Edge {
    fn new(scenario: &Scenario) -> Self {
        let n = scenario.speeds.len();
        Self {
            own: vec![0; n],
            signals: (0..n).map(|_| ServerSignal::new()).collect(),
            cells: (0..n).map(|_| LatencyCell::new()).collect(),
            weights: scenario.speeds.clone(),
            turns: vec![0.0; n],
            all: (0..n).collect(),
        }
    }

    fn pick(&mut self, rule: Rule, now: Tick, dice: &mut SeededDice) -> usize {
        match rule {
            Rule::Random => self.draw(1, dice)[0],
            Rule::WeightedRoundRobin => self.next_turn(),
            Rule::OwnRequests => self.least_of_two(|edge, server| edge.own[server] as f32, dice),
            Rule::PeakEwma { .. } => self.least_of_two(|edge, server| edge.peak_ewma(server, now), dice),
            Rule::HotCold { quantile, .. } => self.hot_cold(quantile, now, dice),
        }
    }

    fn draw(&mut self, n: usize, dice: &mut SeededDice) -> &[usize] {
        let n = n.min(self.all.len());
        for at in 0..n {
            let other = at + dice.below((self.all.len() - at) as u32) as usize;
            self.all.swap(at, other);
        }
        &self.all[..n]
    }

    fn next_turn(&mut self) -> usize {
        let total: f64 = self.weights.iter().sum();
        for (turn, weight) in self.turns.iter_mut().zip(&self.weights) {
            *turn += weight;
        }
        let next = (0..self.turns.len()).max_by(|&a, &b| self.turns[a].total_cmp(&self.turns[b])).unwrap();
        self.turns[next] -= total;
        next
    }

    fn least_of_two(&mut self, cost: impl Fn(&Self, usize) -> f32, dice: &mut SeededDice) -> usize {
        let drawn = self.draw(2, dice);
        let (first, second) = (drawn[0], drawn[1]);
        if cost(self, second) < cost(self, first) { second } else { first }
    }

    fn peak_ewma(&self, server: usize, now: Tick) -> f32 {
        let cost = self.cells[server].cost(now, LatencyCell::DECAY, LatencyCell::DEFAULT_RTT);
        cost * (self.own[server] + 1) as f32
    }

    fn hot_cold(&mut self, quantile: f32, now: Tick, dice: &mut SeededDice) -> usize {
        let settings = HotCold::default();
        let drawn: Vec<usize> = self.draw(POOL, dice).to_vec();
        let signal = |&server: &usize| self.signals[server].signal(self.own[server], Weight::default(), now, &settings);
        let pool: Vec<_> = drawn.iter().map(signal).collect();
        drawn[choose(&pool, quantile).unwrap()]
    }

    /// Answers with the RIF that the request met, itself included.
    fn starts(&mut self, server: usize, now: Tick) -> u32 {
        self.own[server] += 1;
        self.signals[server].rif(self.own[server], now, HotCold::default().report_age)
    }

    fn ends(&mut self, server: usize, answer: Answer, rule: Rule, now: Tick) {
        self.own[server] -= 1;
        let Answer { took, rif, failed, reported } = answer;
        let (cell, signal, decay) = (&self.cells[server], &self.signals[server], LatencyCell::DECAY);
        signal.report(reported, self.own[server], now);
        match rule {
            Rule::PeakEwma { penalty } if failed => cell.observe_failure(took, now, decay, penalty),
            Rule::PeakEwma { .. } => cell.observe(took, now, decay),
            Rule::HotCold { penalty, .. } if failed && !penalty.is_zero() => {
                signal.observe_failure(took, now, decay, penalty);
            }
            // Samples of one RIF are all that there is to look up, whatever the RIF: an estimate without condition.
            Rule::HotCold { by_rif, .. } => signal.observe(took, if by_rif { rif } else { 1 }, now, decay),
            Rule::Random | Rule::WeightedRoundRobin | Rule::OwnRequests => {}
        }
    }
}

fn tick(seconds: f64) -> Tick {
    Tick(Duration::from_secs_f64(seconds))
}

fn exponential(mean: f64, dice: &mut SeededDice) -> f64 {
    let uniform = (dice.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    -mean * (1.0 - uniform).ln()
}
