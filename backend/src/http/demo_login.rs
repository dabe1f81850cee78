//! Tokens for everybody who asks, so that a demo needs no accounts. Only with `--demo-login`.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::{
    Body, answer_json,
    api::{Problem, body},
    not_allowed,
};
use crate::{clock::now, conversation::is_id, server::Server};

/// How long such a token is good.
const GOOD_FOR: Duration = Duration::from_secs(12 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    user: String,
}

pub(super) async fn answer(server: &Server, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let answer = sign(server, request).await.unwrap_or_else(|problem| problem.answer());
    server.metrics.api_answered(answer.status());
    answer
}

async fn sign(server: &Server, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
    let Some(signer) = &server.config.demo_login else {
        let reason = "this server signs no tokens: it was started without --demo-login";
        return Err(Problem::new(StatusCode::FORBIDDEN, "demo_login_off", reason));
    };
    let Who { user } = body(request).await?;
    if !is_id(&user) {
        return Err(Problem::wrong("user_invalid", "a user has 1 to 60 bytes without colon and white space"));
    }
    let expires = (Duration::from_millis(now()) + GOOD_FOR).as_secs();
    Ok(answer_json(StatusCode::OK, &json!({ "user": user, "token": signer.sign(&user, expires), "expires": expires })))
}
