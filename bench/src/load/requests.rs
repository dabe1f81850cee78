//! One connection of the load over HTTP: a request when it is told to, one after the other.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    tally::is_no,
    user::{Order, Shared},
};
use crate::{harness::locked, im::Door};

/// The field in which a server says who it is (docs/protocol.md, section 10).
const NODE: &str = "x-im-node";

/// A connection that lives.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: usize,
    /// By which it says that it is idle.
    pub(super) place: usize,
    pub(super) door: Door,
    pub(super) shared: Shared,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Where it says that it has nothing to do, if it is to.
    pub(super) idle: Option<mpsc::Sender<usize>>,
}

impl Connection {
    /// Lives until there are no more orders. What it has then is answered or has had its time.
    pub(super) async fn live(mut self) {
        let mut open = None;
        // What was due before waited for an answer: it is not late by the load's doing.
        let mut free_since = Duration::ZERO;
        self.say_idle().await;
        while let Some(order) = self.orders.recv().await {
            if order.due >= free_since {
                locked(&self.shared.tally).late.record(self.shared.now().saturating_sub(order.due));
            }
            let until = (Instant::now() + self.shared.plan.patience()).min(self.shared.deadline());
            let outcome = timeout_at(until, self.ask(&mut open)).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| Err(anyhow::anyhow!("no answer in time")));
            if outcome.is_err() {
                self.close(&mut open);
            }
            self.note(order.due, outcome);
            free_since = self.shared.now();
            self.say_idle().await;
        }
        self.close(&mut open);
    }

    async fn say_idle(&self) {
        if let Some(idle) = &self.idle {
            // Nobody asks any more when the run is over.
            _ = idle.send(self.place).await;
        }
    }

    fn note(&self, due: Duration, outcome: Result<(u16, Option<String>)>) {
        let (status, node) = match outcome {
            Ok(answer) => answer,
            Err(error) => return self.shared.failed_request(due, &format!("{error:#}")),
        };
        let now = self.shared.now();
        let mut tally = locked(&self.shared.tally);
        tally.place(self.shared.plan.country(self.number), node.as_deref().unwrap_or("unnamed"));
        if is_no(status) {
            tally.denied(status, due, now, self.shared.plan.patience());
            tally.trouble("no for an answer", status.to_string());
        } else {
            tally.answered(status, due, now);
        }
    }

    /// The status, and the server that says its name.
    async fn ask(&self, open: &mut Option<SendRequest<Full<Bytes>>>) -> Result<(u16, Option<String>)> {
        let usable = match open {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.close(open);
            *open = Some(self.connect().await?);
            locked(&self.shared.tally).moved(None, Some(""));
        }
        let connection = open.as_mut().context("a connection was just made")?;
        let answer = connection.send_request(self.request()?).await.context("no answer")?;
        let status = answer.status().as_u16();
        let node = answer.headers().get(NODE).and_then(|node| node.to_str().ok()).map(ToOwned::to_owned);
        answer.into_body().collect().await.context("an answer without an end")?;
        Ok((status, node))
    }

    fn close(&self, open: &mut Option<SendRequest<Full<Bytes>>>) {
        if open.take().is_some() {
            locked(&self.shared.tally).moved(Some(""), None);
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let start = Instant::now();
        let pipe = timeout_at(start + self.door.patience, self.door.reach()).await.context("no connection in time")?;
        let (sender, connection) = http1::handshake(TokioIo::new(pipe?)).await.context("no HTTP")?;
        // Ends with the sender, or with the connection; requests tell why.
        tokio::spawn(connection);
        locked(&self.shared.tally).logins.record(start.elapsed());
        Ok(sender)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let body = Bytes::from(vec![b'x'; self.shared.plan.body]);
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let mut request = Request::builder().method(method).uri(&*self.door.path).header("host", &*self.door.host);
        for (name, value) in &self.door.fields {
            request = request.header(name.parse::<HeaderName>()?, HeaderValue::from_str(value)?);
        }
        request.body(Full::new(body)).context("no request")
    }
}
