//! Answers that are ours: short, and silent about what stands behind the edge.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;

/// How long a client may take nothing of an answer (nginx's `send_timeout`).
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a refused client may still send before its connection is dropped, so that it gets to read the answer.
const LINGER: Duration = Duration::from_secs(1);
/// And how much.
const LINGER_BYTES: usize = 256 * 1024;

/// The body of an answer of ours: `404 Not Found`, and nothing about the inside.
fn body(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    format!("{status} {reason}\n")
}

/// A whole answer for a connection that ends with it.
pub fn closing(status: u16) -> String {
    let body = body(status);
    let reason = body.trim_end();
    format!(
        "HTTP/1.1 {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Answers on a connection that pingora has not seen, and ends it so that the answer arrives.
pub async fn write_and_close(stream: &mut Stream, status: u16) {
    let sending = within(async {
        stream.write_all(closing(status).as_bytes()).await?;
        stream.flush().await
    });
    if sending.await.is_ok() {
        linger(stream).await;
    }
}

/// Sends to a client, who must take it in time.
///
/// # Errors
/// When the client is gone, or takes nothing.
pub async fn within<T>(sending: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "client takes nothing"));
    tokio::time::timeout(WRITE_TIMEOUT, sending).await.unwrap_or_else(late)
}

/// Ends a connection on which nothing is outstanding: TLS is told, too.
pub async fn end(stream: &mut Stream) {
    // Who is gone or takes nothing is closed all the same.
    tokio::time::timeout(LINGER, AsyncWriteExt::shutdown(stream)).await.ok();
}

/// Ends our side, then takes what still comes: a close with unread bytes would be a reset, and the client would lose
/// the answer.
pub async fn linger(stream: &mut Stream) {
    if AsyncWriteExt::shutdown(stream).await.is_err() {
        return;
    }
    let mut sink = [0; 4096];
    let mut left = LINGER_BYTES;
    let drain = async {
        while left > 0 {
            match stream.read(&mut sink).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Who has not gone by then is cut off: the time is the bound.
    tokio::time::timeout(LINGER, drain).await.ok();
}

/// Answers inside pingora's session.
///
/// # Errors
/// When the client is gone.
pub async fn respond(session: &mut Session, status: u16, keep: bool) -> Result<()> {
    let body = body(status);
    let mut head = ResponseHeader::build(status, Some(3))?;
    head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    head.insert_header("Content-Length", body.len())?;
    if matches!(status, 502..=504) {
        head.insert_header("Cache-Control", "no-store")?;
    }
    if !keep {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}
