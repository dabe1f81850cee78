//! One connection through the relay: two streams of bytes, each with what is on its way.

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{condition::Direction, ways::Told};

/// Pieces on the way per direction: with 40 ms they allow 25 MB/s, and a connection holds 1 MiB at most.
const PIECES_ON_THE_WAY: usize = 64;

/// A piece of the stream and when it is due; empty for the end.
type Piece = (Instant, Vec<u8>);

/// Relays until both directions have ended, or one has broken.
pub(super) async fn both_ways(near: &mut TcpStream, far: &mut TcpStream, told: &watch::Receiver<Told>) -> Result<()> {
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    tokio::try_join!(
        one_way(near_read, far_write, Direction::Out, told),
        one_way(far_read, near_write, Direction::Back, told)
    )?;
    Ok(())
}

async fn one_way(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    told: &watch::Receiver<Told>,
) -> Result<()> {
    let (pieces, due) = mpsc::channel(PIECES_ON_THE_WAY);
    tokio::try_join!(take_in(from, pieces, direction, told.clone()), hand_on(due, to, direction, told.clone()))?;
    Ok(())
}

async fn take_in(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<Piece>,
    direction: Direction,
    mut told: watch::Receiver<Told>,
) -> Result<()> {
    let mut last = Instant::now();
    loop {
        heard(&mut told, direction).await?;
        let mut buffer = vec![0; told.borrow().way(direction).piece()];
        let read = from.read(&mut buffer).await?;
        buffer.truncate(read);
        // A read that began before the way went silent: what it brought waits like everything behind it.
        heard(&mut told, direction).await?;
        let sent = occupy(&mut told, direction, read).await;
        last = last.max(arrival(&told, direction, sent, read));
        pieces.send((last, buffer)).await?;
        if read == 0 {
            return Ok(());
        }
    }
}

async fn hand_on(
    mut due: mpsc::Receiver<Piece>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut told: watch::Receiver<Told>,
) -> Result<()> {
    while let Some((when, bytes)) = due.recv().await {
        // The timer rounds up to a millisecond, so what is due now does not go through it.
        if when > Instant::now() {
            sleep_until(when).await;
        }
        heard(&mut told, direction).await?;
        if bytes.is_empty() {
            break;
        }
        to.write_all(&bytes).await?;
    }
    Ok(to.shutdown().await?)
}

/// Waits while the way is silent.
async fn heard(told: &mut watch::Receiver<Told>, direction: Direction) -> Result<()> {
    told.wait_for(|told| !told.way(direction).silent).await?;
    Ok(())
}

/// Waits as long as the bytes occupy the way; a change of the rate counts at once.
async fn occupy(told: &mut watch::Receiver<Told>, direction: Direction, bytes: usize) -> Instant {
    let start = Instant::now();
    loop {
        let free = start + told.borrow_and_update().way(direction).occupied_by(bytes);
        if free <= Instant::now() {
            return free;
        }
        // The end of the time, or a change: both are looked at again. A relay that is gone changes no more.
        if let Ok(Err(_gone)) = timeout_at(free, told.changed()).await {
            return free;
        }
    }
}

fn arrival(told: &watch::Receiver<Told>, direction: Direction, sent: Instant, bytes: usize) -> Instant {
    let told = told.borrow();
    let other = match direction {
        Direction::Out => &told.back,
        Direction::Back => &told.out,
    };
    told.way(direction).arrival(sent, bytes, other.delay)
}
