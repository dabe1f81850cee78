//! A port and the task behind it: what stubs that stop and start again on the same port have in common.

use std::{future::Future, net::SocketAddr};

use anyhow::{Context, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::echo_tcp::listen;

/// A service of one port. It ends, with every connection, when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Service {
    address: SocketAddr,
    /// `None` while stopped.
    task: Option<JoinHandle<()>>,
}

impl Service {
    /// One that is not started yet; port 0 becomes a free one at its first start.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn at(bind: &str) -> Result<Self> {
        let address = bind.parse().with_context(|| format!("{bind:?} is no address"))?;
        Ok(Self { address, task: None })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // The outcome of an aborted task says only that it was aborted.
            _ = task.await;
        }
    }

    /// Listens, on the same port as before, and gives each connection to `connection`.
    ///
    /// # Errors
    /// When the port cannot be bound, as when it was taken by somebody else meanwhile.
    pub(crate) async fn restart<F>(
        &mut self,
        connection: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.stop().await;
        let listener = listen(self.address)?;
        self.address = listener.local_addr().context("a listener without an address")?;
        self.task = Some(tokio::spawn(serve(listener, connection)));
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn serve<F>(listener: TcpListener, connection: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, peer)) = listener.accept() => {
                connections.spawn(connection(stream, peer));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
