//! A WebSocket endpoint that sends every message back, and remembers how clients left.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::{JoinHandle, JoinSet},
};
use tokio_websockets::{Message, ServerBuilder};

use super::{echo_tcp::listen, locked};

/// Messages that a slow connection may be behind before it misses some.
const PUSHES: usize = 64;

/// A WebSocket echo server on a loopback port of its own.
#[derive(Debug)]
pub struct WsEcho {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upgrades: Mutex<Vec<http::Request<()>>>,
    closes: Mutex<Vec<Option<u16>>>,
    pushes: broadcast::Sender<Message>,
}

impl WsEcho {
    /// Starts on 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr().context("a listener without an address")?;
        let shared = Arc::new(Shared {
            upgrades: Mutex::default(),
            closes: Mutex::default(),
            pushes: broadcast::Sender::new(PUSHES),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many clients are connected.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.pushes.receiver_count()
    }

    /// The upgrade requests in the order of their arrival: path, query and fields.
    #[must_use]
    pub fn upgrades(&self) -> Vec<http::Request<()>> {
        locked(&self.shared.upgrades).clone()
    }

    /// How ended clients left: the code of their Close frame, `None` for one that just ended the connection.
    #[must_use]
    pub fn closes(&self) -> Vec<Option<u16>> {
        locked(&self.shared.closes).clone()
    }

    /// Sends a message to every connected client.
    pub fn push(&self, message: Message) {
        // No client is no error: a push reaches those who are there.
        _ = self.shared.pushes.send(message);
    }
}

impl Drop for WsEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (request, mut socket) = ServerBuilder::new().accept(stream).await?;
    let mut pushes = shared.pushes.subscribe();
    locked(&shared.upgrades).push(request);
    let mut code = None;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_close() => code = message.as_close().map(|(code, _)| code.into()),
                // Pings are answered by the library.
                Some(Ok(message)) if message.is_ping() || message.is_pong() => {}
                Some(Ok(message)) => {
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
                Some(Err(_)) | None => break,
            },
            Ok(push) = pushes.recv() => {
                if socket.send(push).await.is_err() {
                    break;
                }
            }
        }
    }
    locked(&shared.closes).push(code);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{eventually, ws};
    use std::time::Duration;

    #[tokio::test]
    async fn it_echoes_pushes_and_remembers_how_clients_left() {
        let server = WsEcho::start().await.unwrap();
        let mut client = ws::connect(server.address(), "/ws?a=1", &[("x-user", "alice")]).await.unwrap();
        client.send(Message::binary(vec![1, 2, 3])).await.unwrap();
        assert_eq!(&client.next().await.unwrap().unwrap().into_payload()[..], [1, 2, 3]);
        server.push(Message::text("news"));
        assert_eq!(client.next().await.unwrap().unwrap().as_text(), Some("news"));
        assert_eq!(server.open(), 1);
        client.close().await.unwrap();
        let closed =
            eventually(Duration::from_secs(10), "the close", async || server.closes().first().copied()).await.unwrap();
        assert_eq!(closed, Some(1000));
        let upgrade = &server.upgrades()[0];
        assert_eq!(upgrade.uri().path_and_query().unwrap(), "/ws?a=1");
        assert_eq!(upgrade.headers()["x-user"], "alice");
    }
}
