//! The command slot: what a connection's task was told last, and how it hears of it.
//!
//! Any thread tells, one task listens. `proxy/tests/loom.rs` runs this very file under loom, which tries every order in
//! which threads may meet here; the two types that it needs come from the module above, loom's there.

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::Waker;

use super::primitives::{AtomicU8, AtomicWaker};

/// Marks a command that nothing replaces.
pub(crate) const FINAL: u8 = 0x80;

/// Empty until the first command.
#[derive(Default)]
pub(crate) struct Slot {
    /// 0: none yet.
    command: AtomicU8,
    waker: AtomicWaker,
}

impl Slot {
    /// Puts a command in and wakes the task, unless a [`FINAL`] one is there already.
    pub(crate) fn tell(&self, command: u8) {
        let replaced = self.command.fetch_update(AcqRel, Acquire, |old| (old & FINAL == 0).then_some(command));
        if replaced.is_ok() {
            self.waker.wake();
        }
    }

    /// What it was told last, or 0.
    pub(crate) fn command(&self) -> u8 {
        self.command.load(Acquire)
    }

    /// The same, for the task that is to be woken by the next command. `listens` is its own note that it has asked to be:
    /// once is enough until a command comes, as a task keeps its waker for life. A command takes the waker away.
    pub(crate) fn listen(&self, waker: &Waker, listens: &mut bool) -> u8 {
        if !*listens || self.command() != 0 {
            self.waker.register(waker);
            *listens = true;
        }
        self.command()
    }
}
