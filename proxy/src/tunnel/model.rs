//! The relay against a model: random schedules of reads, short writes, ends and resets on both sides.
//!
//! Each socket is played by a [`Side`] that says exactly when it is readable, how much it takes, and when it ends. What
//! one side sent must be what the other got, in order, each byte once; nothing may be left behind when it is over.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use policies::Load;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fixture::{Fixture, pattern};
use super::pump::TURN;
use super::{Framing, SCRATCH, Tunnel, Wire};
use crate::registry::{Command, LeaveReason};

/// What the test knows and decides about one socket.
#[derive(Default)]
struct Side {
    /// Bytes that the peer behind this socket has sent, and the relay may read.
    readable: Vec<u8>,
    ended: bool,
    reset: bool,
    /// Bytes that the socket takes before it is full again.
    room: usize,
    got: Vec<u8>,
    got_end: bool,
    waker: Option<Waker>,
    /// As one with TLS does, it takes what the socket has no room for, and gives it on when it is flushed.
    holds_back: bool,
    held: Vec<u8>,
}

impl Side {
    /// The bytes that the socket takes. When it is full, the relay hears of room.
    fn take(&mut self, cx: &Context<'_>, bytes: &[u8]) -> usize {
        let take = self.room.min(bytes.len());
        self.room -= take;
        self.got.extend_from_slice(&bytes[..take]);
        if take < bytes.len() {
            self.waker = Some(cx.waker().clone());
        }
        take
    }

