//! The `grpc` probe: `grpc.health.v1.Health/Check` over HTTP/2 (github.com/grpc/grpc, doc/health-checking.md).
//! `SERVING` is good; any other status, and any gRPC error, is the reason.
//!
//! The two messages have one field each, so they are written and read by hand.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Uri, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, ProbeError};

const PATH: &str = "/grpc.health.v1.Health/Check";
/// The largest answer that is read.
const MOST: usize = 64 * 1024;
/// What stands before each message: a flag for compression, and the length.
const PREFIX: usize = 5;

pub(super) async fn ask<S>(stream: S, service: &str, authority: &str, secure: bool) -> Result<Answer, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    // Ended with the probe, also when that takes too long; after a good answer it says GOAWAY by itself.
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = send(requests, service, authority, secure).await?;
    let status = serving_status(answer).await?;
    driver.detach();
    match status {
        1 => Ok(Answer::now(false)),
        other => Err(ProbeError::NotServing(name_of(other))),
    }
}

async fn send(
    requests: SendRequest<Bytes>,
    service: &str,
    authority: &str,
    secure: bool,
) -> Result<ResponseFuture, ProbeError> {
    let scheme = if secure { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(PATH).build();
    let request = Request::post(uri.map_err(not_grpc)?)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "warbler-probe")
        .body(())
        .map_err(not_grpc)?;
    let mut requests = requests.ready().await.map_err(broken)?;
    let (answer, mut body) = requests.send_request(request, false).map_err(broken)?;
    body.send_data(question(service), true).map_err(broken)?;
    Ok(answer)
}

/// The status in the answer's message, once its trailers say that it counts.
async fn serving_status(answer: ResponseFuture) -> Result<u64, ProbeError> {
    let (head, mut body) = answer.await.map_err(broken)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(ProbeError::Status(head.status.as_u16()));
    }
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        // Room for more is given back as it is used up: a full window is not what an endpoint is judged by.
        body.flow_control().release_capacity(data.len()).map_err(broken)?;
        if message.len() + data.len() > MOST {
            return Err(not_grpc("answer is too long"));
        }
        message.put(data);
    }
    let trailers = body.trailers().await.map_err(broken)?;
    // An answer without a message has its status in the head.
    grpc_status(trailers.as_ref().unwrap_or(&head.headers))?;
    status_in(&message).ok_or_else(|| not_grpc("answer is no health status"))
}

fn grpc_status(fields: &HeaderMap) -> Result<(), ProbeError> {
    let status = fields.get("grpc-status").and_then(|status| status.to_str().ok()?.parse::<u16>().ok());
    match status {
        Some(0) => Ok(()),
        Some(code) => Err(ProbeError::Grpc(code)),
        None => Err(not_grpc("answer has no grpc-status")),
    }
}

/// `HealthCheckRequest { string service = 1 }` with its prefix.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + 12 + service.len());
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

/// The field `status = 1` of a `HealthCheckResponse`; absent is 0. `None` when this is no such message.
fn status_in(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 5) => message = message.get(4..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(bytes: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        bytes.put_u8(0x80 | value.to_le_bytes()[0]);
        value >>= 7;
    }
    bytes.put_u8(value.to_le_bytes()[0]);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn name_of(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

fn broken(error: h2::Error) -> ProbeError {
    match error.into_io() {
        Some(cause) => ProbeError::Broken(cause),
        None => not_grpc("HTTP/2 broke off"),
    }
}

fn not_grpc(why: impl ToString) -> ProbeError {
    ProbeError::NotGrpc(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_question_is_the_message_that_protobuf_makes() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("im.Chat")[..], b"\0\0\0\0\x09\x0a\x07im.Chat");
        let long = question(&"s".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_status_is_found_among_fields_that_are_not_known() {
        let check = |bytes: &[u8], want| assert_eq!(status_in(bytes), want, "{bytes:?}");
        check(&[0, 0, 0, 0, 2, 8, 1], Some(1));
        check(&[0, 0, 0, 0, 0], Some(0));
        check(&[0, 0, 0, 0, 7, 0x12, 1, 9, 8, 2, 0x18, 5], Some(2));
        check(&[0, 0, 0, 0, 2, 8], None);
        check(&[1, 0, 0, 0, 2, 8, 1], None);
        check(&[0, 0], None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            status_in(&bytes);
            let mut framed = vec![0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(bytes);
            status_in(&framed);
        }
    }
}
