//! Messages in SQLite: one file, write-ahead log, every commit synced.
//!
//! Why SQLite: unique and secondary indexes, a consistent backup while it runs, a tool to look inside, and the same
//! schema as a server database later. `synchronous=NORMAL` is *not* durable in WAL mode, so FULL is set and read back.
//!
//! Several processes of one machine may share the directory: a transaction begins `IMMEDIATE`, so writers take turns
//! and `seq` is dense across processes; `message.id` grows in commit order for the same reason, which makes it the
//! feed's position. Another process's commits are found by looking every [`POLL`].

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior};
use tokio::sync::{Notify, Semaphore, oneshot};

use self::writer::{Committed, Work, Writer};
use super::{Appending, Fed, NewMessage, Page, Position, Store, StoreError};
use crate::frame::Msg;

mod writer;

/// How late a message of another process may be seen. A look that finds nothing takes 0.1 ms (development build), so
/// this costs 0.2 % of a core.
const POLL: Duration = Duration::from_millis(50);
/// How long a transaction waits for its turn among processes before it fails.
const TURN: Duration = Duration::from_secs(5);
/// Appends that may wait for the writer.
const QUEUE: usize = 4096;
/// Bytes of bodies that may wait for the writer.
const QUEUE_BYTES: usize = 32 << 20;
/// Reads at the same time.
const READERS: usize = 4;
/// Messages that one look at the feed returns.
const FEED: u32 = 512;

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE conversation (
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
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Why a directory cannot hold messages.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the directory cannot be used")]
    Directory(#[source] io::Error),
    #[error("the database cannot be opened")]
    Database(#[from] rusqlite::Error),
    #[error("the database has schema version {found}, this program knows {SCHEMA_VERSION}")]
    Schema { found: i64 },
    #[error("the database would lose acknowledged messages: {setting} is {found}, not {wanted}")]
    NotDurable { setting: &'static str, found: String, wanted: &'static str },
    #[error("the writer thread cannot be started")]
    Thread(#[source] io::Error),
}

/// [`Store`] over one SQLite file, `messages.db` in the data directory.
#[derive(Debug)]
pub struct SqliteStore {
    /// `None` after close.
    work: Mutex<Option<mpsc::SyncSender<Work>>>,
    queue_bytes: Arc<Semaphore>,
    committed: Arc<Committed>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    grown: Arc<Notify>,
    readers: Readers,
}

impl SqliteStore {
    /// Opens the database in `data`, made if it is not there, and starts its writer thread.
    ///
    /// # Errors
    /// [`OpenError`]; above all when SQLite does not confirm the settings that make a commit durable.
    pub fn open(data: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(data).map_err(OpenError::Directory)?;
        let path = data.join("messages.db");
        let db = open_in_turn(data, &path)?;
        let readers = Readers::new(path);
        let (work, queue) = mpsc::sync_channel(QUEUE);
        let committed = Arc::new(Committed::default());
        let grown = Arc::new(Notify::new());
        let writer = Writer::new(db, Arc::clone(&committed), Arc::clone(&grown));
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(OpenError::Thread)?;
        Ok(Self {
            work: Mutex::new(Some(work)),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            committed,
            writer: Mutex::new(Some(writer)),
            grown,
            readers,
        })
    }

    fn enqueue(&self, work: Work) -> Result<(), StoreError> {
        match &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Err(StoreError::Closed),
            Some(queue) => queue.try_send(work).map_err(|refused| match refused {
                mpsc::TrySendError::Full(_) => StoreError::Busy,
                mpsc::TrySendError::Disconnected(_) => StoreError::Closed,
            }),
        }
    }

    fn try_append(
        &self,
        message: NewMessage,
    ) -> Result<oneshot::Receiver<Result<super::Stored, StoreError>>, StoreError> {
        let bytes = u32::try_from(message.body.len()).map_err(|_too_long| StoreError::Busy)?;
        let room = Arc::clone(&self.queue_bytes).try_acquire_many_owned(bytes).map_err(|_full| StoreError::Busy)?;
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Append { message, reply, _room: room })?;
        Ok(answer)
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn append(&self, message: NewMessage) -> Appending {
        let queued = self.try_append(message);
        Box::pin(async move { queued?.await.unwrap_or(Err(StoreError::Closed)) })
    }

    async fn page(&self, conv: &str, after_seq: u64, limit: u32, max_bytes: usize) -> Result<Page, StoreError> {
        let conv = conv.to_owned();
        self.readers.read(move |db| page(db, &conv, after_seq, limit, max_bytes)).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        self.readers.read(|db| db.query_row("SELECT coalesce(max(id), 0) FROM message", [], position)).await
    }

    async fn feed(&self, after: Position) -> Result<Vec<Fed>, StoreError> {
        self.readers.read(move |db| feed(db, after)).await
    }

    async fn changed(&self) {
        // A time-out is the other way to learn that the feed may have grown.
        let _hint_or_poll = tokio::time::timeout(POLL, self.grown.notified()).await;
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        if self.committed.just_now() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Probe { reply })?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn close(&self) {
        drop(self.work.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let ended = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the store's writer thread panicked");
            }
        }
    }
}

/// Connections for reading, opened as they are needed and kept.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    turns: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    fn new(path: PathBuf) -> Self {
        Self { path, turns: Arc::new(Semaphore::new(READERS)), idle: Arc::default() }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_closed| StoreError::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut db = kept.map_or_else(|| open_reader(&path), Ok)?;
            // A connection whose query failed is not kept: what is wrong with it is unknown.
            let answer = query(&mut db)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            Ok(answer)
        });
        match read.await {
            Ok(answer) => answer.map_err(|cause: rusqlite::Error| StoreError::Failed(Arc::new(cause))),
            Err(panicked) => Err(StoreError::Failed(Arc::new(panicked))),
        }
    }
}

