//! A long or bad way between two places: a TCP relay that hands every byte on later, in pieces, or not at all, and that
//! obeys while it runs.
//!
//! It relays in user space and so between two TCP connections, each with a kernel that acknowledges at once. What this
//! means for what it pretends:
//!
//! - A connect costs the near way only; only whole round trips (a probe, a message and its answer) feel the delay.
//! - No byte is ever lost. *Loss* is what loss looks like from above TCP: the stream stalls for a retransmission
//!   time-out, and everything behind the lost segment waits with it.
//! - A *silent* way takes nothing in and hands nothing on, and neither end learns of the other's end: a half-open
//!   connection. What was on the way arrives once the way is back, as TCP's own repetitions would bring it. New
//!   connections get no answer, save for the first one, which the kernel accepts whatever we do.
//! - A *cut* ends all present connections with a reset, on both sides.
//!
//! Where the privileges are there, [`Link`] carries packets instead, and all of this is as in a real network.

mod condition;
mod control;
mod link;
mod packets;
mod stream;
mod ways;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::echo_tcp::listen;
pub use condition::{Direction, Way};
pub(crate) use control::COMMANDS;
pub use control::Control;
pub use link::Link;
use ways::Told;
pub use ways::Ways;

/// Connections that may wait for the relay while the way is good.
const BACKLOG: i32 = 1024;
/// After a connection could not be accepted.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The relay. Dropping it ends every connection through it.
#[derive(Debug)]
pub struct Wan {
    address: SocketAddr,
    ways: Arc<Ways>,
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
        let ways = Arc::new(Ways::new(Way { delay, ..Way::default() }, true));
        let task = tokio::spawn(serve(listener, to, ways.told()));
        Ok(Self { address, ways, task })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What both directions are like, to be read and changed.
    #[must_use]
    pub fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }

    /// Changes the delay both ways.
    pub fn set_delay(&self, delay: Duration) {
        self.ways.change_both(|way| way.delay = delay);
    }

    /// Goes silent both ways, or comes back.
    pub fn set_silent(&self, silent: bool) {
        self.ways.change_both(|way| way.silent = silent);
    }

    /// Ends all present connections with a reset. New ones are taken as before.
    pub fn cut(&self) {
        self.ways.cut();
    }

    /// Ends every connection and frees the port, as dropping does a little later.
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

async fn serve(listener: TcpListener, to: SocketAddr, mut told: watch::Receiver<Told>) {
    let mut connections = JoinSet::new();
    let mut silent = false;
    loop {
        let now = told.borrow_and_update().is_silent();
        if now != silent {
            silent = now;
            answer_connects(&listener, !silent);
        }
        tokio::select! {
            stream = accept(&listener), if !silent => {
                connections.spawn(connection(stream, to, told.clone()));
            }
            Some(_) = connections.join_next() => {}
            Ok(()) = told.changed() => {}
            else => return,
        }
    }
}

/// Without descriptors it rests and tries again.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
}

/// Listening again with a queue for one: the kernel accepts a single connection then, and lets the handshakes of all
/// others time out, as when nobody is there.
fn answer_connects(listener: &TcpListener, answer: bool) {
    // A socket that listens already only changes the length of its queue: there is nothing to fail.
    _ = SockRef::from(listener).listen(if answer { BACKLOG } else { 0 });
}

