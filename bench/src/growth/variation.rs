//! What is varied, to which values, and what is measured of each.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::measure::{
    Circumstances, Row,
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

const MESSAGE: Row = Row::new(Measure::Message, Protocol::Tcp);
const CONNECT: Row = Row::new(Measure::Connect, Protocol::Tcp);
const REQUEST: Row = Row::new(Measure::Request, Protocol::Http1);
const HANDSHAKE: Row = Row::new(Measure::HandshakeFull, Protocol::Tls);

const fn idle(protocol: Protocol) -> Row {
    Row::new(Measure::Idle, protocol)
}

impl Variation {
    pub(super) fn rows(self) -> &'static [Row] {
        match self {
            Self::Connections => {
                const { &[idle(Protocol::Tcp), idle(Protocol::WebSocket), idle(Protocol::WebSocketTls), MESSAGE] }
            }
            Self::Workers => &[MESSAGE, CONNECT, REQUEST, HANDSHAKE],
            Self::Endpoints | Self::Reloads => &[MESSAGE, CONNECT, REQUEST],
        }
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
                "Memory is by tunnel. Messages go over all open connections in turn, and no more of them are in flight \
                 with more connections."
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
