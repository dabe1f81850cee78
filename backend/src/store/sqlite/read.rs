//! What is asked of the database: pages, cursors, the feed. Each answer is of one moment.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use super::{
    super::{Cursor, Cut, Fed, Moved, News, Page, Part, Position, Side},
    groups::may_use,
};
use crate::frame::Msg;

/// Messages, and moves of cursors, that one look at the feed returns.
const FEED: u32 = 512;
/// More than a message's fields other than its body take in a page, in bytes.
const PER_MESSAGE: usize = 320;

/// `None` if the conversation is a group that the user is not in.
pub(super) fn page(db: &mut Connection, conv: &str, user: &str, cut: Cut) -> rusqlite::Result<Option<Page>> {
    // One transaction, so that membership, `last_seq` and the messages are of the same moment.
    let moment = db.transaction()?;
    if !may_use(&moment, conv, user)? {
        return Ok(None);
    }
    let Some((id, last_seq)) = conversation(&moment, conv)? else {
        return Ok(Some(Page { msgs: Vec::new(), last_seq: 0 }));
    };
    let (sql, edge) = match cut.side {
        Side::After(seq) => (AFTER, seq),
        Side::Before(seq) => (BEFORE, seq),
    };
    let mut statement = moment.prepare_cached(sql)?;
    let mut rows = statement.query((id, i64::try_from(edge).unwrap_or(i64::MAX), cut.limit))?;
    let mut msgs: Vec<Msg> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let msg = msg(row, conv.to_owned(), 0)?;
        bytes += msg.body.len() + PER_MESSAGE;
        if bytes > cut.max_bytes && !msgs.is_empty() {
            break;
        }
        msgs.push(msg);
    }
    if let Side::Before(_) = cut.side {
        msgs.reverse();
    }
    Ok(Some(Page { msgs, last_seq }))
}

const AFTER: &str = "SELECT seq, sender, client_msg_id, body, time, kind, sent_at FROM message
    WHERE conversation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
const BEFORE: &str = "SELECT seq, sender, client_msg_id, body, time, kind, sent_at FROM message
    WHERE conversation = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

