//! Rise and fall: how probes in a row make the vote of [`Source::Probes`].

use policies::{Standing, Tick};

use super::{Source, Votes};

/// What is counted between two changes of the vote.
#[derive(Debug, Clone, Default)]
pub(super) struct Probing {
    good_in_a_row: u32,
    bad_in_a_row: u32,
    /// A probe has come back, well or not.
    tried: bool,
    /// A probe has come back well at least once.
    proven: bool,
}

impl Votes {
    /// In doubt: probed at the fast interval.
    pub fn in_doubt(&self) -> bool {
        match self.of(Source::Probes).standing {
            Standing::Suspect => true,
            Standing::Down => self.probing.good_in_a_row > 0,
            _ => false,
        }
    }

    pub fn probe_succeeded(&mut self, rise: u32, now: Tick) {
        let probing = &mut self.probing;
        probing.bad_in_a_row = 0;
        probing.good_in_a_row = probing.good_in_a_row.saturating_add(1);
        let (good_in_a_row, first) = (probing.good_in_a_row, !std::mem::replace(&mut probing.proven, true));
        let untried = !std::mem::replace(&mut probing.tried, true);
        // In doubt, and as the very first, one good probe is enough; from a fall it takes `rise` of them.
        let enough = match self.of(Source::Probes).standing {
            Standing::Up => first,
            Standing::Suspect => true,
            _ => untried || good_in_a_row >= rise,
        };
        if enough {
            self.cast(Source::Probes, Standing::Up, "probe succeeded", now);
        }
    }

    pub fn probe_failed(&mut self, why: &str, fall: u32, now: Tick) {
        let probing = &mut self.probing;
        probing.good_in_a_row = 0;
        probing.tried = true;
        probing.bad_in_a_row = probing.bad_in_a_row.saturating_add(1);
        let fell = !probing.proven || probing.bad_in_a_row >= fall;
        let standing =
            if fell || self.of(Source::Probes).standing == Standing::Down { Standing::Down } else { Standing::Suspect };
        self.cast(Source::Probes, standing, why, now);
    }

    /// Probing was turned off: what it said no longer counts.
    pub fn probes_withdrawn(&mut self, now: Tick) {
        let Probing { tried, proven, .. } = self.probing;
        self.probing = Probing { tried, proven, ..Probing::default() };
        self.withdraw(Source::Probes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::votes::tests::{at, proven};

    #[test]
    fn one_failed_probe_is_a_doubt_and_three_in_a_row_are_down() {
        let mut votes = proven();
        votes.probe_failed("refused", 3, at(2));
        assert_eq!(votes.standing(), Standing::Suspect);
        assert!(votes.in_doubt());
        votes.probe_failed("refused", 3, at(3));
        votes.probe_failed("timed out", 3, at(4));
        assert_eq!(votes.standing(), Standing::Down);
        let (source, vote) = votes.worst();
        assert_eq!((source, &*vote.reason, vote.since), (Source::Probes, "timed out", at(4)));
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
        votes.probe_succeeded(2, at(2));
        assert_eq!(votes.standing(), Standing::Down, "it has fallen, so it takes `rise`");
    }

    #[test]
    fn an_endpoint_that_waits_for_its_first_probe_is_decided_by_it() {
        for standing in [Standing::Suspect, Standing::Down] {
            let mut waits = Votes::new(at(0));
            waits.unproven(standing, at(0));
            assert_eq!((waits.standing(), &*waits.worst().1.reason), (standing, "not probed yet"));
            let mut fails = waits.clone();
            waits.probe_succeeded(2, at(1));
            assert_eq!(waits.standing(), Standing::Up);
            fails.probe_failed("refused", 3, at(1));
            assert_eq!(fails.standing(), Standing::Down);
        }
    }
}
