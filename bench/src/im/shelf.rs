//! What a client knows of its conversations: how far it has each of them, what is missing, and what it has to tell the
//! server about that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use backend::frame::{Msg, SyncPage, UnreadConv};
use tokio::time::Instant;

/// How long a hole may last before it is asked for: one's own acknowledgements and the pushes of others come on ways of
/// their own, and are in no order.
const GRACE: Duration = Duration::from_millis(500);
/// Messages behind a hole that are remembered one by one; with more of them it is asked for at once.
const REMEMBERED: usize = 1000;

/// All conversations of a client.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    conversations: BTreeMap<String, Conversation>,
}

#[derive(Debug, Default)]
struct Conversation {
    /// Everything up to here is known.
    known: u64,
    /// What is known behind a hole.
    beyond: BTreeSet<u64>,
    hole_since: Option<Instant>,
    /// When it is to be asked for, for another reason than a hole.
    wanted: Option<Instant>,
    /// The place behind which it was asked for, while the page is not there yet.
    asked: Option<u64>,
    /// How far the server was told that it was delivered.
    told: u64,
    /// The newest one that was pushed.
    pushed: u64,
}

impl Conversation {
    fn due(&self) -> Option<Instant> {
        if self.asked.is_some() {
            return None;
        }
        [self.wanted, self.hole_since.map(|since| since + GRACE)].into_iter().flatten().min()
    }

    fn learn(&mut self, seq: u64, now: Instant) {
        if seq > self.known {
            self.beyond.insert(seq);
        }
        self.close_up();
        if self.beyond.is_empty() {
            self.hole_since = None;
        } else if self.beyond.len() > REMEMBERED {
            self.beyond.clear();
            self.wanted = Some(now);
        } else {
            self.hole_since.get_or_insert(now);
        }
    }

    fn close_up(&mut self) {
        while self.beyond.first().is_some_and(|first| *first <= self.known.saturating_add(1)) {
            self.known = self.known.max(self.beyond.pop_first().unwrap_or_default());
        }
    }
}

impl Shelf {
    /// Adds a conversation of which everything is to be had, and asks for it.
    pub(super) fn follow(&mut self, conv: &str, now: Instant) {
        self.conversations.entry(conv.into()).or_default().wanted = Some(now);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.conversations.keys()
    }

    /// Everything up to this place is known.
    pub(super) fn known(&self, conv: &str) -> u64 {
        self.conversations.get(conv).map_or(0, |conversation| conversation.known)
    }

    /// The newest place that was pushed.
    pub(super) fn pushed(&self, conv: &str) -> u64 {
        self.conversations.get(conv).map_or(0, |conversation| conversation.pushed)
    }

    /// A session has begun: rooms are followed by asking for them, and what was missed in them comes with the answer.
    /// Of the others the server's list of unread conversations will tell.
    pub(super) fn session_began(&mut self, now: Instant) {
        for (name, conversation) in &mut self.conversations {
            let unanswered = conversation.asked.take();
            if unanswered.is_some() || name.starts_with("room:") {
                conversation.wanted = Some(now);
            }
        }
    }

    /// A line of the list of unread conversations. One that is not known here is begun where the user has read to.
    pub(super) fn unread(&mut self, entry: &UnreadConv, now: Instant) {
        let new = || Conversation { known: entry.read_seq, told: entry.read_seq, ..Conversation::default() };
        let conversation = self.conversations.entry(entry.conv.clone()).or_insert_with(new);
        if entry.last_seq > conversation.known {
            conversation.wanted = Some(now);
        }
    }

    pub(super) fn push(&mut self, message: &Msg, now: Instant) {
        let conversation = self.conversations.entry(message.conv.clone()).or_default();
        conversation.pushed = conversation.pushed.max(message.seq);
        conversation.learn(message.seq, now);
    }

