//! An agent as HAProxy's `agent-check` asks it: whoever connects gets one line, and the connection ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{locked, service::Service};

/// The agent. It can be stopped and started again on the same port, and change its mind at any time.
#[derive(Debug)]
pub struct Agent {
    service: Service,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: Mutex<Vec<u8>>,
    heard: Mutex<Vec<u8>>,
    answered: AtomicU64,
}

impl Agent {
    /// Starts on this address with this line, to which nothing is added.
    ///
    /// # Errors
    /// When the address is none, or cannot be bound.
    pub async fn start_on(bind: &str, line: &str) -> Result<Self> {
        let shared = Shared { line: Mutex::new(line.into()), heard: Mutex::default(), answered: AtomicU64::new(0) };
        let mut agent = Self { service: Service::at(bind)?, shared: Arc::new(shared) };
        agent.restart().await?;
        Ok(agent)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// What it says from now on.
    pub fn says(&self, line: &str) {
        *locked(&self.shared.line) = line.into();
    }

    /// Everything that it was sent.
    #[must_use]
    pub fn heard(&self) -> Vec<u8> {
        locked(&self.shared.heard).clone()
    }

    /// How many questions it has answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Relaxed)
    }

    /// Stops listening.
    pub async fn stop(&mut self) {
        self.service.stop().await;
    }

    /// Listens again on the same port, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// When the port was taken by somebody else meanwhile.
    pub async fn restart(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.service.restart(move |stream, _peer| answer(stream, Arc::clone(&shared))).await
    }
}

async fn answer(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let line = locked(&shared.line).clone();
    stream.write_all(&line).await?;
    stream.shutdown().await?;
    let mut heard = Vec::new();
    // Who asks may end without order once it has the line; what came until then counts.
    _ = stream.read_to_end(&mut heard).await;
    locked(&shared.heard).extend(heard);
    shared.answered.fetch_add(1, Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::RawClient;

    #[tokio::test]
    async fn it_says_its_line_to_everybody_and_hears_what_is_sent() {
        let agent = Agent::start_on("127.0.0.1:0", "up 75%\n").await.unwrap();
        let mut client = RawClient::connect(agent.address()).await.unwrap();
        client.send(b"hello\n").await.unwrap();
        assert_eq!(client.read_to_end().await.unwrap(), b"up 75%\n");
        client.finish().await.unwrap();
        let heard = async || (agent.heard() == b"hello\n").then_some(());
        crate::harness::eventually(std::time::Duration::from_secs(10), "the question", heard).await.unwrap();
        agent.says("drain\n");
        let mut client = RawClient::connect(agent.address()).await.unwrap();
        assert_eq!(client.read_to_end().await.unwrap(), b"drain\n");
    }
}
