//! Health as votes: each source has one, the worst counts, and only the source that cast a vote takes it back.
//!
//! Which vote is worst is decided by what may happen in panic: draining and maintenance are somebody's wish, and outweigh
//! `down`. An endpoint that is stopped for maintenance fails its probes as well, and must not be tried for all that.
//!
//! A source that has nothing against an endpoint votes `up`. So there is always a vote of each, with its reason and the
//! time since when it stands, and "why does this endpoint get nobody" has one answer for each source.

mod probing;

use std::sync::Arc;

use policies::{Standing, Tick};

use self::probing::Probing;

/// Who may vote. Of several votes that are equally bad, the one of the first source here is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Active probes: up, in doubt, down.
    Probes,
    /// Outlier detection on live traffic: suspect until a time.
    Outlier,
    /// The endpoint's own word, by `agent-check`.
    Agent,
    /// A person: draining or maintenance.
    Operator,
    /// The files, DNS or discovery: an endpoint that they no longer name drains.
    Membership,
}

impl Source {
    /// Every source, in the order of its votes.
    pub const ALL: [Source; 5] = [Source::Probes, Source::Outlier, Source::Agent, Source::Operator, Source::Membership];

    /// The word that status and the log use.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Probes => "probes",
            Source::Outlier => "outlier",
            Source::Agent => "agent",
            Source::Operator => "operator",
            Source::Membership => "membership",
        }
    }

    /// What this source's vote says while it has nothing against an endpoint.
    fn content(self) -> &'static str {
        match self {
            Source::Probes => "not probed",
            Source::Outlier => "not ejected",
            Source::Agent => "nothing said",
            Source::Operator => "no order",
            Source::Membership => "configured",
        }
    }

    /// The kind of its vote's reason when nobody says more: see [`Votes::classify`].
    fn kind(self, standing: Standing) -> &'static str {
        match (self, standing) {
            (_, Standing::Up) => "none",
            (Source::Probes, _) => "not-probed-yet",
            (Source::Outlier, _) => "ejected",
            (Source::Agent | Source::Operator, _) => standing.as_str(),
            (Source::Membership, _) => "removed",
        }
    }
}

/// What one source says, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Vote {
    pub standing: Standing,
    pub reason: Arc<str>,
    /// The reason in one word of a closed set, for metrics.
    pub kind: &'static str,
    /// When this source came to this standing; another reason for the same standing leaves it.
    pub since: Tick,
    /// When the vote ends by itself: an ejection. `None`: when its source takes it back.
    pub until: Option<Tick>,
}

/// The votes on one endpoint.
#[derive(Debug, Clone)]
pub struct Votes {
    /// By [`Source`].
    votes: [Vote; Source::ALL.len()],
    probing: Probing,
}

impl Votes {
    /// Up until something says otherwise: an edge that starts serves at once. The first failed probe of an endpoint
    /// that never answered one takes it down at once (HAProxy's `init-state up`).
    pub fn new(now: Tick) -> Votes {
        let up = |source: Source| Vote {
            standing: Standing::Up,
            reason: source.content().into(),
            kind: source.kind(Standing::Up),
            since: now,
            until: None,
        };
        let mut votes = Votes { votes: Source::ALL.map(up), probing: Probing::default() };
        votes.cast(Source::Probes, Standing::Up, "not probed yet", now);
        votes
    }

    /// Before its first probe, an endpoint is this, and no longer than until then.
    pub fn unproven(&mut self, standing: Standing, now: Tick) {
        self.cast(Source::Probes, standing, "not probed yet", now);
    }

    pub fn standing(&self) -> Standing {
        self.worst().1.standing
    }

    /// Whether a source says so, whatever the others say.
    pub fn has(&self, standing: Standing) -> bool {
        self.votes.iter().any(|vote| vote.standing == standing)
    }

    /// The vote that counts, and whose it is.
    pub fn worst(&self) -> (Source, &Vote) {
        let first = (Source::Probes, self.of(Source::Probes));
        self.all().fold(first, |worst, vote| if weight(vote.1) > weight(worst.1) { vote } else { worst })
    }

    pub fn of(&self, source: Source) -> &Vote {
        &self.votes[source as usize]
    }

    /// Every source with its vote, in the order of [`Source::ALL`].
    pub fn all(&self) -> impl Iterator<Item = (Source, &Vote)> {
        Source::ALL.into_iter().zip(&self.votes)
    }

    /// Replaces the vote of `source`, until it casts another one or withdraws.
    pub fn cast(&mut self, source: Source, standing: Standing, reason: &str, now: Tick) {
        self.replace(source, standing, reason, now, None);
    }

