//! Health as votes: each source has one, the worst counts, and only the source that cast a vote takes it back.

use std::sync::Arc;

use policies::{Standing, Tick};

/// What one source says, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Vote {
    pub standing: Standing,
    pub reason: Arc<str>,
    pub since: Tick,
}

/// The votes on one endpoint.
#[derive(Debug, Clone)]
pub struct Votes {
    probes: Vote,
    membership: Vote,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    /// A probe has come back well at least once.
    proven: bool,
}

impl Votes {
    /// Up until something says otherwise: an edge that starts serves at once. The first failed probe of an endpoint
    /// that never answered one takes it down at once (HAProxy's `init-state up`).
    pub fn new(now: Tick) -> Votes {
        Votes {
            probes: Vote { standing: Standing::Up, reason: "not probed yet".into(), since: now },
            membership: Vote { standing: Standing::Up, reason: "configured".into(), since: now },
            good_in_a_row: 0,
            bad_in_a_row: 0,
            proven: false,
        }
    }

    pub fn standing(&self) -> Standing {
        self.worst().standing
    }

    /// The vote that counts.
    pub fn worst(&self) -> &Vote {
        if self.membership.standing > self.probes.standing { &self.membership } else { &self.probes }
    }

    /// In doubt: probed at the fast interval.
    pub fn in_doubt(&self) -> bool {
        self.probes.standing == Standing::Suspect || (self.probes.standing == Standing::Down && self.good_in_a_row > 0)
    }

    pub fn probe_succeeded(&mut self, rise: u32, now: Tick) {
        self.bad_in_a_row = 0;
        self.good_in_a_row = self.good_in_a_row.saturating_add(1);
        if !self.proven && self.probes.standing == Standing::Up {
            self.probes = Vote { standing: Standing::Up, reason: "probe succeeded".into(), since: now };
        }
        self.proven = true;
        // In doubt one good probe is enough; from down it takes `rise` of them.
        if self.probes.standing == Standing::Suspect || self.good_in_a_row >= rise {
            self.cast_by_probes(Standing::Up, "probe succeeded", now);
        }
    }

    pub fn probe_failed(&mut self, why: &str, fall: u32, now: Tick) {
        self.good_in_a_row = 0;
        self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
        if !self.proven || self.bad_in_a_row >= fall || self.probes.standing == Standing::Down {
            self.cast_by_probes(Standing::Down, why, now);
        } else {
            self.cast_by_probes(Standing::Suspect, why, now);
        }
    }

    /// Probing was turned off: what it said no longer counts.
    pub fn probes_withdrawn(&mut self, now: Tick) {
        self.good_in_a_row = 0;
        self.bad_in_a_row = 0;
        self.cast_by_probes(Standing::Up, "not probed", now);
    }

    /// The files no longer name this endpoint; true when they did until now.
    pub fn removed(&mut self, now: Tick) -> bool {
        let news = self.membership.standing != Standing::Draining;
        if news {
            self.membership =
                Vote { standing: Standing::Draining, reason: "removed from the configuration".into(), since: now };
        }
        news
    }

    pub fn is_removed(&self) -> bool {
        self.membership.standing == Standing::Draining
    }

    /// The files name it (again).
    pub fn configured(&mut self, now: Tick) {
        if self.membership.standing != Standing::Up {
            self.membership = Vote { standing: Standing::Up, reason: "configured".into(), since: now };
        }
    }

    fn cast_by_probes(&mut self, standing: Standing, reason: &str, now: Tick) {
        if self.probes.standing != standing {
            self.probes = Vote { standing, reason: reason.into(), since: now };
        } else if standing != Standing::Up && &*self.probes.reason != reason {
            self.probes.reason = reason.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    fn proven() -> Votes {
        let mut votes = Votes::new(at(0));
        votes.probe_succeeded(2, at(1));
        votes
    }

    #[test]
    fn one_failed_probe_is_a_doubt_and_three_in_a_row_are_down() {
        let mut votes = proven();
        votes.probe_failed("refused", 3, at(2));
        assert_eq!(votes.standing(), Standing::Suspect);
        assert!(votes.in_doubt());
        votes.probe_failed("refused", 3, at(3));
        votes.probe_failed("timed out", 3, at(4));
        assert_eq!(votes.standing(), Standing::Down);
        assert_eq!(*votes.worst(), Vote { standing: Standing::Down, reason: "timed out".into(), since: at(4) });
    }

    #[test]
    fn a_doubt_ends_with_one_good_probe() {
        let mut votes = proven();
        votes.probe_failed("refused", 3, at(2));
        votes.probe_succeeded(2, at(3));
        assert_eq!(votes.standing(), Standing::Up);
    }

    #[test]
    fn an_endpoint_that_was_down_needs_rise_good_probes() {
        let mut votes = proven();
        (2..5).for_each(|second| votes.probe_failed("refused", 3, at(second)));
        votes.probe_succeeded(2, at(6));
        assert_eq!(votes.standing(), Standing::Down);
        assert!(votes.in_doubt());
        votes.probe_succeeded(2, at(7));
        assert_eq!(votes.standing(), Standing::Up);
    }

    #[test]
    fn an_endpoint_that_never_answered_goes_down_at_its_first_failure() {
        let mut votes = Votes::new(at(0));
        assert_eq!(votes.standing(), Standing::Up);
        votes.probe_failed("refused", 3, at(1));
        assert_eq!(votes.standing(), Standing::Down);
    }

    #[test]
    fn a_good_probe_does_not_take_back_a_removal() {
        let mut votes = proven();
        assert!(votes.removed(at(2)));
        votes.probe_succeeded(2, at(3));
        assert_eq!(votes.standing(), Standing::Draining);
        votes.configured(at(4));
        assert_eq!(votes.standing(), Standing::Up);
    }

    #[test]
    fn the_worst_vote_counts() {
        let mut votes = proven();
        assert!(votes.removed(at(2)));
        (3..6).for_each(|second| votes.probe_failed("refused", 3, at(second)));
        assert_eq!(votes.standing(), Standing::Down);
    }
}
