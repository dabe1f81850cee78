//! Bytes by CPU second of the proxy, of large downloads. The load compares every byte with what was sent.

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream as streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Measurement,
    figure::Figure,
    load::{Stream, Way},
    meter::{Meter, Watched},
};
use crate::serve::{BULK_PIECE, bulk_piece};

/// Connections that download at once.
const CONNECTIONS: usize = 4;
/// What each connection carries before the meter runs.
const WARM_UP: u64 = 4 << 20;

/// `beside` tunnels that have carried one byte are open meanwhile.
pub(super) async fn download(watched: Watched, way: &Way, bytes: u64, beside: usize) -> Result<Measurement> {
    let expected = bulk_piece();
    let _beside: Vec<Stream> = streams::iter(0..beside)
        .map(async |_| {
            let mut stream = way.open().await?;
            one(&mut stream, 1, &expected).await?;
            anyhow::Ok(stream)
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await?;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(way.open().await?);
    }
    let each = bytes / CONNECTIONS as u64;
    all(&mut streams, WARM_UP.min(each)).await?;
    let meter = Meter::start(Some(watched)).await?;
    all(&mut streams, each).await?;
    let spent = meter.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "a download is far below 2^52 bytes")]
    let megabytes = (each * CONNECTIONS as u64) as f64 / 1e6;
    Ok(Measurement {
        figures: vec![(Figure::Speed, megabytes / spent.cpu.as_secs_f64())],
        conditions: spent.conditions,
    })
}

async fn all(streams: &mut [Stream], each: u64) -> Result<()> {
    let expected = bulk_piece();
    streams::iter(streams).map(|stream| one(stream, each, &expected)).buffer_unordered(CONNECTIONS).try_collect().await
}

async fn one(stream: &mut Stream, bytes: u64, expected: &[u8]) -> Result<()> {
    stream.write_all(&bytes.to_be_bytes()).await.context("the proxy took no question")?;
    stream.flush().await.context("the proxy took no question")?;
    let mut buffer = vec![0; BULK_PIECE];
    let mut left = bytes;
    let mut place = 0;
    while left > 0 {
        let most = usize::try_from(left).map_or(BULK_PIECE, |left| left.min(BULK_PIECE)).min(BULK_PIECE - place);
        let read = stream.read(&mut buffer[..most]).await.context("the download broke off")?;
        ensure!(read > 0, "the download ended with {left} of {bytes} bytes missing");
        ensure!(buffer[..read] == expected[place..place + read], "bytes of the download are not those that were sent");
        place = (place + read) % BULK_PIECE;
        left -= read as u64;
    }
    Ok(())
}