    /// As [`Votes::cast`], for a vote that ends by itself: [`Votes::expire`] withdraws it at `until`.
    pub fn cast_until(&mut self, source: Source, standing: Standing, reason: &str, now: Tick, until: Tick) {
        self.replace(source, standing, reason, now, Some(until));
    }

    /// The kind of reason for the vote that `source` has just cast, where its standing does not say it already. From a
    /// closed set: metrics have a series for each.
    pub fn classify(&mut self, source: Source, kind: &'static str) {
        self.votes[source as usize].kind = kind;
    }

    /// `source` has nothing against the endpoint any more.
    pub fn withdraw(&mut self, source: Source, now: Tick) {
        self.cast(source, Standing::Up, source.content(), now);
    }

    /// Withdraws the votes whose time is over.
    pub fn expire(&mut self, now: Tick) {
        for source in Source::ALL {
            if self.of(source).until.is_some_and(|until| until <= now) {
                self.withdraw(source, now);
            }
        }
    }

    fn replace(&mut self, source: Source, standing: Standing, reason: &str, now: Tick, until: Option<Tick>) {
        let vote = &mut self.votes[source as usize];
        if vote.standing != standing {
            (vote.standing, vote.since) = (standing, now);
        }
        if &*vote.reason != reason {
            vote.reason = reason.into();
        }
        vote.kind = source.kind(standing);
        vote.until = until;
    }

    /// The files no longer name this endpoint; true when they did until now.
    pub fn removed(&mut self, now: Tick) -> bool {
        let news = !self.is_removed();
        self.cast(Source::Membership, Standing::Draining, "removed from the configuration", now);
        news
    }

    pub fn is_removed(&self) -> bool {
        self.of(Source::Membership).standing == Standing::Draining
    }

    /// The files name it (again).
    pub fn configured(&mut self, now: Tick) {
        self.withdraw(Source::Membership, now);
    }
}

/// Wishes come after everything that panic overrides.
fn weight(vote: &Vote) -> (bool, Standing) {
    (!vote.standing.takes_in_panic(), vote.standing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    pub(super) fn at(seconds: u64) -> Tick {
        Tick(Duration::from_secs(seconds))
    }

    pub(super) fn proven() -> Votes {
        let mut votes = Votes::new(at(0));
        votes.probe_succeeded(2, at(1));
        votes
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
    fn the_worst_vote_counts_and_a_wish_is_worse_than_a_failure() {
        let mut votes = proven();
        votes.cast_until(Source::Outlier, Standing::Suspect, "5 errors in a row", at(2), at(9));
        let mut cast = |source, standing, want| {
            votes.cast(source, standing, "because", at(3));
            assert_eq!(votes.worst().0, want, "{standing}");
        };
        cast(Source::Probes, Standing::Up, Source::Outlier);
        cast(Source::Probes, Standing::Down, Source::Probes);
        cast(Source::Membership, Standing::Draining, Source::Membership);
        cast(Source::Operator, Standing::Maintenance, Source::Operator);
        cast(Source::Agent, Standing::Maintenance, Source::Agent);
        assert!(votes.has(Standing::Down), "the probes' vote is still there");
    }

    #[test]
    fn only_the_source_that_cast_a_vote_takes_it_back() {
        let mut votes = proven();
        votes.cast(Source::Operator, Standing::Maintenance, "disk swap", at(2));
        votes.cast(Source::Agent, Standing::Draining, "drain", at(3));
        for other in [Source::Probes, Source::Outlier, Source::Agent, Source::Membership] {
            votes.withdraw(other, at(4));
            assert_eq!(votes.standing(), Standing::Maintenance, "{other:?}");
        }
        votes.withdraw(Source::Operator, at(5));
        assert_eq!(votes.standing(), Standing::Up);
        assert_eq!(votes.of(Source::Operator).since, at(5));
    }

    #[test]
    fn another_reason_for_the_same_standing_keeps_its_since() {
        let mut votes = proven();
        votes.cast(Source::Agent, Standing::Down, "disk full", at(2));
        votes.cast(Source::Agent, Standing::Down, "disk broken", at(3));
        let (source, vote) = votes.worst();
        assert_eq!((source, &*vote.reason, vote.since), (Source::Agent, "disk broken", at(2)));
    }

    #[test]
    fn an_ejection_ends_at_its_time_and_other_votes_stay() {
        let mut votes = proven();
        votes.cast_until(Source::Outlier, Standing::Suspect, "5 gateway errors in a row", at(2), at(32));
        votes.cast(Source::Operator, Standing::Draining, "drain", at(3));
        votes.expire(at(31));
        assert_eq!(votes.of(Source::Outlier).until, Some(at(32)));
        votes.expire(at(32));
        assert_eq!((votes.of(Source::Outlier).standing, votes.of(Source::Outlier).until), (Standing::Up, None));
        assert_eq!(votes.standing(), Standing::Draining);
    }
}