/// Opens the writing connection, one process at a time: switching a new file to WAL while others do the same sometimes
/// fails with "database is locked", despite the busy timeout. Of 3200 opens, 16 at a time on new directories, 9 failed
/// without this lock and none with it.
fn open_in_turn(data: &Path, path: &Path) -> Result<Connection, OpenError> {
    let turn = File::create(data.join("open.lock")).map_err(OpenError::Directory)?;
    turn.lock().map_err(OpenError::Directory)?;
    let mut db = Connection::open(path)?;
    db.busy_timeout(TURN)?;
    make_durable(&db)?;
    make_schema(&mut db)?;
    // The names of the new files must survive a power cut as well as what is in them.
    File::open(data).and_then(|directory| directory.sync_all()).map_err(OpenError::Directory)?;
    Ok(db)
}

fn make_durable(db: &Connection) -> Result<(), OpenError> {
    let journal: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if journal != "wal" {
        return Err(OpenError::NotDurable { setting: "journal_mode", found: journal, wanted: "wal" });
    }
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    if synchronous != 2 {
        let found = synchronous.to_string();
        return Err(OpenError::NotDurable { setting: "synchronous", found, wanted: "2 (FULL)" });
    }
    Ok(())
}

fn make_schema(db: &mut Connection) -> Result<(), OpenError> {
    let changes = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match changes.query_row("PRAGMA user_version", [], |row| row.get(0))? {
        SCHEMA_VERSION => {}
        0 => changes.execute_batch(SCHEMA)?,
        found => return Err(OpenError::Schema { found }),
    }
    changes.commit()?;
    Ok(())
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(TURN)?;
    db.execute_batch("PRAGMA query_only = ON;")?;
    Ok(db)
}

fn page(db: &mut Connection, conv: &str, after_seq: u64, limit: u32, max_bytes: usize) -> rusqlite::Result<Page> {
    // One transaction, so that `last_seq` and the messages are of the same moment.
    let moment = db.transaction()?;
    let found: Option<(i64, u64)> = moment
        .prepare_cached("SELECT id, last_seq FROM conversation WHERE name = ?1")?
        .query_row([conv], |row| Ok((row.get(0)?, unsigned(row, 1)?)))
        .optional()?;
    let Some((id, last_seq)) = found else { return Ok(Page { msgs: Vec::new(), last_seq: 0 }) };

    let after = i64::try_from(after_seq).unwrap_or(i64::MAX);
    let mut statement = moment.prepare_cached(
        "SELECT seq, sender, client_msg_id, body, time, kind, sent_at FROM message
         WHERE conversation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query((id, after, limit))?;
    let mut msgs: Vec<Msg> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let msg = msg(row, conv.to_owned(), 0)?;
        bytes += msg.body.len() + PER_MESSAGE;
        if bytes > max_bytes && !msgs.is_empty() {
            break;
        }
        msgs.push(msg);
    }
    Ok(Page { msgs, last_seq })
}

/// More than a message's fields other than its body take in a page, in bytes.
const PER_MESSAGE: usize = 320;

fn feed(db: &mut Connection, after: Position) -> rusqlite::Result<Vec<Fed>> {
    let mut statement = db.prepare_cached(
        "SELECT message.id, device, name, seq, sender, client_msg_id, body, time, kind, sent_at
         FROM message JOIN conversation ON conversation.id = message.conversation
         WHERE message.id > ?1 ORDER BY message.id LIMIT ?2",
    )?;
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows = statement.query_map((after, FEED), |row| {
        Ok(Fed { position: position(row)?, device: row.get(1)?, msg: msg(row, row.get(2)?, 3)? })
    })?;
    rows.collect()
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

fn position(row: &Row<'_>) -> rusqlite::Result<Position> {
    unsigned(row, 0).map(Position)
}

/// A number that the schema's user never makes negative.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
