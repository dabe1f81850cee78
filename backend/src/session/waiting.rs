//! What a session has asked the store to write, until the store answers.

use std::{collections::VecDeque, error::Error as _, future::pending, mem};

use bytes::Bytes;

use super::refusal::{refused, send_err};
use crate::{
    frame::{Frame, RefusalCode, SendAck},
    load::Load,
    store::{Advancing, Appending, StoreError, Stored},
};

/// When a refused request may be repeated, in milliseconds.
const RETRY_BUSY: u32 = 200;
pub(super) const RETRY_FAILED: u32 = 1000;

/// A request that the store has not answered.
pub(super) enum Waiting {
    Send {
        client_msg_id: Bytes,
        conv: String,
        answer: Appending,
    },
    Advance {
        /// The frame that asked for it, by its name in the JSON twin.
        of: &'static str,
        conv: String,
        answer: Advancing,
    },
    /// Not for the store: a refused send, whose answer has its turn like the others.
    Refused(Option<Frame>),
}

impl Waiting {
    /// Waits for the answer, and says what the client should be told. May be dropped and called again, until it has
    /// returned once.
    pub(super) async fn answer(&mut self, load: &Load) -> Option<Frame> {
        match self {
            Self::Send { client_msg_id, conv, answer } => {
                let answer = answer.await;
                Some(sent(mem::take(client_msg_id), mem::take(conv), answer, load))
            }
            Self::Advance { of, conv, answer } => {
                let error = answer.await.err()?;
                let (code, retry_after_ms) = told(&error);
                if code != RefusalCode::NotAMember {
                    tracing::warn!(%error, cause = error.source(), "a cursor was not moved");
                }
                Some(refused(of, mem::take(conv), code, retry_after_ms))
            }
            Self::Refused(answer) => answer.take(),
        }
    }
}

/// Waits for the oldest unanswered request; for ever when there is none. May be dropped and called again.
pub(super) async fn first_answer(waiting: &mut VecDeque<Waiting>, load: &Load) -> Option<Frame> {
    let Some(first) = waiting.front_mut() else { return pending().await };
    let frame = first.answer(load).await;
    waiting.pop_front();
    frame
}

fn sent(client_msg_id: Bytes, conv: String, answer: Result<Stored, StoreError>, load: &Load) -> Frame {
    match answer {
        Ok(Stored { seq, time, duplicate }) => {
            load.stored();
            Frame::SendAck(SendAck { client_msg_id, conv, seq, server_time: time, duplicate })
        }
        // The client's mistake and no trouble of the store.
        Err(StoreError::NotAMember) => send_err(client_msg_id, conv, RefusalCode::NotAMember, 0),
        Err(error) => {
            load.failed();
            tracing::warn!(%error, cause = error.source(), "a message was not acknowledged");
            let (code, retry_after_ms) = told(&error);
            send_err(client_msg_id, conv, code, retry_after_ms)
        }
    }
}

/// What a client hears of the store's troubles, and when it may ask again, in milliseconds.
fn told(error: &StoreError) -> (RefusalCode, u32) {
    match error {
        StoreError::Busy => (RefusalCode::Busy, RETRY_BUSY),
        StoreError::NotAMember => (RefusalCode::NotAMember, 0),
        StoreError::Failed(_) | StoreError::Closed | StoreError::Injected => (RefusalCode::NotStored, RETRY_FAILED),
    }
}
