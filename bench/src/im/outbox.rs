//! What is to be sent and not acknowledged yet, in the order in which it was said.

use std::collections::VecDeque;

use backend::frame::Send;
use bytes::Bytes;
use tokio::time::Instant;

/// Sends of a session that may be unanswered (docs/protocol.md, section 4).
const WINDOW: usize = 64;
/// Messages kept for when there is a session again. Whoever says more is told that it was not taken.
const ROOM: usize = 10_000;

/// There is no room for another message until some are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{ROOM} messages wait to be acknowledged already")]
pub struct OutboxFull;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    drafts: VecDeque<Draft>,
    in_flight: usize,
}

/// A message of one's own. It keeps its id however often it is sent.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: Bytes,
    pub(super) conv: String,
    pub(super) body: Bytes,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    /// The server has asked to be left alone with it until then.
    WaitsUntil(Instant),
    InFlight,
}

impl Outbox {
    /// Puts a message at the end and says its id.
    pub(super) fn push(&mut self, conv: &str, body: Bytes) -> Result<Bytes, OutboxFull> {
        if self.drafts.len() >= ROOM {
            return Err(OutboxFull);
        }
        let id = Bytes::copy_from_slice(&fastrand::u128(..).to_be_bytes());
        self.drafts.push_back(Draft { id: id.clone(), conv: conv.into(), body, state: State::Waits });
        Ok(id)
    }

    /// The next message that may be sent now, as its frame; it counts as sent.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<Send> {
        if self.in_flight >= WINDOW {
            return None;
        }
        let may = |draft: &&mut Draft| match draft.state {
            State::Waits => true,
            State::WaitsUntil(until) => until <= now,
            State::InFlight => false,
        };
        let draft = self.drafts.iter_mut().find(may)?;
        draft.state = State::InFlight;
        self.in_flight += 1;
        let (conv, client_msg_id, body) = (draft.conv.clone(), draft.id.clone(), draft.body.clone());
        Some(Send { conv, client_msg_id, kind: 0, body, sent_at: 0 })
    }

    /// When a message that was refused may be sent again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.in_flight >= WINDOW {
            return None;
        }
        let until = |draft: &Draft| match draft.state {
            State::WaitsUntil(until) => Some(until),
            State::Waits | State::InFlight => None,
        };
        self.drafts.iter().filter_map(until).min()
    }

    /// Takes out what was answered for good.
    pub(super) fn take(&mut self, id: &Bytes) -> Option<Draft> {
        let place = self.drafts.iter().position(|draft| draft.id == *id)?;
        let draft = self.drafts.remove(place)?;
        self.in_flight -= usize::from(draft.state == State::InFlight);
        Some(draft)
    }

    /// The server wants it again, and not before this time.
    pub(super) fn postpone(&mut self, id: &Bytes, until: Instant) {
        if let Some(draft) = self.drafts.iter_mut().find(|draft| draft.id == *id && draft.state == State::InFlight) {
            draft.state = State::WaitsUntil(until);
            self.in_flight -= 1;
        }
    }

    /// Nobody knows what became of what was in flight: all of it is to be sent again.
    pub(super) fn session_ended(&mut self) {
        for draft in self.drafts.iter_mut().filter(|draft| draft.state == State::InFlight) {
            draft.state = State::Waits;
        }
        self.in_flight = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.drafts.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(outbox: &mut Outbox, now: Instant) -> Vec<Bytes> {
        std::iter::from_fn(|| outbox.next_to_send(now)).map(|send| send.client_msg_id).collect()
    }

    #[test]
    fn what_was_in_flight_is_sent_again_under_the_same_ids_and_in_order() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let all: Vec<Bytes> = (0..3).map(|_| outbox.push("room:a", Bytes::new()).unwrap()).collect();
        assert_eq!(ids(&mut outbox, now), all);
        assert!(outbox.take(&all[1]).is_some() && outbox.take(&all[1]).is_none());
        outbox.session_ended();
        assert_eq!(ids(&mut outbox, now), [all[0].clone(), all[2].clone()]);
    }

    #[test]
    fn no_more_are_in_flight_than_the_server_reads() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let all: Vec<Bytes> = (0..WINDOW + 2).map(|_| outbox.push("room:a", Bytes::new()).unwrap()).collect();
        assert_eq!(ids(&mut outbox, now).len(), WINDOW);
        outbox.take(&all[0]);
        assert_eq!(ids(&mut outbox, now), [all[WINDOW].clone()]);
    }

    #[test]
    fn a_refused_message_rests_as_long_as_the_server_wants() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let id = outbox.push("room:a", Bytes::new()).unwrap();
        ids(&mut outbox, now);
        let until = now + Duration::from_secs(1);
        outbox.postpone(&id, until);
        assert_eq!((outbox.next_due(), ids(&mut outbox, now).len()), (Some(until), 0));
        assert_eq!(ids(&mut outbox, until), [id]);
    }

    #[test]
    fn there_is_an_end_to_what_waits() {
        let mut outbox = Outbox::default();
        for _ in 0..ROOM {
            outbox.push("room:a", Bytes::new()).unwrap();
        }
        assert_eq!((outbox.push("room:a", Bytes::new()), outbox.len()), (Err(OutboxFull), ROOM));
    }
}
