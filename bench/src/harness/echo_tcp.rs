//! A TCP server that sends back what it gets: the endpoint of a tunnel in tests.

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
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// Read size; also the most that one connection holds.
const BUFFER: usize = 16 << 10;
/// Deep enough for tests that connect thousands of clients at once.
const BACKLOG: i32 = 4096;

/// What the server does with a connection's bytes. It may change while connections are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sends everything back.
    Echo,
    /// Sends everything back, each piece after this time.
    Slow(Duration),
    /// Reads nothing: the peer's writes fill the buffers between and then stall.
    Hold,
    /// Reads everything and answers nothing.
    Swallow,
}

/// A TCP echo server on a loopback port of its own. It can be stopped and started again on the same port.
#[derive(Debug)]
pub struct EchoTcp {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The accept loop with its connections; `None` while stopped.
    running: Option<(watch::Sender<Ending>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    manner: watch::Sender<Manner>,
    greeting: Vec<u8>,
    accepted: AtomicU64,
    open: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    NotYet,
    Close,
    Reset,
}

impl EchoTcp {
    /// Starts on 127.0.0.1.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start() -> Result<Self> {
        Self::start_on("127.0.0.1:0").await
    }

    /// Starts on a given address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(bind: &str) -> Result<Self> {
        Self::start_greeting(bind, Vec::new()).await
    }

    /// Starts a server that sends `greeting` as soon as a connection is open, before it reads.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_greeting(bind: &str, greeting: Vec<u8>) -> Result<Self> {
        let address = bind.parse().with_context(|| format!("{bind:?} is no address"))?;
        let shared = Shared {
            manner: watch::Sender::new(Manner::Echo),
            greeting,
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let mut server = Self { address, shared: Arc::new(shared), running: None };
        server.restart().await?;
        Ok(server)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted, of all runs.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Relaxed)
    }

    /// How many bytes were read, of all connections.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }

    /// Changes what is done with bytes, on open connections too.
    pub fn behave(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// Stops listening and closes every connection. The port then refuses connections.
    pub async fn stop(&mut self) {
        self.end(Ending::Close).await;
    }

    /// As [`stop`](Self::stop), but every connection ends with a reset.
    pub async fn stop_with_resets(&mut self) {
        self.end(Ending::Reset).await;
    }

    async fn end(&mut self, ending: Ending) {
        if let Some((order, task)) = self.running.take() {
            order.send_replace(ending);
            // The task ends by itself; a panic in it was printed already.
            _ = task.await;
        }
    }

    /// Listens again on the same port, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// When the port was taken by somebody else meanwhile.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        let listener = listen(self.address)?;
        self.address = listener.local_addr().context("a listener without an address")?;
        let (order, ending) = watch::channel(Ending::NotYet);
        let task = tokio::spawn(serve(listener, Arc::clone(&self.shared), ending));
        self.running = Some((order, task));
        Ok(())
    }
}

impl Drop for EchoTcp {
    fn drop(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }
}

/// A listener with a deep queue on a port that may be in use by old connections only.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let bound = socket2::Socket::new(domain, socket2::Type::STREAM, None).and_then(|socket| {
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    });
    bound.with_context(|| format!("cannot listen on {address}"))
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut ending: watch::Receiver<Ending>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // A failed accept (out of descriptors) is tried again: the next one may succeed.
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, Arc::clone(&shared), ending.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = ending.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, mut ending: watch::Receiver<Ending>) {
    shared.accepted.fetch_add(1, Relaxed);
    shared.open.fetch_add(1, Relaxed);
    let _open = Open(Arc::clone(&shared));
    tokio::select! {
        // A peer that breaks off ends its connection; the tests see it at their end.
        _ = echo(&mut stream, &shared) => {}
        _ = ending.changed() => {
            if *ending.borrow() == Ending::Reset {
                // Closing with a linger time of zero sends a reset.
                _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

async fn echo(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&shared.greeting).await?;
    let mut manner = shared.manner.subscribe();
    let mut buffer = vec![0; BUFFER];
    loop {
        // The server lives as long as its `shared`, so the channel is open.
        _ = manner.wait_for(|manner| *manner != Manner::Hold).await;
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read?,
            _ = manner.changed() => continue,
        };
        shared.bytes.fetch_add(read as u64, Relaxed);
        let now = *manner.borrow();
        if read == 0 {
            return stream.shutdown().await;
        }
        if let Manner::Slow(pause) = now {
            sleep(pause).await;
        }
        if now != Manner::Swallow {
            stream.write_all(&buffer[..read]).await?;
        }
    }
}

/// Counts a connection as open for as long as it lives, however it ends.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{RawClient, eventually};

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn it_echoes_counts_and_passes_on_a_half_close() {
        let server = EchoTcp::start_greeting("127.0.0.1:0", b"hi ".to_vec()).await.unwrap();
        let mut client = RawClient::connect(server.address()).await.unwrap();
        client.send(b"hello").await.unwrap();
        assert_eq!(client.read_exact(8).await.unwrap(), b"hi hello");
        assert_eq!((server.accepted(), server.open(), server.bytes()), (1, 1, 5));
        client.finish().await.unwrap();
        client.expect_eof().await.unwrap();
        eventually(SOON, "no open connection", async || (server.open() == 0).then_some(())).await.unwrap();
    }

    #[tokio::test]
    async fn it_comes_back_on_the_same_port() {
        let mut server = EchoTcp::start().await.unwrap();
        let mut client = RawClient::connect(server.address()).await.unwrap();
        client.send(b"x").await.unwrap();
        client.read_exact(1).await.unwrap();
        server.stop().await;
        client.expect_eof().await.unwrap();
        assert!(RawClient::connect(server.address()).await.is_err());
        server.restart().await.unwrap();
        let mut client = RawClient::connect(server.address()).await.unwrap();
        client.send(b"y").await.unwrap();
        assert_eq!(client.read_exact(1).await.unwrap(), b"y");
        server.stop_with_resets().await;
        assert!(client.expect_eof().await.is_err(), "a reset is no orderly end");
    }

    #[tokio::test]
    async fn a_holding_server_reads_nothing_until_it_is_told_to() {
        let server = EchoTcp::start().await.unwrap();
        server.behave(Manner::Hold);
        let mut client = RawClient::connect(server.address()).await.unwrap();
        client.send(b"late").await.unwrap();
        eventually(SOON, "the connection", async || (server.accepted() == 1).then_some(())).await.unwrap();
        assert_eq!(server.bytes(), 0);
        server.behave(Manner::Echo);
        assert_eq!(client.read_exact(4).await.unwrap(), b"late");
    }
}
