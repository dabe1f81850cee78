//! The `http` probe: asks for a path over HTTP/1.1 and looks at the status, at whether the endpoint calls itself degraded,
//! and at the load that it reports.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Answer, NotWhole, ProbeError};
use crate::config::HttpProbe;

/// The largest head of an answer that is read; what is beyond it is not looked at.
const MOST: usize = 16 * 1024;

pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    probe: &HttpProbe,
    host: &str,
) -> Result<Answer, ProbeError> {
    let path = &probe.path;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: warbler-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(ProbeError::Broken)?;
    stream.flush().await.map_err(ProbeError::Broken)?;
    let head = read_head(&mut stream).await?;
    let status = status_of(&head).ok_or(ProbeError::NotHttp)?;
    if !probe.expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        return Err(ProbeError::Status(status));
    }
    let mut answer = Answer::now(field(&head, probe.degraded_header.as_str()).is_some());
    answer.in_flight = field(&head, probe.load_header.as_str()).map(whole_number);
    Ok(answer)
}

/// Up to the empty line, the end of the connection, or [`MOST`].
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ProbeError> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let seen = head.len();
        let read = stream.read_buf(&mut head).await.map_err(ProbeError::Broken)?;
        let end = head[seen.saturating_sub(3)..].windows(4).any(|window| window == b"\r\n\r\n");
        if read == 0 || end || head.len() >= MOST {
            return Ok(head);
        }
    }
}

/// The status code of `HTTP/1.1 200 OK`.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\n').next()?).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// The value of the first field of this name in the head, without the blanks around it.
fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let mut fields = lines.take_while(|line| !line.trim_ascii().is_empty());
    fields.find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_it = line[..colon].eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| line[colon + 1..].trim_ascii())
    })
}

/// A number in decimal digits alone.
fn whole_number(value: &[u8]) -> Result<u32, NotWhole> {
    let digits = value.iter().all(u8::is_ascii_digit).then_some(value);
    digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).ok_or(NotWhole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status_of(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(status_of(b""), None);
    }

    #[test]
    fn a_field_is_found_in_the_head_and_not_in_the_body() {
        let head = b"HTTP/1.1 200 OK\r\nX-Envoy-Degraded: \r\nServer: a:b\r\nodd\r\n\r\nx-body: 1\r\n";
        let found = |name| field(head, name);
        assert_eq!((found("x-envoy-degraded"), found("server")), (Some(&b""[..]), Some(&b"a:b"[..])));
        assert_eq!([found("odd"), found("x-body"), found("x-envoy")], [None; 3]);
    }

    #[test]
    fn a_load_is_a_whole_number_and_nothing_else() {
        let check = |value: &str, want| assert_eq!(whole_number(value.as_bytes()), want, "{value}");
        check("0", Ok(0));
        check("0042", Ok(42));
        check("4294967295", Ok(u32::MAX));
        for wrong in ["", "+1", "-1", "1.5", "1e3", "4294967296", "1, 2", "many", "\u{0661}"] {
            check(wrong, Err(NotWhole));
        }
    }
}
