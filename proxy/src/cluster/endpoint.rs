//! One address of a cluster, and what this process knows about it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policies::{Load, OutlierCounters, Rtt, RttEstimate, Standing, Tick};

use super::agent::Said;
use super::agent::line::Line;
use super::overrides::Overrides;
use super::votes::{Source, Votes};
use crate::config::{Address, Name, RttFrom, RttSettings};
use crate::registry::LeaveReason;

/// The identity of an endpoint: it outlives snapshots, and is shared by everything that counts or judges it.
pub struct EndpointState {
    pub cluster: Name,
    pub address: SocketAddr,
    /// Leases held now; what the policies compare.
    pub load: Arc<Load>,
    /// How clients fared here, and whether that has it ejected.
    pub outlier: OutlierCounters,
    /// Picks that led here, since the process started.
    pub picks: AtomicU64,
    pub connect_failures: AtomicU64,
    /// When a tunnel's socket may be asked for its round trip again, in milliseconds of the clock.
    ask_again: AtomicU64,
    /// By the last good probe, the endpoint takes traffic and would rather not.
    degraded: AtomicBool,
    known: Mutex<Known>,
}

struct Known {
    /// What in the files this address comes from.
    origin: Address,
    votes: Votes,
    /// When it last came up, for its slow start. `None`: it was there when the process started.
    up_since: Option<Tick>,
    /// It was out and has not been up since: a doubt may stand between the two, such as an ejection that outlasts the
    /// probes.
    fell: bool,
    agent: Said,
    /// When the agent answered last.
    agent_answered: Option<Tick>,
    /// Why its tunnels are asked to leave, if they are.
    leaving: Option<LeaveReason>,
    /// What an operator set by hand.
    overrides: Overrides,
    rtt: Rtts,
    /// What its last good probe said that it has in flight.
    in_flight: Option<u32>,
}

/// At most so often is a socket of a live tunnel asked for its round trip, for each endpoint: enough for twenty answers
/// in a round of the usual window, and nothing beside ten connections a second.
const BETWEEN_TUNNELS: Duration = Duration::from_millis(100);

impl Known {
    /// Its votes have been changed, and it was this before; whether it is something else now.
    fn was(&mut self, before: Standing) -> bool {
        let after = self.votes.standing();
        self.fell |= before.max(after) > Standing::Suspect;
        if after == Standing::Up && std::mem::take(&mut self.fell) {
            // The vote that was taken back is the youngest.
            self.up_since = self.votes.all().map(|(_, vote)| vote.since).max();
        }
        after != before
    }
}

/// What an agent's word has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentChanges {
    pub standing: bool,
    /// Weight or connection limit.
    pub limits: bool,
}

/// The two RTT figures (both from this edge).
#[derive(Clone, Default)]
pub struct Rtts {
    /// The network up to whatever ends TCP there, from `TCP_INFO` after the handshakes of probes and of tunnels, and at
    /// the end of tunnels.
    pub handshake: RttEstimate,
    /// A whole health probe's round trip: what a client would feel, also through a load balancer or sidecar.
    pub probe: RttEstimate,
}

impl Rtts {
    pub fn of(&self, from: RttFrom) -> &RttEstimate {
        match from {
            RttFrom::Probe => &self.probe,
            RttFrom::Handshake => &self.handshake,
        }
    }
}

impl EndpointState {
    pub fn new(cluster: Name, address: SocketAddr, origin: Address, now: Tick) -> EndpointState {
        EndpointState {
            cluster,
            address,
            load: Arc::new(Load::new()),
            outlier: OutlierCounters::new(),
            picks: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            ask_again: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
            known: Mutex::new(Known {
                origin,
                votes: Votes::new(now),
                up_since: None,
                fell: false,
                agent: Said::default(),
                agent_answered: None,
                leaving: None,
                overrides: Overrides::default(),
                rtt: Rtts::default(),
                in_flight: None,
            }),
        }
    }

    pub fn standing(&self) -> Standing {
        self.known().votes.standing()
    }