    /// A message of one's own is stored. A conversation into which one only speaks begins there.
    pub(super) fn acknowledged(&mut self, conv: &str, seq: u64, now: Instant) {
        let before = seq.saturating_sub(1);
        let begin = || Conversation { known: before, told: before, ..Conversation::default() };
        let conversation = self.conversations.entry(conv.into()).or_insert_with(begin);
        // The server moves the cursor of whoever said something itself.
        if conversation.told == conversation.known && conversation.known == before {
            conversation.told = seq;
        }
        conversation.learn(seq, now);
    }

    /// A page that was asked for has everything up to `next_seq`; there may be more. A conversation that ends before the
    /// place behind which it was asked for is one of a store that went back: it begins anew.
    pub(super) fn page(&mut self, page: &SyncPage, now: Instant) {
        let &SyncPage { ref conv, next_seq, last_seq, more, .. } = page;
        let Some(conversation) = self.conversations.get_mut(conv) else { return };
        if conversation.asked.take().is_some_and(|after| last_seq < after) {
            *conversation = Conversation { wanted: Some(now), ..Conversation::default() };
            return;
        }
        conversation.known = conversation.known.max(next_seq);
        conversation.close_up();
        conversation.wanted = more.then_some(now);
        conversation.hole_since = (!conversation.beyond.is_empty()).then_some(now);
    }

    /// The server did not give a page; it may be asked for again then, or never.
    pub(super) fn no_page(&mut self, conv: &str, again: Option<Instant>) {
        let Some(again) = again else {
            self.conversations.remove(conv);
            return;
        };
        if let Some(conversation) = self.conversations.get_mut(conv) {
            conversation.asked = None;
            conversation.wanted = Some(again);
        }
    }

