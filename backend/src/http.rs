//! The HTTP side: its connections, and the endpoints.
//!
//! Plain hyper and a `match`: a few endpoints need no framework, and the upgraded socket has to be had back. HTTP/1.1
//! only, as the edge speaks to its endpoints. A connection idle for [`IDLE`] is closed.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName},
};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};

use crate::{
    downstream::{Downstream, Origin},
    metrics,
    server::Server,
    upgrade,
};

mod admin;
mod allowances;
mod api;
mod chat;
mod demo_login;
mod groups;

pub(crate) use allowances::Allowances;

/// How long a connection may take for a request's head, also for the first and between two. Longer than the 60 s for
/// which proxies commonly keep idle upstream connections, so that the proxy closes first.
pub(crate) const IDLE: Duration = Duration::from_secs(75);
/// Which process answered.
const NODE: HeaderName = HeaderName::from_static("x-im-node");
/// How busy it is, by ORCA.
const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// A body of our own, or the request's own body on its way back.
pub(crate) type Body = Either<Full<Bytes>, Incoming>;

/// Serves a connection until it is closed, or has become a WebSocket.
pub(crate) async fn serve(server: Arc<Server>, stream: Downstream, from: Origin) {
    let _counted = server.load.connection();
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, io::Error>(answer(&server, request, from).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = server.leaving.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

async fn answer(server: &Arc<Server>, request: Request<Incoming>, from: Origin) -> Response<Body> {
    let method = request.method().clone();
    let mut response = route(server, request, from).await;
    // Hyper leaves out the body of an answer to HEAD and keeps its length.
    let node = HeaderValue::try_from(&server.config.node);
    response.headers_mut().insert(NODE, node.unwrap_or(HeaderValue::from_static("-")));
    if let Some(load) = server.load.orca() {
        response.headers_mut().insert(LOAD, load);
    }
    tracing::trace!(%method, status = response.status().as_u16(), "request");
    response
}

async fn route(server: &Arc<Server>, request: Request<Incoming>, from: Origin) -> Response<Body> {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/whoami" => whoami(server, &request, from),
        _ if path.starts_with("/whoami/") => whoami(server, &request, from),
        "/ws" if request.method() == Method::GET => upgrade::begin(server, request, from),
        "/healthz" if reads => healthz(),
        "/readyz" if reads => readyz(server).await,
        "/load" if reads => answer_json(StatusCode::OK, &server.load.report(server)),
        "/metrics" if reads => metrics(server).await,
        "/echo" if request.method() == Method::POST => echo(request),
        "/admin/drain" if server.config.admin && request.method() == Method::POST => admin::drain(server, &request),
        "/admin/drain" if server.config.admin => not_allowed("POST"),
        "/admin/fault" if server.config.faults && reads => answer_json(StatusCode::OK, &json!(server.faults.now())),
        "/admin/fault" if server.config.faults && request.method() == Method::POST => {
            admin::fault(server, request).await
        }
        _ if path == "/chat" || path.starts_with("/chat/") => chat::answer(&request),
        "/api/v1/demo-login" => demo_login::answer(server, request).await,
        _ if groups::is_at(path) => groups::answer(server, request).await,
        "/ws" => not_allowed("GET"),
        "/healthz" | "/readyz" | "/load" | "/metrics" => not_allowed("GET, HEAD"),
        "/echo" => not_allowed("POST"),
        "/admin/fault" if server.config.faults => not_allowed("GET, HEAD, POST"),
        _ => refuse(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// The process is alive. Says nothing about whether it should get clients; that is `/readyz`.
fn healthz() -> Response<Body> {
    answer_json(StatusCode::OK, &json!({ "alive": true }))
}

/// May this process get clients? Only with a store that takes writes, and not while it drains.
async fn readyz(server: &Server) -> Response<Body> {
    let mut reasons = Vec::new();
    if server.draining() {
        reasons.push("draining".to_owned());
    }
    reasons.extend(server.unready().await);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer_json(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
}

/// The counters and gauges, in Prometheus' text format.
async fn metrics(server: &Server) -> Response<Body> {
    match metrics::page(server).await {
        Ok(page) => {
            let mut response = Response::new(Either::Left(Full::from(page)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
            response
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the metrics cannot be written");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written")
        }
    }
}

/// What arrived here, for those who want to see what an edge in front passes on.
fn whoami(server: &Server, request: &Request<Incoming>, from: Origin) -> Response<Body> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in request.headers() {
        let together = headers.entry(name.as_str()).or_default();
        if !together.is_empty() {
            together.push_str(", ");
        }
        together.push_str(&text(value));
    }
    let list: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    let seen = json!({
        "node": server.config.node,
        "peer": from.address,
        "proxy": from.proxy,
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
        "header_list": list,
    });
    answer_json(StatusCode::OK, &seen)
}

/// The body comes back as it arrives, nothing of it is kept.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(Either::Right(request.into_body()));
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

pub(crate) fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

pub(crate) fn refuse(status: StatusCode, reason: &str) -> Response<Body> {
    answer_json(status, &json!({ "error": reason }))
}

pub(crate) fn answer_json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(format!("{value}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
