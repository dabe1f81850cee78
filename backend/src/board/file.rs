//! The board as an SQLite file, `presence.db` in the data directory.
//!
//! Nothing in it is needed: it is never synced (`synchronous=OFF`), a file that is damaged or of another version is made
//! anew, and one that was removed is too, by whoever notices first. A power cut may damage it, a killed process does not.
//!
//! Each process has a row that it renews, and a row for each of its users who is seen. A user who leaves, or does not want
//! to be seen any more, becomes a row of those who are gone, with the time. A process whose row is too old is *retired*
//! by any other one: its users are gone since its last renewal. So readers need not know of leases.
//!
//! Every row has the number of its last change, out of one counter that only grows; a reader asks for what is behind the
//! number that it knows. Of those who are gone only the last [`GONE`] are kept; a reader that has not seen all of the
//! others reads everything anew.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, TransactionBehavior};

use super::{LEASE, News, RENEWAL, Shown};
use crate::{clock::now, frame::PresenceState};

/// The name of the file in the data directory.
const FILE: &str = "presence.db";
/// Its `user_version`. There are no steps from one to the next: another one is made anew.
const VERSION: i64 = 1;
/// How long a transaction waits for those of other processes.
const BUSY: Duration = Duration::from_secs(1);
/// Users who are gone and whose time is kept; as many as a process remembers.
const GONE: u32 = 10_000;

/// Why the other processes could not be told or heard.
#[derive(Debug, thiserror::Error)]
pub(super) enum BoardError {
    #[error("{} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("presence.db cannot be used")]
    Database(#[from] rusqlite::Error),
    #[error("presence.db is damaged: {0}")]
    Damaged(String),
    #[error("presence.db has version {0}, not {VERSION}")]
    Version(i64),
    #[error("this process has no number: the machine gives no random ones")]
    Number,
    #[error("this process was silent for so long that another one took it for dead")]
    TakenForDead,
    #[error("presence.db was removed or replaced")]
    Replaced,
}

/// One process's place at the board.
#[derive(Debug)]
pub(super) struct Board {
    path: PathBuf,
    node: String,
    /// Random, so that it is nobody else's in any file.
    me: Option<i64>,
    /// Transactions that wrote.
    writes: IntCounter,
    /// `None` until the board is joined, and after any failure.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: Connection,
    identity: (u64, u64),
    /// The last change that was read.
    seen: i64,
    /// When this process last looked after the file.
    kept: Instant,
}

impl Board {
    pub(super) fn new(data: &Path, node: &str, writes: IntCounter) -> Self {
        Self { path: data.join(FILE), node: node.to_owned(), me: number(), writes, open: None }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.open.is_some()
    }

    /// Begins, or begins anew: nothing counts that this process has told before. `everybody` is asked who is here only
    /// when the file can be used.
    pub(super) fn join(&mut self, everybody: impl FnOnce() -> Vec<Shown>) -> Result<News, BoardError> {
        // What is wrong with an earlier connection is unknown.
        self.open = None;
        let me = self.me.ok_or(BoardError::Number)?;
        let mut open = Open::at(&self.path)?;
        let mut change = Change::begin(&mut open.db, me)?;
        change.retire(me, change.now)?;
        change.enter(&self.node)?;
        change.show(&everybody())?;
        change.retire_the_dead()?;
        change.commit()?;
        self.writes.inc();
        let news = open.everything(me)?;
        self.open = Some(open);
        Ok(news)
    }

    /// Tells what has changed here and hears what has changed elsewhere since the last turn. After an error the board has
    /// to be joined.
    pub(super) fn exchange(&mut self, changed: &[Shown]) -> Result<News, BoardError> {
        let (Some(mut open), Some(me)) = (self.open.take(), self.me) else { return Err(BoardError::TakenForDead) };
        let due = open.kept.elapsed() >= RENEWAL;
        if due && identity(&self.path)? != open.identity {
            return Err(BoardError::Replaced);
        }
        if due || !changed.is_empty() {
            let mut change = Change::begin(&mut open.db, me)?;
            if !change.renew()? {
                return Err(BoardError::TakenForDead);
            }
            change.show(changed)?;
            if due {
                change.retire_the_dead()?;
                change.trim()?;
                open.kept = Instant::now();
            }
            change.commit()?;
            self.writes.inc();
        }
        let news = open.news(me)?;
        self.open = Some(open);
        Ok(news)
    }

