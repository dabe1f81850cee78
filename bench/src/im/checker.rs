//! Holds what clients were promised and shown against what is stored.
//!
//! The store is asked once more, after all was said, for every conversation: that is the history. Then, for each of
//! them: every acknowledged message is in it exactly once, at its place and as it was sent; places are 1, 2, 3, … without
//! a hole; every push equals its message; whoever asked for the conversation got the same; and nothing crossed
//! conversations. It is Jepsen's question, asked of a log for each conversation.

mod problem;

use std::collections::{BTreeMap, HashMap, HashSet};

use backend::frame::Msg;

use super::{
    Journal,
    journal::{Acknowledged, Entries, Print, Seen},
};
pub use problem::{Broken, Problem};

/// All messages of each conversation, in the order of the store.
pub type Histories = BTreeMap<String, Vec<Msg>>;

/// What was found to be right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    pub conversations: usize,
    /// Messages in the histories.
    pub stored: usize,
    /// Acknowledgements, each found exactly once.
    pub acknowledged: usize,
    /// Pushes, each the same as its message in the history.
    pub pushed: usize,
    /// Conversations as somebody got them by asking, each the same as the history.
    pub synced: usize,
}

impl Verdict {
    /// That of both together, of which no conversation is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            conversations: self.conversations + other.conversations,
            stored: self.stored + other.stored,
            acknowledged: self.acknowledged + other.acknowledged,
            pushed: self.pushed + other.pushed,
            synced: self.synced + other.synced,
        }
    }
}

/// Checks one conversation, whatever the journal has of others.
///
/// `history` is what a client got by asking for the whole conversation after all was said.
///
/// # Errors
/// When any of what the [module](self) says does not hold.
pub fn check(conv: &str, history: &[Msg], journal: &Journal) -> Result<Verdict, Broken> {
    let entries = journal.entries();
    let nothing = Seen::default();
    let seen = entries.of(conv).unwrap_or(&nothing);
    let problems = problems_of(conv, history, seen, &entries);
    if problems.is_empty() { Ok(verdict(history, seen)) } else { Err(Broken { problems }) }
}

/// Checks many conversations at once, and that nothing went from one into another.
///
/// # Errors
/// When any of what the [module](self) says does not hold, or the journal knows a conversation without a history.
pub fn check_all(histories: &Histories, journal: &Journal) -> Result<Verdict, Broken> {
    let mut all = Verdict::default();
    let mut problems = Vec::new();
    let unknown: Vec<String> = journal.entries().conversations().map(ToString::to_string).collect();
    let unknown = unknown.iter().filter(|conv| !histories.contains_key(*conv)).map(|conv| (conv, &[][..]));
    let known = histories.iter().map(|(conv, history)| (conv, &history[..]));
    for (conv, history) in known.chain(unknown) {
        match check(conv, history, journal) {
            Ok(verdict) => all = all.and(verdict),
            Err(broken) => problems.extend(broken.problems),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Broken { problems }) }
}

fn verdict(history: &[Msg], seen: &Seen) -> Verdict {
    Verdict {
        conversations: 1,
        stored: history.len(),
        acknowledged: seen.acknowledged.len(),
        pushed: seen.pushed.values().flatten().map(|push| push.times).sum(),
        synced: seen.synced.len(),
    }
}

fn problems_of(conv: &str, history: &[Msg], seen: &Seen, entries: &Entries) -> Vec<Problem> {
    let mut problems = problems_of_history(conv, history, entries);
    let by_key: HashMap<Key<'_>, &Msg> = history.iter().map(|message| (key(message), message)).collect();
    problems.extend(seen.acknowledged.iter().filter_map(|promise| problem_of_promise(conv, promise, &by_key)));
    problems.extend(problems_of_pushes(conv, history, seen));
    let stored: Vec<(u64, Print)> = history.iter().map(|message| (message.seq, Print::of_message(message))).collect();
    problems.extend(seen.synced.iter().filter_map(|(receiver, got)| problem_of_sync(conv, receiver, got, &stored)));
    problems
}

/// What a client knows a message by.
type Key<'a> = (&'a str, &'a [u8]);

fn key(message: &Msg) -> Key<'_> {
    (&message.sender, &message.client_msg_id)
}

