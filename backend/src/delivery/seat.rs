//! A session's place among those who are online, and what it wants to hear of.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{Leave, Link, Online, Push, QUEUE, memory::Past};
use crate::{
    frame::{LoginCode, Presence, PresenceState},
    server::Server,
};

/// Rooms that one session may follow.
const ROOMS: usize = 256;
/// Users that one session may watch.
pub(crate) const WATCHED: usize = 256;

/// A session's place among those who are online, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    server: Arc<Server>,
    pub(crate) link: Arc<Link>,
    /// The client said goodbye: there is nothing to go on with later.
    over: bool,
}

/// Who comes online.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) session_id: String,
    /// The session that the client wants to go on with.
    pub(crate) resume: Option<&'a str>,
}

/// Whether a session goes on where an earlier one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    Yes,
    No,
}

/// What a session wants to hear of besides its direct conversations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interests {
    pub(super) rooms: Vec<String>,
    /// Users whose presence it is told.
    pub(super) watched: BTreeSet<String>,
}

/// Sessions by what they want to hear of, and by their id.
pub(super) type Crowds = HashMap<String, HashMap<u64, Arc<Link>>>;

fn join(crowds: &mut Crowds, name: &str, link: &Arc<Link>) {
    crowds.entry(name.to_owned()).or_default().insert(link.id, Arc::clone(link));
}

fn part(crowds: &mut Crowds, name: &str, link: &Link) {
    if let Some(crowd) = crowds.get_mut(name) {
        crowd.remove(&link.id);
        if crowd.is_empty() {
            crowds.remove(name);
        }
    }
}

impl Seat {
    /// Brings a session online; one of the same user and device is asked to leave. If that one, or one of this device
    /// that has ended not long ago, has the name `resume`, the new session goes on with what it wanted.
    ///
    /// # Errors
    /// [`LoginCode::TooManySessions`] if the user has as many other sessions as it may.
    pub(crate) fn take(
        server: &Arc<Server>,
        Newcomer { user, device, session_id, resume }: Newcomer<'_>,
    ) -> Result<(Self, mpsc::Receiver<Arc<Push>>, Resumed), LoginCode> {
        let delivery = &server.delivery;
        let (pushes, queue) = mpsc::channel(QUEUE);
        let link = Arc::new(Link {
            id: delivery.next_id.fetch_add(1, Relaxed),
            user,
            device,
            session_id,
            pushes,
            interests: Mutex::default(),
            state: AtomicI32::new(PresenceState::Online.into()),
            leave: OnceLock::new(),
            told: Notify::new(),
        });
        let resumed = delivery.change(&link.user, |online| {
            if online.leaving {
                link.ask(Leave::Restart);
            }
            let stays = |other: &&Arc<Link>| other.device != link.device && other.leave.get().is_none();
            if online.of(&link.user).filter(stays).count() >= server.config.limits.sessions_per_user {
                return Err(LoginCode::TooManySessions);
            }
            let past = resume.and_then(|session_id| online.past(session_id, &link));
            let resumed = if past.is_some() { Resumed::Yes } else { Resumed::No };
            past.into_iter().for_each(|past| online.go_on(past, &link));
            let devices = online.users.entry(link.user.clone()).or_default();
            devices.iter().filter(|other| other.device == link.device).for_each(|other| other.ask(Leave::Replaced));
            devices.push(Arc::clone(&link));
            Ok(resumed)
        })?;
        Ok((Self { server: Arc::clone(server), link, over: false }, queue, resumed))
    }

    pub(crate) fn user(&self) -> &str {
        &self.link.user
    }

    pub(crate) fn device(&self) -> &str {
        &self.link.device
    }

    /// From now on the session gets the pushes of this room; `false` if it follows too many already.
    pub(crate) fn follow(&self, room: &str) -> bool {
        let mut interests = self.link.interests();
        if interests.rooms.iter().any(|followed| followed == room) {
            return true;
        }
        if interests.rooms.len() == ROOMS {
            return false;
        }
        interests.rooms.push(room.to_owned());
        // The locks are always taken one after the other, so that no order of them matters.
        drop(interests);
        join(&mut self.server.delivery.online().rooms, room, &self.link);
        true
    }

    /// From now on the session is told when the presence of these users changes, and of nobody else; how they are seen
    /// now. At most [`WATCHED`].
    pub(crate) fn watch(&self, users: BTreeSet<String>) -> Vec<Presence> {
        let before = std::mem::replace(&mut self.link.interests().watched, users.clone());
        let mut online = self.server.delivery.online();
        before.difference(&users).for_each(|user| part(&mut online.watchers, user, &self.link));
        users.difference(&before).for_each(|user| join(&mut online.watchers, user, &self.link));
        users.iter().map(|user| online.presence(user)).collect()
    }

    /// The session ends for good.
    pub(crate) fn forget(&mut self) {
        self.over = true;
    }

    /// How this session's user is seen, as far as this session is concerned.
    pub(crate) fn show(&self, state: PresenceState) {
        self.server.delivery.change(self.user(), |_| self.link.state.store(state.into(), Relaxed));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let past = self.link.past();
        self.server.delivery.change(self.user(), |online| {
            past.interests.rooms.iter().for_each(|room| part(&mut online.rooms, room, &self.link));
            past.interests.watched.iter().for_each(|user| part(&mut online.watchers, user, &self.link));
            // The next session of a replaced one is there already.
            if !self.over && self.link.leave.get() != Some(&Leave::Replaced) {
                online.memory.remember(&self.link, past, Instant::now());
            }
            if let Some(devices) = online.users.get_mut(self.user()) {
                devices.retain(|link| link.id != self.link.id);
                if devices.is_empty() {
                    online.users.remove(self.user());
                }
            }
        });
    }
}

impl Online {
    /// What an earlier session of the same device left, or has if it is still there.
    fn past(&mut self, session_id: &str, link: &Link) -> Option<Past> {
        let there = self.of(&link.user).find(|other| other.device == link.device && other.session_id == session_id);
        let there = there.map(|other| other.past());
        there.or_else(|| self.memory.recall(session_id, link, Instant::now()))
    }

    fn go_on(&mut self, past: Past, link: &Arc<Link>) {
        past.interests.rooms.iter().for_each(|room| join(&mut self.rooms, room, link));
        past.interests.watched.iter().for_each(|user| join(&mut self.watchers, user, link));
        link.state.store(past.state, Relaxed);
        *link.interests() = past.interests;
    }
}

impl Link {
    fn past(&self) -> Past {
        Past { interests: self.interests().clone(), state: self.state.load(Relaxed) }
    }

    pub(super) fn interests(&self) -> std::sync::MutexGuard<'_, Interests> {
        self.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
