//! WebSocket and every other HTTP upgrade: the request rebuilt, the answer read, and a tunnel only after a valid `101`.
//!
//! Nothing is copied raw: what an upgrade's client sent before the endpoint agreed could otherwise be a second request
//! that no route has seen. A client that sends before the `101` gets 400. Any other answer than a `101` to the protocol
//! that was asked for is relayed as a framed response, and both connections end.

pub mod response;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use policies::{Failure, Kind as PickKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::affinity::Affinity;
use crate::affinity::source::Request;
use crate::cluster::{ClusterPlan, EndpointState, outlier};
use crate::config::Signals;
use crate::http::forwarded::Forwarding;
use crate::http::{Connection, answer};
use crate::prelude::head::{self, UpgradeHead};
use crate::route::{self, Routed};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::stream::{Io, Stream};
use crate::trip::{Kind, Outcome, RequestFacts, Trip};
use crate::tunnel::{Framing, Tunnel};
use crate::upstream::{self, Reached};
use response::{RelayError, Response, ResponseError};

/// Fields that belong to one hop (RFC 9110 section 7.6.1), and are never passed on.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Serves an upgrade request on `stream`; `buffer` holds its head and whatever came behind it.
pub async fn serve(mut stream: Stream, head: UpgradeHead, mut buffer: BytesMut, connection: Arc<Connection>) {
    let behind = buffer.split_off(head.length);
    connection.registered.trip_begins();
    let upgrade = Upgrade::new(head, &connection);
    let mut trip = upgrade.trip(&connection);
    match upgrade.negotiate(&mut stream, &behind, &connection, &mut trip).await {
        Ok(Negotiated::Tunnel(opened)) => relay(stream, opened, connection, trip),
        Ok(Negotiated::Answered(outcome)) => {
            trip.outcome = outcome;
            answer::linger(&mut stream).await;
        }
        Err(refusal) => {
            trip.fail(refusal.outcome, &refusal.detail);
            if refusal.status > 0 {
                set_status(&mut trip, refusal.status);
                answer::write_and_close(&mut stream, refusal.status).await;
            }
        }
    }
}

struct Upgrade {
    head: UpgradeHead,
    snapshot: Arc<Snapshot>,
    forwarding: Forwarding,
    host: String,
}

enum Negotiated {
    Tunnel(Opened),
    /// Another answer than `101` went to the client, whole.
    Answered(Outcome),
}

struct Opened {
    endpoint_io: Io,
    endpoint: Arc<EndpointState>,
    /// What the endpoint sent behind its `101`.
    greeting: Bytes,
    framing: Framing,
    idle: Duration,
    watched: Option<Signals>,
    close_wait: Duration,
}

/// What the client gets instead, and what the event says.
struct Refusal {
    outcome: Outcome,
    /// 0: nobody is left to answer.
    status: u16,
    detail: String,
}

fn refusal(outcome: Outcome, status: u16, detail: impl ToString) -> Refusal {
    Refusal { outcome, status, detail: detail.to_string() }
}

impl Upgrade {
    fn new(head: UpgradeHead, connection: &Connection) -> Upgrade {
        let snapshot = connection.worker.state.snapshot_for(connection.slot);
        let forwarding = Forwarding::read(&head.headers, &connection.hop, connection.secure, &snapshot.config);
        let given = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = head.target.authority().map(http::uri::Authority::as_str).or(given).unwrap_or_default().to_owned();
        Upgrade { head, snapshot, forwarding, host }
    }

    fn trip(&self, connection: &Connection) -> Box<Trip> {
        let mut trip = Trip::new(connection.worker.state.clone(), Kind::Upgrade, connection.origin.clone());
        trip.generation = self.snapshot.generation;
        trip.client_is(self.forwarding.client);
        trip.request = Some(Box::new(RequestFacts {
            method: self.head.method.clone(),
            host: self.host.clone(),
            path: self.head.target.path().to_owned(),
            version: "1.1",
            status: 0,
            id: self.forwarding.request_id.clone(),
            route: None,
        }));
        trip
    }

