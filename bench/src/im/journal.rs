//! What clients were promised.

use std::sync::{Arc, Mutex};

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

/// Everything that the clients of a run saw, shared by them.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    acknowledged: Vec<Acknowledged>,
    received: Vec<Msg>,
}

impl Journal {
    /// Writes down an acknowledgement.
    pub fn acknowledged(&self, sender: &str, ack: &SendAck, body: Bytes) {
        let entry = Acknowledged {
            conv: ack.conv.clone(),
            sender: sender.into(),
            id: ack.client_msg_id.clone(),
            seq: ack.seq,
            body,
        };
        locked(&self.entries).acknowledged.push(entry);
    }

    /// Writes down a push.
    pub fn received(&self, push: Msg) {
        locked(&self.entries).received.push(push);
    }

    /// The acknowledgements of a conversation.
    #[must_use]
    pub fn promises(&self, conv: &str) -> Vec<Acknowledged> {
        locked(&self.entries).acknowledged.iter().filter(|entry| entry.conv == conv).cloned().collect()
    }

    /// The pushes of a conversation, of all clients.
    #[must_use]
    pub fn pushes(&self, conv: &str) -> Vec<Msg> {
        locked(&self.entries).received.iter().filter(|push| push.conv == conv).cloned().collect()
    }
}
