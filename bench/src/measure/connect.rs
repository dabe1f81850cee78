//! CPU and rate of connections that come, carry one message and go: in order, without resets, so that every proxy has to
//! do all of the closing. The client closes first, and has the kernel's TIME_WAIT.

use std::cell::Cell;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream as streams};
use tokio_rustls::rustls::HandshakeKind;

use super::{
    Measurement,
    certificate::Sessions,
    figure::Figure,
    load::{Dialogue, Way},
    meter::{Meter, Watched},
};

/// Connections at a time, each from a lane of its own: below every proxy's accept queue.
const LANES: usize = 32;

/// `beside` silent tunnels are open meanwhile.
pub(super) async fn connections(
    watched: Watched,
    way: &Way,
    sessions: Sessions,
    count: usize,
    beside: usize,
) -> Result<Measurement> {
    let _beside = way.connect_all(beside).await?;
    let mut lanes = Vec::new();
    for _ in 0..LANES.min(count) {
        // Tickets serve once, so lanes share none: a lane resumes what its own last connection was given.
        let lane = Way::new(way.address, way.protocol, sessions)?;
        // The first one has no session yet, and is what warms up.
        one(&lane, HandshakeKind::Full).await?;
        lanes.push(lane);
    }
    let wanted = match sessions {
        Sessions::Fresh => HandshakeKind::Full,
        Sessions::Resumed => HandshakeKind::Resumed,
    };
    let left = Cell::new(count);
    let meter = Meter::start(Some(watched)).await?;
    streams::iter(&lanes)
        .map(async |lane| {
            while let Some(after) = left.get().checked_sub(1) {
                left.set(after);
                one(lane, wanted).await?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(LANES)
        .try_collect::<()>()
        .await?;
    let spent = meter.stop().await?;
    Ok(Measurement {
        figures: vec![(Figure::Cpu, spent.micros_by(count)), (Figure::Rate, spent.rate_of(count))],
        conditions: spent.conditions,
    })
}

async fn one(way: &Way, handshake: HandshakeKind) -> Result<()> {
    let stream = way.open().await?;
    if way.tls.is_some() {
        stream.ensure_handshake(handshake)?;
    }
    let dialogue = Dialogue::over(stream, way.protocol).await.context("a new connection did not work")?;
    dialogue.into_stream().close().await
}
