//! The upgrade to WebSocket, by hand: the answer that says no has a `Retry-After`, which the library does not tell.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use backend::frame::{MAX_FRAME, SUBPROTOCOL};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use ring::digest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_websockets::{ClientBuilder, Limits, WebSocketStream};

use super::{
    SessionError,
    door::{Door, Io, Pipe},
    session::at_most_an_hour,
};

/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const LONGEST_HEAD: usize = 8 * 1024;
const MOST_FIELDS: usize = 64;

pub(super) async fn upgrade(mut pipe: Pipe, door: &Door) -> Result<WebSocketStream<Pipe>, SessionError> {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    pipe.write_all(request(door, &key).as_bytes()).await?;
    pipe.flush().await?;
    let mut head = read_head(&mut pipe).await?;
    let end = check(&head, &key, door)?;
    if end < head.len() {
        pipe = Box::new(Rewound { unread: head.split_off(end).into(), pipe });
    }
    let limits = Limits::default().max_payload_len(Some(MAX_FRAME));
    Ok(ClientBuilder::new().limits(limits).take_over(pipe))
}

/// A connection of which something was read already: an edge may close right behind its `101`.
#[derive(Debug)]
struct Rewound {
    unread: Bytes,
    pipe: Pipe,
}

impl Io for Rewound {
    fn socket(&self) -> &TcpStream {
        self.pipe.socket()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.pipe).poll_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
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

/// Where the head ends, if it is the right answer.
fn check(head: &[u8], key: &str, door: &Door) -> Result<usize, SessionError> {
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
    match parsed {
        httparse::Status::Complete(end) => Ok(end),
        httparse::Status::Partial => Err(broken("an answer to the upgrade without an end".into())),
    }
}

/// `Retry-After` as servers and edges say it here; a date is passed over.
fn seconds(value: &str) -> Option<Duration> {
    let digits = value.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // One that is too large to be read is a long time, too.
    is_number.then(|| at_most_an_hour(Duration::from_secs(digits.parse().unwrap_or(u64::MAX))))
}

fn accept(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn judge(head: &str) -> Result<usize, SessionError> {
        check(head.as_bytes(), KEY, &Door::new(([127, 0, 0, 1], 1).into()))
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let good = "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: im.v1\r\n\r\n";
        assert_eq!(judge(&format!("{good}what follows")).unwrap(), good.len());
        for (from, to) in [("s3p", "S3p"), ("im.v1", "im.v2")] {
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

    #[test]
    fn however_long_a_server_wants_to_be_left_alone_an_hour_is_enough() {
        for (value, want) in [
            ("3600", Some(3600)),
            ("3601", Some(3600)),
            ("18446744073709551615", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(seconds(value), want.map(Duration::from_secs), "{value:?}");
        }
    }

    #[tokio::test]
    async fn a_close_right_behind_the_answer_is_heard() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::new(listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let request = String::from_utf8(request).unwrap();
            let key = request.split_once("Sec-WebSocket-Key: ").unwrap().1.split_once("\r\n").unwrap().0;
            let answer = format!(
                "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: im.v1\r\n\r\n",
                accept(key)
            );
            // A Close with 1012.
            stream.write_all(&[answer.as_bytes(), b"\x88\x02\x03\xf4"].concat()).await.unwrap();
            stream
        };
        let session = super::super::Session::open(&door, "token".into(), "phone", None);
        let (outcome, _stream) = tokio::join!(session, server);
        let error = outcome.unwrap_err();
        assert!(matches!(error, SessionError::Closed { code: Some(1012) }), "{error}");
    }
}
