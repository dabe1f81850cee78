//! A long way between two places: a TCP relay that hands every byte on a fixed time later, in both directions.
//!
//! It relays in user space, so it ends the TCP handshake itself: what a connect costs is the near way only, and only
//! whole round trips (a probe, a message and its answer) feel the delay.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::echo_tcp::listen;

/// Read size.
const PIECE: usize = 16 << 10;
/// Pieces on the way per direction: with 40 ms they allow 25 MB/s, and a connection holds 1 MiB at most.
const PIECES_ON_THE_WAY: usize = 64;

/// The relay. Dropping it cuts every connection through it.
#[derive(Debug)]
pub struct Wan {
    address: SocketAddr,
    delay: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Wan {
    /// Listens on `listen_on` and relays to `to`, each way `delay` later.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(listen_on: SocketAddr, to: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = listen(listen_on)?;
        let address = listener.local_addr().context("a listener without an address")?;
        let delay = Arc::new(AtomicU64::new(micros(delay)));
        let task = tokio::spawn(serve(listener, to, Arc::clone(&delay)));
        Ok(Self { address, delay, task })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the delay of what is read from now on, on open connections too.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(micros(delay), Relaxed);
    }

    /// Cuts every connection and frees the port, as dropping does a little later.
    pub async fn stop(mut self) {
        self.task.abort();
        // The outcome of an aborted task says only that it was aborted.
        _ = (&mut self.task).await;
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn micros(delay: Duration) -> u64 {
    u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)
}

async fn serve(listener: TcpListener, to: SocketAddr, delay: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, to, Arc::clone(&delay)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Relays until both ways have ended. When one way breaks, dropping the streams ends the other.
async fn connection(near: TcpStream, to: SocketAddr, delay: Arc<AtomicU64>) -> Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(one_way(near_read, far_write, &delay), one_way(far_read, near_write, &delay))?;
    Ok(())
}

/// A piece of the stream and when it is due; empty for the end.
type Piece = (Instant, Vec<u8>);

async fn one_way(from: OwnedReadHalf, to: OwnedWriteHalf, delay: &AtomicU64) -> Result<()> {
    let (pieces, due) = mpsc::channel(PIECES_ON_THE_WAY);
    tokio::try_join!(take_in(from, pieces, delay), hand_on(due, to))?;
    Ok(())
}

async fn take_in(mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>, delay: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer).await?;
        let due = Instant::now() + Duration::from_micros(delay.load(Relaxed));
        pieces.send((due, buffer[..read].to_vec())).await?;
        if read == 0 {
            return Ok(());
        }
    }
}

async fn hand_on(mut due: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf) -> Result<()> {
    while let Some((when, bytes)) = due.recv().await {
        sleep_until(when).await;
        if bytes.is_empty() {
            break;
        }
        to.write_all(&bytes).await?;
    }
    Ok(to.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{EchoTcp, RawClient};

    async fn wan_to(server: &EchoTcp, delay: Duration) -> Wan {
        Wan::start(SocketAddr::from(([127, 0, 0, 1], 0)), server.address(), delay).await.unwrap()
    }

    #[tokio::test]
    async fn a_round_trip_takes_the_delay_twice() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::from_millis(40)).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        let start = Instant::now();
        client.send(b"ping").await.unwrap();
        client.read_exact(4).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(80));
        wan.set_delay(Duration::ZERO);
        client.send(b"ping").await.unwrap();
        client.read_exact(4).await.unwrap();
        client.finish().await.unwrap();
        client.expect_eof().await.unwrap();
    }

    #[tokio::test]
    async fn much_data_arrives_whole_and_in_order() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::from_millis(5)).await;
        let (stream, _) = RawClient::connect(wan.address()).await.unwrap().into_parts();
        let (mut read, mut write) = stream.into_split();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[(i % 4) as usize]).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&copy).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        assert!(received == sent);
    }

    #[tokio::test]
    async fn a_place_that_refuses_ends_the_connection() {
        let mut server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::ZERO).await;
        server.stop().await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        // In order or with a reset: gone in any case.
        _ = client.expect_eof().await;
        assert!(client.read_exact(1).await.is_err());
    }
}
