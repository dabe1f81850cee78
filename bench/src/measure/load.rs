//! The load: plain sockets and bytes made beforehand, so that the core it shares with the endpoint is spent on
//! system calls and hardly on anything else. Every answer is compared with what was asked for.
//!
//! Clients connect without binding to a source. A port that was bound, even after its connection has ended, is not given
//! to proxies for their own connections, and their search for another would be counted as theirs.

mod dialogue;
mod http2;
mod stream;
mod websocket;

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream as streams};
use tokio_rustls::rustls::ClientConfig;

use super::{
    certificate::{self, Sessions},
    row::Protocol,
};
pub(super) use dialogue::Dialogue;
use http2::Lane;
pub(super) use stream::Stream;

/// Connections opened at a time: below every proxy's accept queue.
const OPENED_AT_ONCE: usize = 50;
/// Requests in flight on one HTTP/2 connection.
const STREAMS: usize = 10;

/// How an endpoint is reached: through a proxy, or directly.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// One that asks and waits for the answer.
#[derive(Debug)]
pub(super) enum Client {
    Dialogue(Box<Dialogue>),
    Http2(Lane),
}

impl Way {
    pub(super) fn new(address: SocketAddr, protocol: Protocol, sessions: Sessions) -> Result<Self> {
        let tls = protocol.is_tls().then(|| certificate::client(protocol, sessions)).transpose()?;
        Ok(Self { address, protocol, tls })
    }

    pub(super) async fn open(&self) -> Result<Stream> {
        Stream::open(self.address, self.tls.clone()).await
    }

    /// As many clients, connected, with one exchange done by each.
    pub(super) async fn connect_all(&self, count: usize) -> Result<Vec<Client>> {
        if self.protocol == Protocol::Http2 {
            let connections = streams::iter(0..count.div_ceil(STREAMS)).map(|_| Lane::open(self));
            let lanes: Vec<Lane> = connections.buffer_unordered(OPENED_AT_ONCE).try_collect().await?;
            let clients = lanes.iter().flat_map(|lane| std::iter::repeat_n(lane, STREAMS)).take(count);
            let mut clients: Vec<Client> = clients.map(|lane| Client::Http2(lane.clone())).collect();
            exchange_all(&mut clients, 1, count).await?;
            return Ok(clients);
        }
        streams::iter(0..count)
            .map(async |_| Ok(Client::Dialogue(Box::new(Dialogue::connect(self).await?))))
            .buffer_unordered(OPENED_AT_ONCE)
            .try_collect()
            .await
    }
}

/// Does `each` exchanges on every client, `at_once` in flight in all: the clients take turns.
pub(super) async fn exchange_all(clients: &mut [Client], each: usize, at_once: usize) -> Result<()> {
    let turn = clients.len().div_ceil(at_once.max(1)).max(1);
    streams::iter(clients.chunks_mut(turn))
        .map(async |those| {
            for _ in 0..each {
                for client in &mut *those {
                    client.exchange().await?;
                }
            }
            Ok(())
        })
        .buffer_unordered(at_once.max(1))
        .try_collect()
        .await
}

impl Client {
    pub(super) async fn exchange(&mut self) -> Result<()> {
        match self {
            Self::Dialogue(dialogue) => dialogue.exchange().await,
            Self::Http2(lane) => lane.exchange().await,
        }
        .context("an exchange failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{self, Kind};

    async fn endpoint(kind: Kind, protocol: Protocol) -> Way {
        let endpoint = serve::bind(kind, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let way = Way::new(endpoint.address().unwrap(), protocol, Sessions::Fresh).unwrap();
        tokio::spawn(endpoint.run());
        way
    }

    #[tokio::test]
    async fn each_kind_of_load_gets_its_answers_straight_from_the_endpoint() {
        for (kind, protocol) in
            [(Kind::TcpEcho, Protocol::Tcp), (Kind::WsEcho, Protocol::WebSocket), (Kind::Http, Protocol::Http1)]
        {
            let way = endpoint(kind, protocol).await;
            let mut clients = way.connect_all(7).await.unwrap();
            exchange_all(&mut clients, 5, 3).await.unwrap();
            exchange_all(&mut clients, 1, 100).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_the_question_is_noticed() {
        let other = crate::harness::HttpStub::start("not an echo").await.unwrap();
        let way = |protocol| Way::new(other.address(), protocol, Sessions::Fresh).unwrap();
        assert!(way(Protocol::Http1).connect_all(1).await.is_err());
        let error = way(Protocol::WebSocket).connect_all(1).await.unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
    }
}
