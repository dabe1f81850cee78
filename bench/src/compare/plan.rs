//! What is measured when: every round has every row, and every row every proxy, each round beginning with the next.

use std::time::Duration;

use super::samples::Side;
use crate::measure::{
    Row, Size,
    peer::Peer,
    row::{Measure, Protocol},
};

/// Starting an endpoint and a proxy, and ending them.
const AROUND: Duration = Duration::from_millis(300);
/// For memory to settle, once.
const SETTLING: Duration = Duration::from_millis(600);

/// One measurement to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) round: u32,
    pub(super) row: Row,
    /// `None`: straight to the endpoint.
    pub(super) peer: Option<&'a Peer>,
}

pub(super) fn steps<'a>(rounds: u32, rows: &[Row], peers: &'a [Peer]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for round in 1..=rounds {
        for &row in rows {
            let direct = (row.measure == Measure::Latency).then_some(None);
            let able = turn(peers, round).filter(|peer| peer.can(row)).map(Some);
            steps.extend(direct.into_iter().chain(able).map(|peer| Step { round, row, peer }));
        }
    }
    steps
}

/// The proxies, each round starting with the next.
fn turn(peers: &[Peer], round: u32) -> impl Iterator<Item = &Peer> {
    let first = round as usize % peers.len();
    peers[first..].iter().chain(&peers[..first])
}

impl Step<'_> {
    pub(super) fn side(&self) -> Side {
        self.peer.map_or(Side::Direct, |peer| Side::Proxy(peer.product()))
    }

    /// About how long it takes: for the estimate of a run, which corrects itself.
    pub(super) fn guess(&self, size: &Size) -> Duration {
        AROUND + work(self.row, size)
    }
}

fn work(row: Row, size: &Size) -> Duration {
    let tls = row.protocol.is_tls();
    let opening = |tunnels| micros(tunnels, if tls { 900 } else { 150 });
    match row.measure {
        Measure::Idle => SETTLING * 2 + opening(size.connections),
        Measure::GivenBack => SETTLING * 2 + opening(size.mass) + size.rest,
        Measure::Message => micros(size.messages, if tls { 25 } else { 20 }),
        Measure::Request => micros(size.requests, if row.protocol == Protocol::Http1 { 40 } else { 60 }),
        Measure::Connect | Measure::HandshakeFull | Measure::HandshakeResumed => opening(size.new_connections),
        Measure::Latency => size.time,
        Measure::Bulk => Duration::from_millis(size.bulk_mib / 2),
    }
}

fn micros(count: usize, each: u64) -> Duration {
    Duration::from_micros(count as u64 * each)
}
