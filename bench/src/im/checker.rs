//! Holds what clients were promised and shown against what is stored.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use backend::frame::Msg;

use super::Journal;

/// More problems of one run say nothing new.
const SHOWN_PROBLEMS: usize = 20;

/// What was found to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Messages in the history.
    pub stored: usize,
    /// Acknowledgements, each found exactly once.
    pub acknowledged: usize,
    /// Pushes, each the same as its message in the history.
    pub pushed: usize,
}

/// What was found to be wrong.
#[derive(Debug)]
pub struct Broken {
    pub problems: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken promises:", self.problems.len())?;
        self.problems.iter().take(SHOWN_PROBLEMS).try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Broken {}

/// Checks one conversation: every acknowledged message is in the history exactly once, at its place and as it was
/// sent; places are 1, 2, 3, … without a hole; no message of another conversation; every push equals its message.
///
/// `history` is what a client got by asking for the whole conversation after all was said.
///
/// # Errors
/// When any of it does not hold.
pub fn check(conv: &str, history: &[Msg], journal: &Journal) -> Result<Verdict, Broken> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for (message, place) in history.iter().zip(1..) {
        if message.conv != conv {
            problems.push(format!("a message of {} is in the history of {conv}", message.conv));
        }
        if message.seq != place {
            problems.push(format!("message {place} of {conv} has seq {}", message.seq));
        }
        if !seen.insert((&message.sender, &message.client_msg_id)) {
            problems.push(format!("message {} of {} is stored twice", message.seq, message.sender));
        }
    }
    let by_seq: HashMap<u64, &Msg> = history.iter().map(|message| (message.seq, message)).collect();
    let (promises, pushes) = (journal.promises(conv), journal.pushes(conv));
    for promise in &promises {
        let kept = by_seq.get(&promise.seq).is_some_and(|stored| {
            stored.sender == promise.sender && stored.client_msg_id == promise.id && stored.body == promise.body
        });
        if !kept {
            problems.push(format!("acknowledged message {} of {} is lost", promise.seq, promise.sender));
        }
    }
    for push in &pushes {
        if by_seq.get(&push.seq) != Some(&push) {
            problems.push(format!("push {} of {} is not what is stored", push.seq, push.sender));
        }
    }
    if problems.is_empty() {
        Ok(Verdict { stored: history.len(), acknowledged: promises.len(), pushed: pushes.len() })
    } else {
        Err(Broken { problems })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::frame::SendAck;
    use bytes::Bytes;

    fn message(seq: u64, id: u8) -> Msg {
        Msg { conv: "room:a".into(), seq, sender: "alice".into(), client_msg_id: vec![id; 16].into(), ..Msg::default() }
    }

    fn promised(seq: u64, id: u8) -> Journal {
        let journal = Journal::default();
        let ack = SendAck { conv: "room:a".into(), seq, client_msg_id: vec![id; 16].into(), ..SendAck::default() };
        journal.acknowledged("alice", &ack, Bytes::new());
        journal
    }

    #[track_caller]
    fn check_problem(history: &[Msg], journal: &Journal, want: &str) {
        let broken = check("room:a", history, journal).unwrap_err();
        assert!(broken.to_string().contains(want), "{broken}");
    }

    #[test]
    fn a_kept_promise_is_counted() {
        let journal = promised(2, 2);
        journal.received(message(1, 1));
        let verdict = check("room:a", &[message(1, 1), message(2, 2)], &journal).unwrap();
        assert_eq!(verdict, Verdict { stored: 2, acknowledged: 1, pushed: 1 });
    }

    #[test]
    fn every_way_to_break_one_is_found() {
        check_problem(&[message(1, 1)], &promised(2, 2), "acknowledged message 2 of alice is lost");
        check_problem(&[message(1, 1), message(2, 3)], &promised(2, 2), "is lost");
        check_problem(&[message(1, 1), message(2, 1)], &promised(1, 1), "is stored twice");
        check_problem(&[message(1, 1), message(3, 3)], &promised(1, 1), "message 2 of room:a has seq 3");
        let foreign = Msg { conv: "room:b".into(), ..message(1, 1) };
        check_problem(&[foreign], &Journal::default(), "a message of room:b");
        let journal = Journal::default();
        journal.received(Msg { body: Bytes::from_static(b"changed"), ..message(1, 1) });
        check_problem(&[message(1, 1)], &journal, "push 1 of alice is not what is stored");
    }
}
