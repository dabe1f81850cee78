//! When phones got in, were turned away and were cut off: what measurements of a crowd are made of.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::SessionError;
use crate::harness::locked;

/// What happened to a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It has a session, at this server, which took the login at this time since 1970 by the server's clock.
    LoggedIn { node: String, server_time: Duration },
    /// It was told no: by an answer to its upgrade, or to its login.
    Refused,
    /// It got no session for another reason: nobody there, a reset, no answer in time.
    Failed,
    /// Its session ended without its doing.
    Broke,
}

/// What happened, to whom, and when.
#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Instant,
    pub user: String,
    pub what: Happening,
}

/// Everything that happened to the phones of a run, shared by them.
#[derive(Debug, Clone, Default)]
pub struct Diary {
    pages: Arc<Mutex<Pages>>,
}

#[derive(Debug, Default)]
struct Pages {
    entries: Vec<Entry>,
    /// Whoever has a session: where, and since when.
    online: HashMap<String, (String, Instant)>,
    /// The last reason of each kind of trouble, for messages.
    reasons: BTreeMap<&'static str, String>,
}

impl Diary {
    pub(super) fn logged_in(&self, user: &str, node: &str, server_time: Duration) {
        let at = Instant::now();
        let mut pages = locked(&self.pages);
        pages.online.insert(user.into(), (node.into(), at));
        pages.write(at, user, Happening::LoggedIn { node: node.into(), server_time });
    }

    pub(super) fn not_logged_in(&self, user: &str, error: &SessionError) {
        let (what, kind) =
            if error.is_refusal() { (Happening::Refused, "refused") } else { (Happening::Failed, "failed") };
        self.trouble(user, what, kind, error);
    }

    pub(super) fn broke(&self, user: &str, error: &SessionError) {
        self.trouble(user, Happening::Broke, "broke", error);
    }

    /// It ended its session itself.
    pub(super) fn left(&self, user: &str) {
        locked(&self.pages).online.remove(user);
    }

    fn trouble(&self, user: &str, what: Happening, kind: &'static str, error: &SessionError) {
        let mut pages = locked(&self.pages);
        pages.online.remove(user);
        pages.reasons.insert(kind, format!("{user}: {error}"));
        pages.write(Instant::now(), user, what);
    }

    /// How many have a session.
    #[must_use]
    pub fn online(&self) -> usize {
        locked(&self.pages).online.len()
    }

    /// Who has a session at this server.
    #[must_use]
    pub fn at(&self, node: &str) -> Vec<String> {
        let pages = locked(&self.pages);
        pages.online.iter().filter(|(_, (at, _))| at == node).map(|(user, _)| user.clone()).collect()
    }

    /// Since when somebody has a session; `None` without one.
    #[must_use]
    pub fn since(&self, user: &str) -> Option<Instant> {
        locked(&self.pages).online.get(user).map(|(_, since)| *since)
    }

    /// A copy of everything, in the order in which it happened.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        locked(&self.pages).entries.clone()
    }

    /// The last reason of each kind of trouble.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        locked(&self.pages).reasons.iter().map(|(kind, reason)| format!("{kind}: {reason}")).collect()
    }
}

impl Pages {
    fn write(&mut self, at: Instant, user: &str, what: Happening) {
        self.entries.push(Entry { at, user: user.into(), what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_got_in_and_was_not_cut_off_is_online() {
        let diary = Diary::default();
        for user in ["alice", "bob"] {
            diary.logged_in(user, "im-1", Duration::ZERO);
        }
        let since = diary.since("alice").unwrap();
        diary.broke("alice", &SessionError::Closed { code: Some(1012) });
        assert_eq!((diary.online(), diary.since("alice")), (1, None));
        let refused =
            SessionError::LoginRefused { code: backend::frame::LoginCode::TryLater, retry_after: Duration::ZERO };
        diary.not_logged_in("alice", &refused);
        diary.logged_in("alice", "im-2", Duration::ZERO);
        assert!(diary.since("alice").unwrap() >= since);
        assert_eq!(diary.at("im-1"), ["bob"]);
        let happened: Vec<_> = diary.entries().into_iter().map(|entry| entry.what).collect();
        assert!(matches!(happened[2..4], [Happening::Broke, Happening::Refused]), "{happened:?}");
        assert!(diary.reasons()[0].contains("alice") && diary.reasons()[0].contains("1012"), "{:?}", diary.reasons());
    }
}
