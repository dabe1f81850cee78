//! What clients were promised and shown.
//!
//! Of bodies and of whole messages only fingerprints are kept, and of pushes that are alike their number: a journal
//! grows by some hundred bytes with each message, however long it is and however many receivers it has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use backend::frame::{Msg, SendAck};

use crate::harness::locked;

/// Everything that the clients of a run saw, shared by them.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: Arc<Mutex<Entries>>,
}

/// A message that was acknowledged.
#[derive(Debug, Clone)]
pub struct Promise {
    pub conv: Arc<str>,
    pub sender: Arc<str>,
    /// Its `client_msg_id`.
    pub id: Box<[u8]>,
    pub seq: u64,
}

/// What is written in a journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    names: HashSet<Arc<str>>,
    conversations: BTreeMap<Arc<str>, Seen>,
    /// Where each acknowledged message was said.
    said_in: HashMap<Key, Arc<str>>,
    promises: usize,
}

/// What a client knows a message by: its sender and id.
type Key = (Arc<str>, Box<[u8]>);

/// What was seen of one conversation.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) acknowledged: Vec<Acknowledged>,
    /// What was pushed with each place, in as many versions as there were.
    pub(super) pushed: BTreeMap<u64, Vec<Pushed>>,
    /// Everybody to whom something was pushed, with the place of the first.
    pub(super) receivers: BTreeMap<Arc<str>, u64>,
    /// The whole conversation as somebody got it by asking for the last time: places and messages.
    pub(super) synced: BTreeMap<Arc<str>, Vec<(u64, Print)>>,
}

/// A promise: this message is stored at this place.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) sender: Arc<str>,
    pub(super) id: Box<[u8]>,
    pub(super) seq: u64,
    pub(super) body: Print,
}

/// A message as it was pushed.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    pub(super) message: Print,
    pub(super) sender: Arc<str>,
    /// The first one who got it so.
    pub(super) receiver: Arc<str>,
    pub(super) times: usize,
}

/// A fingerprint: 64 bits of SipHash. Two different things have the same one by chance in one of 2⁶⁴ cases, which is
/// what a look for mistakes needs; it is no protection from whoever wants two to be alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print(u64);

impl Print {
    pub(super) fn of_body(body: &[u8]) -> Self {
        Self::of(|hasher| body.hash(hasher))
    }

    pub(super) fn of_message(message: &Msg) -> Self {
        let Msg { conv, seq, sender, client_msg_id, body, time, kind, sent_at } = message;
        Self::of(|hasher| (conv, seq, sender, client_msg_id, body, time, kind, sent_at).hash(hasher))
    }

    fn of(hash: impl FnOnce(&mut DefaultHasher)) -> Self {
        let mut hasher = DefaultHasher::new();
        hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Journal {
    /// Writes down an acknowledgement of something that was said in `conv`.
    pub fn acknowledged(&self, sender: &str, conv: &str, ack: &SendAck, body: &[u8]) {
        let mut entries = self.entries();
        let (sender, conv) = (entries.name(sender), entries.name(conv));
        let id: Box<[u8]> = ack.client_msg_id[..].into();
        entries.promises += 1;
        entries.said_in.insert((Arc::clone(&sender), id.clone()), Arc::clone(&conv));
        let promise = Acknowledged { sender, id, seq: ack.seq, body: Print::of_body(body) };
        entries.conversations.entry(conv).or_default().acknowledged.push(promise);
    }

    /// Writes down a push.
    pub fn pushed(&self, receiver: &str, message: &Msg) {
        let mut entries = self.entries();
        let (receiver, sender, conv) =
            (entries.name(receiver), entries.name(&message.sender), entries.name(&message.conv));
        let seen = entries.conversations.entry(conv).or_default();
        seen.receivers.entry(Arc::clone(&receiver)).or_insert(message.seq);
        let versions = seen.pushed.entry(message.seq).or_default();
        let print = Print::of_message(message);
        match versions.iter_mut().find(|version| version.message == print) {
            Some(version) => version.times += 1,
            None => versions.push(Pushed { message: print, sender, receiver, times: 1 }),
        }
    }

    /// Writes down a whole conversation that a client asked for after all was said, in place of what it got before.
    pub fn synced(&self, receiver: &str, conv: &str, messages: &[Msg]) {
        let mut entries = self.entries();
        let (receiver, conv) = (entries.name(receiver), entries.name(conv));
        let prints = messages.iter().map(|message| (message.seq, Print::of_message(message))).collect();
        entries.conversations.entry(conv).or_default().synced.insert(receiver, prints);
    }

    /// How many acknowledgements there are, of all conversations.
    #[must_use]
    pub fn promises(&self) -> usize {
        self.entries().promises
    }

    /// Every promise, conversation by conversation, each in the order of the acknowledgements.
    #[must_use]
    pub fn acknowledgements(&self) -> Vec<Promise> {
        let entries = self.entries();
        let of = |(conv, seen): (&Arc<str>, &Seen)| {
            let promise = |said: &Acknowledged| Promise {
                conv: Arc::clone(conv),
                sender: Arc::clone(&said.sender),
                id: said.id.clone(),
                seq: said.seq,
            };
            seen.acknowledged.iter().map(promise).collect::<Vec<_>>()
        };
        entries.conversations.iter().flat_map(of).collect()
    }

    /// A journal of its own, with everything that is in this one now.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { entries: Arc::new(Mutex::new(self.entries().clone())) }
    }

    /// Forgets everything that is not in the other one, and returns what was there.
    #[must_use]
    pub fn set_back(&self, to: &Self) -> Self {
        let before = mem::replace(&mut *self.entries(), to.entries().clone());
        Self { entries: Arc::new(Mutex::new(before)) }
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        locked(&self.entries)
    }
}

impl Entries {
    /// What was seen of a conversation, if anything was.
    pub(super) fn of(&self, conv: &str) -> Option<&Seen> {
        self.conversations.get(conv)
    }

    pub(super) fn conversations(&self) -> impl Iterator<Item = &Arc<str>> {
        self.conversations.keys()
    }

    /// Where a message was said, if its acknowledgement came.
    pub(super) fn said_in(&self, message: &Msg) -> Option<&str> {
        let key = (self.names.get(&*message.sender)?.clone(), message.client_msg_id[..].into());
        self.said_in.get(&key).map(|conv| &**conv)
    }

    /// One string for each name, however often it is written.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.names.insert(Arc::clone(&new));
        new
    }
}
