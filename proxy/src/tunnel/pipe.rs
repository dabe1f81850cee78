//! Bulk data goes from socket to socket inside the kernel: `splice(2)` through a pipe, without a copy into this process.
//!
//! A pipe is borrowed from the worker while a direction moves bulk, and goes back as soon as it is empty: tunnels at rest
//! have none. There are a bounded number of them; a direction that gets none copies, as all do that move little.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most that one `splice` takes, and so the most that a direction ever keeps in a pipe. A pipe holds 16 buffers, of a
/// page each where the network card delivers pages.
pub(super) const MOST: usize = 128 * 1024;

/// Pipes of a worker, of two descriptors each. What stalled readers leave in them is kernel memory: 8 MiB a worker at most.
const PIPES: usize = 64;

/// Descriptors that the pipes of a worker take at most.
pub const DESCRIPTORS: usize = 2 * PIPES;

/// Empty pipes that are kept for the next bulk.
const IDLE: usize = 8;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    idle: Vec<Arc<Ends>>,
    lent: usize,
    #[cfg(test)]
    moved: usize,
}

/// Shared only so that a pipe that is dropped can leave them behind.
#[derive(Debug)]
struct Ends {
    out: OwnedFd,
    into: OwnedFd,
}

/// A pipe on loan, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Arc<Ends>,
    holds: usize,
}

impl Pipe {
    /// `None` when all are lent, or descriptors have run out.
    pub(super) fn borrow() -> Option<Pipe> {
        POOL.with_borrow_mut(|pool| {
            if pool.lent == PIPES {
                return None;
            }
            let ends = pool.idle.pop().or_else(Ends::open)?;
            pool.lent += 1;
            Some(Pipe { ends, holds: 0 })
        })
    }

    /// Bytes that went in and have not come out.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Takes what the socket has, at most `most` bytes, into the empty pipe. 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        debug_assert!(self.holds == 0, "a full pipe and an empty socket say the same");
        let into = &self.ends.into;
        let moved =
            ready!(poll_splice(cx, from, Interest::READABLE, || splice(from, None, into, None, most, flags())))?;
        self.holds = moved;
        #[cfg(test)]
        POOL.with_borrow_mut(|pool| pool.moved += moved);
        Poll::Ready(Ok(moved))
    }

    /// Gives all that it holds to the socket.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.holds > 0 {
            let (out, holds) = (&self.ends.out, self.holds);
            let moved =
                ready!(poll_splice(cx, to, Interest::WRITABLE, || splice(out, None, to, None, holds, flags())))?;
            if moved == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.holds -= moved;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A tunnel that outlives its worker's thread has nowhere to give it back to.
        let _closed_with_its_thread = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent -= 1;
            // One with bytes in it is closed, and they with it: nobody else may get them.
            if self.holds == 0 && pool.idle.len() < IDLE {
                pool.idle.push(self.ends.clone());
            }
        });
    }
}

impl Ends {
    fn open() -> Option<Arc<Ends>> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        Some(Arc::new(Ends { out, into }))
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// Tries when the socket is ready, and again until the kernel says that it is not.
fn poll_splice(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut attempt: impl FnMut() -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        if interest.is_readable() {
            ready!(socket.poll_read_ready(cx))?;
        } else {
            ready!(socket.poll_write_ready(cx))?;
        }
        match socket.try_io(interest, || Ok(attempt()?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Descriptors of the worker's pipes, and whether all of them are back.
#[cfg(test)]
pub(super) fn descriptors() -> (usize, bool) {
    POOL.with_borrow(|pool| (2 * (pool.idle.len() + pool.lent), pool.lent == 0))
}

#[cfg(test)]
pub(super) fn moved() -> usize {
    POOL.with_borrow(|pool| pool.moved)
}
