//! Who may ask what.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::refusal;
use crate::config::Admin;
use crate::route::canonical_host;
use crate::state::State;

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Tcp,
    /// Only the owner of the process can open it.
    Unix,
}

#[derive(Clone)]
pub struct Guarded {
    pub state: Arc<State>,
    pub door: Door,
}

pub async fn check(Shared(guarded): Shared<Guarded>, request: Request, next: Next) -> Response {
    if guarded.door == Door::Tcp {
        let snapshot = guarded.state.snapshot.load_full();
        let admin = &snapshot.config.admin;
        if !host_is_known(request.headers(), admin) {
            return refusal(StatusCode::MISDIRECTED_REQUEST, "this name is not served here; add it to admin.hosts");
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !has_token(request.headers(), admin).await {
            return refusal(
                StatusCode::FORBIDDEN,
                "changes need the Unix socket, or the bearer token of admin.token-file",
            );
        }
    }
    next.run(request).await
}

/// IP literals and `localhost` cannot be rebound by DNS; other names must be listed.
fn host_is_known(headers: &HeaderMap, admin: &Admin) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let host = canonical_host(host);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok()
        || admin.hosts.iter().any(|known| canonical_host(known) == host)
}

async fn has_token(headers: &HeaderMap, admin: &Admin) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (Some(given), Some(file)) = (given.and_then(|value| value.strip_prefix("Bearer ")), &admin.token_file) else {
        return false;
    };
    // Read each time, so that a new token counts at once.
    match tokio::fs::read_to_string(file).await {
        Ok(token) if !token.trim().is_empty() => same(given.trim().as_bytes(), token.trim().as_bytes()),
        Ok(_) => false,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "token file cannot be read");
            false
        }
    }
}

/// Compares without telling by its duration how much was right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_dns_cannot_rebind_are_known() {
        let admin = Admin { bind: Vec::new(), socket: None, token_file: None, hosts: vec!["edge.internal".into()] };
        let known = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            host_is_known(&headers, &admin)
        };
        for host in ["127.0.0.1:9901", "localhost", "LOCALHOST:1", "[::1]:9901", "10.0.0.1", "edge.internal:9901"] {
            assert!(known(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!known(host), "{host}");
        }
        assert!(!host_is_known(&HeaderMap::new(), &admin));
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        assert!(!same(b"secre", b"secret"));
        assert!(!same(b"Secret", b"secret"));
    }
}
