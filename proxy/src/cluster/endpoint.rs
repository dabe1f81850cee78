//! One address of a cluster, and what this process knows about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policies::{Load, OutlierCounters, Rtt, RttEstimate, Standing, Tick};

use super::votes::Votes;
use crate::config::{Address, Name, RttFrom, RttSettings};

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
    known: Mutex<Known>,
}

struct Known {
    /// What in the files this address comes from.
    origin: Address,
    votes: Votes,
    /// When it last came up, for its slow start. `None`: it was there when the process started.
    up_since: Option<Tick>,
    rtt: Rtts,
}

/// At most so often is a socket of a live tunnel asked for its round trip, for each endpoint: enough for twenty answers
/// in a round of the usual window, and nothing beside ten connections a second.
const BETWEEN_TUNNELS: Duration = Duration::from_millis(100);

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
            known: Mutex::new(Known { origin, votes: Votes::new(now), up_since: None, rtt: Rtts::default() }),
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
        let after = known.votes.standing();
        if after == Standing::Up && before > Standing::Suspect {
            // The vote that was taken back is the youngest.
            known.up_since = known.votes.all().map(|(_, vote)| vote.since).max();
        }
        after != before
    }

    /// When it last came up, for its slow start. A doubt that passed is no coming up: its connections were there all along.
    pub fn up_since(&self) -> Option<Tick> {
        self.known().up_since
    }

    /// It was found while the process runs, so it starts slowly.
    pub fn comes_up(&self, now: Tick) {
        self.known().up_since = Some(now);
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
