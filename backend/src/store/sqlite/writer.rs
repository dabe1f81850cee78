//! The one thread that writes: group commit.
//!
//! A commit takes as many messages and moves of cursors as wait when it begins, at most [`BATCH`]. There is no timer that waits for
//! company: while one commit syncs, the next batch gathers by itself, so a lone message pays one sync and no delay,
//! and a crowd shares one. Senders get their answer after the commit, never before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Instant,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::{
    super::{Advance, Cursor, Founded, GroupChange, GroupError, NewGroup, NewMessage, StoreError, Stored, takes_part},
    commits::Commits,
    groups,
    read::{conversation, cursor_at, last_move, unsigned},
};
use crate::{clock::now, group::Denied};

/// Messages and moves in one commit, at most; a new group counts once for each member, and may come last. One sender that waits for each answer got 2 700 messages of 200 bytes a second
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
    Advance {
        advance: Advance,
        reply: oneshot::Sender<Result<Cursor, StoreError>>,
    },
    Create {
        wanted: NewGroup,
        reply: oneshot::Sender<Result<Founded, GroupError>>,
        /// As of an append.
        _room: OwnedSemaphorePermit,
    },
    Change {
        wanted: GroupChange,
        reply: oneshot::Sender<Result<(), GroupError>>,
    },
    Probe {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

impl Work {
    /// How much of a commit it is.
    fn weight(&self) -> usize {
        match self {
            Self::Create { wanted, .. } => 1 + wanted.others.len(),
            Self::Append { .. } | Self::Advance { .. } | Self::Change { .. } | Self::Probe { .. } => 1,
        }
    }
}

/// What became of one piece of work, if the commit succeeds. What was refused has written nothing.
enum Done {
    Stored(Stored),
    At(Cursor),
    NotAMember,
    Founded(Result<Founded, Denied>),
    Changed(Result<(), Denied>),
    Touched,
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
    commits: Commits,
    grown: Arc<Notify>,
}

impl Writer {
    pub(super) fn new(db: Connection, committed: Arc<Committed>, commits: Commits, grown: Arc<Notify>) -> Self {
        Self { db, committed, commits, grown }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Work>) {
        while let Ok(first) = queue.recv() {
            let mut weight = first.weight();
            let mut batch = vec![first];
            while weight < BATCH
                && let Ok(next) = queue.try_recv()
            {
                weight += next.weight();
                batch.push(next);
            }
            let begun = Instant::now();
            match self.commit(&batch) {
                Ok(done) => {
                    self.commits.succeeded(batch.len(), begun.elapsed());
                    self.committed(batch, done);
                }
                Err(cause) => {
                    self.commits.failed();
                    self.failed(batch, cause);
                }
            }
        }
    }

    /// One transaction for the batch; what became of each piece, in order.
    fn commit(&mut self, batch: &[Work]) -> rusqlite::Result<Vec<Done>> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = now();
        let mut done = Vec::with_capacity(batch.len());
        for work in batch {
            done.push(match work {
                Work::Append { message, .. } => append(&transaction, message, time)?,
                Work::Advance { advance: wanted, .. }
                    if !groups::may_use(&transaction, &wanted.conv, &wanted.user)? =>
                {
                    Done::NotAMember
                }
                Work::Advance { advance: wanted, .. } => Done::At(advance(&transaction, wanted)?),
                Work::Create { wanted, .. } => Done::Founded(groups::create(&transaction, wanted, time)?),
                Work::Change { wanted, .. } => Done::Changed(groups::change(&transaction, wanted, time)?),
                Work::Probe { .. } => touch(&transaction, time).map(|()| Done::Touched)?,
            });
        }
        transaction.commit()?;
        Ok(done)
    }

    fn committed(&self, batch: Vec<Work>, done: Vec<Done>) {
        self.committed.0.store(now(), Ordering::Relaxed);
        self.grown.notify_one();
        for (work, done) in batch.into_iter().zip(done) {
            // A sender that has gone meanwhile gets no answer and will ask again; there is nobody to tell.
            let _heard = match (work, done) {
                (Work::Append { reply, .. }, Done::Stored(place)) => reply.send(Ok(place)).is_ok(),
                (Work::Append { reply, .. }, Done::NotAMember) => reply.send(Err(StoreError::NotAMember)).is_ok(),
                (Work::Advance { reply, .. }, Done::At(cursor)) => reply.send(Ok(cursor)).is_ok(),
                (Work::Advance { reply, .. }, Done::NotAMember) => reply.send(Err(StoreError::NotAMember)).is_ok(),
                (Work::Create { reply, .. }, Done::Founded(founded)) => reply.send(founded.map_err(Into::into)).is_ok(),
                (Work::Change { reply, .. }, Done::Changed(changed)) => reply.send(changed.map_err(Into::into)).is_ok(),
                (Work::Probe { reply }, Done::Touched) => reply.send(Ok(())).is_ok(),
                _ => unreachable!("commit makes of each piece of work what belongs to it"),
            };
        }
    }

    fn failed(&self, batch: Vec<Work>, cause: rusqlite::Error) {
        // The next check has to try for itself.
        self.committed.0.store(0, Ordering::Relaxed);
        tracing::error!(error = %cause, batch = batch.len(), "a commit failed, its messages are not acknowledged");
        let error = StoreError::Failed(Arc::new(cause));
        for work in batch {
            let _heard = match work {
                Work::Append { reply, .. } => reply.send(Err(error.clone())).is_ok(),
                Work::Advance { reply, .. } => reply.send(Err(error.clone())).is_ok(),
                Work::Create { reply, .. } => reply.send(Err(error.clone().into())).is_ok(),
                Work::Change { reply, .. } => reply.send(Err(error.clone().into())).is_ok(),
                Work::Probe { reply } => reply.send(Err(error.clone())).is_ok(),
            };
        }
    }
}

