//! What a pick looked at, so that it can be told afterwards.

use crate::{
    candidates::Candidate,
    endpoint::{EndpointIx, Weight},
};

/// The candidates that a policy compared, in the order in which it came to them, with their counts at that moment. The
/// last four when there were more. Inline, and small enough to be kept by the thousand: noting one allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Considered {
    endpoints: [EndpointIx; Self::MAX],
    leases: [u32; Self::MAX],
    /// None where nothing was noted yet.
    weights: [Option<Weight>; Self::MAX],
    next: u8,
}

/// One candidate as a pick saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub endpoint: EndpointIx,
    /// Leases that it held then.
    pub leases: u32,
    pub weight: Weight,
}

impl Considered {
    pub const MAX: usize = 4;

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Look> {
        let next = usize::from(self.next);
        (next..Self::MAX).chain(0..next).filter_map(|at| {
            let weight = self.weights[at]?;
            Some(Look { endpoint: self.endpoints[at], leases: self.leases[at], weight })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.weights[0].is_none()
    }

    /// Whether there may have been more than these.
    pub fn is_full(&self) -> bool {
        self.weights[Self::MAX - 1].is_some()
    }

    /// What was noted of one endpoint, the last time if several times.
    pub fn of(&self, endpoint: EndpointIx) -> Option<Look> {
        self.iter().filter(|look| look.endpoint == endpoint).last()
    }

    pub(crate) fn note(&mut self, candidate: &Candidate) {
        self.push(Look { endpoint: candidate.endpoint, leases: candidate.load().leases(), weight: candidate.weight() });
    }

    fn push(&mut self, look: Look) {
        let at = usize::from(self.next);
        self.endpoints[at] = look.endpoint;
        self.leases[at] = look.leases;
        self.weights[at] = Some(look.weight);
        self.next = (self.next + 1) % 4;
    }
}

impl Default for Considered {
    fn default() -> Self {
        Self { endpoints: [EndpointIx(0); Self::MAX], leases: [0; Self::MAX], weights: [None; Self::MAX], next: 0 }
    }
}

impl FromIterator<Look> for Considered {
    fn from_iter<T: IntoIterator<Item = Look>>(looks: T) -> Self {
        let mut considered = Self::default();
        looks.into_iter().for_each(|look| considered.push(look));
        considered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(endpoint: u32) -> Look {
        Look { endpoint: EndpointIx(endpoint), leases: 10 * endpoint, weight: Weight::default() }
    }

    #[test]
    fn the_last_four_are_kept_in_their_order() {
        let considered: Considered = (0..3).map(look).collect();
        assert_eq!(considered.iter().collect::<Vec<_>>(), [look(0), look(1), look(2)]);
        assert!(!considered.is_full() && !considered.is_empty());
        let considered: Considered = (0..6).map(look).collect();
        assert_eq!(considered.iter().collect::<Vec<_>>(), [look(2), look(3), look(4), look(5)]);
        assert!(considered.is_full());
        assert_eq!((considered.of(EndpointIx(3)), considered.of(EndpointIx(1))), (Some(look(3)), None));
        assert!(Considered::default().is_empty());
    }
}
