//! A session's place among those who are online, and what it wants to hear of.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

use tokio::sync::{Notify, mpsc};

use super::{Leave, Link, Push, QUEUE};
use crate::{
    frame::{Presence, PresenceState},
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
    /// Brings a session online; one of the same user and device is asked to leave.
    pub(crate) fn take(server: &Arc<Server>, user: String, device: String) -> (Self, mpsc::Receiver<Arc<Push>>) {
        let delivery = &server.delivery;
        let (pushes, queue) = mpsc::channel(QUEUE);
        let link = Arc::new(Link {
            id: delivery.next_id.fetch_add(1, Relaxed),
            user,
            device,
            pushes,
            interests: Mutex::default(),
            state: AtomicI32::new(PresenceState::Online.into()),
            leave: OnceLock::new(),
            told: Notify::new(),
        });
        delivery.change(&link.user, |online| {
            if online.leaving {
                link.ask(Leave::Restart);
            }
            let devices = online.users.entry(link.user.clone()).or_default();
            devices.iter().filter(|other| other.device == link.device).for_each(|other| other.ask(Leave::Replaced));
            devices.push(Arc::clone(&link));
        });
        (Self { server: Arc::clone(server), link }, queue)
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

    /// How this session's user is seen, as far as this session is concerned.
    pub(crate) fn show(&self, state: PresenceState) {
        self.server.delivery.change(self.user(), |_| self.link.state.store(state.into(), Relaxed));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Interests { rooms, watched } = std::mem::take(&mut *self.link.interests());
        self.server.delivery.change(self.user(), |online| {
            rooms.iter().for_each(|room| part(&mut online.rooms, room, &self.link));
            watched.iter().for_each(|user| part(&mut online.watchers, user, &self.link));
            if let Some(devices) = online.users.get_mut(self.user()) {
                devices.retain(|link| link.id != self.link.id);
                if devices.is_empty() {
                    online.users.remove(self.user());
                }
            }
        });
    }
}

impl Link {
    pub(super) fn interests(&self) -> std::sync::MutexGuard<'_, Interests> {
        self.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
