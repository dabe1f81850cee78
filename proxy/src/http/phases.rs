//! Where pingora calls us, phase by phase, for each plain request. Every phase is a few lines that name the room which
//! does the work.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::{Digest, TcpKeepalive};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorSource, ErrorType, Result};
use policies::{Answer, Failure, Kind as PickKind, Retry, Tick, Tried};

use super::forwarded::{Forwarding, X_REQUEST_ID};
use super::{Connection, answer};
use crate::affinity::source::Request;
use crate::affinity::{Affinity, Stay};
use crate::cluster::{ClusterPlan, outlier};
use crate::config::UpstreamHttp;
use crate::events;
use crate::pick::pick;
use crate::prelude::head;
use crate::route;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::sys;
use crate::trip::{Kind, Outcome, Picked, RequestFacts, Trip};
use crate::upstream::MAX_TRIES;

/// How long an idle upstream connection is kept for the next request. nginx: 60 s.
const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// One request on its way through the phases.
#[derive(Default)]
pub struct Passage {
    begun: Option<Begun>,
    cluster: Option<Arc<ClusterPlan>>,
    affinity: Affinity,
    tried: Tried,
    last_tried: Option<policies::EndpointIx>,
    sent: Option<Sent>,
    /// Held while a further try connects.
    retry: Option<Retry>,
    /// The request went over a connection that had served others before.
    reused: bool,
    /// What the endpoint has answered.
    status: Option<u16>,
    /// The endpoint broke off before or within its answer, or gave none in time.
    broke_off: bool,
}

/// What is measured of a request, where the policy goes by latency.
struct Sent {
    at: Tick,
    in_flight: u32,
}

struct Begun {
    connection: Arc<Connection>,
    snapshot: Arc<Snapshot>,
    trip: Box<Trip>,
    forwarding: Forwarding,
}

/// Has no state of its own: one stands in every worker for the life of the process.
pub struct Phases;