    /// Tells that nobody is here any more; `changed` is what was not told yet.
    pub(super) fn leave(&mut self, changed: &[Shown]) -> Result<(), BoardError> {
        let (Some(mut open), Some(me)) = (self.open.take(), self.me) else { return Ok(()) };
        let mut change = Change::begin(&mut open.db, me)?;
        change.show(changed)?;
        change.retire(me, change.now)?;
        change.commit()?;
        self.writes.inc();
        Ok(())
    }
}

impl Open {
    /// Opens the file, makes it if it is not there, and makes it anew if it is of no use.
    fn at(path: &Path) -> Result<Self, BoardError> {
        let _turn = lock(path)?;
        if !path.exists() {
            // What is left of another one belongs to processes that have not noticed yet.
            remove(path)?;
        }
        match Self::as_it_is(path) {
            Err(error) if error.is_of_the_contents() => {
                tracing::warn!(reason = &error as &dyn std::error::Error, "presence.db is made anew");
                remove(path)?;
                Self::as_it_is(path)
            }
            opened => opened,
        }
    }

    fn as_it_is(path: &Path) -> Result<Self, BoardError> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        db.execute_batch("PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY;")?;
        match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => make(&mut db)?,
            VERSION => {}
            other => return Err(BoardError::Version(other)),
        }
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(BoardError::Damaged(verdict));
        }
        Ok(Self { identity: identity(path)?, db, seen: 0, kept: Instant::now() })
    }

    /// How everybody is seen at other processes.
    fn everything(&mut self, me: i64) -> Result<News, BoardError> {
        let moment = self.db.transaction()?;
        let (last, _) = clock(&moment)?;
        let news = News { shown: shown(&moment, me, 0)?, complete: true };
        self.seen = last;
        Ok(news)
    }

    /// How those are seen at other processes who may be seen differently.
    fn news(&mut self, me: i64) -> Result<News, BoardError> {
        let moment = self.db.transaction()?;
        let (last, trimmed) = clock(&moment)?;
        if self.seen == last {
            return Ok(News::default());
        }
        if self.seen < trimmed {
            drop(moment);
            return self.everything(me);
        }
        let news = News { shown: shown(&moment, me, self.seen)?, complete: false };
        self.seen = last;
        Ok(news)
    }
}

/// The last change, and the last one that may have been forgotten.
fn clock(moment: &Transaction<'_>) -> rusqlite::Result<(i64, i64)> {
    moment.prepare_cached("SELECT last, trimmed FROM clock")?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How those are seen at other processes of whom something has changed after a number, in the order of the changes.
fn shown(moment: &Transaction<'_>, me: i64, after: i64) -> rusqlite::Result<Vec<Shown>> {
    moment
        .prepare_cached(
            "WITH changed AS (
                SELECT user, max(time) AS time, max(change) AS change FROM (
                    SELECT user, time, change FROM shown WHERE change > ?1 AND node <> ?2
                    UNION ALL
                    SELECT user, time, change FROM gone WHERE change > ?1
                ) GROUP BY user
            )
            SELECT user, (SELECT min(state) FROM shown WHERE shown.user = changed.user AND node <> ?2), time
            FROM changed ORDER BY change",
        )?
        .query_map((after, me), |row| Ok(Shown { user: row.get(0)?, state: state(row, 1)?, time: unsigned(row, 2)? }))?
        .collect()
}

/// Nobody who is seen is offline.
fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<PresenceState> {
    let number: Option<i32> = row.get(column)?;
    Ok(number.and_then(|number| PresenceState::try_from(number).ok()).unwrap_or(PresenceState::Offline))
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number.max(0).cast_unsigned())
}

/// A transaction that writes.
struct Change<'a> {
    transaction: Transaction<'a>,
    me: i64,
    now: i64,
    last: i64,
}

impl<'a> Change<'a> {
    fn begin(db: &'a mut Connection, me: i64) -> rusqlite::Result<Self> {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (last, _) = clock(&transaction)?;
        Ok(Self { transaction, me, now: now().cast_signed(), last })
    }

    fn enter(&self, node: &str) -> rusqlite::Result<()> {
        let mut enter = self.transaction.prepare_cached("INSERT INTO node (id, name, renewed) VALUES (?1, ?2, ?3)")?;
        enter.execute((self.me, node, self.now)).map(drop)
    }

    /// Whether this process is still believed to be there.
    fn renew(&self) -> rusqlite::Result<bool> {
        let mut renew = self.transaction.prepare_cached("UPDATE node SET renewed = ?2 WHERE id = ?1")?;
        Ok(renew.execute((self.me, self.now))? == 1)
    }

