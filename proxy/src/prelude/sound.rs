//! Whether an HTTP/1 head can be read in one way only.
//!
//! A head that two servers read differently is how requests are smuggled: one sees where a body ends or which host is
//! meant, the other sees something else. Such heads are refused here, before anything routes on them, and also because
//! pingora would refuse most of them with an answer that names it.

use http::Uri;
use httparse::{Header, Request};

/// What is wrong with a head, in a few words.
pub fn flaw(request: &Request<'_, '_>) -> Option<&'static str> {
    let is_1_1 = request.version == Some(1);
    host_flaw(request, is_1_1).or_else(|| framing_flaw(request, is_1_1))
}

/// RFC 9112 section 3.2: one `Host`, and the target's own host is the same.
fn host_flaw(request: &Request<'_, '_>, is_1_1: bool) -> Option<&'static str> {
    let mut hosts = values(request, "host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        (None, _) if !is_1_1 => None,
        (None, _) => return Some("no host"),
        (Some(_), Some(_)) => return Some("more than one host"),
    };
    if host.is_some_and(|host| host.contains(&b'@')) {
        return Some("userinfo in the host");
    }
    let target = request.path.unwrap_or_default();
    if target.starts_with('/') || target == "*" {
        return None;
    }
    let authority = target.parse::<Uri>().ok().and_then(|target| {
        let is_http = target.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"));
        target.into_parts().authority.filter(|authority| is_http && !authority.as_str().contains('@'))
    });
    match (authority, host) {
        (None, _) => Some("a target that is neither a path nor a URI"),
        (Some(authority), Some(host)) if authority.as_str().as_bytes() != host => Some("target and host differ"),
        (Some(_), _) => None,
    }
}

/// RFC 9112 section 6.3: one length, or `chunked` as the last coding, never both.
fn framing_flaw(request: &Request<'_, '_>, is_1_1: bool) -> Option<&'static str> {
    let mut lengths = values(request, "content-length").flat_map(|value| value.split(|byte| *byte == b','));
    let first = lengths.next().map(<[u8]>::trim_ascii);
    if let Some(first) = first {
        if first.is_empty() || !first.iter().all(u8::is_ascii_digit) {
            return Some("a content length that is no number");
        }
        if lengths.any(|length| length.trim_ascii() != first) {
            return Some("several content lengths");
        }
    }
    let mut codings =
        values(request, "transfer-encoding").flat_map(|value| value.split(|byte| *byte == b',')).peekable();
    codings.peek()?;
    if first.is_some() || !is_1_1 {
        return Some("a transfer coding beside a content length, or in HTTP/1.0");
    }
    let mut codings = codings.map(<[u8]>::trim_ascii).skip_while(|coding| !coding.eq_ignore_ascii_case(b"chunked"));
    match (codings.next(), codings.next()) {
        (Some(_chunked), None) => None,
        _ => Some("chunked is not the last transfer coding"),
    }
}

fn values<'a>(request: &'a Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = move |field: &&Header<'a>| field.name.eq_ignore_ascii_case(name);
    request.headers.iter().filter(named).map(|field| field.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, want: Option<&str>) {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut request = Request::new(&mut fields);
        let whole = format!("{head}\r\n\r\n");
        assert!(request.parse(whole.as_bytes()).unwrap().is_complete());
        assert_eq!(flaw(&request), want, "{head}");
    }

    #[test]
    fn one_host_is_named_and_the_target_agrees() {
        check("GET / HTTP/1.1\r\nHost: a", None);
        check("GET / HTTP/1.0", None);
        check("GET / HTTP/1.1", Some("no host"));
        check("GET / HTTP/1.1\r\nHost: a\r\nhost: a", Some("more than one host"));
        check("GET / HTTP/1.1\r\nHost: a@b", Some("userinfo in the host"));
        check("OPTIONS * HTTP/1.1\r\nHost: a", None);
        check("GET http://a:80/x HTTP/1.1\r\nHost: a:80", None);
        check("GET http://a/x HTTP/1.1\r\nHost: b", Some("target and host differ"));
        check("GET http://u@a/x HTTP/1.1\r\nHost: a", Some("a target that is neither a path nor a URI"));
        check("GET a:1 HTTP/1.1\r\nHost: a:1", Some("a target that is neither a path nor a URI"));
        check("GET ftp://a/ HTTP/1.1\r\nHost: a", Some("a target that is neither a path nor a URI"));
    }

    #[test]
    fn a_body_ends_in_one_place() {
        let both = "a transfer coding beside a content length, or in HTTP/1.0";
        let last = "chunked is not the last transfer coding";
        for (fields, want) in [
            ("Content-Length: 3", None),
            ("Content-Length: 3, 3\r\nContent-Length: 3", None),
            ("Content-Length: 3\r\nContent-Length: 4", Some("several content lengths")),
            ("Content-Length: 3,", Some("several content lengths")),
            ("Content-Length: +3", Some("a content length that is no number")),
            ("Content-Length:", Some("a content length that is no number")),
            ("Transfer-Encoding: gzip, Chunked", None),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", None),
            ("Transfer-Encoding: chunked, gzip", Some(last)),
            ("Transfer-Encoding: chunked, chunked", Some(last)),
            ("Transfer-Encoding: xchunked", Some(last)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3", Some(both)),
        ] {
            check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"), want);
        }
        check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked", Some(both));
    }
}
