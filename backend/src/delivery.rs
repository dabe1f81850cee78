//! Who is online, and who gets which push.
//!
//! Messages and receipts come from the store's feed only, never from the session that stored them. So a message of another
//! process on the same data is pushed like one of our own, and every session sees the pushes of a conversation in the
//! order of `seq`. A push is a hint: a session whose queue is full loses it, and the client finds the hole in `seq`
//! and asks with `SYNC`. This is what keeps a slow phone from holding memory or other people's messages. Messages come
//! first: whatever else is pushed takes no more than half of a queue.
//!
//! A direct message goes to all sessions of its two users, a group's to all sessions of its members, a room's to the
//! sessions that follow it: those that have sent to it or asked for its messages since their login. Receipts go the same
//! ways, presence to those who watch.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, AtomicU64},
    },
    time::Duration,
};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::sync::{Notify, mpsc};

use crate::{
    conversation::Conversation,
    frame::{Frame, Receipt, Reconnect},
    server::Server,
    store::{Fed, Moved, News, Position},
    wire::Wire,
};

mod audience;
mod elsewhere;
mod memory;
mod presence;
mod seat;

pub(crate) use seat::{Newcomer, Resumed, Seat, WATCHED};

use audience::Audiences;
use elsewhere::Elsewhere;
use memory::Memory;
use presence::LastSeen;
use seat::{Crowds, Interests};

/// Pushes that may wait for one session. They are shared, so a waiting push costs a pointer.
const QUEUE: usize = 256;
/// Of these, how many may be other things than messages.
const QUEUE_OTHERS: usize = QUEUE / 2;
/// Sessions following a room at this process, and members of a group, up to which its receipts are pushed: everybody's
/// receipt goes to everybody, so their number grows with the square of this.
const CROWD_RECEIPTS: usize = 64;
/// Rest after the feed could not be read.
const REST: Duration = Duration::from_secs(1);

/// Everybody who is logged in at this process.
#[derive(Debug)]
pub(crate) struct Delivery {
    online: Mutex<Online>,
    next_id: AtomicU64,
    /// Pushes put into queues, and pushes that found a full one or a fault.
    pub(crate) pushed: IntCounter,
    pub(crate) dropped: IntCounter,
}

#[derive(Debug, Default)]
struct Online {
    users: HashMap<String, Vec<Arc<Link>>>,
    /// Who follows a room.
    rooms: Crowds,
    /// Who watches a user.
    watchers: Crowds,
    elsewhere: Elsewhere,
    last_seen: LastSeen,
    memory: Memory,
    leaving: bool,
}

/// How the rest of the server reaches a session.
#[derive(Debug)]
pub(crate) struct Link {
    id: u64,
    user: String,
    device: String,
    session_id: String,
    pushes: mpsc::Sender<Arc<Push>>,
    interests: Mutex<Interests>,
    /// A [`PresenceState`](crate::frame::PresenceState).
    state: AtomicI32,
    leave: OnceLock<Leave>,
    told: Notify,
}

/// Why a session is asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The same device logged in again.
    Replaced,
    /// The process stops.
    Restart,
}

impl Link {
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    pub(crate) fn session_id(&self) -> &str {
        &self.session_id
    }

    fn ask(&self, why: Leave) {
        // The first reason stands.
        if self.leave.set(why).is_ok() {
            self.told.notify_one();
        }
    }

    /// Returns when the session is asked to leave. May be dropped and called again.
    pub(crate) async fn asked(&self) -> Leave {
        loop {
            if let Some(why) = self.leave.get() {
                return *why;
            }
            self.told.notified().await;
        }
    }
}

/// One frame on its way to many sessions, put into bytes at most once for each form.
#[derive(Debug)]
pub(crate) struct Push {
    frame: Frame,
    binary: OnceLock<Bytes>,
    json: OnceLock<Bytes>,
}

impl Push {
    fn new(frame: Frame) -> Arc<Self> {
        Arc::new(Self { frame, binary: OnceLock::new(), json: OnceLock::new() })
    }

    pub(crate) fn bytes(&self, wire: Wire) -> Bytes {
        let form = match wire {
            Wire::Binary => &self.binary,
            Wire::Json => &self.json,
        };
        form.get_or_init(|| wire.bytes(&self.frame)).clone()
    }
}

impl Delivery {
    /// Nobody is there yet. The counters are for pushes put into queues and for those that found a full one or a fault.
    pub(crate) fn new(pushed: IntCounter, dropped: IntCounter) -> Self {
        Self { online: Mutex::default(), next_id: AtomicU64::new(0), pushed, dropped }
    }

    /// Sessions that are logged in.
    pub(crate) fn sessions(&self) -> usize {
        self.online().users.values().map(Vec::len).sum()
    }

