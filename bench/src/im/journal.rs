//! What clients were promised and shown.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
};

use backend::frame::{Msg, SendAck};
use bytes::Bytes;

use crate::harness::locked;

/// A promise: this message is stored at this place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub conv: String,
    pub sender: String,
    pub id: Bytes,
    pub seq: u64,
    pub body: Bytes,
}

/// A message that came to a client unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Pushed {
    pub receiver: String,
    pub message: Msg,
}

/// Who asked for which conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub receiver: String,
    pub conv: String,
}

/// Everything that the clients of a run saw, shared by them.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: Arc<Mutex<Entries>>,
}

/// What is written in a journal.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    pub acknowledged: Vec<Acknowledged>,
    pub pushed: Vec<Pushed>,
    /// Whole conversations, as clients got them by asking for the last time.
    pub synced: BTreeMap<Asked, Vec<Msg>>,
}

impl Journal {
    /// Writes down an acknowledgement of something that was said in `conv`.
    pub fn acknowledged(&self, sender: &str, conv: &str, ack: &SendAck, body: Bytes) {
        let entry = Acknowledged {
            conv: conv.into(),
            sender: sender.into(),
            id: ack.client_msg_id.clone(),
            seq: ack.seq,
            body,
        };
        locked(&self.entries).acknowledged.push(entry);
    }

    /// Writes down a push.
    pub fn pushed(&self, receiver: &str, message: Msg) {
        locked(&self.entries).pushed.push(Pushed { receiver: receiver.into(), message });
    }

    /// Writes down a whole conversation that a client asked for after all was said, in place of what it got before.
    pub fn synced(&self, receiver: &str, conv: &str, messages: Vec<Msg>) {
        locked(&self.entries).synced.insert(Asked { receiver: receiver.into(), conv: conv.into() }, messages);
    }

    /// How many acknowledgements there are, of all conversations.
    #[must_use]
    pub fn promises(&self) -> usize {
        locked(&self.entries).acknowledged.len()
    }

    /// Forgets everything but this, and returns what was there.
    pub fn set_back(&self, to: Entries) -> Entries {
        mem::replace(&mut *locked(&self.entries), to)
    }

    /// A copy of everything.
    #[must_use]
    pub fn entries(&self) -> Entries {
        locked(&self.entries).clone()
    }
}

impl Entries {
    /// What is written of one conversation.
    #[must_use]
    pub fn of(&self, conv: &str) -> Self {
        Self {
            acknowledged: self.acknowledged.iter().filter(|entry| entry.conv == conv).cloned().collect(),
            pushed: self.pushed.iter().filter(|entry| entry.message.conv == conv).cloned().collect(),
            synced: self
                .synced
                .iter()
                .filter(|(asked, _)| asked.conv == conv)
                .map(|(asked, got)| (asked.clone(), got.clone()))
                .collect(),
        }
    }
}
