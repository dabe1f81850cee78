//! The tables, as numbered steps: the file's `user_version` says how many of them it has been through.
//!
//! A step never changes once it has been released; what comes later is a step of its own. A file of an earlier version
//! is brought up in one transaction when it is opened, so it is whole at every moment.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{super::takes_part, OpenError};

type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Step `n` makes version `n + 1` out of version `n`.
const STEPS: [Step; 3] = [messages, cursors, groups];

/// The version of this program.
pub(super) fn known() -> usize {
    STEPS.len()
}

/// Brings a file, new or old, to the version of this program.
pub(super) fn migrate(db: &mut Connection) -> Result<(), OpenError> {
    let changes = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = changes.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = known();
    let done = usize::try_from(found).ok().filter(|done| *done <= known);
    let Some(done) = done else { return Err(OpenError::Schema { found, known }) };
    for (version, step) in (1_i64..).zip(STEPS).skip(done) {
        step(&changes)?;
        changes.pragma_update(None, "user_version", version)?;
    }
    changes.commit()?;
    if done > 0 && done < known {
        tracing::info!(from = done, to = known, "the database has a new schema");
    }
    Ok(())
}

fn messages(changes: &Transaction<'_>) -> rusqlite::Result<()> {
    changes.execute_batch(
        "CREATE TABLE conversation (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            last_seq INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES conversation (id),
            seq INTEGER NOT NULL,
            sender TEXT NOT NULL,
            device TEXT NOT NULL,
            client_msg_id BLOB NOT NULL CHECK (length(client_msg_id) = 16),
            kind INTEGER NOT NULL,
            body BLOB NOT NULL,
            sent_at INTEGER NOT NULL,
            time INTEGER NOT NULL,
            UNIQUE (conversation, seq),
            UNIQUE (conversation, sender, client_msg_id)
        ) STRICT;
        CREATE TABLE probe (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            time INTEGER NOT NULL
        ) STRICT;",
    )
}

/// How far each user has got in each conversation that the user takes part in.
///
/// `move` counts the moves of all cursors in commit order and is the place of a cursor's last one in the feed; 0 is a
/// cursor that nobody has to hear of. The index leaves those out, so that a send, which may write such a cursor, does
/// not touch it.
fn cursors(changes: &Transaction<'_>) -> rusqlite::Result<()> {
    changes.execute_batch(
        "CREATE TABLE cursor (
            user TEXT NOT NULL,
            conversation INTEGER NOT NULL REFERENCES conversation (id),
            delivered_seq INTEGER NOT NULL,
            read_seq INTEGER NOT NULL CHECK (read_seq BETWEEN 0 AND delivered_seq),
            device TEXT NOT NULL,
            move INTEGER NOT NULL,
            PRIMARY KEY (user, conversation)
        ) STRICT, WITHOUT ROWID;
        CREATE UNIQUE INDEX cursor_move ON cursor (move) WHERE move > 0;",
    )?;
    // Whoever has sent takes part, and so does the other one of a direct conversation. What they had read is unknown.
    let mut senders = changes.prepare(
        "SELECT DISTINCT conversation, name, sender FROM message JOIN conversation ON conversation.id = conversation",
    )?;
    let mut begin = changes.prepare("INSERT OR IGNORE INTO cursor VALUES (?1, ?2, 0, 0, '', 0)")?;
    let mut rows = senders.query([])?;
    while let Some(row) = rows.next()? {
        let (conversation, name, sender): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        for user in takes_part(&name, &sender) {
            begin.execute((user, conversation))?;
        }
    }
    Ok(())
}

/// Groups and who is in them. A row of a member who has left goes, the cursor stays: its `move` may be the last one, from
/// which later ones are counted.
fn groups(changes: &Transaction<'_>) -> rusqlite::Result<()> {
    changes.execute_batch(
        "CREATE TABLE talk_group (
            conversation INTEGER PRIMARY KEY REFERENCES conversation (id),
            name TEXT NOT NULL,
            created INTEGER NOT NULL,
            creator TEXT NOT NULL,
            creation_key TEXT,
            UNIQUE (creator, creation_key)
        ) STRICT;
        CREATE TABLE member (
            user TEXT NOT NULL,
            conversation INTEGER NOT NULL REFERENCES talk_group (conversation),
            role INTEGER NOT NULL CHECK (role BETWEEN 1 AND 3),
            joined INTEGER NOT NULL,
            PRIMARY KEY (user, conversation)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX member_conversation ON member (conversation);",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_and_one_that_was_brought_up_have_the_same_tables() {
        let tables = |db: &Connection| -> Vec<String> {
            let mut statement =
                db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let mut new = Connection::open_in_memory().unwrap();
        migrate(&mut new).unwrap();
        for steps in 1..STEPS.len() {
            let mut old = Connection::open_in_memory().unwrap();
            let changes = old.transaction().unwrap();
            for (version, step) in (1_i64..).zip(STEPS).take(steps) {
                step(&changes).unwrap();
                changes.pragma_update(None, "user_version", version).unwrap();
            }
            changes.commit().unwrap();
            migrate(&mut old).unwrap();
            assert_eq!(tables(&new), tables(&old), "from version {steps}");
        }
    }
}