    /// Writes how users are seen here.
    fn show(&mut self, changed: &[Shown]) -> rusqlite::Result<()> {
        let mut seen = self.transaction.prepare_cached(
            "INSERT INTO shown (user, node, state, time, change) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (user, node) DO UPDATE SET state = excluded.state, time = excluded.time, change = excluded.change",
        )?;
        let mut unseen = self.transaction.prepare_cached("DELETE FROM shown WHERE user = ?1 AND node = ?2")?;
        let mut gone = self.transaction.prepare_cached(
            "INSERT INTO gone (user, time, change) VALUES (?1, ?2, ?3)
            ON CONFLICT (user) DO UPDATE SET time = max(time, excluded.time), change = excluded.change",
        )?;
        for Shown { user, state, time } in changed {
            self.last += 1;
            let time = time.cast_signed();
            if *state == PresenceState::Offline {
                unseen.execute((user, self.me))?;
                gone.execute((user, time, self.last))?;
            } else {
                seen.execute((user, self.me, i32::from(*state), time, self.last))?;
            }
        }
        Ok(())
    }

    /// All users of a process are gone since a time, and so is the process.
    fn retire(&mut self, node: i64, time: i64) -> rusqlite::Result<()> {
        let gone = self.transaction.execute(
            "INSERT INTO gone (user, time, change)
            SELECT user, ?2, ?3 + row_number() OVER (ORDER BY user) FROM shown WHERE node = ?1
            ON CONFLICT (user) DO UPDATE SET time = max(time, excluded.time), change = excluded.change",
            (node, time, self.last),
        )?;
        self.last += i64::try_from(gone).unwrap_or(i64::MAX);
        self.transaction.execute("DELETE FROM shown WHERE node = ?1", [node])?;
        self.transaction.execute("DELETE FROM node WHERE id = ?1", [node])?;
        Ok(())
    }

    /// A renewal that is yet to come is no sign of life either: the clock was set back, or it was another boot's.
    fn retire_the_dead(&mut self) -> rusqlite::Result<()> {
        let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let dead: Vec<(i64, String, i64)> = self
            .transaction
            .prepare_cached("SELECT id, name, renewed FROM node WHERE id <> ?1 AND abs(?2 - renewed) > ?3")?
            .query_map((self.me, self.now, lease), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (node, name, renewed) in dead {
            tracing::info!(node = name, "a process ended without a word: whom it saw is offline there");
            self.retire(node, renewed.min(self.now))?;
        }
        Ok(())
    }

    /// Forgets the longest gone.
    fn trim(&self) -> rusqlite::Result<()> {
        let too_far = self
            .transaction
            .prepare_cached("SELECT change FROM gone ORDER BY change DESC LIMIT 1 OFFSET ?1")?
            .query_row([GONE], |row| row.get::<_, i64>(0))
            .optional()?;
        if let Some(change) = too_far {
            self.transaction.execute("DELETE FROM gone WHERE change <= ?1", [change])?;
            self.transaction.execute("UPDATE clock SET trimmed = ?1", [change])?;
        }
        Ok(())
    }

    fn commit(self) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("UPDATE clock SET last = ?1")?.execute([self.last])?;
        self.transaction.commit()
    }
}

impl BoardError {
    /// Whether the file itself is of no use, whoever opens it.
    fn is_of_the_contents(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Version(_) => true,
            Self::Database(error) => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
            }
            _ => false,
        }
    }
}

fn make(db: &mut Connection) -> rusqlite::Result<()> {
    let making = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    making.execute_batch(
        "CREATE TABLE node (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            renewed INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE shown (
            user TEXT NOT NULL,
            node INTEGER NOT NULL,
            state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 3),
            time INTEGER NOT NULL,
            change INTEGER NOT NULL UNIQUE,
            PRIMARY KEY (user, node)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE gone (
            user TEXT PRIMARY KEY,
            time INTEGER NOT NULL,
            change INTEGER NOT NULL UNIQUE
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE clock (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            last INTEGER NOT NULL,
            trimmed INTEGER NOT NULL
        ) STRICT;
        INSERT INTO clock VALUES (1, 0, 0);",
    )?;
    making.pragma_update(None, "user_version", VERSION)?;
    making.commit()
}