    pub fn votes(&self) -> Votes {
        self.known().votes.clone()
    }

    /// The files no longer name it: no new clients. True when they did until now.
    pub fn remove(&self, now: Tick) -> bool {
        self.known().votes.removed(now)
    }

    /// The files do not name it (any more).
    pub fn is_removed(&self) -> bool {
        self.known().votes.is_removed()
    }

    /// Changes the votes; true when the standing changed by it.
    pub fn vote(&self, change: impl FnOnce(&mut Votes)) -> bool {
        let mut known = self.known();
        let before = known.votes.standing();
        change(&mut known.votes);
        known.was(before)
    }

    /// When it last came up, for its slow start. A doubt that passed is no coming up: its connections were there all along.
    pub fn up_since(&self) -> Option<Tick> {
        self.known().up_since
    }

    /// It was found while the process runs, so it starts slowly.
    pub fn comes_up(&self, now: Tick) {
        self.known().up_since = Some(now);
    }

    /// The agent has said something; it counts until it says otherwise.
    pub fn agent_said(&self, line: &Line, now: Tick) -> AgentChanges {
        self.agent_is(Some(now), now, |agent| agent.hear(line))
    }

    /// There is no agent any more: what it said no longer counts.
    pub fn agent_withdrawn(&self, now: Tick) -> AgentChanges {
        self.agent_is(None, now, |agent| *agent = Said::default())
    }

    /// When the agent answered last, whatever it said. `None`: never, or there is none.
    pub fn agent_answered(&self) -> Option<Tick> {
        self.known().agent_answered
    }

    fn agent_is(&self, answered: Option<Tick>, now: Tick, change: impl FnOnce(&mut Said)) -> AgentChanges {
        let mut known = self.known();
        known.agent_answered = answered;
        let Known { agent, votes, .. } = &mut *known;
        let (standing, limits) = (votes.standing(), (agent.weight_percent, agent.max_connections));
        change(agent);
        match agent.vote() {
            (Standing::Up, _) => votes.withdraw(Source::Agent, now),
            (standing, reason) => votes.cast(Source::Agent, standing, reason, now),
        }
        AgentChanges { limits: (agent.weight_percent, agent.max_connections) != limits, standing: known.was(standing) }
    }

    /// The share of its configured weight that the agent asks for, in percent.
    pub fn agent_weight_percent(&self) -> Option<u16> {
        self.known().agent.weight_percent
    }

    /// The agent's limit, in place of the configured one.
    pub fn agent_max_connections(&self) -> Option<NonZeroU32> {
        self.known().agent.max_connections
    }