    fn poll_held(&mut self, cx: &Context<'_>) -> Poll<()> {
        let held = std::mem::take(&mut self.held);
        let taken = self.take(cx, &held);
        self.held = held[taken..].to_vec();
        if self.held.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The relay's end of it.
struct SimWire {
    side: Arc<Mutex<Side>>,
    open: Arc<AtomicUsize>,
}

impl SimWire {
    fn new(side: &Arc<Mutex<Side>>, open: &Arc<AtomicUsize>) -> SimWire {
        open.fetch_add(1, SeqCst);
        SimWire { side: side.clone(), open: open.clone() }
    }
}

impl Drop for SimWire {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

impl AsyncRead for SimWire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut side = self.side.lock().unwrap();
        if side.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if side.readable.is_empty() && !side.ended {
            side.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let take = side.readable.len().min(buf.remaining());
        let bytes: Vec<u8> = side.readable.drain(..take).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimWire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut side = self.side.lock().unwrap();
        if side.reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(side.poll_held(cx));
        let taken = side.take(cx, buf);
        if side.holds_back {
            side.held = buf[taken..].to_vec();
            return Poll::Ready(Ok(buf.len()));
        }
        if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.side.lock().unwrap().poll_held(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut side = self.side.lock().unwrap();
        ready!(side.poll_held(cx));
        side.got_end = true;
        Poll::Ready(Ok(()))
    }
}

impl Wire for SimWire {
    fn holds_back_writes(&self) -> bool {
        !self.side.lock().unwrap().held.is_empty()
    }

    fn reset_on_close(&self) {}

    fn bare(&self) -> Option<&tokio::net::TcpStream> {
        None
    }

    fn lowest_rtt(&self) -> Option<std::time::Duration> {
        None
    }
}

/// One step of a schedule, on one of the two sides.
#[derive(Debug, Clone)]
enum Step {
    Send { client: bool, bytes: usize },
    Take { client: bool, bytes: usize },
    End { client: bool },
    Reset { client: bool },
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sizes = || prop_oneof![8 => 1usize..300, 2 => 1000usize..9000, 1 => Just(3 * SCRATCH)];
    let step = prop_oneof![
        20 => (any::<bool>(), sizes()).prop_map(|(client, bytes)| Step::Send { client, bytes }),
        20 => (any::<bool>(), sizes()).prop_map(|(client, bytes)| Step::Take { client, bytes }),
        2 => any::<bool>().prop_map(|client| Step::End { client }),
        1 => any::<bool>().prop_map(|client| Step::Reset { client }),
        1 => Just(Step::Leave),
    ];
    prop::collection::vec(step, 1..60)
}

struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Bench {
    client: Arc<Mutex<Side>>,
    endpoint: Arc<Mutex<Side>>,
    tunnel: Option<Pin<Box<Tunnel<SimWire>>>>,
    open: Arc<AtomicUsize>,
    load: Arc<Load>,
    registry: Arc<crate::registry::Registry>,
    entry: Arc<crate::registry::Entry>,
    woken: Arc<Woken>,
}

impl Bench {
    fn new(framing: Framing) -> Bench {
        let open = Arc::new(AtomicUsize::new(0));
        let (client, endpoint): (Arc<Mutex<Side>>, Arc<Mutex<Side>>) = Default::default();
        let Fixture { registered, trip, load, registry } = Fixture::new();
        let entry = registered.entry().clone();
        let (a, b) = (SimWire::new(&client, &open), SimWire::new(&endpoint, &open));
        let tunnel = Tunnel::new(a, b, framing, &[], registered, trip, Duration::from_secs(5));
        let woken = Arc::new(Woken(AtomicUsize::new(1)));
        Bench { client, endpoint, tunnel: Some(Box::pin(tunnel)), open, load, registry, entry, woken }
    }

    fn side(&self, client: bool) -> &Arc<Mutex<Side>> {
        if client { &self.client } else { &self.endpoint }
    }

    /// Changes a side, and wakes whoever waits for it: a relay that forgot to ask is not helped.
    fn change(&self, client: bool, change: impl FnOnce(&mut Side)) {
        let mut side = self.side(client).lock().unwrap();
        change(&mut side);
        if let Some(waker) = side.waker.take() {
            waker.wake();
        }
    }

    /// Polls as a runtime would: when woken, and only then. Who has had a turn goes on when the runtime has looked around.
    async fn run(&mut self) {
        while self.woken.0.swap(0, SeqCst) > 0 {
            if self.poll_once().is_ready() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn poll_once(&mut self) -> Poll<()> {
        let Some(tunnel) = &mut self.tunnel else { return Poll::Ready(()) };
        let waker = Waker::from(self.woken.clone());
        let polled = tunnel.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            self.tunnel = None;
        }
        polled
    }

    fn is_over(&self) -> bool {
        self.tunnel.is_none()
    }
}

fn in_paused_time<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

/// Runs a schedule over an opaque tunnel, and checks each side's bytes against what the other sent.
async fn check_opaque(steps: &[Step], holds_back: [bool; 2]) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(Framing::Opaque);
    for client in [true, false] {
        bench.change(client, |side| side.holds_back = holds_back[usize::from(client)]);
    }
    let mut sent = [0usize; 2];
    let (mut left, mut reset, mut ended) = (false, false, [false; 2]);
    for step in steps {
        match step {
            Step::Send { client, bytes } if !ended[usize::from(*client)] => {
                let from = &mut sent[usize::from(*client)];
                let data = pattern(*from, *bytes);
                *from += bytes;
                bench.change(*client, |side| side.readable.extend(data));
            }
            Step::Send { .. } => {}
            Step::Take { client, bytes } => bench.change(*client, |side| side.room += bytes),
            Step::End { client } => {
                ended[usize::from(*client)] = true;
                bench.change(*client, |side| side.ended = true);
            }
            Step::Reset { client } => {
                reset = true;
                bench.change(*client, |side| side.reset = true);
            }
            Step::Leave => {
                left = true;
                bench.entry.tell(Command::Leave(LeaveReason::Stop));
            }
        }
        bench.run().await;
        if let Some(tunnel) = &bench.tunnel {
            for (pump, client) in [(&tunnel.to_client, true), (&tunnel.to_endpoint, false)] {
                let side = bench.side(client).lock().unwrap();
                prop_assert!(pump.kept_bytes() + side.held.len() <= SCRATCH);
                let waits = side.room > 0 && side.got.len() < sent[usize::from(!client)];
                prop_assert!(!waits || reset || left, "a reader with room waits for bytes that were sent");
            }
        }
    }
    for client in [true, false] {
        bench.change(client, |side| {
            side.room = usize::MAX / 2;
            side.ended = true;
        });
    }
    bench.run().await;
    prop_assert!(bench.is_over(), "both sides ended and took everything, and the tunnel is not over");
    for client in [true, false] {
        let from = sent[usize::from(!client)];
        let side = bench.side(client).lock().unwrap();
        prop_assert_eq!(&side.got[..], &pattern(0, side.got.len())[..], "bytes are lost, repeated or reordered");
        let excused = reset || (left && client);
        if !excused {
            prop_assert_eq!(side.got.len(), from, "bytes are missing");
            prop_assert!(side.got_end, "the end was not passed on");
        }
    }
    check_nothing_is_left(&bench)
}

fn check_nothing_is_left(bench: &Bench) -> Result<(), TestCaseError> {
    prop_assert_eq!(bench.open.load(SeqCst), 0, "a socket is left");
    prop_assert_eq!(bench.load.leases(), 0, "a lease is left");
    prop_assert_eq!(bench.registry.connections(), 0, "an entry is left in the registry");
    Ok(())
}

fn frame(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x82, 126];
    bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
    bytes.extend(pattern(0, length));
    bytes
}

/// Sends frames cut at random to a WebSocket client, asks it to leave at a random moment, and checks that the client
/// got whole frames and then one Close.
async fn check_goodbye(
    frames: &[usize],
    cuts: &[usize],
    leave_at: usize,
    room: &[usize],
    holds_back: bool,
) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(Framing::WebSocket);
    bench.change(true, |side| side.holds_back = holds_back);
    let stream: Vec<u8> = frames.iter().flat_map(|length| frame(*length)).collect();
    let mut at = 0;
    for (turn, cut) in cuts.iter().cycle().enumerate() {
        if turn == leave_at {
            bench.entry.tell(Command::Leave(LeaveReason::Stop));
        }
        if at == stream.len() && turn > leave_at {
            break;
        }
        let to = (at + cut).min(stream.len());
        bench.change(false, |side| side.readable.extend(&stream[at..to]));
        at = to;
        bench.change(true, |side| side.room += room[turn % room.len()]);
        bench.run().await;
    }
    bench.change(true, |side| side.room = usize::MAX / 2);
    bench.run().await;
    let got = bench.client.lock().unwrap().got.clone();
    let close = [0x88, 2, 0x03, 0xf4];
    prop_assert!(got.ends_with(&close), "the last thing the client gets is a Close 1012");
    let data = &got[..got.len() - close.len()];
    prop_assert!(stream.starts_with(data), "frames are passed on as they came");
    let borders: Vec<usize> = frames
        .iter()
        .scan(0, |end, length| {
            *end += length + 4;
            Some(*end)
        })
        .collect();
    prop_assert!(data.is_empty() || borders.contains(&data.len()), "the Close stands between two frames");
    // The client answers; the answer reaches the endpoint, and both streams end.
    let answer = super::websocket::close_to_endpoint(1012);
    bench.change(true, |side| {
        side.readable.extend(answer);
        side.ended = true;
    });
    bench.change(false, |side| {
        side.room = usize::MAX / 2;
        side.ended = true;
    });
    bench.run().await;
    prop_assert!(bench.is_over());
    prop_assert_eq!(&bench.endpoint.lock().unwrap().got[..], &answer[..]);
    prop_assert!(bench.client.lock().unwrap().got_end);
    check_nothing_is_left(&bench)
}

proptest! {
    #[test]
    fn no_byte_is_lost_repeated_or_reordered_and_nothing_is_left_behind(
        steps in steps(),
        holds_back in any::<[bool; 2]>(),
    ) {
        in_paused_time(check_opaque(&steps, holds_back))?;
    }

    #[test]
    fn a_websocket_client_that_leaves_gets_whole_frames_and_one_close(
        frames in prop::collection::vec(0usize..3000, 1..8),
        cuts in prop::collection::vec(1usize..700, 1..12),
        leave_at in 0usize..20,
        room in prop::collection::vec(0usize..900, 1..6),
        holds_back in any::<bool>(),
    ) {
        in_paused_time(check_goodbye(&frames, &cuts, leave_at, &room, holds_back))?;
    }
}

#[test]
fn a_client_that_ignores_the_goodbye_is_closed_and_the_endpoint_hears_of_it() {
    in_paused_time(async {
        let mut bench = Bench::new(Framing::WebSocket);
        for client in [true, false] {
            bench.change(client, |side| side.room = 1000);
        }
        bench.entry.tell(Command::Leave(LeaveReason::EndpointRemoved));
        bench.run().await;
        assert!(!bench.is_over());
        tokio::time::sleep(Duration::from_secs(6)).await;
        bench.run().await;
        assert!(bench.is_over(), "the deadline of the goodbye has passed");
        assert_eq!(bench.client.lock().unwrap().got, [0x88, 2, 0x03, 0xf4]);
        assert_eq!(bench.endpoint.lock().unwrap().got, super::websocket::close_to_endpoint(1012));
        assert_eq!((bench.open.load(SeqCst), bench.load.leases()), (0, 0));
    });
}

#[test]
fn a_cut_ends_a_tunnel_at_once() {
    in_paused_time(async {
        let mut bench = Bench::new(Framing::Opaque);
        bench.run().await;
        bench.entry.tell(Command::Cut(LeaveReason::Stop));
        bench.run().await;
        assert!(bench.is_over());
        assert_eq!((bench.open.load(SeqCst), bench.load.leases()), (0, 0));
    });
}

#[test]
fn a_tunnel_in_full_flow_lets_others_have_their_turn() {
    in_paused_time(async {
        let mut bench = Bench::new(Framing::Opaque);
        bench.run().await;
        bench.change(true, |side| side.room = 8 * TURN);
        bench.change(false, |side| side.readable.extend(pattern(0, 4 * TURN)));
        bench.woken.0.store(0, SeqCst);
        assert!(bench.poll_once().is_pending());
        let got = bench.client.lock().unwrap().got.len();
        assert!((TURN..=TURN + SCRATCH).contains(&got), "{got} in one turn");
        assert_eq!(bench.woken.0.load(SeqCst), 0, "and not before the runtime has looked at the others");
        tokio::task::yield_now().await;
        assert_eq!(bench.woken.0.load(SeqCst), 1, "and goes on by itself");
        bench.run().await;
        assert_eq!(bench.client.lock().unwrap().got, pattern(0, 4 * TURN));
    });
}

/// A task has its future beside some 88 bytes of its own, in multiples of 128 (tokio's `Cell` on x86-64): one byte more than
/// this costs every idle tunnel 128.
#[test]
fn a_tunnel_fits_the_allocation_that_it_has() {
    assert!(size_of::<Tunnel<crate::stream::Io>>() <= 296, "{}", size_of::<Tunnel<crate::stream::Io>>());
}
