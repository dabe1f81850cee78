//! Messages in SQLite: one file, write-ahead log, every commit synced.
//!
//! Why SQLite: unique and secondary indexes, a consistent backup while it runs, a tool to look inside, and the same
//! schema as a server database later. `synchronous=NORMAL` is *not* durable in WAL mode, so FULL is set and read back.
//!
//! Several processes of one machine may share the directory: a transaction begins `IMMEDIATE`, so writers take turns
//! and `seq` is dense across processes; `message.id` and `cursor.move` grow in commit order for the same reason, which
//! makes them the feed's position. Another process's commits are found by looking every [`POLL`].

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use prometheus::core::Collector;
use rusqlite::Connection;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use self::{
    commits::Commits,
    writer::{Committed, Work, Writer},
};
use super::{
    Advance, Advancing, Appending, Cursor, Cut, Founded, GroupChange, GroupError, GroupOf, NewGroup, NewMessage, News,
    Page, Part, Position, Store, StoreError, Stored, directory,
};
use crate::group::Group;

mod backup;
mod commits;
mod groups;
mod read;
mod schema;
mod writer;

/// The name of the database in the data directory.
const DATABASE: &str = "messages.db";
/// How late a message of another process may be seen. A look that finds nothing takes 0.1 ms (development build), so
/// this costs 0.2 % of a core.
const POLL: Duration = Duration::from_millis(50);
/// How long a transaction waits for its turn among processes before it fails.
const TURN: Duration = Duration::from_secs(5);
/// Appends that may wait for the writer.
const QUEUE: usize = 4096;
/// Bytes of bodies, and of the members of new groups, that may wait for the writer.
const QUEUE_BYTES: usize = 32 << 20;
/// Reads at the same time.
const READERS: usize = 4;

pub use backup::Sqlite;