/// Gives a message its place, or finds the one that it has.
fn append(transaction: &Transaction<'_>, message: &NewMessage, time: u64) -> rusqlite::Result<Done> {
    if let Some(first) = find(transaction, message)? {
        return Ok(Done::Stored(first));
    }
    if !groups::may_use(transaction, &message.conv, &message.sender)? {
        return Ok(Done::NotAMember);
    }
    let (_, seq) = write_message(transaction, message, time)?;
    Ok(Done::Stored(Stored { seq, time, duplicate: false }))
}

/// Gives a new message the next place in its conversation: the conversation's key and that place.
pub(super) fn write_message(
    transaction: &Transaction<'_>,
    message: &NewMessage,
    time: u64,
) -> rusqlite::Result<(i64, u64)> {
    let (conversation, seq) = transaction
        .prepare_cached(
            "INSERT INTO conversation (name, last_seq) VALUES (?1, 1)
             ON CONFLICT (name) DO UPDATE SET last_seq = last_seq + 1 RETURNING id, last_seq",
        )?
        .query_row([&message.conv], |row| Ok((row.get::<_, i64>(0)?, unsigned(row, 1)?)))?;
    transaction
        .prepare_cached(
            "INSERT INTO message
             (conversation, seq, sender, device, client_msg_id, kind, body, sent_at, time)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            conversation,
            seq.cast_signed(),
            &message.sender,
            &message.device,
            message.client_msg_id,
            message.kind,
            &message.body[..],
            message.sent_at.cast_signed(),
            time.cast_signed(),
        ))?;
    take_part(transaction, conversation, seq, message)?;
    Ok((conversation, seq))
}

/// Lets a user take part who has read everything up to a place, or further. Nobody is told.
pub(super) fn begin_reading(
    transaction: &Transaction<'_>,
    conversation: i64,
    user: &str,
    read: u64,
) -> rusqlite::Result<()> {
    let (at, moved) = find_cursor(transaction, conversation, user)?.unwrap_or_default();
    write_cursor(transaction, conversation, user, "", at.advanced(Cursor::read(read)), moved)
}

/// Gives cursors to those who take part from this message on, and moves the sender's past it if nothing is unread
/// before it. A direct conversation's two users are all there since its first message.
fn take_part(transaction: &Transaction<'_>, conversation: i64, seq: u64, message: &NewMessage) -> rusqlite::Result<()> {
    if seq == 1 {
        for user in takes_part(&message.conv, &message.sender) {
            write_cursor(transaction, conversation, user, "", Cursor::default(), 0)?;
        }
    }
    let found = find_cursor(transaction, conversation, &message.sender)?;
    let (at, moved) = found.unwrap_or_default();
    let next = at.after_sending(seq);
    if found.is_none() || next != at {
        // Its place in the feed stays, with the device that made that move: this one is no news.
        write_cursor(transaction, conversation, &message.sender, "", next, moved)?;
    }
    Ok(())
}

/// Moves a cursor forward; where it stands then.
fn advance(transaction: &Transaction<'_>, wanted: &Advance) -> rusqlite::Result<Cursor> {
    let Some((conversation, last_seq)) = conversation(transaction, &wanted.conv)? else { return Ok(Cursor::default()) };
    let found = find_cursor(transaction, conversation, &wanted.user)?;
    let (at, _) = found.unwrap_or_default();
    let next = at.advanced(wanted.to.within(last_seq));
    if found.is_none() || next != at {
        // One that begins at 0 takes part without having moved.
        let this_move = if next == at { 0 } else { last_move(transaction)? + 1 };
        write_cursor(transaction, conversation, &wanted.user, &wanted.device, next, this_move)?;
    }
    Ok(next)
}

/// Where a user's cursor stands, and its place in the feed.
fn find_cursor(
    transaction: &Transaction<'_>,
    conversation: i64,
    user: &str,
) -> rusqlite::Result<Option<(Cursor, u64)>> {
    transaction
        .prepare_cached("SELECT delivered_seq, read_seq, move FROM cursor WHERE user = ?1 AND conversation = ?2")?
        .query_row((user, conversation), |row| Ok((cursor_at(row, 0)?, unsigned(row, 2)?)))
        .optional()
}

fn write_cursor(
    transaction: &Transaction<'_>,
    conversation: i64,
    user: &str,
    device: &str,
    at: Cursor,
    this_move: u64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO cursor (user, conversation, delivered_seq, read_seq, device, move)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (user, conversation) DO UPDATE SET delivered_seq = excluded.delivered_seq,
             read_seq = excluded.read_seq, move = excluded.move,
             device = CASE excluded.move WHEN move THEN device ELSE excluded.device END",
        )?
        .execute((
            user,
            conversation,
            at.delivered_seq.cast_signed(),
            at.read_seq.cast_signed(),
            device,
            this_move.cast_signed(),
        ))?;
    Ok(())
}

fn find(transaction: &Transaction<'_>, message: &NewMessage) -> rusqlite::Result<Option<Stored>> {
    transaction
        .prepare_cached(
            "SELECT seq, time FROM message JOIN conversation ON conversation.id = message.conversation
             WHERE name = ?1 AND sender = ?2 AND client_msg_id = ?3",
        )?
        .query_row((&message.conv, &message.sender, message.client_msg_id), |row| {
            Ok(Stored { seq: unsigned(row, 0)?, time: unsigned(row, 1)?, duplicate: true })
        })
        .optional()
}

fn touch(transaction: &Transaction<'_>, time: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO probe (id, time) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET time = ?1")?
        .execute([time.cast_signed()])?;
    Ok(())
}