    async fn negotiate(
        &self,
        stream: &mut Stream,
        behind: &[u8],
        connection: &Connection,
        trip: &mut Trip,
    ) -> Result<Negotiated, Refusal> {
        self.check(behind)?;
        let routed = self.route(connection)?;
        if let Some(facts) = &mut trip.request {
            facts.route = Some(routed.route.clone());
        }
        let cluster = self.snapshot.cluster(routed.cluster);
        let client = self.snapshot.client(self.forwarding.client);
        let state = &connection.worker.state;
        let request = Request::new(&self.head.headers, &self.head.target);
        let affinity = Affinity::of(state, cluster, self.forwarding.client, Some(request));
        let reaching = upstream::reach(state, cluster, &client, affinity, PickKind::Tunnel, trip);
        let Reached { io, endpoint } = reaching.await.map_err(|error| {
            let status = if error.outcome() == Outcome::NoEndpoint { 503 } else { 502 };
            refusal(error.outcome(), status, error)
        })?;
        let mut upstream = Stream::new(io);
        let asked = self.ask(&mut upstream, stream, cluster, connection).await;
        judge(state, cluster, &endpoint, asked.as_ref());
        let response = asked?;
        set_status(trip, response.status.as_u16());
        if response.status != StatusCode::SWITCHING_PROTOCOLS {
            let patience = cluster.config.response_timeout;
            return match response.relay_framed(&mut upstream, stream, &self.head.method, patience).await {
                Ok(()) => Ok(Negotiated::Answered(Outcome::Answered)),
                Err(error @ RelayError::Client(_)) => Err(refusal(Outcome::ClientReset, 0, error)),
                Err(error) => Err(refusal(Outcome::BadAnswer, 0, error)),
            };
        }
        let protocol = self.agreed(&response).inspect_err(|_| refused(state, cluster, &endpoint))?;
        let head = switching(&response, &protocol, &self.forwarding);
        let sending = answer::within(async {
            stream.write_all(&head).await?;
            stream.flush().await
        });
        if sending.await.is_err() {
            return Err(refusal(Outcome::ClientReset, 0, "client left before the tunnel began"));
        }
        let listener = self.snapshot.listener_for(connection.slot);
        let idle = routed.idle.or(listener.map(|plan| plan.config.timeouts.idle)).unwrap_or_default();
        let (endpoint_io, _nothing_unread) = upstream.into_parts();
        Ok(Negotiated::Tunnel(Opened {
            endpoint_io,
            endpoint,
            greeting: response.behind,
            framing: if protocol.eq_ignore_ascii_case("websocket") { Framing::WebSocket } else { Framing::Opaque },
            idle,
            watched: cluster.config.outlier.watched(),
            close_wait: self.snapshot.config.drain.close_wait,
        }))
    }

    /// An upgrade has no body, and its client waits for the answer.
    fn check(&self, behind: &[u8]) -> Result<(), Refusal> {
        let headers = &self.head.headers;
        let has_body = headers.contains_key(header::TRANSFER_ENCODING)
            || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
        if has_body {
            return Err(refusal(Outcome::BadRequest, 400, "an upgrade request with a body"));
        }
        if !behind.is_empty() {
            return Err(refusal(Outcome::BadRequest, 400, "client sent before the upgrade was accepted"));
        }
        if headers.get_all(header::HOST).iter().count() != 1 || self.host.is_empty() {
            return Err(refusal(Outcome::BadRequest, 400, "an upgrade request needs exactly one host"));
        }
        if self.head.method == http::Method::CONNECT {
            return Err(refusal(Outcome::BadRequest, 405, "CONNECT is not served"));
        }
        if route::is_ambiguous(self.head.target.path()) {
            return Err(refusal(Outcome::BadRequest, 400, "path with dot segments"));
        }
        Ok(())
    }

    fn route(&self, connection: &Connection) -> Result<Routed, Refusal> {
        let plan = self.snapshot.listener_for(connection.slot);
        let routed = plan.and_then(|plan| plan.routes.find(&self.host, self.head.target.path(), &self.head.headers));
        routed.ok_or_else(|| refusal(Outcome::NoRoute, 404, "no route"))
    }

    /// Sends the rebuilt request and reads the final answer, with an eye on the client.
    async fn ask(
        &self,
        upstream: &mut Stream,
        client: &mut Stream,
        cluster: &ClusterPlan,
        connection: &Connection,
    ) -> Result<Response, Refusal> {
        let request = self.rebuilt(connection);
        let asking = async {
            upstream.write_all(&request).await.map_err(ResponseError::Broken)?;
            upstream.flush().await.map_err(ResponseError::Broken)?;
            Response::read(upstream).await
        };
        let mut early = [0; 1];
        tokio::select! {
            biased;
            response = tokio::time::timeout(cluster.config.response_timeout, asking) => match response {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => Err(refusal(Outcome::BadAnswer, 502, error)),
                Err(_elapsed) => Err(refusal(Outcome::BadAnswer, 504, "endpoint did not answer in time")),
            },
            read = client.read(&mut early) => Err(match read {
                Ok(0) => refusal(Outcome::ClientClosed, 0, "client left before the answer"),
                Ok(_) => refusal(Outcome::BadRequest, 400, "client sent before the upgrade was accepted"),
                Err(error) => refusal(Outcome::ClientReset, 0, error),
            }),
        }
    }