    /// Whether the endpoint calls itself degraded: it takes traffic, and would rather have others take it.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Relaxed)
    }

    /// True when that is news.
    pub fn is_now_degraded(&self, degraded: bool) -> bool {
        self.degraded.swap(degraded, Relaxed) != degraded
    }

    /// What a good probe says that the endpoint has in flight from everybody, if it says so.
    pub fn reports(&self, in_flight: Option<u32>, now: Tick) {
        self.known().in_flight = in_flight;
        if let Some(in_flight) = in_flight {
            self.load.reported(in_flight, now);
        }
    }

    /// The requests and tunnels from everybody, by its last good probe.
    pub fn in_flight_reported(&self) -> Option<u32> {
        self.known().in_flight
    }

    /// Why its tunnels are asked to leave, if they are.
    pub fn leaving(&self) -> Option<LeaveReason> {
        let known = self.known();
        if known.votes.is_removed() { Some(LeaveReason::EndpointRemoved) } else { known.leaving }
    }

    /// Its tunnels are to leave for this reason, or may stay. True when there is a reason that is news.
    pub fn tunnels_leave(&self, reason: Option<LeaveReason>) -> bool {
        let before = std::mem::replace(&mut self.known().leaving, reason);
        reason.is_some() && before != reason
    }

    pub fn overrides(&self) -> Overrides {
        self.known().overrides.clone()
    }

    pub fn change_overrides<T>(&self, change: impl FnOnce(&mut Overrides) -> T) -> T {
        change(&mut self.known().overrides)
    }

    pub fn origin(&self) -> Address {
        self.known().origin.clone()
    }

    pub fn comes_from(&self, origin: &Address) {
        self.known().origin = origin.clone();
    }

    pub fn sample_rtt(&self, handshake: Option<Duration>, probe: Duration, now: Tick) {
        let rtt = &mut self.known().rtt;
        if let Some(handshake) = handshake {
            rtt.handshake.sample(handshake, now);
        }
        rtt.probe.sample(probe, now);
    }

    /// A probe that brought no round trip.
    pub fn probe_failed(&self, now: Tick) {
        self.known().rtt.probe.failed(now);
    }

    /// Whether it is time to ask the socket of a tunnel. Whoever is told so is the only one for a while.
    pub fn wants_tunnel_rtt(&self, now: Tick) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let due = self.ask_again.load(Relaxed);
        let next = millis(now.0.saturating_add(BETWEEN_TUNNELS));
        millis(now.0) >= due && self.ask_again.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    /// What the socket of a tunnel says.
    pub fn sample_tunnel_rtt(&self, handshake: Duration, now: Tick) {
        self.known().rtt.handshake.sample(handshake, now);
    }

    /// Both figures are taken over this window from now on.
    pub fn measure_over(&self, window: Duration) {
        let rtt = &mut self.known().rtt;
        rtt.handshake.set_window(window);
        rtt.probe.set_window(window);
    }

    /// The figure that steers, unless it is missing or too old.
    pub fn rtt(&self, settings: &RttSettings, now: Tick) -> Option<Rtt> {
        self.known().rtt.of(settings.from).figure(now, settings.max_age)
    }

    /// All that was measured, for whoever shows it.
    pub fn rtts(&self) -> Rtts {
        self.known().rtt.clone()
    }

    pub fn picked(&self) {
        self.picks.fetch_add(1, Relaxed);
    }

    pub fn connect_failed(&self) {
        self.connect_failures.fetch_add(1, Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Held for a few instructions and never across a call that may panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::votes::Source;
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn endpoint() -> EndpointState {
        let address: SocketAddr = "10.0.0.1:5222".parse().unwrap();
        EndpointState::new("c".into(), address, Address::Socket(address), at(0))
    }

    #[test]
    fn an_endpoint_that_was_there_from_the_start_or_only_in_doubt_has_no_slow_start() {
        let endpoint = endpoint();
        assert_eq!(endpoint.up_since(), None);
        endpoint.vote(|votes| votes.cast(Source::Outlier, Standing::Suspect, "early closes", at(1)));
        endpoint.vote(|votes| votes.withdraw(Source::Outlier, at(2)));
        assert_eq!((endpoint.standing(), endpoint.up_since()), (Standing::Up, None));
    }

    #[test]
    fn one_that_crashes_under_load_starts_slowly_though_its_ejection_outlasts_its_probes() {
        let endpoint = endpoint();
        endpoint.vote(|votes| votes.cast(Source::Outlier, Standing::Suspect, "connect failures", at(1)));
        endpoint.vote(|votes| votes.cast(Source::Probes, Standing::Down, "refused", at(2)));
        endpoint.vote(|votes| votes.withdraw(Source::Probes, at(10)));
        assert_eq!((endpoint.standing(), endpoint.up_since()), (Standing::Suspect, None));
        endpoint.vote(|votes| votes.withdraw(Source::Outlier, at(12)));
        assert_eq!((endpoint.standing(), endpoint.up_since()), (Standing::Up, Some(at(12))));
        endpoint.vote(|votes| votes.cast(Source::Outlier, Standing::Suspect, "early closes", at(50)));
        endpoint.vote(|votes| votes.withdraw(Source::Outlier, at(60)));
        assert_eq!(endpoint.up_since(), Some(at(12)), "a doubt that passed is no coming up");
    }
}
