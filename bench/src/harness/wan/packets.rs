//! One direction of a link: packets that arrive later, some of them never.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tun_rs::AsyncDevice;

use super::{condition::Direction, ways::Told};

/// Packets on the way: with 100 ms and 1500 bytes they allow 120 MB/s.
const ON_THE_WAY: usize = 8192;
/// What a router's queue holds before a throttled way; what comes when it is full is dropped, as there.
const QUEUE: Duration = Duration::from_millis(200);
/// No packet of these devices is larger.
const LARGEST: usize = 2048;

/// A packet and when it is due.
type Packet = (Instant, Vec<u8>);

/// Carries for ever.
pub(super) async fn carry(
    from: Arc<AsyncDevice>,
    to: Arc<AsyncDevice>,
    direction: Direction,
    told: watch::Receiver<Told>,
) -> Result<()> {
    let (packets, due) = mpsc::channel(ON_THE_WAY);
    tokio::try_join!(take_in(&from, packets, direction, &told), hand_on(due, &to))?;
    Ok(())
}

async fn take_in(
    from: &AsyncDevice,
    packets: mpsc::Sender<Packet>,
    direction: Direction,
    told: &watch::Receiver<Told>,
) -> Result<()> {
    let mut buffer = [0; LARGEST];
    let mut last = Instant::now();
    let mut free = last;
    loop {
        let length = from.recv(&mut buffer).await.context("a TUN device cannot be read")?;
        let way = *told.borrow().way(direction);
        let now = Instant::now();
        free = free.max(now);
        if way.silent || fastrand::f64() < way.loss || free - now > QUEUE {
            continue;
        }
        free += way.occupied_by(length);
        // None overtakes another: TCP would take that for a loss.
        last = last.max(free + way.delay + way.jitter.mul_f64(fastrand::f64()));
        // What does not fit on the way is lost.
        _ = packets.try_send((last, buffer[..length].to_vec()));
    }
}

async fn hand_on(mut due: mpsc::Receiver<Packet>, to: &AsyncDevice) -> Result<()> {
    while let Some((when, packet)) = due.recv().await {
        // The timer rounds up to a millisecond, so what is due now does not go through it.
        if when > Instant::now() {
            sleep_until(when).await;
        }
        // A device that is down takes nothing, as a cable that is out.
        _ = to.send(&packet).await;
    }
    Ok(())
}
