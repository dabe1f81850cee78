//! The chat page: a few files that are part of the program, served as they are.
//!
//! They name nothing outside this server and the policy that comes with them forbids it, so that a name or a message
//! which is HTML to a browser can do nothing. A browser asks each time whether a file is still the same (`ETag`), so a
//! new version of the server is a new version of the page at once.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::{Either, Full};
use ring::digest::{SHA256, digest};

use super::{Body, not_allowed, refuse};

/// Only what this server serves itself; no inline script or style, no frame around it, and no text becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

struct File {
    name: &'static str,
    kind: &'static str,
    contents: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const FILES: [File; 10] = [
    File { name: "", kind: HTML, contents: include_str!("chat/index.html") },
    File { name: "style.css", kind: STYLE, contents: include_str!("chat/style.css") },
    File { name: "icon.svg", kind: PICTURE, contents: include_str!("chat/icon.svg") },
    File { name: "app.js", kind: SCRIPT, contents: include_str!("chat/app.js") },
    File { name: "session.js", kind: SCRIPT, contents: include_str!("chat/session.js") },
    File { name: "talks.js", kind: SCRIPT, contents: include_str!("chat/talks.js") },
    File { name: "outbox.js", kind: SCRIPT, contents: include_str!("chat/outbox.js") },
    File { name: "api.js", kind: SCRIPT, contents: include_str!("chat/api.js") },
    File { name: "view.js", kind: SCRIPT, contents: include_str!("chat/view.js") },
    File { name: "words.js", kind: SCRIPT, contents: include_str!("chat/words.js") },
];

/// By the place in [`FILES`].
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |file: &File| format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, file.contents.as_bytes())));
    FILES.iter().map(tag).collect()
});

pub(super) fn answer<B>(request: &Request<B>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    let Some(name) = request.uri().path().strip_prefix("/chat/") else { return to_the_folder() };
    let Some(at) = FILES.iter().position(|file| file.name == name) else {
        return refuse(StatusCode::NOT_FOUND, "there is nothing here");
    };
    let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let same = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == TAGS[at]));
    file(&FILES[at], &TAGS[at], same)
}

fn file(file: &File, tag: &str, same: bool) -> Response<Body> {
    let body = if same { Full::default() } else { Full::from(file.contents) };
    let mut response = Response::new(Either::Left(body));
    *response.status_mut() = if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(CONTENT_TYPE, file.kind);
    set(CACHE_CONTROL, "no-cache");
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("base64 is a header value"));
    response
}

/// The files name each other from the folder on.
fn to_the_folder() -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/chat/"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_makes_no_html_of_text() {
        for file in &FILES {
            let outside = file.contents.matches("://").count();
            let namespaces = file.contents.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(outside, namespaces, "{} names something outside", file.name);
            for sink in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=\"", " onclick=\""]
            {
                assert!(!file.contents.contains(sink), "{} has {sink}", file.name);
            }
        }
    }

    #[test]
    fn every_module_that_is_named_is_there() {
        let names: Vec<_> = FILES.iter().map(|file| file.name).collect();
        for file in FILES.iter().filter(|file| file.kind == SCRIPT) {
            for import in file.contents.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                assert!(names.contains(&name), "{} imports {name}", file.name);
            }
        }
    }
}
