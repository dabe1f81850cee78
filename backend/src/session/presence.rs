//! Who a client watches, and how it wants to be seen itself.

use std::collections::BTreeSet;

use super::{Session, refusal::refused};
use crate::{
    connection::End,
    conversation::is_id,
    delivery::WATCHED,
    frame::{Frame, PresenceSet, PresenceState, PresenceSub, RefusalCode},
};

impl Session<'_> {
    pub(super) async fn watch(&mut self, PresenceSub { users }: PresenceSub) -> Result<(), End> {
        let users = match check(users) {
            Ok(users) => users,
            Err(code) => return self.say(&refused("presence_sub", String::new(), code, 0)).await,
        };
        let wire = self.connection.wire();
        let now = self.seat.watch(users).into_iter();
        let frames: Vec<_> = now.map(|presence| wire.bytes(&Frame::Presence(presence))).collect();
        self.connection.say_all(frames).await
    }

    pub(super) async fn show(&mut self, wanted: PresenceSet) -> Result<(), End> {
        match wanted.state() {
            PresenceState::Unspecified => {
                self.say(&refused("presence_set", String::new(), RefusalCode::StateInvalid, 0)).await
            }
            state => {
                self.seat.show(state);
                Ok(())
            }
        }
    }
}

fn check(users: Vec<String>) -> Result<BTreeSet<String>, RefusalCode> {
    if !users.iter().all(|user| is_id(user)) {
        return Err(RefusalCode::UserInvalid);
    }
    let users: BTreeSet<_> = users.into_iter().collect();
    if users.len() > WATCHED { Err(RefusalCode::TooManyUsers) } else { Ok(users) }
}
