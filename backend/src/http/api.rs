//! What all requests of the HTTP API have in common: who asks, bodies, and answers that say what is wrong.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::{Body, answer_json};
use crate::{
    clock::now,
    frame::LoginCode,
    group::Denied,
    json::name,
    server::Server,
    store::{GroupError, StoreError},
};

/// Longest body of a request, in bytes: 256 members of 60 bytes, escaped, fit.
const MAX_REQUEST: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// When what the store did not do may be tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// One of the codes in docs/protocol.md.
    pub(super) code: &'static str,
    pub(super) reason: String,
    /// When it may be sent again, if that makes sense.
    again: Option<Duration>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, reason: impl Into<String>) -> Self {
        Self { status, code, reason: reason.into(), again: None }
    }

    pub(super) fn wrong(code: &'static str, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, reason)
    }

    pub(super) fn answer(&self) -> Response<Body> {
        let mut response = answer_json(self.status, &json!({ "code": self.code, "error": self.reason }));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(again) = self.again {
            // In whole seconds, and not too early.
            let seconds = again.as_secs() + u64::from(again.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Denied(denied) => denied.into(),
            GroupError::Store(error) => error.into(),
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let (status, code) = match denied {
            // Who is not in a group learns nothing of it, not even whether it is there.
            Denied::NotAMember => (StatusCode::NOT_FOUND, "no_such_group"),
            Denied::NotAllowed(_) => (StatusCode::FORBIDDEN, "not_allowed"),
            Denied::TooManyMembers => (StatusCode::CONFLICT, "too_many_members"),
            Denied::TooManyGroups { .. } => (StatusCode::CONFLICT, "too_many_groups"),
        };
        Self::new(status, code, denied.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NotAMember => return Denied::NotAMember.into(),
            StoreError::Busy => "busy",
            StoreError::Failed(_) | StoreError::Closed | StoreError::Injected => "not_stored",
        };
        tracing::warn!(error = &error as &dyn std::error::Error, "a request of the API failed");
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string());
        Self { again: Some(RETRY), ..problem }
    }
}

/// The user whose token comes with a request.
pub(super) fn user(server: &Server, headers: &HeaderMap) -> Result<String, Problem> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let missing = || Problem::new(StatusCode::UNAUTHORIZED, "token_missing", "`Authorization: Bearer TOKEN` is needed");
    let token = given.ok_or_else(missing)?;
    let now = Duration::from_millis(now()).as_secs_f64();
    server.config.verifier.verify(token, now).map(|identity| identity.user).map_err(|code| {
        let reason = "this token is not accepted; the code says why, as at a login";
        Problem::new(StatusCode::UNAUTHORIZED, name::<LoginCode>(code.into()), reason)
    })
}

/// Whether the user may change as much as this many requests of a session do.
pub(super) fn allowed(server: &Server, user: &str, requests: u32) -> Result<(), Problem> {
    server.allowances.take(user, requests).map_err(|again| {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_fast", "the user changes too much, wait");
        Problem { again: Some(again), ..problem }
    })
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The JSON in a request's body.
pub(super) async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Problem> {
    let reading = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let read = timeout(BODY_WITHIN, reading)
        .await
        .map_err(|_elapsed| Problem::new(StatusCode::REQUEST_TIMEOUT, "body_late", "the body did not come in time"))?;
    let bytes = read.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
        Some(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", "the body is longer than 64 KiB"),
        None => Problem::wrong("body_invalid", "the body broke off"),
    })?;
    serde_json::from_slice(&bytes.to_bytes()).map_err(|error| Problem::wrong("body_invalid", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_follows_its_scheme() {
        assert_eq!(bearer("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer("bearer  a.b.c "), Some("a.b.c"));
        assert_eq!(bearer("Basic a.b.c"), None);
        assert_eq!(bearer("a.b.c"), None);
    }
}
