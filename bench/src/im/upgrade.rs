//! The upgrade to WebSocket, by hand: the answer that says no has a `Retry-After`, which the library does not tell.

use std::time::Duration;

use backend::frame::{MAX_FRAME, SUBPROTOCOL};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use ring::digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_websockets::{ClientBuilder, Limits, WebSocketStream};

use super::{
    SessionError,
    door::{Door, Pipe},
};

/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const LONGEST_HEAD: usize = 8 * 1024;
const MOST_FIELDS: usize = 64;

pub(super) async fn upgrade(mut pipe: Pipe, door: &Door) -> Result<WebSocketStream<Pipe>, SessionError> {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    pipe.write_all(request(door, &key).as_bytes()).await?;
    pipe.flush().await?;
    let head = read_head(&mut pipe).await?;
    check(&head, &key, door)?;
    let limits = Limits::default().max_payload_len(Some(MAX_FRAME));
    Ok(ClientBuilder::new().limits(limits).take_over(pipe))
}

fn request(door: &Door, key: &str) -> String {
    let Door { host, path, fields, .. } = door;
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{fields}\r\n"
    )
}

/// The head and whatever came with it.
async fn read_head(pipe: &mut Pipe) -> Result<Vec<u8>, SessionError> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if pipe.read_buf(&mut head).await? == 0 {
            return Err(SessionError::Closed { code: None });
        }
        if head.len() > LONGEST_HEAD {
            return Err(SessionError::Protocol { what: "an answer to the upgrade without an end".into() });
        }
    }
    Ok(head)
}

fn check(head: &[u8], key: &str, door: &Door) -> Result<(), SessionError> {
    let broken = |what: String| SessionError::Protocol { what };
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let parsed = answer.parse(head).map_err(|error| broken(format!("no answer to the upgrade: {error}")))?;
    let field = |name: &str| {
        let found = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_default();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let retry_after = field("retry-after").and_then(seconds);
        return Err(SessionError::TurnedAway { address: door.address, status, retry_after });
    }
    if field("sec-websocket-accept") != Some(&accept(key)) {
        return Err(broken("the upgrade was answered with another key".into()));
    }
    if field("sec-websocket-protocol") != Some(SUBPROTOCOL) {
        return Err(broken(format!("the upgrade was not to {SUBPROTOCOL}")));
    }
    if parsed != httparse::Status::Complete(head.len()) {
        return Err(broken("something came before the login".into()));
    }
    Ok(())
}

/// `Retry-After` as servers and edges say it here; a date is passed over.
fn seconds(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

fn accept(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn judge(head: &str) -> Result<(), SessionError> {
        check(head.as_bytes(), KEY, &Door::new(([127, 0, 0, 1], 1).into()))
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let good = "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: im.v1\r\n\r\n";
        judge(good).unwrap();
        for (from, to) in [("s3p", "S3p"), ("im.v1", "im.v2"), ("\r\n\r\n", "\r\n\r\nx")] {
            let error = judge(&good.replace(from, to)).unwrap_err();
            assert!(matches!(error, SessionError::Protocol { .. }), "{error}");
        }
    }

    #[test]
    fn a_no_tells_its_status_and_when_to_come_again() {
        let error = judge("HTTP/1.1 503 x\r\nRetry-After: 7\r\n\r\n").unwrap_err();
        let SessionError::TurnedAway { status, retry_after, .. } = error else { panic!("{error}") };
        assert_eq!((status.as_u16(), retry_after), (503, Some(Duration::from_secs(7))));
        let error = judge("HTTP/1.1 403 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n").unwrap_err();
        assert!(matches!(error, SessionError::TurnedAway { retry_after: None, .. }), "{error}");
    }
}
