//! A small HTTP/1.1 client: one request on a connection of its own. For admin pages, probes and tests that look at a
//! whole answer; those that need exact bytes use [`RawClient`].

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

use super::RawClient;

/// Fields are few in all that is asked here.
const MOST_FIELDS: usize = 100;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order of the answer.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name (lower case).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none: the error shows it.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("status {}, no JSON: {}", self.status, self.text()))
    }
}

/// Asks with `GET` and no body.
///
/// # Errors
/// When there is no connection or no whole answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    request(address, "GET", path, &[], b"").await
}

/// Asks with any method, fields and body. `Host` is the address unless given.
///
/// # Errors
/// When there is no connection or no whole answer.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let client = RawClient::connect(address).await?;
    request_over(client, &address.to_string(), method, path, fields, body)
        .await
        .with_context(|| format!("{method} http://{address}{path}"))
}

/// Asks over a Unix socket.
///
/// # Errors
/// When there is no connection or no whole answer.
pub async fn request_unix(
    socket: &Path,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let stream =
        UnixStream::connect(socket).await.with_context(|| format!("cannot connect to {}", socket.display()))?;
    request_over(RawClient::over(stream), "localhost", method, path, fields, body).await
}

/// Asks over a connection that is open already, such as one that began with a PROXY header, and closes it.
///
/// # Errors
/// When there is no whole answer.
pub async fn request_over<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: RawClient<S>,
    host: &str,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("host: {host}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    client.send(&[head.as_bytes(), b"\r\n", body].concat()).await?;
    read_answer(&mut client, method).await
}

/// Reads one answer and leaves the connection open.
///
/// # Errors
/// When there is no whole answer.
pub async fn read_answer<S: AsyncRead + AsyncWrite + Unpin>(client: &mut RawClient<S>, method: &str) -> Result<Answer> {
    let head = client.read_until(b"\r\n\r\n").await?;
    let mut answer = parse_head(&head)?;
    let no_body = method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304);
    let chunked = answer.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    answer.body = match answer.field("content-length").map(str::parse) {
        _ if no_body => Vec::new(),
        _ if chunked => read_chunks(client).await?,
        Some(length) => client.read_exact(length.context("content-length is no number")?).await?,
        None => client.read_to_end().await?,
    };
    Ok(answer)
}

fn parse_head(head: &[u8]) -> Result<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let shown = || format!("no HTTP answer: {}", head.escape_ascii());
    if parsed.parse(head).with_context(shown)?.is_partial() {
        bail!(shown());
    }
    let fields = parsed
        .headers
        .iter()
        .map(|field| (field.name.to_lowercase(), String::from_utf8_lossy(field.value).into_owned()))
        .collect();
    Ok(Answer { status: parsed.code.with_context(shown)?, fields, body: Vec::new() })
}

async fn read_chunks<S: AsyncRead + AsyncWrite + Unpin>(client: &mut RawClient<S>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = client.read_until(b"\r\n").await?;
        let digits = line.split(|&byte| byte == b';' || byte == b'\r').next().unwrap_or_default();
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
        let size = size.with_context(|| format!("no chunk size: {}", line.escape_ascii()))?;
        if size == 0 {
            while client.read_until(b"\r\n").await? != b"\r\n" {}
            return Ok(body);
        }
        body.extend(client.read_exact(size).await?);
        client.read_exact(2).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Action, HttpStub};

    async fn check(raw: &'static [u8], status: u16, body: &str) {
        let stub = HttpStub::scripted("x", move |_| vec![Action::Send(raw.to_vec()), Action::Close]).await.unwrap();
        let answer = get(stub.address(), "/").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
    }

    #[tokio::test]
    async fn bodies_by_length_by_chunks_and_by_the_end() {
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, "hi").await;
        check(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nhi\r\nA\r\n 012345678\r\n0\r\nt: 1\r\n\r\n",
            200,
            "hi 012345678",
        )
        .await;
        check(b"HTTP/1.0 503 no\r\n\r\nto the end", 503, "to the end").await;
        check(b"HTTP/1.1 204 none\r\n\r\n", 204, "").await;
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_shown() {
        let stub =
            HttpStub::scripted("x", |_| vec![Action::Send(b"SSH-2.0\r\n\r\n".to_vec()), Action::Close]).await.unwrap();
        let error = format!("{:#}", get(stub.address(), "/a").await.unwrap_err());
        assert!(error.contains("/a") && error.contains("no HTTP answer: SSH-2.0"), "{error}");
    }
}
