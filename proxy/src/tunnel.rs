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
mod fixture;
#[cfg(test)]
mod model;
mod pipe;
mod pump;
#[cfg(test)]
mod schedules;
mod verdict;
mod websocket;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub use pipe::DESCRIPTORS as PIPE_DESCRIPTORS;
use policies::{Failure, Kind};
pub use pump::{Broken, Pump, Wire};
use tokio::time::Sleep;

use self::verdict::{Closing, EarlyEnd, Verdict};
use crate::cluster::outlier;
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
    /// The side that took nothing any more, first.
    gone: Option<Side>,
    /// Who sent the first Close frame of a WebSocket.
    first_close: Option<Side>,
    listens: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Endpoint,
}

/// A tunnel that will end soon, whatever its peers do.
struct Farewell {
    /// `None`: one side has closed of its own accord, and the other is given time to follow.
    reason: Option<LeaveReason>,
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
            gone: None,
            first_close: None,
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
                if self.leaving().is_none() {
                    self.say_goodbye(reason);
                }
                Poll::Pending
            }
        }
    }

    fn say_goodbye(&mut self, reason: LeaveReason) {
        match self.to_client.frames() {
            Some(_) => self.to_client.say_goodbye(websocket::close_to_client(reason.close_code())),
            None => self.to_client.end_politely(),
        }
        self.give_time(Some(reason));
    }

    fn give_time(&mut self, reason: Option<LeaveReason>) {
        let deadline = Box::pin(tokio::time::sleep(self.close_wait));
        self.farewell = Some(Box::new(Farewell { reason, deadline }));
    }

    fn leaving(&self) -> Option<LeaveReason> {
        self.farewell.as_ref().and_then(|farewell| farewell.reason)
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(farewell) = &mut self.farewell else { return Poll::Pending };
        if farewell.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(reason) = farewell.reason {
            self.close_endpoint(cx, reason);
        }
        Poll::Ready(self.outcome())
    }

    /// The client has not answered in time: the endpoint hears of it from us.
    fn close_endpoint(&mut self, cx: &mut Context<'_>, reason: LeaveReason) {
        let said_close = self.to_endpoint.frames().is_none_or(websocket::Frames::saw_close);
        if !said_close && self.to_endpoint.at_border() {
            let close = websocket::close_to_endpoint(reason.close_code());
            // One try: an endpoint that takes nothing now sees the end of the connection instead.
            if Pin::new(&mut self.endpoint).poll_write(cx, &close).is_ready() {
                let _flushed_or_closed_next = Pin::new(&mut self.endpoint).poll_flush(cx);
            }
        }
    }

    fn poll_pumps(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Outcome> {
        let up = match self.poll_up(cx, scratch) {
            Poll::Ready(Err(Broken::Writing(error))) => self.reader_is_gone(Side::Endpoint, &error, cx, scratch),
            other => other,
        };
        if let Poll::Ready(Err(_)) = up {
            return Poll::Ready(self.break_off(Side::Client));
        }
        self.note_close();
        if up.is_ready() {
            self.to_client.is_last();
        }
        if self.leaving().is_some() && self.client_has_answered() {
            self.to_client.goodbye_answered();
        }
        let down = match self.poll_down(cx, scratch) {
            Poll::Ready(Err(Broken::Writing(error))) => self.reader_is_gone(Side::Client, &error, cx, scratch),
            other => other,
        };
        if let Poll::Ready(Err(_)) = down {
            return Poll::Ready(self.break_off(Side::Endpoint));
        }
        self.note_close();
        if down.is_ready() {
            self.to_endpoint.is_last();
        }
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(self.outcome());
        }
        self.one_side_may_have_ended(up.is_ready(), down.is_ready(), cx)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), Broken>> {
        let entry = self.registered.entry();
        self.to_endpoint.poll(cx, &mut self.client, &mut self.endpoint, scratch, |n| entry.count_to_endpoint(n))
    }

    fn poll_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), Broken>> {
        let entry = self.registered.entry();
        self.to_client.poll(cx, &mut self.endpoint, &mut self.client, scratch, |n| entry.count_to_client(n))
    }

    /// A side takes nothing any more. What it sent before, a last message perhaps, still goes to the other.
    fn reader_is_gone(
        &mut self,
        side: Side,
        error: &io::Error,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        self.gone.get_or_insert(side);
        // EPIPE: it had closed in order before it threw away what we sent. Anything else is a failure.
        if error.kind() != io::ErrorKind::BrokenPipe {
            match side {
                Side::Endpoint => self.to_client.source_was_reset(),
                Side::Client => self.to_endpoint.source_was_reset(),
            }
        }
        match side {
            Side::Endpoint => {
                self.to_endpoint.reader_is_gone();
                self.poll_up(cx, scratch)
            }
            Side::Client => {
                self.to_client.reader_is_gone();
                self.poll_down(cx, scratch)
            }
        }
    }

    /// One side has closed. Opaque protocols may go on with the other half for as long as they like; a WebSocket has no
    /// halves, and a side that takes nothing any more is over as well: the other gets time to follow.
    fn one_side_may_have_ended(&mut self, client: bool, endpoint: bool, cx: &mut Context<'_>) -> Poll<Outcome> {
        if client || endpoint {
            self.first_end.get_or_insert(if client { Outcome::ClientClosed } else { Outcome::EndpointClosed });
            let no_halves = self.gone.is_some() || self.to_client.frames().is_some();
            if no_halves && self.farewell.is_none() {
                self.give_time(None);
                return self.poll_farewell(cx);
            }
        }
        Poll::Pending
    }

    /// What the endpoint's socket has learnt in its life, while there still is one to ask.
    fn sample_rtt(&self) {
        let Some(endpoint) = self.registered.entry().endpoint() else { return };
        let now = self.trip.state().clock.now();
        if endpoint.wants_tunnel_rtt(now)
            && let Some(rtt) = self.endpoint.lowest_rtt()
        {
            endpoint.sample_tunnel_rtt(rtt, now);
        }
    }

    fn note_close(&mut self) {
        if self.first_close.is_none() {
            let saw_close = |pump: &Pump| pump.frames().is_some_and(websocket::Frames::saw_close);
            self.first_close = match (saw_close(&self.to_endpoint), saw_close(&self.to_client)) {
                (true, _) => Some(Side::Client),
                (false, true) => Some(Side::Endpoint),
                (false, false) => None,
            };
        }
    }

    /// Counts how the endpoint did, unless the sweeper has done so while the tunnel lived.
    fn judge(&mut self, outcome: Outcome) {
        self.note_close();
        let (Some(life), Some(endpoint)) = (self.registered.life(), self.registered.endpoint()) else { return };
        let (_, to_client) = self.registered.bytes();
        let websocket = self.to_client.frames().map(|frames| Closing::new(self.first_close, frames));
        let verdict = match life.is_young() {
            true => EarlyEnd { outcome, websocket, answered: to_client > 0 }.verdict(),
            false if life.is_awaited() => Verdict::Nothing,
            false => Verdict::Good,
        };
        if verdict == Verdict::Nothing || !life.judge_once() {
            return;
        }
        match verdict {
            Verdict::EarlyClose => outlier::count(self.trip.state(), endpoint, Kind::Tunnel, Failure::EarlyClose),
            _ => endpoint.outlier.succeeded(Kind::Tunnel),
        }
    }

    fn client_has_answered(&self) -> bool {
        self.to_endpoint.has_ended() || self.to_endpoint.frames().is_some_and(websocket::Frames::saw_close)
    }

    fn outcome(&self) -> Outcome {
        let first_end = self.first_end.unwrap_or(Outcome::ClientClosed);
        self.leaving().map_or(first_end, Outcome::Left)
    }

    /// A side broke off: the other is to see a failure too, not a clean end.
    fn break_off(&mut self, side: Side) -> Outcome {
        if let Some(reason) = self.leaving() {
            return Outcome::Left(reason);
        }
        match side {
            Side::Client => self.endpoint.reset_on_close(),
            Side::Endpoint => self.client.reset_on_close(),
        }
        match self.gone.unwrap_or(side) {
            Side::Client => Outcome::ClientReset,
            Side::Endpoint => Outcome::EndpointReset,
        }
    }
}

impl<W: Wire> Future for Tunnel<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // A tunnel is spawned once and never moved to another task.
        let command = this.registered.poll_command(cx, &mut this.listens);
        let told = command.map_or(Poll::Pending, |command| this.obey(command));
        let outcome = match told {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => match this.poll_farewell(cx) {
                Poll::Ready(outcome) => Poll::Ready(outcome),
                Poll::Pending => BUFFER.with_borrow_mut(|scratch| this.poll_pumps(cx, scratch)),
            },
        };
        outcome.map(|outcome| {
            this.sample_rtt();
            this.judge(outcome);
            this.trip.ended(outcome, this.registered.bytes());
        })
    }
}

impl<W: Wire> Drop for Tunnel<W> {
    fn drop(&mut self) {
        // A task that is dropped unfinished (a panic, the end of the process) still tells what it had moved.
        self.trip.count(self.registered.bytes());
    }
}
