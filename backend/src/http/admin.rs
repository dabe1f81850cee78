//! What operators and tests may do. Each has a flag of its own, because this address is also that of the clients, and
//! who may drain a server need not be able to break it.

use std::{num::NonZeroU32, sync::Arc};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::{Body, answer_json, refuse};
use crate::{
    drain::{self, Pace},
    duration,
    fault::Wanted,
    server::Server,
};

/// Longest body of `POST /admin/fault`, in bytes.
const FAULT_BODY: usize = 4096;

/// Begins a drain and does not wait for its end; `/load` and `/readyz` show it.
pub(super) fn drain(server: &Arc<Server>, request: &Request<Incoming>) -> Response<Body> {
    let pace = match pace(server.config.drain, request.uri().query().unwrap_or_default()) {
        Ok(pace) => pace,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, &reason),
    };
    if server.drain() {
        return refuse(StatusCode::CONFLICT, "this server is draining already");
    }
    let sessions = server.sessions();
    let draining = Arc::clone(server);
    server.spawn(async move {
        tokio::select! {
            () = drain::by_operator(&draining, pace) => {}
            () = draining.leaving.cancelled() => {}
        }
    });
    let deadline_ms = u64::try_from(pace.deadline.as_millis()).unwrap_or(u64::MAX);
    let begun = json!({ "draining": true, "sessions": sessions, "rate": pace.rate, "deadline_ms": deadline_ms });
    answer_json(StatusCode::ACCEPTED, &begun)
}

/// `rate=200&deadline=60s`, both of which may be missing.
fn pace(mut pace: Pace, query: &str) -> Result<Pace, String> {
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("rate", rate)) => {
                pace.rate = rate.parse::<NonZeroU32>().map_err(|error| format!("rate `{rate}`: {error}"))?;
            }
            Some(("deadline", deadline)) => {
                pace.deadline = duration::parse(deadline).map_err(|error| format!("deadline `{deadline}`: {error}"))?;
            }
            _ => return Err(format!("`{part}` is neither rate=NUMBER nor deadline=DURATION")),
        }
    }
    Ok(pace)
}

pub(super) async fn fault(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let body = match Limited::new(request.into_body(), FAULT_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match serde_json::from_slice::<Wanted>(&body) {
        Ok(wanted) => {
            server.faults.set(&wanted);
            tracing::warn!(faults = ?server.faults.now(), "faults changed");
            answer_json(StatusCode::OK, &json!(server.faults.now()))
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pace_may_be_given_in_parts() {
        let default = Pace { rate: NonZeroU32::MIN, deadline: Duration::from_secs(7) };
        let check = |query, rate, seconds| {
            let want = Pace { rate: NonZeroU32::new(rate).unwrap(), deadline: Duration::from_secs(seconds) };
            assert_eq!(pace(default, query), Ok(want), "{query}");
        };
        check("", 1, 7);
        check("rate=200&deadline=60s", 200, 60);
        check("deadline=1m", 1, 60);
        for wrong in ["rate=0", "rate=x", "deadline=60", "speed=1", "rate"] {
            assert!(pace(default, wrong).is_err(), "{wrong}");
        }
    }
}