/// Relays until both directions have ended. When one breaks, dropping the streams ends the other.
async fn connection(mut near: TcpStream, to: SocketAddr, told: watch::Receiver<Told>) -> Result<()> {
    let mut far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let cuts = told.borrow().cuts;
    let mut cut = told.clone();
    tokio::select! {
        done = stream::both_ways(&mut near, &mut far, &told) => return done,
        _ = cut.wait_for(|told| told.cuts != cuts) => {}
    }
    for stream in [&near, &far] {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{EchoTcp, RawClient};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    async fn wan_to(server: &EchoTcp, delay: Duration) -> Wan {
        Wan::start(SocketAddr::from(([127, 0, 0, 1], 0)), server.address(), delay).await.unwrap()
    }

    async fn echoes(client: &mut RawClient, bytes: &[u8]) -> Duration {
        let start = Instant::now();
        client.send(bytes).await.unwrap();
        assert!(client.read_exact(bytes.len()).await.unwrap() == bytes);
        start.elapsed()
    }

    #[tokio::test]
    async fn a_round_trip_takes_the_delay_twice() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::from_millis(40)).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        assert!(echoes(&mut client, b"ping").await >= Duration::from_millis(80));
        wan.ways().change(Direction::Back, |way| way.delay = Duration::ZERO);
        assert!(echoes(&mut client, b"ping").await >= Duration::from_millis(40));
        wan.set_delay(Duration::ZERO);
        echoes(&mut client, b"ping").await;
        client.finish().await.unwrap();
        client.expect_eof().await.unwrap();
    }

    #[tokio::test]
    async fn much_data_arrives_whole_and_in_order() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::from_millis(5)).await;
        wan.ways().change_both(|way| way.jitter = Duration::from_millis(5));
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

    #[tokio::test]
    async fn a_lost_segment_stalls_the_stream_for_a_retransmission() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::from_millis(10)).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        // Of 200 segments one in five: that none is lost has a chance of less than one in 10^19.
        wan.ways().change(Direction::Out, |way| way.loss = 0.2);
        let whole = vec![7; 200 * condition::SEGMENT];
        assert!(echoes(&mut client, &whole).await >= condition::FIRST_TIMEOUT);
    }

    #[tokio::test]
    async fn a_throttled_way_takes_its_time_and_lets_go_of_it_at_once() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::ZERO).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        wan.ways().change(Direction::Back, |way| way.bytes_per_second = Some(100_000));
        // The last piece may be read before its time is over.
        assert!(echoes(&mut client, &[7; 50_000]).await >= Duration::from_millis(400));
        wan.ways().change(Direction::Back, |way| way.bytes_per_second = Some(1));
        client.send(&[7; 2000]).await.unwrap();
        client.expect_silence(Duration::from_millis(50)).await.unwrap();
        wan.ways().change(Direction::Back, |way| way.bytes_per_second = None);
        // At one byte a second this would take half an hour.
        client.read_exact(2000).await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends_and_lets_new_connections_through() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::ZERO).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        echoes(&mut client, b"ping").await;
        wan.cut();
        let error = format!("{:#}", client.read_exact(1).await.unwrap_err());
        assert!(error.contains("reset"), "{error}");
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        echoes(&mut client, b"ping").await;
    }

    #[tokio::test]
    async fn a_silent_way_hides_even_an_end_and_loses_nothing() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::ZERO).await;
        let mut client = RawClient::connect(wan.address()).await.unwrap().with_patience(Duration::from_secs(20));
        echoes(&mut client, b"ping").await;
        wan.set_silent(true);
        client.send(b"hidden").await.unwrap();
        client.expect_silence(Duration::from_millis(200)).await.unwrap();
        client.finish().await.unwrap();
        client.expect_silence(Duration::from_millis(200)).await.unwrap();
        wan.set_silent(false);
        assert_eq!(client.read_to_end().await.unwrap(), b"hidden");
    }

    #[tokio::test]
    async fn a_silent_way_answers_no_connects_after_the_first() {
        let server = EchoTcp::start().await.unwrap();
        let wan = wan_to(&server, Duration::ZERO).await;
        wan.set_silent(true);
        let connect = || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(wan.address()));
        let mut unanswered = 0;
        let mut held = Vec::new();
        for _ in 0..4 {
            match connect().await {
                Ok(stream) => held.push(stream.unwrap()),
                Err(_elapsed) => unanswered += 1,
            }
        }
        assert!(unanswered >= 1, "{} were answered", held.len());
        wan.set_silent(false);
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        echoes(&mut client, b"ping").await;
    }
}
