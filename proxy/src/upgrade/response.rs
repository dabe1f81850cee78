//! The endpoint's answer to an upgrade request.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{strip_hop_by_hop, write_fields};
use crate::http::answer;
use crate::prelude::head::tokens;
use crate::stream::Stream;

/// Largest answer head. nginx takes 4 to 8 KiB, HAProxy 16 KiB.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 256;
/// Body bytes passed on at a time.
const RELAY_BUFFER: usize = 16 * 1024;

/// A response head, and what was read behind it.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub behind: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error("connection to the endpoint broke: {0}")]
    Broken(#[from] io::Error),
    #[error("endpoint closed before its answer was complete")]
    Ended,
    #[error("endpoint's answer is not HTTP/1.1")]
    NotHttp,
    #[error("head of the endpoint's answer is larger than {MAX_HEAD} bytes")]
    TooLarge,
}

/// Why a refusal did not reach the client whole.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("client left inside the answer: {0}")]
    Client(io::Error),
    #[error("inside the answer: {0}")]
    Endpoint(ResponseError),
    #[error("endpoint stalled inside its answer")]
    Stalled,
}

impl Response {
    /// Reads the final answer; interim ones (100, 103) are passed over.
    pub async fn read(upstream: &mut Stream) -> Result<Response, ResponseError> {
        let mut buffer = BytesMut::with_capacity(1024);
        loop {
            match parse(&buffer)? {
                Some((length, response))
                    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    drop(buffer.split_to(length));
                    continue;
                }
                Some((length, mut response)) => {
                    response.behind = buffer.split_off(length).freeze();
                    return Ok(response);
                }
                None if buffer.len() > MAX_HEAD => return Err(ResponseError::TooLarge),
                None => {}
            }
            if upstream.read_buf(&mut buffer).await? == 0 {
                return Err(ResponseError::Ended);
            }
        }
    }

    /// Passes a refusal on as what it is: a response with a length, after which the client's connection ends. Each part
    /// goes out as it comes; the next one may take `patience`.
    pub async fn relay_framed(
        &self,
        upstream: &mut Stream,
        client: &mut Stream,
        method: &Method,
        patience: Duration,
    ) -> Result<(), RelayError> {
        let mut left = Body::of(self, method);
        answer::within(client.write_all(&self.framed_head(&left))).await.map_err(RelayError::Client)?;
        let mut chunk = BytesMut::with_capacity(RELAY_BUFFER.max(self.behind.len()));
        chunk.extend_from_slice(&self.behind);
        loop {
            let take = left.take(&chunk);
            answer::within(client.write_all(&chunk[..take])).await.map_err(RelayError::Client)?;
            answer::within(client.flush()).await.map_err(RelayError::Client)?;
            if left.is_complete() {
                return Ok(());
            }
            chunk.clear();
            let read = timeout(patience, upstream.read_buf(&mut chunk)).await;
            match read.map_err(|_elapsed| RelayError::Stalled)? {
                Ok(0) if matches!(left, Body::UntilClose) => return Ok(()),
                Ok(0) => return Err(RelayError::Endpoint(ResponseError::Ended)),
                Ok(_) => {}
                Err(error) => return Err(RelayError::Endpoint(error.into())),
            }
        }
    }

    fn framed_head(&self, body: &Body) -> Vec<u8> {
        let mut headers = self.headers.clone();
        strip_hop_by_hop(&mut headers);
        if matches!(body, Body::Chunked(_)) {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let reason = self.status.canonical_reason().unwrap_or("");
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16()).into_bytes();
        write_fields(&mut head, &headers);
        head.extend(b"\r\n");
        head
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, Response)>, ResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ResponseError::NotHttp),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(ResponseError::NotHttp)?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_cause| ResponseError::NotHttp)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_cause| ResponseError::NotHttp)?;
        headers.append(name, value);
    }
    Ok(Some((length, Response { status, headers, behind: Bytes::new() })))
}

/// Where the body of a response ends (RFC 9112 section 6.3).
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

impl Body {
    fn of(response: &Response, method: &Method) -> Body {
        if *method == Method::HEAD || matches!(response.status.as_u16(), 204 | 304) {
            return Body::Length(0);
        }
        if tokens(&response.headers, &header::TRANSFER_ENCODING)
            .last()
            .is_some_and(|last| last.eq_ignore_ascii_case("chunked"))
        {
            return Body::Chunked(Chunks::default());
        }
        let length = response.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.map_or(Body::UntilClose, Body::Length)
    }

    /// How many of these bytes belong to the body.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Body::UntilClose => bytes.len(),
            Body::Chunked(chunks) => chunks.take(bytes),
            Body::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                take
            }
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.at == Chunk::Done,
            Body::UntilClose => false,
        }
    }
}

/// Follows chunk borders (RFC 9112 section 7.1) to where the last one ends, trailers included.
#[derive(Debug, Default)]
struct Chunks {
    at: Chunk,
    left: u64,
    line_is_empty: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Chunk {
    #[default]
    Size,
    Extension,
    Data,
    AfterData,
    Trailer,
    Done,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.at != Chunk::Done {
            if self.at == Chunk::Data {
                let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                self.left -= data as u64;
                taken += data;
                if self.left == 0 {
                    self.at = Chunk::AfterData;
                }
            } else {
                self.step(bytes[taken]);
                taken += 1;
            }
        }
        taken
    }

    fn step(&mut self, byte: u8) {
        match (self.at, byte) {
            (Chunk::Size | Chunk::Extension, b'\n') => {
                self.at = if self.left == 0 { Chunk::Trailer } else { Chunk::Data };
                self.line_is_empty = true;
            }
            (Chunk::Size, digit) if digit.is_ascii_hexdigit() => {
                let value = char::from(digit).to_digit(16).unwrap_or(0);
                self.left = self.left.saturating_mul(16).saturating_add(u64::from(value));
            }
            (Chunk::Size, b';') => self.at = Chunk::Extension,
            (Chunk::AfterData, b'\n') => {
                self.at = Chunk::Size;
                self.left = 0;
            }
            (Chunk::Trailer, b'\n') if self.line_is_empty => self.at = Chunk::Done,
            (Chunk::Trailer, b'\n') => self.line_is_empty = true,
            (Chunk::Trailer, b'\r') => {}
            (Chunk::Trailer, _) => self.line_is_empty = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_read_with_what_stands_behind_it() {
        let bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nhello";
        let (length, response) = parse(bytes).unwrap().unwrap();
        assert_eq!((response.status.as_u16(), &bytes[length..]), (101, &b"hello"[..]));
        assert!(parse(b"HTTP/1.1 101").unwrap().is_none());
        assert!(parse(b"SSH-2.0\r\n").is_err());
    }

    proptest! {
        #[test]
        fn a_chunked_body_ends_at_its_last_chunk(
            sizes in prop::collection::vec(1usize..300, 0..6),
            trailer: bool,
            cuts in prop::collection::vec(1usize..97, 1..20),
        ) {
            let mut body = Vec::new();
            for size in &sizes {
                body.extend(format!("{size:x};name=value\r\n").as_bytes());
                body.resize(body.len() + size, b'\n');
                body.extend(b"\r\n");
            }
            body.extend(if trailer { &b"0\r\nX-A: b\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            let end = body.len();
            body.extend(b"GET /next HTTP/1.1\r\n\r\n");
            let mut chunks = Chunks::default();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                let to = (at + cut).min(body.len());
                at += chunks.take(&body[at..to]);
                if chunks.at == Chunk::Done { break; }
                prop_assert!(at < end);
            }
            prop_assert_eq!(at, end);
        }
    }
}
