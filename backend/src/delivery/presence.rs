//! How users are seen: the best state of their sessions, here and at other processes, told to those who watch them.
//!
//! Best effort. A user whose device has gone without a word is seen until its session ends for silence, after three
//! heartbeats. What is known of other processes is [a little late](super::elsewhere).

use std::sync::atomic::Ordering::Relaxed;

use hashlink::LinkedHashMap;

use super::{Delivery, Link, Online, Push};
use crate::{
    clock::now,
    frame::{Frame, Presence, PresenceState},
};

/// Users who have left and whose time of leaving is remembered; the longest gone are forgotten.
const REMEMBERED: usize = 10_000;

/// When users were here last, Unix time in milliseconds, the longest gone first.
#[derive(Debug, Default)]
pub(super) struct LastSeen(LinkedHashMap<String, u64>);

impl LastSeen {
    /// The latest time counts. 0 is no time.
    pub(super) fn left(&mut self, user: &str, time: u64) {
        if time == 0 {
            return;
        }
        let before = self.0.remove(user).unwrap_or(0);
        self.0.insert(user.to_owned(), time.max(before));
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }
}

impl Delivery {
    /// Changes what sessions there are, or how one of this user is shown, and tells those who watch the user.
    pub(super) fn change<T>(&self, user: &str, change: impl FnOnce(&mut Online) -> T) -> T {
        let mut online = self.online();
        let (before, here) = (online.state(user), online.here(user));
        let changed = change(&mut online);
        let after = online.here(user);
        if after != here {
            let time = now();
            if after == PresenceState::Offline {
                online.last_seen.left(user, time);
            }
            online.elsewhere.tell(user, after, time);
        }
        self.tell_if_other(&online, user, before);
        changed
    }

    /// Tells those who watch a user, if it is not seen as it was before.
    pub(super) fn tell_if_other(&self, online: &Online, user: &str, before: PresenceState) {
        if online.state(user) == before {
            return;
        }
        let Some(watchers) = online.watchers.get(user) else { return };
        let push = Push::new(Frame::Presence(online.presence(user)));
        watchers.values().for_each(|link| self.queue(link, &push));
    }
}

impl Online {
    pub(super) fn state(&self, user: &str) -> PresenceState {
        self.here(user).min(self.elsewhere.state(user))
    }

    /// As far as sessions at this process are concerned.
    pub(super) fn here(&self, user: &str) -> PresenceState {
        self.of(user).map(|link| link.state()).min().unwrap_or(PresenceState::Offline)
    }

    pub(super) fn presence(&self, user: &str) -> Presence {
        let state = self.state(user);
        let last_seen = match state {
            PresenceState::Offline => self.last_seen.0.get(user).copied().unwrap_or(0),
            _ => now(),
        };
        Presence { user: user.to_owned(), state: state.into(), last_seen }
    }
}

impl Link {
    fn state(&self) -> PresenceState {
        PresenceState::try_from(self.state.load(Relaxed)).unwrap_or(PresenceState::Online)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gone_are_forgotten_first() {
        let mut seen = LastSeen::default();
        seen.left("first", 1);
        seen.left("second", 2);
        seen.left("first", 3);
        for user in 2..REMEMBERED {
            seen.left(&format!("user{user}"), 4);
        }
        seen.left("one more", 5);
        assert_eq!(seen.0.get("second"), None);
        assert_eq!(seen.0.get("first"), Some(&3));
        assert_eq!(seen.0.len(), REMEMBERED);
    }
}
