//! What can be wrong, each with the conversation and the message that it is about.

use std::fmt;

/// More problems of one run say nothing new.
const SHOWN: usize = 20;

/// One promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("message {seq} of {sender} in {conv} was acknowledged and is not stored")]
    Lost { conv: String, seq: u64, sender: String },
    #[error("message {seq} of {sender} in {conv} was acknowledged, and is stored as {stored}")]
    Moved { conv: String, seq: u64, sender: String, stored: u64 },
    #[error("message {seq} of {sender} in {conv} is not as it was sent")]
    Changed { conv: String, seq: u64, sender: String },
    #[error("message {seq} of {sender} in {conv} is stored for the second time")]
    Repeated { conv: String, seq: u64, sender: String },
    #[error("messages {from} to {to} of {conv} are missing before others")]
    Gap { conv: String, from: u64, to: u64 },
    #[error("message {seq} of {conv} comes after message {after}")]
    Disordered { conv: String, seq: u64, after: u64 },
    #[error("message {seq} of {sender} in {into} was said in {from}")]
    Leaked { from: String, into: String, seq: u64, sender: String },
    /// Somebody wrote into a conversation, or was shown a message of it, who is not in it.
    #[error("{user} is not in {conv} and has to do with message {seq}")]
    Intruded { conv: String, seq: u64, user: String },
    #[error("message {seq} of {sender} in {conv} was pushed to {receiver}, and is not so in the store")]
    Mispushed { conv: String, seq: u64, sender: String, receiver: String },
    #[error("{receiver} got {got} messages of {conv} by asking, {stored} are stored: they differ at message {seq}")]
    Missynced { conv: String, seq: u64, receiver: String, got: usize, stored: usize },
}

/// What was found to be wrong.
#[derive(Debug)]
pub struct Broken {
    pub problems: Vec<Problem>,
}

impl Broken {
    /// How many acknowledged messages are not stored.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.problems.iter().filter(|problem| matches!(problem, Problem::Lost { .. })).count()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken promises:", self.problems.len())?;
        self.problems.iter().take(SHOWN).try_for_each(|problem| write!(f, "\n  {problem}"))?;
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Broken {}