/// What is wrong with a history in itself, and with where its messages were said.
fn problems_of_history(conv: &str, history: &[Msg], entries: &Entries) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    let mut last: u64 = 0;
    for message in history {
        let (seq, sender) = (message.seq, &message.sender);
        let conv = conv.to_owned();
        let said = entries.said_in(message).unwrap_or(&conv);
        if let Some(from) = [&*message.conv, said].into_iter().find(|from| *from != conv) {
            problems.push(Problem::Leaked { from: from.into(), into: conv.clone(), seq, sender: sender.clone() });
        }
        if !is_member(&conv, sender) {
            problems.push(Problem::Intruded { conv: conv.clone(), seq, user: sender.clone() });
        }
        if !seen.insert(key(message)) {
            problems.push(Problem::Repeated { conv: conv.clone(), seq, sender: sender.clone() });
        }
        match seq {
            _ if last.checked_add(1) == Some(seq) => {}
            _ if seq > last => problems.push(Problem::Gap { conv, from: last + 1, to: seq - 1 }),
            _ => problems.push(Problem::Disordered { conv, seq, after: last }),
        }
        last = last.max(seq);
    }
    problems
}

fn problem_of_promise(conv: &str, promise: &Acknowledged, by_key: &HashMap<Key<'_>, &Msg>) -> Option<Problem> {
    let (conv, sender, seq) = (conv.to_owned(), promise.sender.to_string(), promise.seq);
    match by_key.get(&(&*promise.sender, &*promise.id)) {
        None => Some(Problem::Lost { conv, seq, sender }),
        Some(stored) if stored.seq != seq => Some(Problem::Moved { conv, seq, sender, stored: stored.seq }),
        Some(stored) if Print::of_body(&stored.body) != promise.body => Some(Problem::Changed { conv, seq, sender }),
        Some(_) => None,
    }
}

fn problems_of_pushes(conv: &str, history: &[Msg], seen: &Seen) -> Vec<Problem> {
    let intruders = seen.receivers.iter().filter(|(receiver, _)| !is_member(conv, receiver));
    let mut problems: Vec<Problem> = intruders
        .map(|(receiver, seq)| Problem::Intruded { conv: conv.into(), seq: *seq, user: receiver.to_string() })
        .collect();
    let by_seq: HashMap<u64, &Msg> = history.iter().map(|message| (message.seq, message)).collect();
    for (seq, versions) in &seen.pushed {
        let stored = by_seq.get(seq).map(|message| Print::of_message(message));
        problems.extend(versions.iter().filter(|version| Some(version.message) != stored).map(|version| {
            let (sender, receiver) = (version.sender.to_string(), version.receiver.to_string());
            Problem::Mispushed { conv: conv.into(), seq: *seq, sender, receiver }
        }));
    }
    problems
}

/// The first place where what somebody got by asking is not the history.
fn problem_of_sync(conv: &str, receiver: &str, got: &[(u64, Print)], stored: &[(u64, Print)]) -> Option<Problem> {
    let place = (0..stored.len().max(got.len())).find(|&place| stored.get(place) != got.get(place))?;
    let seq = stored.get(place).or_else(|| got.get(place)).map_or(0, |(seq, _)| *seq);
    let (conv, receiver) = (conv.to_owned(), receiver.to_owned());
    Some(Problem::Missynced { conv, seq, receiver, got: got.len(), stored: stored.len() })
}

