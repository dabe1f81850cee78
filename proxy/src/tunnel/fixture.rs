//! What a tunnel of a test belongs to: a registry entry, a trip that holds a lease.

use std::sync::Arc;
use std::time::Duration;

use policies::{Load, Reason};

use crate::cluster::EndpointState;
use crate::config::{Address, Signals};
use crate::listener::{ListenerIdentity, ListenerSlot};
use crate::registry::{Registered, Registry};
use crate::state::tests::state;
use crate::trip::{Kind, Origin, Picked, Trip};

pub(super) struct Fixture {
    pub(super) registered: Registered,
    pub(super) trip: Box<Trip>,
    pub(super) load: Arc<Load>,
    pub(super) registry: Arc<Registry>,
}

impl Fixture {
    pub(super) fn new() -> Fixture {
        let state = state();
        let address = "127.0.0.1:1".parse().unwrap();
        let known = Arc::new(EndpointState::new("c".into(), address, Address::Socket(address), state.clock.now()));
        let listener = Arc::new(ListenerIdentity::new(ListenerSlot(0), "l".into()));
        let registered = state.registry.register(0, listener);
        let watched = Signals { early_close: Some(Duration::from_secs(2)), ..Signals::default() };
        registered.becomes_tunnel(known.clone(), Duration::from_secs(900), Some(watched));
        let origin = Origin { listener: "l".into(), client: address, peer: address, connection: registered.id };
        let mut trip = Trip::new(state.clone(), Kind::Tcp, origin);
        let load = known.load.clone();
        let lease = load.reserve(None).unwrap();
        trip.picked =
            Some(Picked { endpoint: known, locality: "x".into(), reason: Reason::Preferred, lease, stay: None });
        Fixture { registered, trip, load, registry: state.registry.clone() }
    }
}

/// Bytes of a stream from `start` on; each tells where it belongs.
pub(super) fn pattern(start: usize, length: usize) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "a pattern that repeats at a prime, to tell positions apart")]
    (start..start + length).map(|at| (at % 251) as u8).collect()
}
