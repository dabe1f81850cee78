//! One direction of a tunnel: read here, write there, keep nothing while idle.
//!
//! Bytes are read into the worker's scratch buffer and written from it. Only what the other side would not take is
//! kept, in a buffer of just that size, and reading stops until it is gone: at most one scratch buffer's worth a
//! direction, whatever the peers do. A source that fills the scratch buffer sends bulk: until it has no more, and if both
//! sockets are bare, a [`Pipe`] of the worker's takes the place of the buffer.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::SCRATCH;
use super::pipe::{self, Pipe};
use super::websocket::Frames;
use crate::stream::Io;

/// Less than this at once, and nothing behind it, is a message: copying that is cheaper than moving it.
const MESSAGE: usize = 4096;

/// Bytes after which others have their turn: a third of a millisecond's worth. Peers that are quick enough would otherwise keep
/// a worker for as long as tokio lets a task run, which is 128 steps, not so many bytes.
pub(super) const TURN: usize = 1024 * 1024;

/// What the relay needs of a socket.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Whether bytes that it took are still inside, and need a flush.
    fn holds_back_writes(&self) -> bool;
    /// The close to come shall look like a failure to the peer.
    fn reset_on_close(&self);
    /// The socket, if bytes may go to it and from it as they are.
    fn bare(&self) -> Option<&TcpStream>;
    /// The lowest round trip to the peer lately, where that is known.
    fn lowest_rtt(&self) -> Option<Duration>;
}

impl Wire for Io {
    fn holds_back_writes(&self) -> bool {
        Io::holds_back_writes(self)
    }

    fn reset_on_close(&self) {
        Io::reset_on_close(self);
    }

    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Io::Plain(tcp) => Some(tcp),
            Io::Tls(_) => None,
        }
    }

    fn lowest_rtt(&self) -> Option<Duration> {
        crate::sys::lowest_rtt(self.tcp())
    }
}

/// Which socket failed.
#[derive(Debug)]
pub enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Stage {
    #[default]
    Open,
    /// The source has ended; what is kept goes out, then the end is passed on.
    Ending,
    /// The reader was told goodbye; what still comes is read and dropped until the source ends.
    Dropping {
        fin_sent: bool,
    },
    Ended,
}

/// One direction. `frames` is there when the bytes are WebSocket frames.
#[derive(Debug, Default)]
pub struct Pump {
    /// Boxed, so that a tunnel at rest has no room for it.
    kept: Option<Box<Kept>>,
    stage: Stage,
    frames: Option<Frames>,
    /// Said to the reader at the next border, before nothing more is sent.
    goodbye: Option<Goodbye>,
    may_send_fin: bool,
    source_was_reset: bool,
    /// The other direction has ended: when this one does, both sockets are closed.
    is_last: bool,
    flow: Flow,
}

/// What the source sends, as far as it can be told.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Flow {
    #[default]
    Messages,
    Bulk,
    /// The last piece of bulk was small. If nothing stands behind it, it was a message again.
    Ebb,
}

/// What the reader would not take yet.
#[derive(Debug)]
enum Kept {
    Bytes { bytes: Box<[u8]>, sent: usize },
    Piped(Pipe),
}

#[derive(Debug, Clone, Copy)]
enum Goodbye {
    Close([u8; 4]),
    Nothing,
}

impl Pump {
    pub fn opaque() -> Pump {
        Pump::default()
    }

    pub fn websocket() -> Pump {
        Pump { frames: Some(Frames::default()), ..Pump::default() }
    }

