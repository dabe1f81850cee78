//! The endpoints that one client has been sent to already.

use crate::endpoint::EndpointIx;

/// Up to three endpoints that failed this client, so that the next pick goes elsewhere. Inline: making one allocates
/// nothing.
///
/// The positions belong to one snapshot. A client keeps the snapshot of its first pick until it is connected or refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    endpoints: [Option<EndpointIx>; Self::MAX],
}

impl Tried {
    /// A client gets at most this many endpoints in total before it is refused: more would turn one dead locality into a
    /// storm of connects, and the client has waited three connect time-outs by then.
    pub const MAX: usize = 3;

    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers an endpoint. False if it did not fit, which says that this client has had all it gets.
    pub fn push(&mut self, endpoint: EndpointIx) -> bool {
        match self.endpoints.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(endpoint);
                true
            }
            None => false,
        }
    }

    pub fn contains(&self, endpoint: EndpointIx) -> bool {
        self.endpoints.contains(&Some(endpoint))
    }

    /// In the order in which they failed.
    pub fn iter(&self) -> impl Iterator<Item = EndpointIx> {
        self.endpoints.iter().flatten().copied()
    }

    pub fn len(&self) -> usize {
        self.endpoints.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints[0].is_none()
    }

    /// Whether this client has had all the endpoints that it gets.
    pub fn is_full(&self) -> bool {
        self.len() == Self::MAX
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_fit_and_a_fourth_does_not() {
        let mut tried = Tried::new();
        assert!(tried.is_empty());
        assert!((0..3).all(|ix| tried.push(EndpointIx(ix))));
        assert!(tried.is_full());
        assert!(!tried.push(EndpointIx(3)));
        assert!(tried.contains(EndpointIx(2)) && !tried.contains(EndpointIx(3)));
        tried.clear();
        assert_eq!(tried.len(), 0);
        assert!(!tried.contains(EndpointIx(2)));
    }
}
