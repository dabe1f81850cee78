//! Memory of silent tunnels, and what of it comes back when they have closed.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{
    Measurement,
    figure::Figure,
    load::{Client, Way, exchange_all},
    meter::{Meter, Watched, as_float},
};

/// Connections that come and go before a figure is taken, so that what a proxy makes once is not in it.
const WARM_UP_CONNECTIONS: usize = 20;
/// A proxy that has grown by less (in bytes) has nothing to give back that could be told from noise.
const WORTH_TELLING: f64 = 1e6;

/// KB (1000 bytes) of user memory for each tunnel that has carried one message and is silent. `pause` comes before
/// anything is counted: by then a proxy has given back what its start took.
pub(super) async fn idle(watched: Watched, way: &Way, tunnels: usize, pause: Duration) -> Result<Measurement> {
    let before = baseline(watched, way, pause).await?;
    let meter = Meter::start(Some(watched)).await?;
    let mut open = way.connect_all(tunnels).await?;
    let after = watched.settled_memory().await?;
    survive(&mut open).await?;
    let conditions = meter.stop().await?.conditions;
    Ok(Measurement { figures: vec![(Figure::Memory, (after - before) / 1000.0 / as_float(tunnels))], conditions })
}

/// Opens tunnels, closes them all at once, and looks again after a rest. `pause` as in [`idle`].
pub(super) async fn given_back(
    watched: Watched,
    way: &Way,
    tunnels: usize,
    rest: Duration,
    pause: Duration,
) -> Result<Measurement> {
    let before = baseline(watched, way, pause).await?;
    let meter = Meter::start(Some(watched)).await?;
    let mut open = way.connect_all(tunnels).await?;
    survive(&mut open).await?;
    let full = watched.settled_memory().await?;
    drop(open);
    sleep(rest).await;
    let after = watched.memory()?;
    let conditions = meter.stop().await?.conditions;
    let mut figures = vec![(Figure::LeftOver, (after - before) / 1000.0)];
    if full - before >= WORTH_TELLING {
        figures.insert(0, (Figure::GivenBack, 100.0 * (full - after) / (full - before)));
    }
    Ok(Measurement { figures, conditions })
}

async fn baseline(watched: Watched, way: &Way, pause: Duration) -> Result<f64> {
    drop(way.connect_all(WARM_UP_CONNECTIONS).await?);
    sleep(pause).await;
    watched.settled_memory().await
}

/// A proxy that closed some of them would look thrifty.
async fn survive(open: &mut [Client]) -> Result<()> {
    let all = open.len();
    exchange_all(open, 1, all.min(100)).await.context("an idle tunnel did not survive")
}
