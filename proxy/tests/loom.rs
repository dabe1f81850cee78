//! The command slot of a connection under loom: every order in which threads may meet there is tried. What else the relay
//! shares (byte counters, leases, signs of life) are single atomics, each of which stands for itself.
//!
//! The file under test is compiled a second time, with loom's types in place of the real ones. That the `AtomicWaker` in
//! use keeps the promises of loom's own is for its crate to test.

mod primitives {
    pub(crate) use loom::sync::atomic::AtomicU8;

    #[derive(Default)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[path = "../src/registry/slot.rs"]
mod slot;

use std::future::poll_fn;
use std::task::Poll;

use loom::sync::Arc;
use loom::thread;

use slot::{FINAL, Slot};

const LEAVE: u8 = 1;
const CUT: u8 = LEAVE | FINAL;

/// Waits as a tunnel does: it looks once whenever it is polled, and asks to be woken no more often than it must.
async fn heard(slot: &Slot, wanted: u8) {
    let mut listens = false;
    poll_fn(|cx| if slot.listen(cx.waker(), &mut listens) == wanted { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// loom fails a run in which the task is never woken.
#[test]
fn a_task_hears_of_a_command() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let teller = thread::spawn({
            let slot = slot.clone();
            move || slot.tell(LEAVE)
        });
        loom::future::block_on(heard(&slot, LEAVE));
        teller.join().unwrap();
    });
}

#[test]
fn a_task_hears_of_a_cut_that_follows_a_leave() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let teller = thread::spawn({
            let slot = slot.clone();
            move || {
                slot.tell(LEAVE);
                slot.tell(CUT);
            }
        });
        loom::future::block_on(heard(&slot, CUT));
        teller.join().unwrap();
    });
}

/// Three threads meet in too many orders for all of them: those where each is interrupted a few times are tried.
#[test]
fn a_cut_stands_whoever_asks_to_leave_meanwhile() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let slot = Arc::new(Slot::default());
        let tell = |command| {
            let slot = slot.clone();
            thread::spawn(move || slot.tell(command))
        };
        let tellers = [tell(LEAVE), tell(CUT)];
        loom::future::block_on(heard(&slot, CUT));
        for teller in tellers {
            teller.join().unwrap();
        }
        assert_eq!(slot.command(), CUT);
    });
}