#[async_trait]
impl ProxyHttp for Phases {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        Passage::default()
    }

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {
        // No compression: the bytes are the backend's.
    }

    async fn early_request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<()> {
        let connection = connection_of(session)?;
        connection.registered.trip_begins();
        // A client that takes nothing, by its TCP or its HTTP/2 window, does not hold an endpoint for ever.
        session.set_write_timeout(Some(answer::WRITE_TIMEOUT));
        passage.begin(connection, session.req_header());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<bool> {
        match passage.route(session) {
            Ok(()) => Ok(false),
            Err(refusal) => {
                let leaving = passage.is_leaving();
                passage.answered(refusal.outcome, refusal.status);
                answer::respond(session, refusal.status, refusal.keep && !leaving).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, passage: &mut Passage) -> Result<Box<HttpPeer>> {
        passage.pick_peer()
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        passage: &mut Passage,
        mut e: Box<Error>,
    ) -> Box<Error> {
        e.set_retry(passage.connect_failed(&e));
        e
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        #[cfg(unix)] _fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        passage: &mut Passage,
    ) -> Result<()> {
        passage.connected(reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        passage.forward(session.req_header(), upstream)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let status = response.status.as_u16();
        passage.endpoint_answered(status >= 500 || status == 429);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        if passage.is_leaving() {
            session.set_keepalive(None);
        }
        passage.status = Some(response.status.as_u16());
        if let Some(begun) = &passage.begun {
            response.insert_header(X_REQUEST_ID, begun.forwarding.request_id.as_value())?;
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, passage: &mut Passage) -> FailToProxy {
        let status = passage.failed(e);
        if status > 0 && session.response_written().is_none() {
            // The client may be gone; then there is nobody to tell.
            answer::respond(session, status, false).await.ok();
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _e: Option<&Error>, passage: &mut Passage) {
        if let Some(begun) = &mut passage.begun {
            begun.trip.count((session.body_bytes_read() as u64, session.body_bytes_sent() as u64));
            let answered = session.response_written().map(|response| response.status.as_u16());
            passage.close(answered);
            passage.judge();
        }
    }

    fn suppress_error_log(&self, _session: &Session, _passage: &Passage, _error: &Error) -> bool {
        // Our own event says it, once.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _passage: &Passage,
        _error: &Error,
        _context: pingora::proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// A request that gets an answer of ours instead of an upstream.
struct Refusal {
    outcome: Outcome,
    status: u16,
    keep: bool,
}

impl Passage {
    fn begin(&mut self, connection: Arc<Connection>, request: &RequestHeader) {
        let state = &connection.worker.state;
        let snapshot = state.snapshot_for(connection.slot);
        let forwarding = Forwarding::read(&request.headers, &connection.hop, connection.secure, &snapshot.config);
        let mut trip = Trip::new(state.clone(), Kind::Request, connection.origin.clone());
        trip.generation = snapshot.generation;
        trip.client_is(forwarding.client);
        trip.request = Some(Box::new(RequestFacts {
            method: request.method.clone(),
            host: host_of(request).to_owned(),
            path: request.uri.path().to_owned(),
            version: version_name(request.version),
            status: 0,
            id: forwarding.request_id.clone(),
            route: None,
        }));
        self.begun = Some(Begun { connection, snapshot, trip, forwarding });
    }

    fn route(&mut self, session: &Session) -> std::result::Result<(), Refusal> {
        let request = session.req_header();
        let refuse = |outcome, status, keep| Err(Refusal { outcome, status, keep });
        let Some(begun) = &mut self.begun else { return refuse(Outcome::BadRequest, 400, false) };
        if request.method == Method::CONNECT {
            return refuse(Outcome::BadRequest, 405, false);
        }
        // Our own parser takes upgrades out before pingora sees them; one that it did not see must not pass.
        if !session.is_http2() && head::is_upgrade(&request.headers) {
            return refuse(Outcome::BadRequest, 400, false);
        }
        if request.version == Version::HTTP_11 && host_of(request).is_empty() {
            return refuse(Outcome::BadRequest, 400, false);
        }
        if route::is_ambiguous(request.uri.path()) {
            return refuse(Outcome::BadRequest, 400, false);
        }
        let Some(plan) = begun.snapshot.listener_for(begun.connection.slot) else {
            return refuse(Outcome::NoRoute, 404, false);
        };
        let Some(routed) = plan.routes.find(host_of(request), request.uri.path(), &request.headers) else {
            return refuse(Outcome::NoRoute, 404, true);
        };
        let cluster = begun.snapshot.cluster(routed.cluster).clone();
        begun.trip.cluster = Some(cluster.config.name.clone());
        let seen = Request::new(&request.headers, &request.uri);
        self.affinity = Affinity::of(&begun.connection.worker.state, &cluster, begun.forwarding.client, Some(seen));
        if let Some(facts) = &mut begun.trip.request {
            facts.route = Some(routed.route);
        }
        self.cluster = Some(cluster);
        Ok(())
    }

    fn pick_peer(&mut self) -> Result<Box<HttpPeer>> {
        let (Some(begun), Some(cluster)) = (&mut self.begun, &self.cluster) else { return Err(unrouted()) };
        let client = begun.snapshot.client(begun.forwarding.client);
        // A lease from a try that failed goes back before the next pick looks at the counts.
        begun.trip.picked = None;
        let state = &begun.connection.worker.state;
        match pick(state, cluster, &client, self.affinity, PickKind::Request, &self.tried, &begun.trip) {
            Ok((picked, ix)) => {
                begun.trip.tries += 1;
                // A try before this one may have failed; that is not how the request ends.
                (begun.trip.outcome, begun.trip.detail) = (Outcome::Dropped, None);
                let peer = peer(cluster, picked.endpoint.address);
                self.sent = Sent::now(&begun.connection.worker.state, cluster, &picked);
                begun.trip.picked = Some(picked);
                self.last_tried = Some(ix);
                Ok(Box::new(peer))
            }
            // As for tunnels: the endpoints that were tried and failed say more than that there is no further one.
            Err(_no_further) if begun.trip.tries > 0 => Error::e_explain(ErrorType::HTTPStatus(502), "none connected"),
            Err(no_pick) => {
                begun.trip.fail(Outcome::NoEndpoint, no_pick);
                Error::e_explain(ErrorType::HTTPStatus(503), "no endpoint")
            }
        }
    }

    /// Whether another endpoint may be tried.
    fn connect_failed(&mut self, e: &Error) -> bool {
        if !is_ours(e) {
            self.endpoint_answered(true);
        }
        let Some(begun) = &mut self.begun else { return false };
        let Some(cluster) = &self.cluster else { return false };
        let state = &begun.connection.worker.state;
        if let (Some(picked), Some(ix)) = (begun.trip.picked.take(), self.last_tried.take()) {
            if !is_ours(e) {
                picked.endpoint.connect_failed();
                outlier::failed(state, &cluster.config, &picked.endpoint, PickKind::Request, failure_of(e));
            }
            events::connect_failed(state, &picked.endpoint.cluster, picked.endpoint.address, e);
            self.tried.push(ix);
        }
        begun.trip.fail(Outcome::ConnectFailed, e.etype().as_str());
        // The place of the try that has failed goes back first.
        self.retry = None;
        if begun.trip.tries >= MAX_TRIES.min(cluster.tries()) {
            return false;
        }
        self.retry = cluster.retry(state);
        if self.retry.is_none() {
            let detail = format!("{}; no other was tried: the retry budget is used up", e.etype().as_str());
            begun.trip.fail(Outcome::ConnectFailed, detail);
        }
        self.retry.is_some()
    }

    /// Tells the policy how long the endpoint took to answer, once for each try. The head counts: how long a body takes
    /// may be the client's doing.
    fn endpoint_answered(&mut self, failed: bool) {
        let (Some(sent), Some(begun), Some(cluster)) = (self.sent.take(), &self.begun, &self.cluster) else { return };
        let now = begun.connection.worker.state.clock.now();
        if let Some(picked) = &begun.trip.picked {
            let answer = Answer { took: now.since(sent.at), failed, in_flight: sent.in_flight };
            cluster.answered(PickKind::Request, picked.lease.load(), answer, now);
        }
    }

    fn connected(&mut self, reused: bool) {
        self.retry = None;
        self.reused = reused;
        let (Some(begun), Some(cluster)) = (&mut self.begun, &self.cluster) else { return };
        if let Some(picked) = &mut begun.trip.picked {
            picked.lease.connected();
            picked.stay = Stay::begin(&begun.connection.worker.state, cluster, self.affinity, &picked.endpoint);
        }
    }

    fn forward(&self, downstream: &RequestHeader, upstream: &mut RequestHeader) -> Result<()> {
        let Some(begun) = &self.begun else { return Err(unrouted()) };
        let fields = begun.forwarding.fields(&upstream.headers, &begun.connection.hop, host_of(downstream));
        for (name, value) in fields {
            match value {
                Some(value) => upstream.insert_header(name, value)?,
                None => {
                    upstream.remove_header(&name);
                }
            }
        }
        Ok(())
    }

    /// Notes the failure; the status to answer with, 0 when nobody is left to answer.
    fn failed(&mut self, e: &Error) -> u16 {
        let is_fault = *e.esource() == ErrorSource::Upstream && !self.met_the_end(e);
        if is_fault {
            self.endpoint_answered(true);
        }
        let Some(begun) = &mut self.begun else { return 400 };
        let (outcome, status) = match (e.etype(), e.esource()) {
            (ErrorType::HTTPStatus(503), _) => (Outcome::NoEndpoint, 503),
            (ErrorType::HTTPStatus(status), _) => (Outcome::BadRequest, *status),
            (
                ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::TLSHandshakeTimedout,
                ErrorSource::Upstream,
            ) => (Outcome::BadAnswer, 504),
            (etype, ErrorSource::Upstream) if is_connect_error(etype) => (Outcome::ConnectFailed, 502),
            (_, ErrorSource::Upstream) => (Outcome::BadAnswer, 502),
            (ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed, ErrorSource::Downstream) => {
                (Outcome::ClientReset, 0)
            }
            (_, ErrorSource::Downstream) => (Outcome::BadRequest, 400),
            _ => (Outcome::BadAnswer, 500),
        };
        self.broke_off = is_fault && outcome == Outcome::BadAnswer;
        // What a failed try or pick said of it is more than that it failed.
        if !matches!(begun.trip.outcome, Outcome::ConnectFailed | Outcome::NoEndpoint) {
            begun.trip.fail(outcome, e.etype().as_str());
        }
        status
    }

    /// Whether the endpoint ended a kept connection while the request was on its way, as it may at any time (RFC 9112
    /// section 9.5). One that could be repeated would have been (section 9.3.1). An HTTP/2 connection says goodbye first.
    fn met_the_end(&self, e: &Error) -> bool {
        let may_end = self.cluster.as_ref().is_some_and(|cluster| cluster.config.http == UpstreamHttp::V1);
        let ended = matches!(e.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError);
        self.reused && may_end && ended && self.status.is_none()
    }

    fn answered(&mut self, outcome: Outcome, status: u16) {
        if let Some(begun) = &mut self.begun {
            begun.trip.outcome = outcome;
            if let Some(facts) = &mut begun.trip.request {
                facts.status = status;
            }
        }
    }

    /// The last word on a request. The trip itself is dropped with the passage.
    fn close(&mut self, answered: Option<u16>) {
        let Some(begun) = &mut self.begun else { return };
        if let (Some(facts), Some(status)) = (&mut begun.trip.request, answered) {
            facts.status = status;
            if begun.trip.outcome == Outcome::Dropped {
                begun.trip.outcome = Outcome::Answered;
            }
        }
    }

    /// Counts how the endpoint did. Requests that it was not asked, and clients that left, say nothing about it.
    fn judge(&self) {
        let (Some(begun), Some(cluster)) = (&self.begun, &self.cluster) else { return };
        let Some(picked) = &begun.trip.picked else { return };
        let (state, endpoint) = (&begun.connection.worker.state, &picked.endpoint);
        match self.status {
            _ if self.broke_off => {
                outlier::failed(state, &cluster.config, endpoint, PickKind::Request, Failure::GatewayError);
            }
            Some(status) => outlier::answered(state, &cluster.config, endpoint, status),
            None => {}
        }
    }

    fn is_leaving(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.connection.is_leaving())
    }
}

impl Sent {
    fn now(state: &State, cluster: &ClusterPlan, picked: &Picked) -> Option<Sent> {
        let at = state.clock.now();
        let in_flight = cluster.in_flight(PickKind::Request, picked.lease.load(), at)?;
        Some(Sent { at, in_flight })
    }
}

fn peer(cluster: &ClusterPlan, address: std::net::SocketAddr) -> HttpPeer {
    let config = &cluster.config;
    let name = config.tls.as_ref().map_or_else(String::new, |tls| tls.name.clone());
    let mut peer = HttpPeer::new(address, config.tls.is_some(), name);
    let options = &mut peer.options;
    options.connection_timeout = Some(config.connect_timeout);
    options.total_connection_timeout = Some(config.connect_timeout);
    options.read_timeout = Some(config.response_timeout);
    options.write_timeout = Some(config.response_timeout);
    options.idle_timeout = Some(UPSTREAM_IDLE);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    options.tcp_keepalive = (!config.tcp.keepalive.is_zero()).then_some(TcpKeepalive {
        idle: config.tcp.keepalive,
        interval: sys::KEEPALIVE_INTERVAL,
        count: sys::KEEPALIVE_PROBES as usize,
        user_timeout: config.tcp.user_timeout,
    });
    if config.http == UpstreamHttp::V2 {
        options.set_http_version(2, 2);
    }
    if let (Some(tls), Some(ready)) = (&config.tls, &cluster.tls) {
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
        options.ca.clone_from(&ready.authorities);
    }
    peer
}

fn connection_of(session: &Session) -> Result<Arc<Connection>> {
    let digest = session.digest().and_then(|digest| digest.proxy_digest.as_ref());
    let facts = digest.and_then(|digest| digest.user_data.as_ref()?.downcast_ref::<Arc<Connection>>());
    facts.cloned().ok_or_else(unrouted)
}

fn unrouted() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "a request without its connection")
}

/// The host that a request is for: of its target when that has one, else the `Host` field.
pub fn host_of(request: &RequestHeader) -> &str {
    let given = || request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    request.uri.authority().map(http::uri::Authority::as_str).or_else(given).unwrap_or_default()
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_11 => "1.1",
        Version::HTTP_10 => "1.0",
        _ => "?",
    }
}

/// Whether a failed connect is this machine's fault and says nothing about the endpoint.
fn is_ours(e: &Error) -> bool {
    let exhausted =
        |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<std::io::Error>().is_some_and(sys::is_ours);
    let mut cause = std::error::Error::source(e);
    while let Some(error) = cause {
        if exhausted(error) {
            return true;
        }
        cause = error.source();
    }
    matches!(e.etype(), ErrorType::BindError | ErrorType::SocketError)
}

fn failure_of(e: &Error) -> Failure {
    match e.etype() {
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => Failure::Tls,
        _ => Failure::Connect,
    }
}

fn is_connect_error(etype: &ErrorType) -> bool {
    matches!(
        etype,
        ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectTimedout
            | ErrorType::BindError
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
    )
}