/// Why a directory cannot hold messages.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the directory cannot be used")]
    Directory(#[source] io::Error),
    #[error("the database cannot be opened")]
    Database(#[from] rusqlite::Error),
    #[error("the database has schema version {found}, this program knows those up to {known}")]
    Schema { found: i64, known: usize },
    #[error("the database would lose acknowledged messages: {setting} is {found}, not {wanted}")]
    NotDurable { setting: &'static str, found: String, wanted: &'static str },
    #[error("the writer thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the metrics of commits cannot be made")]
    Metrics(#[source] prometheus::Error),
}

/// [`Store`] over one SQLite file, `messages.db` in the data directory.
#[derive(Debug)]
pub struct SqliteStore {
    /// `None` after close.
    work: Mutex<Option<mpsc::SyncSender<Work>>>,
    queue_bytes: Arc<Semaphore>,
    committed: Arc<Committed>,
    commits: Commits,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    grown: Arc<Notify>,
    readers: Readers,
    /// So that nobody restores a backup under a living store.
    _in_use: File,
}

impl SqliteStore {
    /// Opens the database in `data`, made if it is not there, and starts its writer thread.
    ///
    /// # Errors
    /// [`OpenError`]; above all when SQLite does not confirm the settings that make a commit durable.
    pub fn open(data: &Path) -> Result<Self, OpenError> {
        directory::make(data).map_err(OpenError::Directory)?;
        let path = data.join(DATABASE);
        let (db, in_use) = open_in_turn(data, &path)?;
        let readers = Readers::new(path);
        let (work, queue) = mpsc::sync_channel(QUEUE);
        let committed = Arc::new(Committed::default());
        let grown = Arc::new(Notify::new());
        let commits = Commits::new().map_err(OpenError::Metrics)?;
        let writer = Writer::new(db, Arc::clone(&committed), commits.clone(), Arc::clone(&grown));
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(OpenError::Thread)?;
        Ok(Self {
            work: Mutex::new(Some(work)),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            committed,
            commits,
            writer: Mutex::new(Some(writer)),
            grown,
            readers,
            _in_use: in_use,
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

    fn try_append(&self, message: NewMessage) -> Result<oneshot::Receiver<Result<Stored, StoreError>>, StoreError> {
        let room = self.room(message.body.len())?;
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Append { message, reply, _room: room })?;
        Ok(answer)
    }

    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let bytes = u32::try_from(bytes).map_err(|_too_long| StoreError::Busy)?;
        Arc::clone(&self.queue_bytes).try_acquire_many_owned(bytes).map_err(|_full| StoreError::Busy)
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn append(&self, message: NewMessage) -> Appending {
        let queued = self.try_append(message);
        Box::pin(async move { queued?.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn advance(&self, advance: Advance) -> Advancing {
        let (reply, answer) = oneshot::channel();
        let queued = self.enqueue(Work::Advance { advance, reply });
        Box::pin(async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    async fn page(&self, conv: &str, user: &str, cut: Cut) -> Result<Page, StoreError> {
        let (conv, user) = (conv.to_owned(), user.to_owned());
        self.readers.read(move |db| read::page(db, &conv, &user, cut)).await?.ok_or(StoreError::NotAMember)
    }

    async fn cursor(&self, conv: &str, user: &str) -> Result<Cursor, StoreError> {
        let (conv, user) = (conv.to_owned(), user.to_owned());
        self.readers.read(move |db| read::cursor(db, &conv, &user)).await
    }

    async fn taking_part(&self, user: &str, after: &str, limit: u32) -> Result<Vec<Part>, StoreError> {
        let (user, after) = (user.to_owned(), after.to_owned());
        self.readers.read(move |db| read::taking_part(db, &user, &after, limit)).await
    }

    async fn create_group(&self, wanted: NewGroup) -> Result<Founded, GroupError> {
        let room = self.room(wanted.others.iter().map(String::len).sum())?;
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Create { wanted, reply, _room: room })?;
        answer.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    async fn change_group(&self, wanted: GroupChange) -> Result<(), GroupError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Change { wanted, reply })?;
        answer.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    async fn group(&self, conv: &str) -> Result<Option<Group>, StoreError> {
        let conv = conv.to_owned();
        self.readers.read(move |db| Ok(groups::group(&db.transaction()?, &conv)?.map(|(_, group)| group))).await
    }

    async fn groups(&self, user: &str) -> Result<Vec<GroupOf>, StoreError> {
        let user = user.to_owned();
        self.readers.read(move |db| groups::of_user(db, &user)).await
    }

    async fn cursors(&self, conv: &str) -> Result<Vec<(String, Cursor)>, StoreError> {
        let conv = conv.to_owned();
        self.readers.read(move |db| read::cursors(db, &conv)).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        self.readers.read(read::newest).await
    }

    async fn feed(&self, after: Position) -> Result<News, StoreError> {
        self.readers.read(move |db| read::feed(db, after)).await
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

    async fn bytes(&self) -> Result<u64, StoreError> {
        let path = self.readers.path.clone();
        let looked = tokio::task::spawn_blocking(move || size(&path)).await;
        let failed = |cause: Arc<dyn std::error::Error + Send + Sync>| StoreError::Failed(cause);
        looked.map_err(|panicked| failed(Arc::new(panicked)))?.map_err(|cause| failed(Arc::new(cause)))
    }

    fn metrics(&self) -> Vec<Box<dyn Collector>> {
        self.commits.collectors()
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

/// The database and its write-ahead log, which is not there before the first write or after the last close.
fn size(path: &Path) -> io::Result<u64> {
    let log = fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    Ok(fs::metadata(path)?.len() + log)
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
fn open_in_turn(data: &Path, path: &Path) -> Result<(Connection, File), OpenError> {
    let _turn = lock(data).map_err(OpenError::Directory)?;
    let in_use = use_lock(data).map_err(OpenError::Directory)?;
    in_use.lock_shared().map_err(OpenError::Directory)?;
    let mut db = Connection::open(path)?;
    db.busy_timeout(TURN)?;
    make_durable(&db)?;
    schema::migrate(&mut db)?;
    // The names of the new files must survive a power cut as well as what is in them.
    directory::sync(data).map_err(OpenError::Directory)?;
    Ok((db, in_use))
}

/// Waits until no other process opens or restores the database, and keeps others waiting until the file is dropped.
fn lock(data: &Path) -> io::Result<File> {
    let turn = File::create(data.join("open.lock"))?;
    turn.lock()?;
    Ok(turn)
}

/// The file that every process which has the database open holds a shared lock on. The kernel lets go of it when the
/// process ends, however it does.
fn use_lock(data: &Path) -> io::Result<File> {
    File::create(data.join("use.lock"))
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

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(TURN)?;
    db.execute_batch("PRAGMA query_only = ON;")?;
    Ok(db)
}
