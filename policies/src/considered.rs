//! What a pick looked at, so that it can be told afterwards.

use crate::{candidates::Candidate, endpoint::EndpointIx};

/// The candidates that a policy compared, in the order in which it came to them, with their counts at that moment. The
/// last four when there were more. Inline: noting one allocates nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Considered {
    seen: [Option<Look>; Self::MAX],
    next: u8,
}

/// One candidate as a pick saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub endpoint: EndpointIx,
    /// Leases that it held then.
    pub leases: u32,
}

impl Considered {
    pub const MAX: usize = 4;

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Look> {
        let (newer, older) = self.seen.split_at(usize::from(self.next));
        older.iter().chain(newer).flatten().copied()
    }

    pub(crate) fn note(&mut self, candidate: &Candidate) {
        let look = Look { endpoint: candidate.endpoint, leases: candidate.load().leases() };
        self.seen[usize::from(self.next)] = Some(look);
        self.next = (self.next + 1) % 4;
    }
}
