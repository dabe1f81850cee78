//! The HTTP/1 request head, read by us, under one deadline and a largest size.
//!
//! We read it and not pingora, because pingora's session loses what follows the head when it is unwrapped, and an
//! upgrade must not lose a byte. Every byte read is handed on, to pingora or to the upgrade.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::sound;
use crate::registry::Entry;
use crate::stream::Stream;

/// How HTTP/2 starts with prior knowledge (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Header fields that one request may have; pingora's own limit.
const MAX_FIELDS: usize = 256;

/// What came first on a connection, or next on a kept one.
#[derive(Debug)]
pub enum Next {
    /// A plain request: pingora parses the bytes again and serves it.
    Request,
    /// A request for another protocol on this connection.
    Upgrade(Box<UpgradeHead>),
    Http2,
    /// The client has left, or was asked to between two requests.
    Over,
    Refused(HeadError),
}

/// A request head that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Nothing or not all of it came in time. Says whether any of it came.
    #[error("request head took too long")]
    TooSlow { began: bool },
    #[error("request head is too large")]
    TooLarge,
    #[error("not a valid HTTP/1 request head: {0}")]
    Malformed(&'static str),
    #[error("CONNECT is not served")]
    Connect,
    #[error("this version of HTTP is not served here")]
    Version,
    #[error("connection ended inside the request head")]
    Ended,
}

/// The parsed head of an upgrade request, and its length in the buffer.
#[derive(Debug)]
pub struct UpgradeHead {
    pub method: Method,
    pub target: Uri,
    pub headers: HeaderMap,
    pub length: usize,
}

/// How long and how large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Until the first byte.
    pub idle: Duration,
    /// From the first byte to the last.
    pub head: Duration,
    pub max_head: usize,
    /// Prior-knowledge HTTP/2 is welcome.
    pub http2: bool,
}

/// Reads until one head is complete in `buffer`, which may hold bytes already.
pub async fn next(stream: &mut Stream, buffer: &mut BytesMut, limits: HeadLimits, entry: &Entry) -> Next {
    let mut deadline = Instant::now() + limits.idle;
    let mut began = !buffer.is_empty();
    if began {
        deadline = Instant::now() + limits.head;
    }
    loop {
        if !buffer.is_empty() {
            match examine(buffer, limits.http2) {
                Examined::Incomplete if buffer.len() > limits.max_head => return Next::Refused(HeadError::TooLarge),
                Examined::Incomplete => {}
                Examined::Refused(error) => return Next::Refused(error),
                Examined::Head { length, .. } if length > limits.max_head => return Next::Refused(HeadError::TooLarge),
                Examined::Head { upgrade, .. } => return upgrade.map_or(Next::Request, Next::Upgrade),
                Examined::Http2 => return Next::Http2,
            }
        }
        buffer.reserve(2048);
        let read = tokio::select! {
            biased;
            read = timeout_at(deadline, stream.read_buf(buffer)) => read,
            // Between two requests a connection can leave without hurting anyone.
            _ = entry.commanded(), if !began => return Next::Over,
        };
        match read {
            Err(_elapsed) => return Next::Refused(HeadError::TooSlow { began }),
            Ok(Err(_) | Ok(0)) if !began => return Next::Over,
            Ok(Err(_) | Ok(0)) => return Next::Refused(HeadError::Ended),
            Ok(Ok(_)) if !began => {
                began = true;
                deadline = Instant::now() + limits.head;
            }
            Ok(Ok(_)) => {}
        }
    }
}

enum Examined {
    Incomplete,
    Refused(HeadError),
    Http2,
    Head { length: usize, upgrade: Option<Box<UpgradeHead>> },
}

fn examine(bytes: &[u8], http2: bool) -> Examined {
    if http2 && bytes.starts_with(&HTTP2_PREFACE[..HTTP2_PREFACE.len().min(bytes.len())]) {
        // A method that starts with "PRI" is not registered, so a few bytes decide.
        return if bytes.len() < HTTP2_PREFACE.len() { Examined::Incomplete } else { Examined::Http2 };
    }
    // Not written before: most of it never is.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => match sort(&request, length) {
            Ok(upgrade) => Examined::Head { length, upgrade },
            Err(error) => Examined::Refused(error),
        },
        Ok(httparse::Status::Partial) => Examined::Incomplete,
        Err(httparse::Error::TooManyHeaders) => Examined::Refused(HeadError::TooLarge),
        Err(_) => Examined::Refused(HeadError::Malformed("its syntax")),
    }
}

fn sort(request: &httparse::Request<'_, '_>, length: usize) -> Result<Option<Box<UpgradeHead>>, HeadError> {
    if request.method == Some("CONNECT") {
        return Err(HeadError::Connect);
    }
    if let Some(flaw) = sound::flaw(request) {
        return Err(HeadError::Malformed(flaw));
    }
    upgrade(request, length).map_err(|HeadIsWrong| HeadError::Malformed("a field of the upgrade"))
}

struct HeadIsWrong;

/// The head as an upgrade request, if it is one: HTTP/1.1, `Connection: upgrade`, and an `Upgrade` to something else
/// than HTTP/2, which RFC 9113 took back and which is served as if it had not been asked for.
fn upgrade(request: &httparse::Request<'_, '_>, length: usize) -> Result<Option<Box<UpgradeHead>>, HeadIsWrong> {
    let asks = request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("upgrade"));
    if !asks || request.version != Some(1) {
        return Ok(None);
    }
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_cause| HeadIsWrong)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_cause| HeadIsWrong)?;
        headers.append(name, value);
    }
    if !is_upgrade(&headers) {
        return Ok(None);
    }
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).map_err(|_cause| HeadIsWrong)?;
    let target = request.path.unwrap_or_default().parse().map_err(|_cause| HeadIsWrong)?;
    Ok(Some(Box::new(UpgradeHead { method, target, headers, length })))
}

/// Whether these fields ask for another protocol on the connection.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let listed = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    listed && protocols(headers).next().is_some()
}

/// The protocols that are asked for, without the versions of HTTP: a tunnel of those would carry requests past all
/// routes, whatever stands beside them in the list.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let is_http = |protocol: &str| {
        let name = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "h3", "http"].iter().any(|http| name.eq_ignore_ascii_case(http))
    };
    tokens(headers, &header::UPGRADE).filter(move |protocol| !is_http(protocol))
}

/// The comma-separated tokens of every field with this name.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], want: &str) {
        let got = match examine(bytes, true) {
            Examined::Incomplete => "incomplete".to_owned(),
            Examined::Refused(HeadError::Malformed(_)) => "malformed".to_owned(),
            Examined::Refused(error) => error.to_string(),
            Examined::Http2 => "http2".to_owned(),
            Examined::Head { length, upgrade } => {
                let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
                assert_eq!(length, end, "the head ends at its empty line");
                upgrade.map_or_else(|| "request".to_owned(), |head| format!("upgrade {}", head.target))
            }
        };
        assert_eq!(got, want, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn heads_are_told_apart() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "request");
        check(b"GET / HTTP/1.1\r\nHost: a\r\n", "incomplete");
        check(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nxx",
            "upgrade /ws",
        );
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2");
        check(b"PRI * HT", "incomplete");
        check(b"\x16\x03\x01\x02\x00", "malformed");
        check(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "malformed");
        check(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "malformed");
        check(b"CONNECT a:22 HTTP/1.1\r\nHost: a:22\r\n\r\n", "CONNECT is not served");
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_http_1_1() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "request");
        check(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "request");
    }

    #[test]
    fn an_upgrade_to_http2_is_a_plain_request() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", "request");
    }
}
