//! When the edge handed a connection to which server, out of its access log.
//!
//! A login reaches a server a while after the edge has picked it: the phone has to hear of the upgrade and to say who it
//! is. Where one small machine plays all phones, that while changes, and logins bunch up behind a second in which it was
//! long. What the edge is held to is when it lets a connection through.

use std::{collections::HashMap, fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    time_ms: u64,
    endpoint: Option<SocketAddr>,
    status: Option<u16>,
}

/// The times since 1970 at which each endpoint got a WebSocket.
pub(super) fn read(log: &Path) -> Result<HashMap<SocketAddr, Vec<Duration>>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut found: HashMap<SocketAddr, Vec<Duration>> = HashMap::new();
    for line in text.lines() {
        let Line { time_ms, endpoint, status } =
            serde_json::from_str(line).with_context(|| format!("no line of an access log: {line}"))?;
        if let (Some(endpoint), Some(101)) = (endpoint, status) {
            found.entry(endpoint).or_default().push(Duration::from_millis(time_ms));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Workspace;

    #[test]
    fn only_those_who_got_a_websocket_count() {
        let workspace = Workspace::new().unwrap();
        let log = r#"{"time_ms":1000,"kind":"upgrade","endpoint":"127.0.0.1:1","status":101}
{"time_ms":2000,"kind":"upgrade","status":503}
{"time_ms":3000,"kind":"upgrade","endpoint":"127.0.0.1:1","status":502}
{"time_ms":500,"kind":"upgrade","endpoint":"127.0.0.1:1","status":101}
"#;
        let found = read(&workspace.write("access.log", log).unwrap()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[&"127.0.0.1:1".parse().unwrap()], [Duration::from_secs(1), Duration::from_millis(500)]);
    }
}
