//! Data to stdout, talk to stderr. A closed pipe is not our failure: whoever closed it has seen enough.

use std::io::{Write, stderr, stdout};

use serde_json::Value;

/// A line of what was asked for.
pub fn data(line: impl AsRef<str>) {
    let mut out = stdout().lock();
    _ = writeln!(out, "{}", line.as_ref());
    _ = out.flush();
}

/// A line about what goes on.
pub fn talk(line: impl AsRef<str>) {
    _ = writeln!(stderr().lock(), "{}", line.as_ref());
}

/// The ready line that every started program prints once: all bound addresses by name, and the process id.
pub fn ready(addresses: &Value) {
    data(serde_json::json!({ "event": "ready", "addresses": addresses, "pid": std::process::id() }).to_string());
}
