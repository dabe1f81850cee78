//! What sessions that have ended wanted, so that a device which comes back soon can go on.
//!
//! Bounded in time, in sessions and in names: above a bound the longest gone are forgotten, and their devices have to
//! ask again, as they do after a restart.

use std::time::Duration;

use hashlink::LinkedHashMap;
use tokio::time::Instant;

use super::{Link, seat::Interests};

/// How long a session that has ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Sessions that are remembered.
const SESSIONS: usize = 10_000;
/// Names of rooms and users that all of them have together: 128 bytes each at the most, 16 MB in all.
const NAMES: usize = 128_000;

/// What an earlier session had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) interests: Interests,
    /// A [`PresenceState`](crate::frame::PresenceState).
    pub(super) state: i32,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By session id, the longest gone first.
    ended: LinkedHashMap<String, Ended>,
    names: usize,
}

#[derive(Debug)]
struct Ended {
    user: String,
    device: String,
    past: Past,
    at: Instant,
}

impl Memory {
    pub(super) fn remember(&mut self, link: &Link, past: Past, now: Instant) {
        self.names += past.interests.names();
        let (user, device) = (link.user.clone(), link.device.clone());
        self.ended.insert(link.session_id.clone(), Ended { user, device, past, at: now });
        while self.ended.len() > SESSIONS || self.names > NAMES || self.oldest_is_over(now) {
            if let Some((_, ended)) = self.ended.pop_front() {
                self.names -= ended.past.interests.names();
            }
        }
    }

    /// What a session of the same device had; it is gone from here then.
    pub(super) fn recall(&mut self, session_id: &str, link: &Link, now: Instant) -> Option<Past> {
        let ended = self.ended.get(session_id)?;
        if ended.user != link.user || ended.device != link.device {
            return None;
        }
        let ended = self.ended.remove(session_id)?;
        self.names -= ended.past.interests.names();
        (now - ended.at <= REMEMBERED).then_some(ended.past)
    }

    fn oldest_is_over(&self, now: Instant) -> bool {
        self.ended.front().is_some_and(|(_, ended)| now - ended.at > REMEMBERED)
    }
}

impl Interests {
    fn names(&self) -> usize {
        self.rooms.len() + self.watched.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock, atomic::AtomicI32};

    use tokio::sync::{Notify, mpsc};

    use super::*;

    fn link(user: &str, device: &str, session_id: usize) -> Link {
        Link {
            id: 0,
            user: user.into(),
            device: device.into(),
            session_id: session_id.to_string(),
            pushes: mpsc::channel(1).0,
            interests: Mutex::default(),
            state: AtomicI32::new(1),
            leave: OnceLock::new(),
            told: Notify::new(),
        }
    }

    fn past(rooms: usize) -> Past {
        let rooms = (0..rooms).map(|room| format!("room:{room}")).collect();
        Past { interests: Interests { rooms, ..Interests::default() }, state: 1 }
    }

    #[test]
    fn a_session_is_recalled_once_by_its_own_device_and_in_time() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.remember(&link("alice", "phone", 1), past(2), now);
        assert_eq!(memory.recall("1", &link("bob", "phone", 9), now), None);
        assert_eq!(memory.recall("1", &link("alice", "laptop", 9), now), None);
        assert_eq!(memory.recall("2", &link("alice", "phone", 9), now), None);
        assert_eq!(memory.recall("1", &link("alice", "phone", 9), now + REMEMBERED), Some(past(2)));
        assert_eq!(memory.recall("1", &link("alice", "phone", 9), now), None);
        memory.remember(&link("alice", "phone", 1), past(2), now);
        let late = now + REMEMBERED + Duration::from_millis(1);
        assert_eq!(memory.recall("1", &link("alice", "phone", 9), late), None);
        assert_eq!(memory.names, 0);
    }

    #[test]
    fn the_longest_gone_are_forgotten_at_each_bound() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for session in 0..=SESSIONS {
            memory.remember(&link("alice", "phone", session), past(0), now);
        }
        assert_eq!((memory.ended.len(), memory.ended.contains_key("0")), (SESSIONS, false));
        for session in 0..=NAMES / 256 {
            memory.remember(&link("alice", "phone", 100_000 + session), past(256), now);
        }
        assert_eq!((memory.names, memory.ended.len()), (NAMES, NAMES / 256));
        memory.remember(&link("alice", "phone", 1), past(1), now + 2 * REMEMBERED);
        assert_eq!((memory.names, memory.ended.len()), (1, 1));
    }
}