/// Waits until no other process opens the file or makes it anew. No other lock, least of all one of messages, is behind
/// this one.
fn lock(path: &Path) -> Result<File, BoardError> {
    let path = path.with_extension("lock");
    let locked = File::create(&path).and_then(|turn| turn.lock().map(|()| turn));
    locked.map_err(|cause| BoardError::File { path, cause })
}

fn remove(path: &Path) -> Result<(), BoardError> {
    for extension in ["db", "db-wal", "db-shm"] {
        let path = path.with_extension(extension);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(BoardError::File { path, cause }),
            _gone => {}
        }
    }
    Ok(())
}

/// What tells a file from another one of the same name; a file that is not there is no file.
fn identity(path: &Path) -> Result<(u64, u64), BoardError> {
    match fs::metadata(path) {
        Ok(file) => Ok((file.dev(), file.ino())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
        Err(cause) => Err(BoardError::File { path: path.to_owned(), cause }),
    }
}

fn number() -> Option<i64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(i64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use PresenceState::{Away, Busy, Offline, Online};

    fn board(data: &Path) -> Board {
        Board::new(data, "im", IntCounter::new("writes", "writes").unwrap())
    }

    fn joined(data: &Path) -> Board {
        let mut board = board(data);
        board.join(Vec::new).unwrap();
        board
    }

    fn two() -> (Board, Board, TempDir) {
        let data = TempDir::new().unwrap();
        (joined(data.path()), joined(data.path()), data)
    }

    fn shown(user: &str, state: PresenceState, time: u64) -> Shown {
        Shown { user: user.into(), state, time }
    }

    /// The next turn of a board looks after the file.
    fn make_due(board: &mut Board) {
        board.open.as_mut().unwrap().kept = Instant::now().checked_sub(RENEWAL).unwrap();
    }

    /// Everybody's last renewal was so long ago.
    fn age(board: &mut Board, by: Duration) {
        let db = &board.open.as_ref().unwrap().db;
        db.execute("UPDATE node SET renewed = renewed - ?1", [i64::try_from(by.as_millis()).unwrap()]).unwrap();
    }

    fn heard(board: &mut Board) -> Vec<Shown> {
        let News { shown, complete } = board.exchange(&[]).unwrap();
        assert!(!complete);
        shown
    }

    #[test]
    fn what_one_process_tells_the_other_hears_once() {
        let (mut one, mut two, _data) = two();
        let told = one.exchange(&[shown("alice", Busy, 5), shown("bob", Online, 6)]).unwrap();
        assert_eq!(told, News::default(), "nobody hears itself");
        assert_eq!(heard(&mut two), [shown("alice", Busy, 5), shown("bob", Online, 6)]);
        assert_eq!(heard(&mut two), []);
        one.exchange(&[shown("bob", Offline, 7)]).unwrap();
        assert_eq!(heard(&mut two), [shown("bob", Offline, 7)]);
        one.leave(&[shown("carol", Online, 8)]).unwrap();
        let gone = heard(&mut two);
        assert!(gone.len() == 2 && gone.iter().all(|shown| shown.state == Offline && shown.time > 8), "{gone:?}");
    }

    #[test]
    fn the_best_state_at_any_other_process_counts() {
        let (mut one, mut two, data) = two();
        let mut three = joined(data.path());
        one.exchange(&[shown("alice", Away, 1)]).unwrap();
        two.exchange(&[shown("alice", Busy, 2)]).unwrap();
        assert_eq!(heard(&mut three), [shown("alice", Busy, 2)]);
        two.exchange(&[shown("alice", Offline, 3)]).unwrap();
        assert_eq!(heard(&mut three), [shown("alice", Away, 3)]);
        one.exchange(&[shown("alice", Offline, 4)]).unwrap();
        assert_eq!(heard(&mut three), [shown("alice", Offline, 4)]);
    }

    #[test]
    fn who_joins_hears_of_everybody_and_of_those_who_are_gone() {
        let (mut one, _two, data) = two();
        one.exchange(&[shown("alice", Away, 1), shown("bob", Offline, 2)]).unwrap();
        let news = board(data.path()).join(Vec::new).unwrap();
        assert_eq!(news, News { shown: vec![shown("alice", Away, 1), shown("bob", Offline, 2)], complete: true });
    }

    #[test]
    fn a_process_that_does_not_renew_is_retired_and_comes_back() {
        let (mut one, mut two, _data) = two();
        let began = now();
        one.exchange(&[shown("alice", Online, 1), shown("bob", Online, 1)]).unwrap();
        one.exchange(&[shown("bob", Offline, 2)]).unwrap();
        assert_eq!(heard(&mut two).len(), 2);
        age(&mut two, LEASE - RENEWAL);
        make_due(&mut two);
        assert_eq!(heard(&mut two), [], "its lease is not over");
        age(&mut two, LEASE);
        make_due(&mut two);
        let gone = heard(&mut two);
        assert_eq!((gone.len(), gone[0].user.as_str(), gone[0].state), (1, "alice", Offline));
        assert!(gone[0].time < began, "it was there when it last said so");

        assert!(matches!(one.exchange(&[shown("carol", Online, 3)]), Err(BoardError::TakenForDead)));
        assert!(!one.has_joined());
        one.join(|| vec![shown("alice", Online, 4), shown("carol", Online, 4)]).unwrap();
        assert_eq!(heard(&mut two), [shown("alice", Online, 4), shown("carol", Online, 4)]);
    }

    #[test]
    fn a_renewal_that_is_yet_to_come_is_none() {
        let (mut one, mut two, _data) = two();
        one.exchange(&[shown("alice", Online, 1)]).unwrap();
        heard(&mut two);
        two.open.as_ref().unwrap().db.execute("UPDATE node SET renewed = renewed + 3600000", ()).unwrap();
        make_due(&mut two);
        let gone = heard(&mut two);
        assert!(gone[0].state == Offline && gone[0].time <= now(), "{gone:?}");
    }

    #[test]
    fn who_joins_again_takes_back_what_it_had_told() {
        let (mut one, mut two, _data) = two();
        one.exchange(&[shown("alice", Online, 1), shown("bob", Online, 1)]).unwrap();
        heard(&mut two);
        one.join(|| vec![shown("bob", Away, 2)]).unwrap();
        let states: Vec<_> = heard(&mut two).into_iter().map(|shown| (shown.user, shown.state)).collect();
        assert_eq!(states, [("alice".into(), Offline), ("bob".into(), Away)]);
    }

    #[test]
    fn the_longest_gone_are_forgotten_and_who_has_not_heard_of_them_hears_everything() {
        let (mut one, mut two, _data) = two();
        one.exchange(&[shown("alice", Online, 1)]).unwrap();
        heard(&mut two);
        let gone: Vec<_> = (0..GONE).map(|user| shown(&format!("user{user}"), Offline, 3)).collect();
        one.exchange(&[shown("alice", Offline, 2)]).unwrap();
        make_due(&mut one);
        one.exchange(&gone).unwrap();
        let news = two.exchange(&[]).unwrap();
        assert!(news.complete && news.shown == gone, "{} of them", news.shown.len());
        assert_eq!(heard(&mut two), []);
        let rows = |sql| one.open.as_ref().unwrap().db.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!((rows("SELECT count(*) FROM gone"), rows("SELECT count(*) FROM shown")), (GONE, 0));
    }

    #[test]
    fn a_file_of_no_use_is_made_anew() {
        let data = TempDir::new().unwrap();
        let path = data.path().join(FILE);
        let check = |what| assert_eq!(joined(data.path()).exchange(&[]).unwrap(), News::default(), "{what}");
        fs::write(&path, "this is not a database, it is a text and long enough to see that").unwrap();
        check("a text");
        drop(joined(data.path()));
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        check("another version");
        let mut one = joined(data.path());
        let many: Vec<_> = (0..2000).map(|user| shown(&format!("user{user}"), Online, 1)).collect();
        one.exchange(&many).unwrap();
        drop(one);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(0xee);
        fs::write(&path, bytes).unwrap();
        assert_eq!(board(data.path()).join(Vec::new).unwrap().shown, [], "damaged in the middle");
    }

    #[test]
    fn a_file_that_is_removed_is_made_anew_by_all() {
        let (mut one, mut two, data) = two();
        fs::remove_file(data.path().join(FILE)).unwrap();
        for board in [&mut one, &mut two] {
            make_due(board);
            assert!(matches!(board.exchange(&[]), Err(BoardError::Replaced)));
        }
        one.join(|| vec![shown("alice", Online, 1)]).unwrap();
        let news = two.join(Vec::new).unwrap();
        assert_eq!(news.shown, [shown("alice", Online, 1)]);
        drop(one);
        assert_eq!(heard(&mut two), []);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place() {
        let data = TempDir::new().unwrap();
        let nowhere = data.path().join("nowhere");
        let error = board(&nowhere).join(|| panic!("nobody is asked who is here")).unwrap_err();
        assert!(error.to_string().contains("nowhere/presence.lock"), "{error}");
    }
}