    /// What has to be asked for now, and from where; it counts as asked.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<(String, u64)> {
        let due = self.conversations.iter_mut().filter(|(_, one)| one.due().is_some_and(|due| due <= now));
        due.map(|(name, conversation)| {
            (conversation.asked, conversation.wanted, conversation.hole_since) = (Some(conversation.known), None, None);
            (name.clone(), conversation.known)
        })
        .collect()
    }

    /// When something will have to be asked for.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.conversations.values().filter_map(Conversation::due).min()
    }

    /// Whether nothing is asked for, or to be asked for because of a login.
    pub(super) fn is_caught_up(&self) -> bool {
        self.conversations.values().all(|conversation| conversation.asked.is_none() && conversation.wanted.is_none())
    }

    /// Whether something has been delivered of which the server does not know.
    pub(super) fn has_news_for_the_server(&self) -> bool {
        self.conversations.values().any(|conversation| conversation.known > conversation.told)
    }

    /// What was delivered since the server was told last; it counts as told.
    pub(super) fn tell(&mut self) -> Vec<(String, u64)> {
        let news = self.conversations.iter_mut().filter(|(_, conversation)| conversation.known > conversation.told);
        news.map(|(name, conversation)| {
            conversation.told = conversation.known;
            (name.clone(), conversation.known)
        })
        .collect()
    }

    /// The server has not taken what it was told: it is to be told again.
    pub(super) fn told_in_vain(&mut self, conv: &str) {
        if let Some(conversation) = self.conversations.get_mut(conv) {
            conversation.told = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = "room:a";
    const PAIR: &str = "dm:alice:bob";

    fn push(shelf: &mut Shelf, seq: u64, now: Instant) {
        shelf.push(&Msg { conv: ROOM.into(), seq, ..Msg::default() }, now);
    }

    #[test]
    fn a_hole_that_lasts_is_asked_for_and_one_that_closes_is_not() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for seq in [1, 3, 2] {
            push(&mut shelf, seq, now);
        }
        assert_eq!((shelf.known(ROOM), shelf.next_due()), (3, None));
        push(&mut shelf, 6, now);
        shelf.acknowledged(ROOM, 5, now);
        assert_eq!((shelf.known(ROOM), shelf.next_due()), (3, Some(now + GRACE)));
        assert_eq!(shelf.ask(now), []);
        assert_eq!(shelf.ask(now + GRACE), [(ROOM.into(), 3)]);
        assert_eq!(shelf.next_due(), None, "asked once");
        shelf.page(&page(ROOM, 4, false), now);
        assert_eq!((shelf.known(ROOM), shelf.next_due()), (6, None));
    }

    fn page(conv: &str, next_seq: u64, more: bool) -> SyncPage {
        SyncPage { conv: conv.into(), next_seq, last_seq: next_seq + u64::from(more), more, ..SyncPage::default() }
    }

    #[test]
    fn a_conversation_of_a_store_that_went_back_begins_anew() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        (1..=9).for_each(|seq| push(&mut shelf, seq, now));
        shelf.session_began(now);
        assert_eq!(shelf.ask(now), [(ROOM.into(), 9)]);
        // A push that came in between is no reason.
        push(&mut shelf, 10, now);
        shelf.page(&SyncPage { last_seq: 9, ..page(ROOM, 9, false) }, now);
        assert_eq!((shelf.known(ROOM), shelf.next_due()), (10, None));
        shelf.session_began(now);
        assert_eq!(shelf.ask(now), [(ROOM.into(), 10)]);
        shelf.page(&SyncPage { next_seq: 10, last_seq: 4, ..page(ROOM, 10, false) }, now);
        assert_eq!(shelf.ask(now), [(ROOM.into(), 0)]);
        shelf.page(&page(ROOM, 4, false), now);
        assert_eq!(shelf.known(ROOM), 4);
    }

    #[test]
    fn a_page_that_leads_to_the_end_of_numbers_is_borne() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        push(&mut shelf, 3, now);
        shelf.ask(now + GRACE);
        shelf.page(&page(ROOM, u64::MAX, false), now);
        assert_eq!((shelf.known(ROOM), shelf.next_due()), (u64::MAX, None));
    }

    #[test]
    fn a_hole_with_very_much_behind_it_is_asked_for_at_once() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for seq in 2..=REMEMBERED as u64 + 2 {
            push(&mut shelf, seq, now);
        }
        assert_eq!(shelf.ask(now), [(ROOM.into(), 0)]);
    }

    #[test]
    fn after_a_login_rooms_are_asked_for_and_pairs_that_have_news() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        push(&mut shelf, 1, now);
        shelf.acknowledged(PAIR, 4, now);
        shelf.session_began(now);
        let entry = |conv: &str, last_seq, read_seq| UnreadConv { conv: conv.into(), last_seq, read_seq, n: 0 };
        shelf.unread(&entry(PAIR, 4, 0), now);
        shelf.unread(&entry("dm:alice:carol", 9, 7), now);
        assert!(!shelf.is_caught_up());
        assert_eq!(shelf.ask(now), [("dm:alice:carol".into(), 7), (ROOM.into(), 1)]);
        shelf.page(&page("dm:alice:carol", 9, false), now);
        shelf.page(&page(ROOM, 3, true), now);
        assert_eq!(shelf.ask(now), [(ROOM.into(), 3)]);
        shelf.page(&page(ROOM, 4, false), now);
        assert!(shelf.is_caught_up());
    }

    #[test]
    fn the_server_is_told_once_unless_it_did_not_take_it() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        push(&mut shelf, 1, now);
        assert!(shelf.has_news_for_the_server());
        assert_eq!(shelf.tell(), [(ROOM.into(), 1)]);
        assert_eq!(shelf.tell(), []);
        shelf.told_in_vain(ROOM);
        assert_eq!(shelf.tell(), [(ROOM.into(), 1)]);
    }

    #[test]
    fn a_page_that_is_refused_is_asked_for_when_the_server_says_or_never() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        shelf.follow(ROOM, now);
        shelf.ask(now);
        let again = now + Duration::from_secs(1);
        shelf.no_page(ROOM, Some(again));
        assert_eq!((shelf.next_due(), shelf.ask(now).len()), (Some(again), 0));
        shelf.no_page(ROOM, None);
        assert_eq!(shelf.names().count(), 0);
    }
}
