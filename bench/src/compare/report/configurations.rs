//! The configurations that were compared, each shown once with all that it was used for.

use std::fmt::Write;

use serde::Serialize;

use super::Report;
use crate::measure::{
    Row,
    peer::{Peer, Setup},
    row::{Measure, Protocol},
};

#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    /// Protocols, and downloads of them.
    used_for: Vec<String>,
    text: String,
}

/// Those that a proxy had for these rows.
pub(super) fn of(peer: &Peer, rows: &[Row]) -> Vec<Configuration> {
    let mut all: Vec<Configuration> = Vec::new();
    for bulk in [false, true] {
        for protocol in Protocol::ALL {
            let same = |row: &&Row| row.protocol == protocol && (row.measure == Measure::Bulk) == bulk;
            if !rows.iter().filter(same).any(|row| peer.can(*row)) {
                continue;
            }
            let text = peer.configuration(&Setup::shown(protocol, bulk));
            let name = if bulk { format!("downloads over {protocol}") } else { protocol.to_string() };
            match all.iter_mut().find(|known| known.text == text) {
                Some(known) => known.used_for.push(name),
                None => all.push(Configuration { used_for: vec![name], text }),
            }
        }
    }
    all
}

impl Report {
    pub(super) fn configurations(&self) -> String {
        let mut text = String::new();
        for proxy in &self.proxies {
            let name = proxy.peer.name();
            let language = if proxy.peer.is_warbler() { "toml" } else { "text" };
            _ = writeln!(text, "<details><summary>The configurations of {name}</summary>\n");
            for Configuration { used_for, text: configuration } in &proxy.configurations {
                let configuration = configuration.trim_end();
                _ = writeln!(text, "{name}, {}:\n\n```{language}\n{configuration}\n```\n", used_for.join(", "));
            }
            text.push_str("</details>\n\n");
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }
}
