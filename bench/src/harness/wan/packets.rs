//! One direction of a link: packets that arrive later, some of them never.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tun_rs::AsyncDevice;

use super::{
    condition::{Direction, Way},
    ways::Told,
};

/// Packets on the way: with 100 ms and 1500 bytes they allow 120 MB/s.
const ON_THE_WAY: usize = 8192;
/// What a router's queue holds before a throttled way; what comes when it is full is dropped, as there.
const QUEUE: Duration = Duration::from_millis(200);
/// No packet of these devices is larger.
const LARGEST: usize = 2048;

/// What is on the way.
struct Packet {
    bytes: Vec<u8>,
    due: Instant,
    /// The number of changes of the way by which `due` was reckoned.
    changes: u64,
}

/// Carries for ever.
pub(super) async fn carry(
    from: Arc<AsyncDevice>,
    to: Arc<AsyncDevice>,
    direction: Direction,
    told: watch::Receiver<Told>,
) -> Result<()> {
    let (packets, due) = mpsc::channel(ON_THE_WAY);
    tokio::try_join!(take_in(&from, packets, direction, &told), hand_on(due, &to, told.clone()))?;
    Ok(())
}

async fn take_in(
    from: &AsyncDevice,
    packets: mpsc::Sender<Packet>,
    direction: Direction,
    told: &watch::Receiver<Told>,
) -> Result<()> {
    let mut buffer = [0; LARGEST];
    let mut line = Line::idle();
    let mut before = 0;
    loop {
        let length = from.recv(&mut buffer).await.context("a TUN device cannot be read")?;
        let (way, changes) = {
            let told = told.borrow();
            (*told.way(direction), told.changes)
        };
        if changes != before {
            (line, before) = (Line::idle(), changes);
        }
        let Some(due) = line.take(&way, length, Instant::now()) else { continue };
        // What does not fit on the way is lost.
        _ = packets.try_send(Packet { bytes: buffer[..length].to_vec(), due, changes });
    }
}

/// What is on the way when the way changes arrives at once: it waits for no delay and no rate that are no more.
async fn hand_on(mut packets: mpsc::Receiver<Packet>, to: &AsyncDevice, mut told: watch::Receiver<Told>) -> Result<()> {
    while let Some(Packet { bytes, due, changes }) = packets.recv().await {
        // The timer rounds up to a millisecond, so what is due now does not go through it.
        if due > Instant::now() {
            // The time is over, or the way has changed; either will do.
            _ = timeout_at(due, told.wait_for(|told| told.changes != changes)).await;
        }
        // A device that is down takes nothing, as a cable that is out.
        _ = to.send(&bytes).await;
    }
    Ok(())
}

/// A line that carries one packet after the other.
struct Line {
    /// When the last packet arrives.
    last: Instant,
    /// When the last packet has left.
    free: Instant,
}

impl Line {
    fn idle() -> Self {
        let now = Instant::now();
        Self { last: now, free: now }
    }

    /// When a packet arrives that came now; `None` when it does not.
    fn take(&mut self, way: &Way, length: usize, now: Instant) -> Option<Instant> {
        self.free = self.free.max(now);
        if way.silent || fastrand::f64() < way.loss || self.free - now > QUEUE {
            return None;
        }
        self.free += way.occupied_by(length);
        // None overtakes another: TCP would take that for a loss.
        self.last = self.last.max(self.free + way.delay + way.jitter.mul_f64(fastrand::f64()));
        Some(self.last)
    }
}
