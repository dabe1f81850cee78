//! How users are seen at other processes, and what those have yet to hear of users here. [`board`](crate::board)
//! carries both.

use std::collections::{HashMap, HashSet};

use super::{Delivery, Online};
use crate::{
    board::{News, Shown},
    clock::now,
    frame::PresenceState,
};

#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// The best state of a user's sessions at all other processes. Nobody in it is offline.
    states: HashMap<String, PresenceState>,
    /// How users are seen here, and since when, as far as no other process was told.
    untold: HashMap<String, (PresenceState, u64)>,
}

impl Elsewhere {
    pub(super) fn state(&self, user: &str) -> PresenceState {
        self.states.get(user).copied().unwrap_or(PresenceState::Offline)
    }

    /// A user is seen differently here.
    pub(super) fn tell(&mut self, user: &str, state: PresenceState, time: u64) {
        self.untold.insert(user.to_owned(), (state, time));
    }

    fn set(&mut self, user: &str, state: PresenceState) {
        match state {
            PresenceState::Offline => self.states.remove(user),
            state => self.states.insert(user.to_owned(), state),
        };
    }

    /// Those who are seen elsewhere and are not among these.
    fn missing(&self, named: &[Shown]) -> Vec<Shown> {
        let named: HashSet<&str> = named.iter().map(|shown| shown.user.as_str()).collect();
        let missing = self.states.keys().filter(|user| !named.contains(user.as_str()));
        missing.map(|user| Shown { user: user.clone(), state: PresenceState::Offline, time: 0 }).collect()
    }
}

impl Delivery {
    /// What has changed here since the last call.
    pub(crate) fn untold(&self) -> Vec<Shown> {
        let untold = std::mem::take(&mut self.online().elsewhere.untold);
        untold.into_iter().map(|(user, (state, time))| Shown { user, state, time }).collect()
    }

    /// Everybody who is seen here, as of now. Nothing of it has to be told again.
    pub(crate) fn seen_here(&self) -> Vec<Shown> {
        let mut online = self.online();
        online.elsewhere.untold = HashMap::new();
        let time = now();
        let here = online.users.keys().map(|user| Shown { user: user.clone(), state: online.here(user), time });
        here.filter(|shown| shown.state != PresenceState::Offline).collect()
    }

    /// Takes over how users are seen at other processes, and tells those who watch them. Answers since when those are seen
    /// differently at others who are.
    pub(crate) fn hear(&self, News { mut shown, complete }: News) -> Vec<u64> {
        let mut online = self.online();
        if complete {
            shown.extend(online.elsewhere.missing(&shown));
        }
        shown.into_iter().filter_map(|shown| self.hear_of(&mut online, &shown)).collect()
    }

    fn hear_of(&self, online: &mut Online, Shown { user, state, time }: &Shown) -> Option<u64> {
        let (before, before_elsewhere) = (online.state(user), online.elsewhere.state(user));
        online.elsewhere.set(user, *state);
        if *state == PresenceState::Offline {
            online.last_seen.left(user, *time);
        }
        self.tell_if_other(online, user, before);
        (before_elsewhere != *state).then_some(*time)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    fn delivery() -> Delivery {
        let counter = || IntCounter::new("a", "b").unwrap();
        Delivery::new(counter(), counter())
    }

    fn shown(user: &str, state: PresenceState, time: u64) -> Shown {
        Shown { user: user.into(), state, time }
    }

    #[track_caller]
    fn check(delivery: &Delivery, user: &str, state: PresenceState, last_seen: u64) {
        let presence = delivery.online().presence(user);
        assert_eq!(presence.state(), state);
        if state == PresenceState::Offline {
            assert_eq!(presence.last_seen, last_seen);
        }
    }

    #[test]
    fn what_is_complete_leaves_nobody_else_online() {
        let delivery = delivery();
        let (alice, bob) = (shown("alice", PresenceState::Busy, 5), shown("bob", PresenceState::Away, 6));
        let heard = delivery.hear(News { shown: vec![alice.clone(), bob], complete: false });
        assert_eq!(heard, [5, 6]);
        check(&delivery, "alice", PresenceState::Busy, 0);
        check(&delivery, "bob", PresenceState::Away, 0);
        let again = delivery.hear(News { shown: vec![alice], complete: false });
        assert!(again.is_empty(), "nothing new");
        let bob = shown("bob", PresenceState::Offline, 9);
        delivery.hear(News { shown: vec![bob], complete: true });
        check(&delivery, "alice", PresenceState::Offline, 0);
        check(&delivery, "bob", PresenceState::Offline, 9);
    }

    #[test]
    fn the_last_place_that_a_user_left_counts() {
        let delivery = delivery();
        delivery.hear(News { shown: vec![shown("alice", PresenceState::Offline, 9)], complete: false });
        delivery.hear(News { shown: vec![shown("alice", PresenceState::Offline, 7)], complete: false });
        check(&delivery, "alice", PresenceState::Offline, 9);
    }

    #[test]
    fn of_many_changes_the_last_one_is_told_and_once() {
        let delivery = delivery();
        delivery.online().elsewhere.tell("alice", PresenceState::Online, 1);
        delivery.online().elsewhere.tell("alice", PresenceState::Offline, 2);
        assert_eq!(delivery.untold(), [shown("alice", PresenceState::Offline, 2)]);
        assert_eq!(delivery.untold(), []);
    }
}
