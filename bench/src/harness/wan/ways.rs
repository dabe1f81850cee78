//! Both directions of a way: what each is like, told to whoever carries bytes or packets there, while it is in use.

use tokio::sync::watch;

use super::{Direction, Way};

/// Both directions, and what may change them.
#[derive(Debug)]
pub struct Ways {
    told: watch::Sender<Told>,
    carries_connections: bool,
}

/// What is true now.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) out: Way,
    pub(super) back: Way,
    /// How often one of them was changed.
    pub(super) changes: u64,
    /// How often everything was cut.
    pub(super) cuts: u64,
}

impl Told {
    pub(super) fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Out => &self.out,
            Direction::Back => &self.back,
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.out.silent || self.back.silent
    }
}

impl Ways {
    /// Both directions the same, and whether connections end on the way, so that they can be cut there.
    pub(super) fn new(way: Way, carries_connections: bool) -> Self {
        Self { told: watch::Sender::new(Told { out: way, back: way, ..Told::default() }), carries_connections }
    }

    pub(super) fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// What one direction is like now.
    #[must_use]
    pub fn way(&self, direction: Direction) -> Way {
        *self.told.borrow().way(direction)
    }

    /// Changes one direction, for what is read from now on, on open connections too.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Way)) {
        self.told.send_modify(|told| {
            told.changes += 1;
            change(match direction {
                Direction::Out => &mut told.out,
                Direction::Back => &mut told.back,
            });
        });
    }

    /// Changes both directions, at the same moment.
    pub fn change_both(&self, change: impl Fn(&mut Way)) {
        self.told.send_modify(|told| {
            told.changes += 1;
            change(&mut told.out);
            change(&mut told.back);
        });
    }

    /// Whether there is something to [`cut`](Self::cut).
    pub(super) fn carries_connections(&self) -> bool {
        self.carries_connections
    }

    pub(super) fn cut(&self) {
        self.told.send_modify(|told| told.cuts += 1);
    }
}
