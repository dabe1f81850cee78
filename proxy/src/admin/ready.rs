//! Whether this edge should get clients, and the line that says it has started.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Context;
use crate::state::{Phase, State};

/// 200, or 503 with the reasons. Backends that are down are none: then every edge would leave at once.
pub async fn readyz(Shared(context): Shared<Context>) -> Response {
    let reasons = reasons_against(&context.state);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons}))).into_response()
}

fn reasons_against(state: &State) -> Vec<String> {
    let mut reasons = Vec::new();
    match state.phase() {
        Phase::Starting => reasons.push("starting".to_owned()),
        Phase::Running => {}
        Phase::Leaving | Phase::Draining => reasons.push("stopping".to_owned()),
    }
    let snapshot = state.snapshot.load_full();
    for cluster in &snapshot.clusters {
        // Only a cluster that has nobody at all: a name among others that does not resolve is an alarm, not a reason.
        if cluster.members.is_empty() {
            let names = cluster.state.unresolved_names(&cluster.config).join(", ");
            reasons.push(format!("cluster `{}` has no endpoint: {names} did not resolve yet", cluster.config.name));
        }
    }
    reasons
}

/// The ready line on stdout: one JSON object with every bound address.
pub fn announce(state: &State, admin: &(Vec<SocketAddr>, Option<PathBuf>)) {
    let line = json!({
        "event": "ready",
        "edge": &*state.snapshot.load().config.edge.name,
        "pid": std::process::id(),
        "addresses": {"listeners": state.addresses(), "admin": admin.0, "socket": admin.1},
    });
    let mut stdout = std::io::stdout().lock();
    // Who started us without a stdout does not wait for this line.
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
}
