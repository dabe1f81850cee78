//! Copies of the database: SQLite's online backup, in one step.
//!
//! One step is one read transaction: the copy is of one moment, writers go on meanwhile (a reader does not stop them in
//! WAL mode), and none of their commits makes it begin anew, as it would between two steps. The price is that the log grows
//! until the copy is done.

use std::{
    fs::{self, File, TryLockError},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    super::backup::{BackupError, Contents, Engine, failed},
    DATABASE, TURN, lock, schema, use_lock,
};

/// SQLite files of [`SqliteStore`](super::SqliteStore).
#[derive(Clone, Copy, Debug)]
pub struct Sqlite;

impl Engine for Sqlite {
    const NAME: &'static str = "sqlite";
    const FILES: &'static [&'static str] = &[DATABASE];

    fn copy(&self, data: &Path, to: &Path) -> Result<(), BackupError> {
        let from = data.join(DATABASE);
        if !from.try_exists().map_err(failed("look at", &from))? {
            return Err(BackupError::NoStore(data.to_owned()));
        }
        copy(&from, &to.join(DATABASE)).map_err(BackupError::Copy)
    }

    fn inspect(&self, directory: &Path) -> Result<Contents, BackupError> {
        let path = directory.join(DATABASE);
        let damaged = |what| BackupError::Damaged { file: path.clone(), what };
        let unreadable = |cause| BackupError::Unreadable { file: path.clone(), cause };
        let db = open_alone(&path).map_err(unreadable)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unreadable)?;
        let schema = usize::try_from(found).ok().filter(|schema| *schema > 0 && *schema <= schema::known());
        let Some(schema) = schema else { return Err(BackupError::Schema { found, known: schema::known() }) };
        if let Some(what) = faults(&db).map_err(unreadable)? {
            return Err(damaged(what));
        }
        let count = |sql| db.query_row(sql, [], |row| super::read::unsigned(row, 0)).map_err(unreadable);
        Ok(Contents {
            schema,
            conversations: count("SELECT count(*) FROM conversation")?,
            messages: count("SELECT count(*) FROM message")?,
            newest: count("SELECT coalesce(max(time), 0) FROM message")?,
        })
    }

    fn reserve(&self, data: &Path) -> Result<File, BackupError> {
        let reserved = lock(data).map_err(failed("lock", data))?;
        match use_lock(data).map_err(failed("lock", data))?.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::InUse(data.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(failed("lock", data)(cause)),
        }
        // A log without its database may be the newest that there is.
        let there = ["", "-wal", "-shm", "-journal"].map(|suffix| data.join(format!("{DATABASE}{suffix}")));
        if there.iter().any(|file| fs::symlink_metadata(file).is_ok()) {
            return Err(BackupError::StoreExists(data.to_owned()));
        }
        // Whoever opens the store meanwhile waits for this lock, and takes the other one behind it.
        Ok(reserved)
    }
}

fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    // Not read-only, because readers of a log register in a file beside it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(from, flags)?;
    from.busy_timeout(TURN)?;
    from.execute_batch("PRAGMA query_only = ON;")?;
    let mut copy = Connection::open(to)?;
    // Whoever called syncs the file when it is whole.
    copy.execute_batch("PRAGMA synchronous = OFF;")?;
    copy_whole(&from, &mut copy)?;
    // The copy says that it has a log, as its model does; it is one file.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
}

/// A database that nobody writes. Neither it nor its directory is touched, so it may be on a medium that takes no writes.
fn open_alone(path: &Path) -> rusqlite::Result<Connection> {
    // SQLite's URI of a file: all that has a meaning there is escaped.
    const MEANT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');
    let escaped = percent_encode(path.as_os_str().as_bytes(), MEANT);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)
}

/// The first thing that is wrong inside a database.
fn faults(db: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(Some(verdict));
    }
    let dangling = db.prepare("PRAGMA foreign_key_check")?.exists([])?;
    Ok(dangling.then(|| "something refers to a conversation that is not there".into()))
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
