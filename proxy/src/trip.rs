//! The record of one trip through the edge: a TCP connection, an HTTP request, or a connection that ended without one.
//!
//! Facts are filled in as they become known. The event is emitted when the trip is dropped, so no path misses it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use policies::{Lease, Reason};

use crate::affinity::Stay;
use crate::cluster::EndpointState;
use crate::config::Name;
use crate::events;
use crate::http::forwarded::RequestId;
use crate::registry::LeaveReason;
use crate::state::State;

/// What kind of trip it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection that ended before it was routed.
    Connection,
    /// A TCP tunnel.
    Tcp,
    /// An HTTP request.
    Request,
    /// An HTTP request that asked for an upgrade; with the life of its tunnel, if it got one.
    Upgrade,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Connection => "connection",
            Kind::Tcp => "tcp",
            Kind::Request => "request",
            Kind::Upgrade => "upgrade",
        }
    }
}

/// How a trip ended. A closed set: it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing said otherwise: the task was dropped unfinished.
    Dropped,
    /// A panic of ours ended this connection, and only this one.
    Panicked,
    /// An HTTP request got its answer.
    Answered,
    /// The client closed first, in order.
    ClientClosed,
    /// The endpoint closed first, in order.
    EndpointClosed,
    ClientReset,
    EndpointReset,
    /// Left as asked.
    Left(LeaveReason),
    /// Closed at once.
    Cut(LeaveReason),
    /// A deadline passed: PROXY header, TLS handshake, request head.
    TooSlow,
    /// A PROXY header that is none, or from a network that is not trusted.
    BadProxyHeader,
    BadTls,
    BadRequest,
    /// A limit on connections was reached.
    Refused,
    /// No route for this request.
    NoRoute,
    /// No endpoint could be picked.
    NoEndpoint,
    /// Endpoints were picked, none could be connected to.
    ConnectFailed,
    /// The endpoint's answer was not HTTP, or not the answer asked for.
    BadAnswer,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Dropped => "dropped",
            Outcome::Panicked => "panicked",
            Outcome::Answered => "answered",
            Outcome::ClientClosed => "client-closed",
            Outcome::EndpointClosed => "endpoint-closed",
            Outcome::ClientReset => "client-reset",
            Outcome::EndpointReset => "endpoint-reset",
            Outcome::Left(_) => "left",
            Outcome::Cut(_) => "cut",
            Outcome::TooSlow => "too-slow",
            Outcome::BadProxyHeader => "bad-proxy-header",
            Outcome::BadTls => "bad-tls",
            Outcome::BadRequest => "bad-request",
            Outcome::Refused => "refused",
            Outcome::NoRoute => "no-route",
            Outcome::NoEndpoint => "no-endpoint",
            Outcome::ConnectFailed => "connect-failed",
            Outcome::BadAnswer => "bad-answer",
        }
    }

    pub fn reason(self) -> Option<LeaveReason> {
        match self {
            Outcome::Left(reason) | Outcome::Cut(reason) => Some(reason),
            _ => None,
        }
    }
}

/// Who the client is, as far as the connection tells.
#[derive(Debug, Clone)]
pub struct Origin {
    pub listener: Name,
    /// The client: from the PROXY header when there is one.
    pub client: SocketAddr,
    /// Who is at the other end of the socket.
    pub peer: SocketAddr,
    pub connection: u64,
}

/// The pick that counted: where the trip went, and its lease.
pub struct Picked {
    pub endpoint: Arc<EndpointState>,
    pub locality: Name,
    pub reason: Reason,
    pub lease: Lease,
    /// From the connect on, where clients are brought back to their endpoints.
    pub stay: Option<Stay>,
}

/// What an HTTP request adds.
#[derive(Debug, Clone)]
pub struct RequestFacts {
    pub method: Method,
    pub host: String,
    /// Without the query, which may hold tokens.
    pub path: String,
    pub version: &'static str,
    pub status: u16,
    pub id: RequestId,
    pub route: Option<Name>,
}

pub struct Trip {
    state: Arc<State>,
    pub kind: Kind,
    pub origin: Origin,
    /// The configuration that it was routed by.
    pub generation: u64,
    pub cluster: Option<Name>,
    pub picked: Option<Picked>,
    /// Endpoints that were tried.
    pub tries: u8,
    pub request: Option<Box<RequestFacts>>,
    /// Why, in a few words, when the outcome alone does not say.
    pub detail: Option<Box<str>>,
    pub outcome: Outcome,
    pub to_endpoint: u64,
    pub to_client: u64,
    pub began: SystemTime,
    started: Instant,
}

impl Trip {
    pub fn new(state: Arc<State>, kind: Kind, origin: Origin) -> Box<Trip> {
        let generation = state.snapshot.load().generation;
        Box::new(Trip {
            state,
            kind,
            origin,
            generation,
            cluster: None,
            picked: None,
            tries: 0,
            request: None,
            detail: None,
            outcome: Outcome::Dropped,
            to_endpoint: 0,
            to_client: 0,
            began: SystemTime::now(),
            started: Instant::now(),
        })
    }

    /// Says how it ended; the event follows when the trip is dropped.
    pub fn ended(&mut self, outcome: Outcome, bytes: (u64, u64)) {
        self.outcome = outcome;
        self.count(bytes);
    }

    pub fn count(&mut self, (to_endpoint, to_client): (u64, u64)) {
        self.to_endpoint = to_endpoint;
        self.to_client = to_client;
    }

    pub fn fail(&mut self, outcome: Outcome, detail: impl ToString) {
        self.outcome = outcome;
        self.detail = Some(detail.to_string().into());
    }

    /// The client is somebody behind the hop that the connection comes from; its port is not known.
    pub fn client_is(&mut self, client: IpAddr) {
        if self.origin.client.ip().to_canonical() != client {
            self.origin.client = SocketAddr::new(client, 0);
        }
    }

    pub fn lasted(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outcome = Outcome::Panicked;
        }
        // The lease goes first: who reads the event sees the counts without this trip.
        let picked = self.picked.take().map(|Picked { endpoint, locality, reason, lease, stay }| {
            drop((lease, stay));
            (endpoint, locality, reason)
        });
        events::trip_ended(self, picked.as_ref().map(|(endpoint, locality, reason)| (&**endpoint, locality, *reason)));
    }
}
