//! What is varied, to which values, and what is measured of each.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::measure::{
    Circumstances, Row,
    figure::Figure,
    row::{Measure, Protocol},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variation {
    /// Open connections: 1000, 3000, 9000.
    Connections,
    /// Worker threads: 1, 2.
    Workers,
    /// Endpoints of the cluster: 10, 100, 1000, 10 000.
    Endpoints,
    /// Without reloads, and with one every 200 ms.
    Reloads,
}

/// One value of a variation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) circumstances: Circumstances,
}

/// What every variation is about.
const ROWS: [Row; 8] = [
    Row::new(Measure::Idle, Protocol::Tcp),
    Row::new(Measure::Message, Protocol::Tcp),
    Row::new(Measure::Connect, Protocol::Tcp),
    Row::new(Measure::HandshakeFull, Protocol::Tls),
    Row::new(Measure::Request, Protocol::Http1),
    Row::new(Measure::Latency, Protocol::Tcp),
    Row::new(Measure::Bulk, Protocol::Tcp),
    Row::new(Measure::GivenBack, Protocol::Tcp),
];

/// What only the number of open connections could change.
const OTHER_TUNNELS: [Row; 2] =
    [Row::new(Measure::Idle, Protocol::WebSocket), Row::new(Measure::Idle, Protocol::WebSocketTls)];

/// The figures of a row that tell of the proxy, and not of the load as well.
pub(super) fn figures(row: Row) -> &'static [Figure] {
    match row.measure {
        // What comes as seldom as a reload is in no quiet window.
        Measure::Latency => &[Figure::P50, Figure::QuietP99, Figure::P99],
        _ => &row.figures()[..1],
    }
}

impl Variation {
    pub(super) fn rows(self) -> impl Iterator<Item = Row> {
        let more = if self == Self::Connections { &OTHER_TUNNELS[..] } else { &[] };
        ROWS.iter().chain(more).copied()
    }

    pub(super) fn cases(self) -> Vec<Case> {
        let plain = Circumstances::default();
        let open = |open| Circumstances { open: Some(open), ..plain };
        let workers = |workers| Circumstances { workers, ..plain };
        let endpoints = |endpoints| Circumstances { endpoints, ..plain };
        let cases: &[(&str, Circumstances)] = match self {
            Self::Connections => &[("1000", open(1000)), ("3000", open(3000)), ("9000", open(MOST_CONNECTIONS))],
            Self::Workers => &[("1", workers(1)), ("2", workers(2))],
            Self::Endpoints => &[
                ("10", endpoints(10)),
                ("100", endpoints(100)),
                ("1000", endpoints(1000)),
                ("10 000", endpoints(10_000)),
            ],
            Self::Reloads => &[("none", plain), ("every 200 ms", Circumstances { reloads: true, ..plain })],
        };
        cases.iter().map(|&(name, circumstances)| Case { name, circumstances }).collect()
    }

    /// Whether it says something about a proxy that is not warbler, too.
    pub(super) fn suits_peers(self) -> bool {
        self == Self::Connections
    }

    /// What a reader has to know.
    pub(super) fn remark(self) -> &'static str {
        match self {
            Self::Connections => {
                "Memory is by tunnel. Messages and requests go over all open connections in turn, and no more of them are in \
                 flight with more connections. New tunnels and downloads have as many silent tunnels beside them. What is given \
                 back is what that many tunnels had."
            }
            Self::Workers => {
                "CPU of all workers together. With two of them, the second shares its core with load and endpoint, so \
                 this tells what a worker more costs, and not how much more two can do."
            }
            Self::Endpoints => {
                "Addresses of 127.1.0.0/16 on one port, behind which is one process. A request opens an upstream connection \
                 when none to its endpoint is idle in the pool: the more endpoints, the more often."
            }
            Self::Reloads => {
                "The file is replaced and SIGHUP sent; the next one follows 200 ms after the change counts. What the \
                 reloads themselves cost is in the CPU."
            }
        }
    }
}

/// The most that a process with 20 000 open files can have.
pub(super) const MOST_CONNECTIONS: usize = 9000;

impl fmt::Display for Variation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "open connections",
            Self::Workers => "workers",
            Self::Endpoints => "endpoints",
            Self::Reloads => "reloads",
        })
    }
}
