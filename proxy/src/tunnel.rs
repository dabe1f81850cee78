//! The relay: one task a tunnel, two sockets, no buffer at rest.
//!
//! A tunnel is a TCP connection, or an HTTP one after `101`. Its task holds the two sockets, two [`Pump`]s and its
//! registry entry; the scratch buffer that bytes pass through belongs to the worker. There is no timer here while all
//! is well: idle time is the sweeper's business, which compares byte counters between rounds.
//!
//! Leaving (see [`crate::leave`]): a WebSocket client gets a Close frame at the next frame border and nothing after it,
//! while its own frames still reach the endpoint, the answering Close last. An opaque client gets the end of the
//! stream behind the data in flight. Whoever has not gone after `drain.close-wait` is closed.

#[cfg(test)]
mod model;
mod pump;
mod websocket;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub use pump::{Broken, Pump, Wire};
use tokio::time::Sleep;

use crate::registry::{Command, LeaveReason, Registered};
use crate::trip::{Outcome, Trip};

/// Bytes that one read may bring, and the most that is ever kept for one direction.
pub const SCRATCH: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What flows through a tunnel, and so how it can be ended politely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Opaque,
    WebSocket,
}

impl Framing {
    fn pump(self) -> Pump {
        match self {
            Framing::Opaque => Pump::opaque(),
            Framing::WebSocket => Pump::websocket(),
        }
    }
}

/// A tunnel at work: a future that ends with the tunnel.
pub struct Tunnel<W: Wire> {
    client: W,
    endpoint: W,
    to_endpoint: Pump,
    to_client: Pump,
    registered: Registered,
    trip: Box<Trip>,
    farewell: Option<Box<Farewell>>,
    close_wait: Duration,
    first_end: Option<Outcome>,
    listens: bool,
}

struct Farewell {
    reason: LeaveReason,
    deadline: Pin<Box<Sleep>>,
}

impl<W: Wire> Tunnel<W> {
    /// `to_client` are bytes that the endpoint sent before the relay began.
    pub fn new(
        client: W,
        endpoint: W,
        framing: Framing,
        to_client: &[u8],
        registered: Registered,
        trip: Box<Trip>,
        close_wait: Duration,
    ) -> Tunnel<W> {
        registered.count_to_client(to_client.len());
        Tunnel {
            client,
            endpoint,
            to_endpoint: framing.pump(),
            to_client: framing.pump().starting_with(to_client),
            registered,
            trip,
            farewell: None,
            close_wait,
            first_end: None,
            listens: false,
        }
    }

    fn obey(&mut self, command: Command) -> Poll<Outcome> {
        match command {
            Command::Cut(reason) => {
                self.client.reset_on_close();
                self.endpoint.reset_on_close();
                Poll::Ready(Outcome::Cut(reason))
            }
            Command::Leave(reason) => {
                if self.farewell.is_none() {
                    self.begin_farewell(reason);
                }
                Poll::Pending
            }
        }
    }

    fn begin_farewell(&mut self, reason: LeaveReason) {
        match self.to_client.frames() {
            Some(_) => self.to_client.say_goodbye(websocket::close_to_client(reason.close_code())),
            None => self.to_client.end_politely(),
        }
        let deadline = Box::pin(tokio::time::sleep(self.close_wait));
        self.farewell = Some(Box::new(Farewell { reason, deadline }));
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(farewell) = &mut self.farewell else { return Poll::Pending };
        if farewell.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let reason = farewell.reason;
        let said_close = self.to_endpoint.frames().is_none_or(websocket::Frames::saw_close);
        if !said_close && self.to_endpoint.at_border() {
            let close = websocket::close_to_endpoint(reason.close_code());
            // One try: an endpoint that takes nothing now sees the end of the connection instead.
            if Pin::new(&mut self.endpoint).poll_write(cx, &close).is_ready() {
                let _flushed_or_closed_next = Pin::new(&mut self.endpoint).poll_flush(cx);
            }
        }
        Poll::Ready(Outcome::Left(reason))
    }

    fn poll_pumps(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Outcome> {
        let entry = self.registered.entry();
        let up =
            self.to_endpoint.poll(cx, &mut self.client, &mut self.endpoint, scratch, |n| entry.count_to_endpoint(n));
        if let Poll::Ready(Err(broken)) = up {
            return Poll::Ready(self.break_off(&broken, Outcome::ClientReset, Outcome::EndpointReset));
        }
        if self.farewell.is_some() && self.client_has_answered() {
            self.to_client.goodbye_answered();
        }
        let entry = self.registered.entry();
        let down = self.to_client.poll(cx, &mut self.endpoint, &mut self.client, scratch, |n| entry.count_to_client(n));
        if let Poll::Ready(Err(broken)) = down {
            return Poll::Ready(self.break_off(&broken, Outcome::EndpointReset, Outcome::ClientReset));
        }
        self.note_first_end(up.is_ready(), down.is_ready());
        if up.is_ready() && down.is_ready() { Poll::Ready(self.outcome()) } else { Poll::Pending }
    }

    fn client_has_answered(&self) -> bool {
        self.to_endpoint.has_ended() || self.to_endpoint.frames().is_some_and(websocket::Frames::saw_close)
    }

    fn note_first_end(&mut self, client_closed: bool, endpoint_closed: bool) {
        if self.first_end.is_none() && (client_closed || endpoint_closed) {
            self.first_end = Some(if client_closed { Outcome::ClientClosed } else { Outcome::EndpointClosed });
        }
    }

    fn outcome(&self) -> Outcome {
        match &self.farewell {
            Some(farewell) => Outcome::Left(farewell.reason),
            None => self.first_end.unwrap_or(Outcome::ClientClosed),
        }
    }

    /// One socket failed: the other side is to see a failure too, not a clean end.
    fn break_off(&mut self, broken: &Broken, reading: Outcome, writing: Outcome) -> Outcome {
        if let Some(farewell) = &self.farewell {
            return Outcome::Left(farewell.reason);
        }
        let outcome = match broken {
            Broken::Reading(_) => reading,
            Broken::Writing(_) => writing,
        };
        match outcome {
            Outcome::ClientReset => self.endpoint.reset_on_close(),
            _ => self.client.reset_on_close(),
        }
        outcome
    }
}

impl<W: Wire> Future for Tunnel<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.listens || this.registered.command().is_some() {
            // Once is enough until a command comes: a task keeps its waker for life, and a tunnel is spawned, never moved
            // to another task. A command takes the waker away, and a cut may follow a leave.
            this.registered.wake_on_command(cx.waker());
            this.listens = true;
        }
        let told = this.registered.command().map_or(Poll::Pending, |command| this.obey(command));
        let outcome = match told {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => match this.poll_farewell(cx) {
                Poll::Ready(outcome) => Poll::Ready(outcome),
                Poll::Pending => BUFFER.with_borrow_mut(|scratch| this.poll_pumps(cx, scratch)),
            },
        };
        outcome.map(|outcome| this.trip.ended(outcome, this.registered.bytes()))
    }
}

impl<W: Wire> Drop for Tunnel<W> {
    fn drop(&mut self) {
        // A task that is dropped unfinished (a panic, the end of the process) still tells what it had moved.
        self.trip.count(self.registered.bytes());
    }
}