    fn online(&self) -> MutexGuard<'_, Online> {
        self.online.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every session to leave, and every later one at its login.
    pub(crate) fn all_leave(&self) {
        let mut online = self.online();
        online.leaving = true;
        online.users.values().flatten().for_each(|link| link.ask(Leave::Restart));
    }

    /// Every session that is there now.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.online().users.values().flatten().map(Arc::clone).collect()
    }

    /// Tells one session to connect again elsewhere.
    pub(crate) fn ask_to_reconnect(&self, link: &Link, hint: Reconnect) {
        self.queue(link, &Push::new(Frame::Reconnect(hint)));
    }

    /// Puts a message into the queues of all who should see it.
    fn deliver(&self, Fed { device, msg }: Fed, members: &BTreeSet<String>) {
        let (conv, sender) = (msg.conv.clone(), msg.sender.clone());
        let push = Push::new(Frame::Msg(msg));
        self.online().reached(&conv, members, &sender, &device).for_each(|link| self.queue(link, &push));
    }

    /// Puts a cursor's new place into the queues of all who should see it.
    fn deliver_receipt(&self, Moved { conv, user, device, cursor }: Moved, members: &BTreeSet<String>) {
        let online = self.online();
        let followers = online.rooms.get(&conv).map_or(0, HashMap::len);
        if followers.max(members.len()) > CROWD_RECEIPTS {
            return;
        }
        let (delivered_seq, read_seq) = (cursor.delivered_seq, cursor.read_seq);
        let receipt = Receipt { conv: conv.clone(), user: user.clone(), delivered_seq, read_seq };
        let push = Push::new(Frame::Receipt(receipt));
        online.reached(&conv, members, &user, &device).for_each(|link| self.queue(link, &push));
    }

    fn queue(&self, link: &Link, push: &Arc<Push>) {
        let fits = matches!(push.frame, Frame::Msg(_)) || link.pushes.capacity() > QUEUE - QUEUE_OTHERS;
        let count = match fits.then(|| link.pushes.try_send(Arc::clone(push))) {
            Some(Ok(())) => &self.pushed,
            Some(Err(_full_or_gone)) => &self.dropped,
            None => &self.dropped,
        };
        count.inc();
    }
}

impl Online {
    fn of(&self, user: &str) -> impl Iterator<Item = &Arc<Link>> {
        self.users.get(user).into_iter().flatten()
    }

    /// The sessions of a conversation's members, without the one from which it comes. `members` are a group's.
    fn reached<'a>(
        &'a self,
        conv: &'a str,
        members: &'a BTreeSet<String>,
        user: &'a str,
        device: &'a str,
    ) -> Box<dyn Iterator<Item = &'a Arc<Link>> + 'a> {
        let others = move |link: &&Arc<Link>| link.device != device || link.user != user;
        match Conversation::parse(conv) {
            Some(Conversation::Direct(one, other)) => {
                let other = (one != other).then(|| self.of(other));
                Box::new(self.of(one).chain(other.into_iter().flatten()).filter(others))
            }
            Some(Conversation::Room) => {
                Box::new(self.rooms.get(conv).into_iter().flat_map(HashMap::values).filter(others))
            }
            Some(Conversation::Group) => Box::new(members.iter().flat_map(|member| self.of(member)).filter(others)),
            None => {
                tracing::warn!(%conv, "something stored belongs to no conversation of this version");
                Box::new(std::iter::empty())
            }
        }
    }
}

/// Pushes what is stored after a position, by whichever process, until the server leaves.
pub(crate) async fn feed(server: Arc<Server>, mut seen: Position) {
    let mut failing = false;
    let mut audiences = Audiences::new(Arc::clone(&server));
    while !server.leaving.is_cancelled() {
        match server.store.feed(seen).await {
            Ok(news) if news.is_empty() => {
                failing = false;
                tokio::select! {
                    () = server.leaving.cancelled() => {}
                    () = server.store.changed() => {}
                }
            }
            Ok(news) => {
                seen = news.end;
                deliver_all(&server, &mut audiences, news).await;
            }
            Err(error) => {
                if !failing {
                    tracing::error!(error = &error as &dyn std::error::Error, "pushes stop: the feed cannot be read");
                }
                failing = true;
                tokio::select! {
                    () = server.leaving.cancelled() => {}
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }
}

async fn deliver_all(server: &Server, audiences: &mut Audiences, News { messages, moves, end: _ }: News) {
    let delivery = &server.delivery;
    messages.iter().for_each(|fed| server.load.delivering(fed.msg.time));
    audiences.forget_changed(&messages);
    if server.faults.drops_pushes() {
        let dropped = u64::try_from(messages.len() + moves.len()).unwrap_or(u64::MAX);
        delivery.dropped.inc_by(dropped);
        return;
    }
    for fed in messages {
        let members = audiences.of_message(&fed.msg).await;
        delivery.deliver(fed, &members);
    }
    for moved in moves {
        let members = audiences.of(&moved.conv).await;
        delivery.deliver_receipt(moved, &members);
    }
}
