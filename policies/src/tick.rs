//! A moment, as somebody outside tells it.

use std::time::Duration;

/// A moment: the time since an epoch that the caller chose once and never changes (the start of the process, or zero in
/// a test). Only differences mean something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub Duration);

impl Tick {
    /// The time since an earlier moment; zero if that was not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
