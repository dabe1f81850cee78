//! Who is in a group, for pushes: read from the store when the group first has something to push, and again after each
//! of its changes.
//!
//! A change is a message of the group, so the feed itself says when what is known has become old, whichever process
//! made the change. What was read may be newer than the place in the feed; then somebody who is no member any more misses
//! a push that came before, and could not ask for it either.

use std::{collections::BTreeSet, sync::Arc};

use hashlink::LruCache;

use crate::{
    conversation::Conversation,
    frame::{GroupEvent, KIND_GROUP, Msg},
    server::Server,
    store::Fed,
};

/// Groups whose members are kept, those that were used last. At most 256 names of 60 bytes each.
const GROUPS: usize = 1024;

/// The members of a group; of any other conversation nobody.
pub(super) type Audience = Arc<BTreeSet<String>>;

pub(super) struct Audiences {
    server: Arc<Server>,
    known: LruCache<String, Audience>,
}

impl Audiences {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, known: LruCache::new(GROUPS) }
    }

    /// Lets go of groups that are not as they were.
    pub(super) fn forget_changed(&mut self, messages: &[Fed]) {
        for fed in messages.iter().filter(|fed| fed.msg.kind == KIND_GROUP) {
            self.known.remove(&fed.msg.conv);
        }
    }

    /// Who hears of a message: of a change also the one who has gone by it.
    pub(super) async fn of_message(&mut self, msg: &Msg) -> Audience {
        let members = self.of(&msg.conv).await;
        if msg.kind != KIND_GROUP {
            return members;
        }
        let event = serde_json::from_slice::<GroupEvent>(&msg.body).ok();
        let parted = event.as_ref().and_then(GroupEvent::parted).unwrap_or(&msg.sender);
        if members.contains(parted) {
            return members;
        }
        let mut heard = BTreeSet::clone(&members);
        heard.insert(parted.to_owned());
        Arc::new(heard)
    }

    pub(super) async fn of(&mut self, conv: &str) -> Audience {
        if !matches!(Conversation::parse(conv), Some(Conversation::Group)) {
            return Audience::default();
        }
        if let Some(known) = self.known.get(conv) {
            return Arc::clone(known);
        }
        match self.server.store.group(conv).await {
            Ok(group) => {
                let members = group.map(|group| group.members.into_keys().collect()).unwrap_or_default();
                let members = Arc::new(members);
                self.known.insert(conv.to_owned(), Arc::clone(&members));
                members
            }
            Err(error) => {
                // A push is a hint: whoever misses it finds the hole.
                tracing::error!(error = &error as &dyn std::error::Error, %conv, "the members of a group cannot be read");
                Audience::default()
            }
        }
    }
}
