//! Talks to a running edge over its admin socket: one HTTP/1.0 request, one answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;

/// A reload with large databases takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// # Errors
/// When the configuration names no socket.
pub fn of(config: &Config) -> Result<&Path, String> {
    config.admin.socket.as_deref().ok_or_else(|| "the configuration names no admin.socket to ask through".to_owned())
}

/// # Errors
/// When the configuration names no socket, or nobody answers on it.
pub fn ask(config: &Config, method: &str, target: &str) -> Result<(u16, Vec<u8>), String> {
    send_to(of(config)?, method, target, b"")
}

/// Sends a body of JSON, or none.
///
/// # Errors
/// When nobody answers.
pub fn send_to(path: &Path, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let failed = |error: std::io::Error| format!("cannot ask the edge through {}: {error}", path.display());
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    parse(&answer).ok_or_else(|| format!("what answers on {} is not an edge", path.display()))
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(answer).ok()? else { return None };
    Some((response.code?, answer[length..].to_vec()))
}

/// The error text of a refusal.
pub fn error_in(body: &[u8]) -> String {
    let page: Value = serde_json::from_slice(body).unwrap_or_default();
    page["error"].as_str().unwrap_or("the edge refused").to_owned()
}

/// Percent-encodes a query value (RFC 3986: everything but unreserved characters).
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
