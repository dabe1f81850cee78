//! Copies of the database: SQLite's online backup, in one step.
//!
//! One step is one read transaction: the copy is of one moment, writers go on meanwhile (a reader does not stop them in
//! WAL mode), and none of their commits makes it begin anew, as it would between two steps. The price is that the log grows
//! until the copy is done.

use std::{
    fs::{self, File},
    path::Path,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    super::backup::{BackupError, Contents, Engine},
    DATABASE, TURN, lock, schema,
};

/// SQLite files of [`SqliteStore`](super::SqliteStore).
#[derive(Clone, Copy, Debug)]
pub struct Sqlite;

impl Engine for Sqlite {
    const NAME: &'static str = "sqlite";

    fn copy(&self, data: &Path, to: &Path) -> Result<(), BackupError> {
        let from = data.join(DATABASE);
        if !from.exists() {
            return Err(BackupError::NoStore(data.to_owned()));
        }
        // Not read-only, because readers of a log register in a file beside it.
        let from = open(&from)?;
        from.execute_batch("PRAGMA query_only = ON;")?;
        let mut copy = Connection::open(to.join(DATABASE))?;
        // Whoever called syncs the file when it is whole.
        copy.execute_batch("PRAGMA synchronous = OFF;")?;
        copy_whole(&from, &mut copy)?;
        // The copy says that it has a log, as its model does; it is one file.
        copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
        Ok(())
    }

    fn inspect(&self, directory: &Path) -> Result<Contents, BackupError> {
        let path = directory.join(DATABASE);
        let damaged = |what| BackupError::Damaged { file: path.clone(), what };
        let db = open(&path)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let schema = usize::try_from(found).ok().filter(|schema| *schema > 0 && *schema <= schema::known());
        let Some(schema) = schema else { return Err(BackupError::Schema { found, known: schema::known() }) };
        let verdict: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
        if db.prepare("PRAGMA foreign_key_check")?.exists([])? {
            return Err(damaged("something refers to a conversation that is not there".into()));
        }
        let count = |sql| db.query_row(sql, [], |row| super::read::unsigned(row, 0));
        Ok(Contents {
            schema,
            conversations: count("SELECT count(*) FROM conversation")?,
            messages: count("SELECT count(*) FROM message")?,
            newest: count("SELECT coalesce(max(time), 0) FROM message")?,
        })
    }

    fn reserve(&self, data: &Path) -> Result<File, BackupError> {
        let reserved = lock(data).map_err(|cause| BackupError::File { what: "lock", path: data.to_owned(), cause })?;
        // A log without its database may be the newest that there is.
        let there = ["", "-wal", "-shm", "-journal"].map(|suffix| data.join(format!("{DATABASE}{suffix}")));
        if there.iter().any(|file| fs::symlink_metadata(file).is_ok()) {
            return Err(BackupError::StoreExists(data.to_owned()));
        }
        Ok(reserved)
    }
}

/// An existing database.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(TURN)?;
    Ok(db)
}

fn copy_whole(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    const ALL: i32 = -1;
    match Backup::new(from, to)?.step(ALL)? {
        StepResult::Done => Ok(()),
        // Waited for already, by the connection's time-out.
        _ => {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            Err(rusqlite::Error::SqliteFailure(busy, Some("another process holds the database".into())))
        }
    }
}