/// Whether a conversation's name lets somebody in (docs/protocol.md, section 4). A name that is none lets nobody in.
fn is_member(conv: &str, user: &str) -> bool {
    match conv.split_once(':') {
        Some(("room", _)) => true,
        Some(("dm", both)) => both.split(':').any(|member| member == user),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::frame::SendAck;

    const ROOM: &str = "room:a";
    const PAIR: &str = "dm:alice:bob";

    fn message(conv: &str, seq: u64, sender: &str) -> Msg {
        // An id of the message alone: the same place in two conversations is two messages.
        let id = format!("{conv}{seq:016}").into_bytes();
        Msg { conv: conv.into(), seq, sender: sender.into(), client_msg_id: id.into(), ..Msg::default() }
    }

    /// Two conversations in which alice and bob take turns, all of it acknowledged, pushed to the other and asked for
    /// by both.
    fn run() -> (Histories, Journal) {
        let (mut histories, journal) = (Histories::new(), Journal::default());
        for conv in [ROOM, PAIR] {
            for seq in 1..=6 {
                let (sender, receiver) = if seq % 2 == 0 { ("alice", "bob") } else { ("bob", "alice") };
                let message = message(conv, seq, sender);
                let ack = SendAck { seq, client_msg_id: message.client_msg_id.clone(), ..SendAck::default() };
                journal.acknowledged(sender, conv, &ack, b"");
                journal.pushed(receiver, &message);
                histories.entry(conv.into()).or_default().push(message);
            }
            for receiver in ["alice", "bob"] {
                journal.synced(receiver, conv, &histories[conv]);
            }
        }
        (histories, journal)
    }

    /// Does damage to a good run and looks for what is said of it.
    #[track_caller]
    fn check_problem(damage: impl FnOnce(&mut Histories, &Journal), want: &str) {
        let (mut histories, journal) = run();
        damage(&mut histories, &journal);
        let broken = check_all(&histories, &journal).unwrap_err();
        assert!(broken.problems.iter().any(|problem| problem.to_string() == want), "{want:?} is not in {broken}");
    }

    fn history<'a>(histories: &'a mut Histories, conv: &str) -> &'a mut Vec<Msg> {
        histories.get_mut(conv).unwrap()
    }

    #[test]
    fn kept_promises_are_counted() {
        let (histories, journal) = run();
        let verdict = check_all(&histories, &journal).unwrap();
        assert_eq!(verdict, Verdict { conversations: 2, stored: 12, acknowledged: 12, pushed: 12, synced: 4 });
        let verdict = check(PAIR, &histories[PAIR], &journal).unwrap();
        assert_eq!(verdict, Verdict { conversations: 1, stored: 6, acknowledged: 6, pushed: 6, synced: 2 });
    }

    #[test]
    fn a_planted_loss_is_caught() {
        let lose_last = |histories: &mut Histories, _: &Journal| _ = history(histories, PAIR).pop();
        check_problem(lose_last, "message 6 of alice in dm:alice:bob was acknowledged and is not stored");
        check_problem(
            lose_last,
            "bob got 6 messages of dm:alice:bob by asking, 5 are stored: they differ at message 6",
        );
        check_problem(lose_last, "message 6 of alice in dm:alice:bob was pushed to bob, and is not so in the store");
        let lose_all = |histories: &mut Histories, _: &Journal| _ = histories.remove(ROOM);
        check_problem(lose_all, "message 1 of bob in room:a was acknowledged and is not stored");
    }

    #[test]
    fn a_planted_repeat_is_caught() {
        let repeat = |histories: &mut Histories, _: &Journal| {
            let first = history(histories, ROOM)[0].clone();
            history(histories, ROOM).push(Msg { seq: 7, ..first });
        };
        check_problem(repeat, "message 7 of bob in room:a is stored for the second time");
    }

    #[test]
    fn a_planted_gap_is_caught() {
        let gap = |histories: &mut Histories, _: &Journal| {
            for message in &mut history(histories, ROOM)[3..] {
                message.seq += 2;
            }
        };
        check_problem(gap, "messages 4 to 5 of room:a are missing before others");
        check_problem(gap, "message 4 of alice in room:a was acknowledged, and is stored as 6");
        let far = |histories: &mut Histories, _: &Journal| {
            let rest = &mut history(histories, ROOM)[4..];
            rest.iter_mut().for_each(|message| message.seq = u64::MAX);
        };
        check_problem(far, "message 18446744073709551615 of room:a comes after message 18446744073709551615");
        let turned = |histories: &mut Histories, _: &Journal| history(histories, ROOM).swap(2, 3);
        check_problem(turned, "message 3 of room:a comes after message 4");
    }

    #[test]
    fn a_planted_leak_is_caught() {
        let into_another = |histories: &mut Histories, _: &Journal| {
            let private = history(histories, PAIR)[1].clone();
            history(histories, ROOM).push(Msg { conv: ROOM.into(), seq: 7, ..private });
        };
        check_problem(into_another, "message 7 of alice in room:a was said in dm:alice:bob");
        let foreign = |histories: &mut Histories, _: &Journal| history(histories, ROOM)[1].conv = "room:b".into();
        check_problem(foreign, "message 2 of alice in room:a was said in room:b");
        let overheard = |_: &mut Histories, journal: &Journal| journal.pushed("mallory", &message(PAIR, 1, "bob"));
        check_problem(overheard, "mallory is not in dm:alice:bob and has to do with message 1");
        let intruder = |histories: &mut Histories, _: &Journal| history(histories, PAIR)[0].sender = "mallory".into();
        check_problem(intruder, "mallory is not in dm:alice:bob and has to do with message 1");
    }

    #[test]
    fn what_was_changed_on_its_way_is_caught() {
        let changed = |histories: &mut Histories, _: &Journal| history(histories, ROOM)[4].body = "x".into();
        check_problem(changed, "message 5 of bob in room:a is not as it was sent");
        check_problem(changed, "message 5 of bob in room:a was pushed to alice, and is not so in the store");
    }

    #[test]
    fn a_receiver_who_got_less_or_another_order_is_named() {
        let less = |_: &mut Histories, journal: &Journal| {
            journal.synced("bob", ROOM, &run().0[ROOM][..2]);
        };
        check_problem(less, "bob got 2 messages of room:a by asking, 6 are stored: they differ at message 3");
    }

    #[test]
    fn many_problems_are_counted_and_some_are_shown() {
        let (_, journal) = run();
        let broken = check_all(&Histories::new(), &journal).unwrap_err();
        assert_eq!(broken.lost(), 12);
        assert!(broken.to_string().ends_with("and 8 more"), "{broken}");
    }
}