    /// The request as the endpoint gets it.
    fn rebuilt(&self, connection: &Connection) -> Vec<u8> {
        let mut headers = self.head.headers.clone();
        strip_hop_by_hop(&mut headers);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove("http2-settings");
        self.forwarding.write(&mut headers, &connection.hop, &self.host);
        if let Ok(host) = HeaderValue::from_str(&self.host) {
            headers.insert(header::HOST, host);
        }
        let target = self.head.target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut bytes = format!("{} {target} HTTP/1.1\r\n", self.head.method).into_bytes();
        write_fields(&mut bytes, &headers);
        let protocols: Vec<&str> = head::protocols(&self.head.headers).collect();
        bytes.extend(format!("connection: Upgrade\r\nupgrade: {}\r\n\r\n", protocols.join(", ")).as_bytes());
        bytes
    }

    /// The protocol that both sides now speak; it must be one that the client asked for.
    fn agreed(&self, response: &Response) -> Result<String, Refusal> {
        let mut chosen = head::tokens(&response.headers, &header::UPGRADE);
        let upgrades =
            head::tokens(&response.headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
        match (chosen.next(), chosen.next()) {
            (Some(protocol), None)
                if upgrades
                    && head::protocols(&self.head.headers).any(|asked| asked.eq_ignore_ascii_case(protocol)) =>
            {
                Ok(protocol.to_owned())
            }
            _ => Err(refusal(Outcome::BadAnswer, 502, "endpoint switched to a protocol that was not asked for")),
        }
    }
}

/// Counts what the answer says of the endpoint. A `101` is judged by the tunnel that follows; no answer at all counts
/// only if that was not the client's doing.
fn judge(state: &State, cluster: &ClusterPlan, endpoint: &EndpointState, asked: Result<&Response, &Refusal>) {
    match asked {
        Ok(response) if response.status.is_server_error() => refused(state, cluster, endpoint),
        Ok(response) if response.status == StatusCode::SWITCHING_PROTOCOLS => {}
        Ok(_) => outlier::succeeded(&cluster.config, endpoint, PickKind::Tunnel),
        Err(refusal) if refusal.outcome == Outcome::BadAnswer => refused(state, cluster, endpoint),
        Err(_) => {}
    }
}

fn refused(state: &State, cluster: &ClusterPlan, endpoint: &EndpointState) {
    outlier::failed(state, &cluster.config, endpoint, PickKind::Tunnel, Failure::RefusedUpgrade);
}

/// Takes out what belongs to one hop, and whatever `Connection` names besides.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = head::tokens(headers, &header::CONNECTION).map(str::to_ascii_lowercase).collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        // What says where a message comes from and ends cannot be talked away.
        if !matches!(name, "host" | "content-length" | "x-forwarded-for" | "forwarded") {
            headers.remove(name);
        }
    }
}

fn switching(response: &Response, protocol: &str, forwarding: &Forwarding) -> Vec<u8> {
    let mut headers = response.headers.clone();
    strip_hop_by_hop(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    write_fields(&mut bytes, &headers);
    let id = forwarding.request_id.as_str();
    let tail = format!("x-request-id: {id}\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n");
    bytes.extend(tail.as_bytes());
    bytes
}

fn write_fields(bytes: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        bytes.extend(name.as_str().as_bytes());
        bytes.extend(b": ");
        bytes.extend(value.as_bytes());
        bytes.extend(b"\r\n");
    }
}

fn relay(stream: Stream, opened: Opened, connection: Arc<Connection>, mut trip: Box<Trip>) {
    let (client, _nothing_unread) = stream.into_parts();
    // The stream is gone, and with it the digest that pointed here: this is the last reference.
    let Some(Connection { registered, .. }) = Arc::into_inner(connection) else {
        return trip.fail(Outcome::Dropped, "the connection is still held by a request before it");
    };
    let Opened { endpoint_io, endpoint, greeting, framing, idle, watched, close_wait } = opened;
    registered.becomes_tunnel(endpoint, idle, watched);
    tokio::spawn(Tunnel::new(client, endpoint_io, framing, &greeting, registered, trip, close_wait));
}

fn set_status(trip: &mut Trip, status: u16) {
    if let Some(facts) = &mut trip.request {
        facts.status = status;
    }
}
