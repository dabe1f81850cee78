//! CPU by message or request, on connections that stay.

use anyhow::Result;

use super::{
    Measurement,
    figure::Figure,
    load::{Way, exchange_all},
    meter::{Meter, Watched},
};

/// One in this many exchanges comes before the meter runs.
const WARM_UP_SHARE: usize = 20;

/// How many exchanges, on how many connections, how many of them at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchanges {
    pub(super) count: usize,
    pub(super) connections: usize,
    pub(super) at_once: usize,
}

pub(super) async fn cpu(watched: Watched, way: &Way, exchanges: Exchanges) -> Result<Measurement> {
    let Exchanges { count, connections, at_once } = exchanges;
    let mut clients = way.connect_all(connections).await?;
    let each = count.div_ceil(connections);
    exchange_all(&mut clients, each.div_ceil(WARM_UP_SHARE), at_once).await?;
    let meter = Meter::start(Some(watched)).await?;
    exchange_all(&mut clients, each, at_once).await?;
    let spent = meter.stop().await?;
    Ok(Measurement { figures: vec![(Figure::Cpu, spent.micros_by(each * connections))], conditions: spent.conditions })
}
