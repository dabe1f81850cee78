//! From an HTTP request to a WebSocket: the checks of RFC 6455, the `101`, and the raw socket out of hyper's hands.
//!
//! The socket is taken back from hyper, so that an idle session holds no HTTP buffers; what hyper had read too far is
//! put in front of it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, HeaderName, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::time::Instant;

use crate::{
    connection::Connection,
    downstream::{Downstream, Origin},
    http::{Body, refuse},
    server::{Place, Server},
    session,
    wire::Wire,
};

/// Answers the request for a WebSocket; the session begins when hyper has sent the `101`.
pub(crate) fn begin(server: &Arc<Server>, mut request: Request<Incoming>, from: Origin) -> Response<Body> {
    let (accept, wire) = match check(&request) {
        Ok(checked) => checked,
        Err(refusal) => return refusal.answer(),
    };
    if from.unnamed {
        return Refusal::Unnamed.answer();
    }
    if server.draining() {
        return Refusal::Draining.answer();
    }
    let Some(place) = server.place() else { return Refusal::Full.answer() };
    let upgrade = hyper::upgrade::on(&mut request);
    server.spawn(serve(Arc::clone(server), upgrade, wire, from, place));
    switching(accept, wire)
}

async fn serve(server: Arc<Server>, upgrade: OnUpgrade, wire: Wire, from: Origin, place: Place) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "the client left before its 101"),
    };
    match upgraded.downcast::<TokioIo<Downstream>>() {
        Ok(parts) => {
            let mut stream = parts.io.into_inner();
            stream.put_back(parts.read_buf);
            let connection = Connection::websocket(stream, wire, server.config.stall_timeout);
            let login_by = Instant::now() + server.config.login_timeout;
            // A task of its own, because this one has the space of what it has done so far.
            server.spawn(session::run(Arc::clone(&server), connection, from, login_by, place));
        }
        Err(_other) => tracing::error!("hyper gave back another stream than it was given"),
    }
}

/// Why there is no WebSocket for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotAnUpgrade,
    Version,
    Key,
    Body,
    Subprotocol,
    /// A trusted proxy that does not say for whom it speaks.
    Unnamed,
    Draining,
    Full,
}

impl Refusal {
    fn answer(self) -> Response<Body> {
        let (status, reason, header) = match self {
            Self::NotAnUpgrade => (StatusCode::UPGRADE_REQUIRED, "this is a WebSocket", Some((UPGRADE, "websocket"))),
            Self::Version => {
                (StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13", Some((SEC_WEBSOCKET_VERSION, "13")))
            }
            Self::Key => (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64", None),
            Self::Body => (StatusCode::BAD_REQUEST, "an upgrade has no body", None),
            Self::Subprotocol => {
                (StatusCode::BAD_REQUEST, "Sec-WebSocket-Protocol must offer im.v1 or im.v1.json", None)
            }
            Self::Unnamed => (StatusCode::BAD_REQUEST, "a PROXY header is needed from this network", None),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Some((RETRY_AFTER, "1"))),
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, "full", Some((RETRY_AFTER, "1"))),
        };
        let mut response = refuse(status, reason);
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn check(request: &Request<Incoming>) -> Result<(String, Wire), Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::NotAnUpgrade);
    }
    let checked = check_headers(request.headers())?;
    if request.body().is_end_stream() { Ok(checked) } else { Err(Refusal::Body) }
}

/// The value of `Sec-WebSocket-Accept` and the chosen form.
fn check_headers(headers: &HeaderMap) -> Result<(String, Wire), Refusal> {
    if !names(headers, &UPGRADE, "websocket") || !names(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::NotAnUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        return Err(Refusal::Key);
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let wire = offered.into_iter().find_map(Wire::choose).ok_or(Refusal::Subprotocol)?;
    Ok((accept(key.as_bytes()), wire))
}

/// Whether a comma-separated header has this word, in any case.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
}

/// RFC 6455, section 4.2.2.
fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

fn switching(accept: String, wire: Wire) -> Response<Body> {
    let mut response = Response::new(Body::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept).expect("base64 is a header value"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(wire.subprotocol()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[track_caller]
    fn check(change: (&'static str, Option<&'static str>), want: Result<Wire, Refusal>) {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "im.v1"),
        ];
        let mut headers: HeaderMap =
            good.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        match change {
            (name, Some(value)) => drop(headers.insert(name, HeaderValue::from_static(value))),
            (name, None) => drop(headers.remove(name)),
        }
        assert_eq!(check_headers(&headers).map(|(_, wire)| wire), want, "{change:?}");
    }

    #[test]
    fn each_header_of_an_upgrade_is_needed() {
        check(("upgrade", Some("websocket")), Ok(Wire::Binary));
        check(("upgrade", Some("h2c")), Err(Refusal::NotAnUpgrade));
        check(("upgrade", None), Err(Refusal::NotAnUpgrade));
        check(("connection", Some("keep-alive")), Err(Refusal::NotAnUpgrade));
        check(("sec-websocket-version", Some("8")), Err(Refusal::Version));
        check(("sec-websocket-version", None), Err(Refusal::Version));
        check(("sec-websocket-key", Some("c2hvcnQ=")), Err(Refusal::Key));
        check(("sec-websocket-key", None), Err(Refusal::Key));
        check(("sec-websocket-protocol", Some("im.v1.json, im.v1")), Ok(Wire::Json));
        check(("sec-websocket-protocol", Some("mqtt")), Err(Refusal::Subprotocol));
        check(("sec-websocket-protocol", None), Err(Refusal::Subprotocol));
    }
}
