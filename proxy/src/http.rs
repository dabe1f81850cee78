//! HTTP on a connection: request after request, until one asks for an upgrade or the connection ends.
//!
//! We read each head; pingora serves plain requests, from the head on, with its pooled upstream connections; an upgrade
//! leaves for [`crate::upgrade`] with the bare socket. HTTP/2 goes to pingora whole.

pub mod answer;
pub mod forwarded;
pub mod phases;
pub mod serve_h2;

use std::sync::Arc;

use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::http::ResponseHeader;
use pingora::protocols::SocketDigest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use std::os::fd::AsRawFd;
use tokio::sync::watch;

use crate::config::{HttpListener, Serves};
use crate::connection::Opened;
use crate::http::forwarded::Hop;
use crate::listener::ListenerSlot;
use crate::prelude::head::{self, HeadError, HeadLimits, Next};
use crate::registry::{Command, Registered};
use crate::stream::{Io, Stream};
use crate::trip::{Kind, Origin, Outcome, Trip};
use crate::upgrade;
use crate::worker::Worker;

/// What every request of a connection shares; pingora's hooks find it in the connection's digest.
pub struct Connection {
    pub worker: Arc<Worker>,
    pub origin: Origin,
    pub hop: Hop,
    pub slot: ListenerSlot,
    /// TLS towards the client.
    pub secure: bool,
    pub registered: Registered,
}

impl Connection {
    pub fn has_served(&self) -> bool {
        self.registered.trips() > 0
    }

    pub fn is_leaving(&self) -> bool {
        self.registered.command().is_some()
    }
}

pub async fn serve(opened: Opened) {
    let Opened { worker, snapshot, plan, io, origin, registered } = opened;
    // Each request looks at the snapshot of its own time.
    drop(snapshot);
    let Serves::Http(http) = &plan.config.serves else { return };
    let alpn_http2 = io.alpn_protocol() == Some(b"h2");
    let secure = matches!(io, Io::Tls(_));
    let limits = limits(&plan.config, http, secure);
    let hop = Hop::new(origin.client);
    let connection = Arc::new(Connection { worker, origin, hop, slot: plan.slot, secure, registered });
    let mut stream = describe(Stream::new(io), &connection);
    let speaks_http1 = http.http1;
    drop(plan);
    let mut buffer = BytesMut::new();
    let mut limits = limits;
    limits.http2 |= alpn_http2;
    loop {
        match head::next(&mut stream, &mut buffer, limits, &connection.registered).await {
            Next::Http2 => {
                // Its preface came under the head's deadline, by ALPN or without.
                stream.unread(buffer);
                serve_h2::serve(stream, connection.clone()).await;
                if !connection.has_served() {
                    left_without_request(&connection);
                }
                return;
            }
            Next::Request | Next::Upgrade(_) if alpn_http2 || !speaks_http1 => {
                return refuse(stream, HeadError::Version, &connection).await;
            }
            Next::Request => match request(stream, &mut buffer, &connection).await {
                Some(kept) => stream = kept,
                None => return,
            },
            Next::Upgrade(head) => return upgrade::serve(stream, *head, buffer, connection).await,
            // How a kept connection ends; its requests have had their events.
            Next::Over | Next::Refused(HeadError::TooSlow { began: false }) if connection.has_served() => {
                return answer::end(&mut stream).await;
            }
            Next::Over => {
                left_without_request(&connection);
                return answer::end(&mut stream).await;
            }
            Next::Refused(error) => return refuse(stream, error, &connection).await,
        }
        limits.idle = limits_between_requests(&connection);
        limits.http2 = false;
    }
}

fn limits(config: &crate::config::Listener, http: &HttpListener, secure: bool) -> HeadLimits {
    HeadLimits {
        idle: config.timeouts.request_head,
        head: config.timeouts.request_head,
        max_head: http.max_head,
        http2: http.http2 && !secure,
    }
}

/// Keep-alive is looked up anew, so that a reload changes it for open connections.
fn limits_between_requests(connection: &Connection) -> std::time::Duration {
    let snapshot = connection.worker.state.snapshot_for(connection.slot);
    snapshot
        .listener_for(connection.slot)
        .map_or(std::time::Duration::from_secs(1), |plan| plan.config.timeouts.keep_alive)
}

/// Gives one request to pingora; the stream comes back when another may follow.
async fn request(stream: Stream, buffer: &mut BytesMut, connection: &Arc<Connection>) -> Option<Stream> {
    let mut session = ServerSession::new_http1(Box::new(stream));
    session.set_pipelined_prefix(std::mem::take(buffer));
    // The client's own wish is looked at when pingora reads the head; the time between requests is ours.
    session.set_keepalive((!connection.is_leaving()).then_some(60));
    let http = &connection.worker.http;
    let reused = http.process_new_http(session, &never_shutting_down()).await?;
    let (stream, _settings) = reused.consume();
    let stream = stream.into_any().downcast::<Stream>().ok()?;
    (!connection.is_leaving()).then_some(*stream)
}

/// pingora's shutdown signal for HTTP/1, which we do not use: connections leave by their command slot.
pub fn never_shutting_down() -> watch::Receiver<bool> {
    watch::channel(false).1
}

async fn refuse(mut stream: Stream, error: HeadError, connection: &Connection) {
    let state = connection.worker.state.clone();
    // This is the connection's one event, also if it is cut while the answer goes out.
    connection.registered.trip_begins();
    let mut trip = Trip::new(state, Kind::Connection, connection.origin.clone());
    let (outcome, status) = match error {
        // Nothing was asked, so nothing is answered.
        HeadError::TooSlow { began: false } => {
            trip.fail(Outcome::TooSlow, error);
            return answer::end(&mut stream).await;
        }
        HeadError::TooSlow { began: true } => (Outcome::TooSlow, 408),
        HeadError::TooLarge => (Outcome::BadRequest, 431),
        HeadError::Malformed(_) => (Outcome::BadRequest, 400),
        HeadError::Connect => (Outcome::BadRequest, 405),
        HeadError::Version => (Outcome::BadRequest, 505),
        HeadError::Ended => return trip.fail(Outcome::ClientClosed, error),
    };
    trip.fail(outcome, error);
    answer::write_and_close(&mut stream, status).await;
}

/// A connection that never asked for anything has an event of its own.
fn left_without_request(connection: &Connection) {
    let state = connection.worker.state.clone();
    let outcome = match connection.registered.command() {
        Some(Command::Leave(reason)) => Outcome::Left(reason),
        Some(Command::Cut(reason)) => Outcome::Cut(reason),
        None => Outcome::ClientClosed,
    };
    connection.registered.trip_begins();
    Trip::new(state, Kind::Connection, connection.origin.clone()).outcome = outcome;
}

/// Tells pingora the client's address, and its hooks everything else.
fn describe(mut stream: Stream, connection: &Arc<Connection>) -> Stream {
    let socket = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Fresh digests have no address yet, so this one stays.
    socket.peer_addr.set(Some(PingoraAddr::Inet(connection.origin.client))).ok();
    if let Ok(response) = ResponseHeader::build(200, None) {
        let facts: Box<dyn std::any::Any + Send + Sync> = Box::new(connection.clone());
        stream.describe(Arc::new(socket), Arc::new(ProxyDigest::new(Box::new(response), Some(facts))));
    }
    stream
}