/// The key and the newest `seq` of a conversation that has messages.
pub(super) fn conversation(moment: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<(i64, u64)>> {
    moment
        .prepare_cached("SELECT id, last_seq FROM conversation WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, unsigned(row, 1)?)))
        .optional()
}

pub(super) fn cursor(db: &Connection, conv: &str, user: &str) -> rusqlite::Result<Cursor> {
    db.prepare_cached(
        "SELECT delivered_seq, read_seq FROM cursor JOIN conversation ON conversation.id = conversation
         WHERE name = ?1 AND user = ?2",
    )?
    .query_row([conv, user], |row| cursor_at(row, 0))
    .optional()
    .map(Option::unwrap_or_default)
}

pub(super) fn cursors(db: &Connection, conv: &str) -> rusqlite::Result<Vec<(String, Cursor)>> {
    // By way of the members: cursors have no index by conversation.
    db.prepare_cached(
        "SELECT cursor.user, delivered_seq, read_seq
         FROM conversation JOIN member ON member.conversation = conversation.id
         JOIN cursor ON cursor.user = member.user AND cursor.conversation = conversation.id
         WHERE name = ?1 ORDER BY cursor.user",
    )?
    .query_map([conv], |row| Ok((row.get(0)?, cursor_at(row, 1)?)))?
    .collect()
}

pub(super) fn taking_part(db: &Connection, user: &str, after: &str, limit: u32) -> rusqlite::Result<Vec<Part>> {
    db.prepare_cached(
        "SELECT name, last_seq, delivered_seq, read_seq
         FROM cursor JOIN conversation ON conversation.id = conversation
         WHERE user = ?1 AND name > ?2 AND (name NOT GLOB 'group:*' OR EXISTS (
             SELECT 1 FROM member WHERE member.user = ?1 AND member.conversation = cursor.conversation))
         ORDER BY name LIMIT ?3",
    )?
    .query_map((user, after, limit), |row| {
        Ok(Part { conv: row.get(0)?, last_seq: unsigned(row, 1)?, cursor: cursor_at(row, 2)? })
    })?
    .collect()
}

pub(super) fn newest(db: &mut Connection) -> rusqlite::Result<Position> {
    let moment = db.transaction()?;
    let messages = moment.query_row("SELECT coalesce(max(id), 0) FROM message", [], |row| unsigned(row, 0))?;
    Ok(Position { messages, moves: last_move(&moment)? })
}

/// The place of the last move of any cursor; 0 before the first.
pub(super) fn last_move(moment: &Transaction<'_>) -> rusqlite::Result<u64> {
    moment
        .prepare_cached("SELECT move FROM cursor WHERE move > 0 ORDER BY move DESC LIMIT 1")?
        .query_row([], |row| unsigned(row, 0))
        .optional()
        .map(Option::unwrap_or_default)
}

pub(super) fn feed(db: &mut Connection, after: Position) -> rusqlite::Result<News> {
    let moment = db.transaction()?;
    let (messages, last_message) = fed(&moment, after.messages)?;
    // With more messages to come, a cursor might be ahead of them.
    let whole = messages.len() < usize::try_from(FEED).unwrap_or(usize::MAX);
    let (moves, last_move) = if whole { moved(&moment, after.moves)? } else { (Vec::new(), after.moves) };
    Ok(News { messages, moves, end: Position { messages: last_message, moves: last_move } })
}

fn fed(moment: &Transaction<'_>, after: u64) -> rusqlite::Result<(Vec<Fed>, u64)> {
    let mut statement = moment.prepare_cached(
        "SELECT message.id, device, name, seq, sender, client_msg_id, body, time, kind, sent_at
         FROM message JOIN conversation ON conversation.id = message.conversation
         WHERE message.id > ?1 ORDER BY message.id LIMIT ?2",
    )?;
    let mut rows = statement.query((i64::try_from(after).unwrap_or(i64::MAX), FEED))?;
    let (mut messages, mut last) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        last = unsigned(row, 0)?;
        messages.push(Fed { device: row.get(1)?, msg: msg(row, row.get(2)?, 3)? });
    }
    Ok((messages, last))
}

fn moved(moment: &Transaction<'_>, after: u64) -> rusqlite::Result<(Vec<Moved>, u64)> {
    // `move > 0` says again what the partial index holds; without it SQLite would not use it.
    let mut statement = moment.prepare_cached(
        "SELECT move, device, name, user, delivered_seq, read_seq
         FROM cursor JOIN conversation ON conversation.id = conversation
         WHERE move > 0 AND move > ?1 ORDER BY move LIMIT ?2",
    )?;
    let mut rows = statement.query((i64::try_from(after).unwrap_or(i64::MAX), FEED))?;
    let (mut moves, mut last) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        last = unsigned(row, 0)?;
        moves.push(Moved { device: row.get(1)?, conv: row.get(2)?, user: row.get(3)?, cursor: cursor_at(row, 4)? });
    }
    Ok((moves, last))
}

/// Reads `seq, sender, client_msg_id, body, time, kind, sent_at` from column `first` on.
fn msg(row: &Row<'_>, conv: String, first: usize) -> rusqlite::Result<Msg> {
    Ok(Msg {
        conv,
        seq: unsigned(row, first)?,
        sender: row.get(first + 1)?,
        client_msg_id: Bytes::from(row.get::<_, Vec<u8>>(first + 2)?),
        body: Bytes::from(row.get::<_, Vec<u8>>(first + 3)?),
        time: unsigned(row, first + 4)?,
        kind: row.get(first + 5)?,
        sent_at: row.get::<_, i64>(first + 6)?.cast_unsigned(),
    })
}

/// Reads `delivered_seq, read_seq` from column `first` on.
pub(super) fn cursor_at(row: &Row<'_>, first: usize) -> rusqlite::Result<Cursor> {
    Ok(Cursor { delivered_seq: unsigned(row, first)?, read_seq: unsigned(row, first + 1)? })
}

/// A number that the schema's user never makes negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