    /// Starts with bytes that were read before the relay began.
    pub fn starting_with(mut self, bytes: &[u8]) -> Pump {
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
        }
        self.keep(bytes);
        self
    }

    /// From the next frame border on the reader gets `close` and nothing more.
    pub fn say_goodbye(&mut self, close: [u8; 4]) {
        if self.stage == Stage::Open {
            self.goodbye = Some(Goodbye::Close(close));
        }
    }

    /// The reader gets what is on its way, then the end of the stream.
    pub fn end_politely(&mut self) {
        if self.stage == Stage::Open {
            self.goodbye = Some(Goodbye::Nothing);
            self.may_send_fin = true;
        }
    }

    /// The reader takes nothing any more: what still comes is read and dropped, so that the source's end is seen.
    pub fn reader_is_gone(&mut self) {
        self.kept = None;
        self.goodbye = None;
        if self.stage != Stage::Ended {
            self.stage = Stage::Dropping { fin_sent: true };
        }
    }

    /// Writing to this direction's source has failed with a reset. The kernel tells that once, so reading will show an
    /// ordinary end where there was none.
    pub fn source_was_reset(&mut self) {
        self.source_was_reset = true;
    }

    /// The other direction has ended.
    pub fn is_last(&mut self) {
        self.is_last = true;
    }

    /// The reader has answered the goodbye: its stream may end now.
    pub fn goodbye_answered(&mut self) {
        self.may_send_fin = true;
    }

    pub fn frames(&self) -> Option<&Frames> {
        self.frames.as_ref()
    }

    /// Nothing kept, and between two frames: other bytes could be sent here without harm.
    pub fn at_border(&self) -> bool {
        self.kept.is_none() && self.frames.as_ref().is_none_or(Frames::at_border)
    }

    /// The end of the source has been passed on, or the source ended after the goodbye.
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Bytes kept because the reader would not take them.
    pub fn kept_bytes(&self) -> usize {
        match self.kept.as_deref() {
            None => 0,
            Some(Kept::Bytes { bytes, sent }) => bytes.len() - sent,
            Some(Kept::Piped(pipe)) => pipe.holds(),
        }
    }

    /// Moves bytes until one side has nothing more to do, or a megabyte has passed. Ready when this direction has ended.
    ///
    /// `moved` is told how many bytes were taken from the source for the reader.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Wire,
        to: &mut impl Wire,
        scratch: &mut [u8],
        mut moved: impl FnMut(usize),
    ) -> Poll<Result<(), Broken>> {
        let mut turn = 0;
        loop {
            ready!(self.poll_kept(cx, to)).map_err(Broken::Writing)?;
            if turn >= TURN {
                // Goes on once the runtime has looked at its sockets and timers; a plain wake would come before that.
                return pin!(tokio::task::yield_now()).poll(cx).map(Ok);
            }
            match self.stage {
                Stage::Ended => return Poll::Ready(Ok(())),
                Stage::Ending if self.is_last && to.bare().is_some() => {
                    // The close says so just as well.
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Writing)?;
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Dropping { fin_sent: false } if self.may_send_fin => {
                    // The reader may be gone already, which is what a goodbye is for.
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).ok();
                    self.stage = Stage::Dropping { fin_sent: true };
                }
                Stage::Open if self.goodbye_is_due() => {
                    self.say();
                    continue;
                }
                Stage::Open if self.flow != Flow::Messages => {
                    if let Some(piped) = self.poll_pipe(cx, from, to) {
                        let piped = ready!(piped).map_err(Broken::Reading)?;
                        turn += piped;
                        moved(piped);
                        continue;
                    }
                }
                _ => {}
            }
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(Broken::Reading)?;
            let bytes = buffer.filled();
            turn += bytes.len();
            if bytes.is_empty() {
                self.source_ended().map_err(Broken::Reading)?;
            } else if self.stage == Stage::Open {
                self.flow = if bytes.len() == SCRATCH { Flow::Bulk } else { Flow::Messages };
                let pass = self.admit(bytes);
                moved(pass);
                self.write(cx, to, &bytes[..pass]).map_err(Broken::Writing)?;
            }
        }
    }

    /// Fills a pipe, to be drained as anything kept is. `None` where bytes must be looked at, or there is no pipe.
    fn poll_pipe(&mut self, cx: &mut Context<'_>, from: &impl Wire, to: &impl Wire) -> Option<Poll<io::Result<usize>>> {
        let (from, _to) = (from.bare()?, to.bare()?);
        let most = self.frames.as_ref().map_or(pipe::MOST, Frames::unread_payload).min(pipe::MOST);
        if most < SCRATCH {
            return None;
        }
        let mut pipe = Pipe::borrow()?;
        let filled = pipe.poll_fill(cx, from, most);
        if filled.is_pending() && self.flow == Flow::Ebb {
            self.flow = Flow::Messages;
        }
        Some(filled.map(|filled| {
            let filled = filled?;
            self.flow = if filled < MESSAGE { Flow::Ebb } else { Flow::Bulk };
            if filled == 0 {
                self.source_ended()?;
            } else {
                if let Some(frames) = &mut self.frames {
                    frames.skip_payload(filled);
                }
                self.kept = Some(Box::new(Kept::Piped(pipe)));
            }
            Ok(filled)
        }))
    }

    /// How many of these bytes still belong to the reader.
    fn admit(&mut self, bytes: &[u8]) -> usize {
        match &mut self.frames {
            Some(frames) if self.goodbye.is_some() => frames.pass_to_border(bytes),
            Some(frames) => {
                frames.pass(bytes);
                bytes.len()
            }
            None => bytes.len(),
        }
    }

    fn goodbye_is_due(&self) -> bool {
        self.goodbye.is_some() && self.at_border()
    }

    fn say(&mut self) {
        // A server that has closed already has said its own goodbye.
        let closed_already = self.frames.as_ref().is_some_and(Frames::saw_close);
        if let Some(Goodbye::Close(close)) = self.goodbye.take()
            && !closed_already
        {
            self.keep(&close);
        }
        self.stage = Stage::Dropping { fin_sent: false };
    }

    fn source_ended(&mut self) -> io::Result<()> {
        if self.source_was_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.stage = match self.stage {
            Stage::Dropping { fin_sent: true } => Stage::Ended,
            _ => Stage::Ending,
        };
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, to: &mut impl Wire, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => {
                    self.keep(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_kept(&mut self, cx: &mut Context<'_>, to: &mut impl Wire) -> Poll<io::Result<()>> {
        if let Some(kept) = &mut self.kept {
            ready!(kept.poll_send(cx, to))?;
            self.kept = None;
        }
        if to.holds_back_writes() && !self.is_done_with_reader() {
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn is_done_with_reader(&self) -> bool {
        matches!(self.stage, Stage::Ended | Stage::Dropping { fin_sent: true })
    }

    fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(self.kept.is_none(), "reading stops while something is kept");
        if !bytes.is_empty() {
            self.kept = Some(Box::new(Kept::Bytes { bytes: bytes.into(), sent: 0 }));
        }
    }
}

impl Kept {
    /// Ready when the reader has all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>, to: &mut impl Wire) -> Poll<io::Result<()>> {
        match self {
            Kept::Piped(pipe) => match to.bare() {
                Some(to) => pipe.poll_drain(cx, to),
                None => unreachable!("a pipe is filled for a bare socket only"),
            },
            Kept::Bytes { bytes, sent } => {
                while *sent < bytes.len() {
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, &bytes[*sent..]))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *sent += written;
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}
