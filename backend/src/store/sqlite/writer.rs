//! The one thread that writes: group commit.
//!
//! A commit takes as many messages as wait when it begins, at most [`BATCH`]. There is no timer that waits for
//! company: while one commit syncs, the next batch gathers by itself, so a lone message pays one sync and no delay,
//! and a crowd shares one. Senders get their answer after the commit, never before.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
    mpsc,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::super::{NewMessage, StoreError, Stored};
use crate::clock::now;

/// Messages in one commit, at most. One sender that waits for each answer got 2 700 messages of 200 bytes a second
/// stored, 128 unanswered ones 17 000 (development build, two cores, local disk); more only makes the first one wait.
const BATCH: usize = 128;
/// A commit so recent proves that the store takes writes, in milliseconds.
const JUST_NOW: u64 = 1000;

pub(super) enum Work {
    Append {
        message: NewMessage,
        reply: oneshot::Sender<Result<Stored, StoreError>>,
        /// Room in the queue's bytes, given back with the answer.
        _room: OwnedSemaphorePermit,
    },
    Probe {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// When the last commit succeeded, Unix time in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Committed(AtomicU64);

impl Committed {
    pub(super) fn just_now(&self) -> bool {
        now().saturating_sub(self.0.load(Ordering::Relaxed)) < JUST_NOW
    }
}

pub(super) struct Writer {
    db: Connection,
    committed: Arc<Committed>,
    grown: Arc<Notify>,
}

impl Writer {
    pub(super) fn new(db: Connection, committed: Arc<Committed>, grown: Arc<Notify>) -> Self {
        Self { db, committed, grown }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Work>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH - 1));
            match self.commit(&batch) {
                Ok(places) => self.committed(batch, places),
                Err(cause) => self.failed(batch, cause),
            }
        }
    }

    /// One transaction for the batch; a place for each append, in order.
    fn commit(&mut self, batch: &[Work]) -> rusqlite::Result<Vec<Stored>> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = now();
        let mut places = Vec::with_capacity(batch.len());
        for work in batch {
            match work {
                Work::Append { message, .. } => places.push(store(&transaction, message, time)?),
                Work::Probe { .. } => touch(&transaction, time)?,
            }
        }
        transaction.commit()?;
        Ok(places)
    }

    fn committed(&self, batch: Vec<Work>, places: Vec<Stored>) {
        self.committed.0.store(now(), Ordering::Relaxed);
        self.grown.notify_one();
        let mut places = places.into_iter();
        for work in batch {
            // A sender that has gone meanwhile gets no answer and will ask again; there is nobody to tell.
            let _heard = match work {
                Work::Append { reply, .. } => {
                    let place = places.next().expect("commit gives one place for each append");
                    reply.send(Ok(place)).is_ok()
                }
                Work::Probe { reply } => reply.send(Ok(())).is_ok(),
            };
        }
    }

    fn failed(&self, batch: Vec<Work>, cause: rusqlite::Error) {
        // The next check has to try for itself.
        self.committed.0.store(0, Ordering::Relaxed);
        tracing::error!(error = %cause, messages = batch.len(), "a commit failed, its messages are not acknowledged");
        let error = StoreError::Failed(Arc::new(cause));
        for work in batch {
            let _heard = match work {
                Work::Append { reply, .. } => reply.send(Err(error.clone())).is_ok(),
                Work::Probe { reply } => reply.send(Err(error.clone())).is_ok(),
            };
        }
    }
}

/// Gives a message its place, or finds the one that it has.
fn store(transaction: &Transaction<'_>, message: &NewMessage, time: u64) -> rusqlite::Result<Stored> {
    if let Some(first) = find(transaction, message)? {
        return Ok(first);
    }
    let (conversation, seq): (i64, i64) = transaction
        .prepare_cached(
            "INSERT INTO conversation (name, last_seq) VALUES (?1, 1)
             ON CONFLICT (name) DO UPDATE SET last_seq = last_seq + 1 RETURNING id, last_seq",
        )?
        .query_row([&message.conv], |row| Ok((row.get(0)?, row.get(1)?)))?;
    transaction
        .prepare_cached(
            "INSERT INTO message
             (conversation, seq, sender, device, client_msg_id, kind, body, sent_at, time)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            conversation,
            seq,
            &message.sender,
            &message.device,
            message.client_msg_id,
            message.kind,
            &message.body[..],
            message.sent_at.cast_signed(),
            time.cast_signed(),
        ))?;
    Ok(Stored { seq: seq.cast_unsigned(), time, duplicate: false })
}

fn find(transaction: &Transaction<'_>, message: &NewMessage) -> rusqlite::Result<Option<Stored>> {
    transaction
        .prepare_cached(
            "SELECT seq, time FROM message JOIN conversation ON conversation.id = message.conversation
             WHERE name = ?1 AND sender = ?2 AND client_msg_id = ?3",
        )?
        .query_row((&message.conv, &message.sender, message.client_msg_id), |row| {
            Ok(Stored { seq: super::unsigned(row, 0)?, time: super::unsigned(row, 1)?, duplicate: true })
        })
        .optional()
}

fn touch(transaction: &Transaction<'_>, time: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO probe (id, time) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET time = ?1")?
        .execute([time.cast_signed()])?;
    Ok(())
}
