//! One JSON line for each finished trip.
//!
//! Lines go through a bounded queue to a thread of their own. A disk that is too slow loses lines, never connections,
//! and what was lost is counted.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config;

/// Lines that wait for the disk at most.
const QUEUE: usize = 16 * 1024;

#[derive(Default)]
pub struct AccessLog(Option<Open>);

struct Open {
    writer: NonBlocking,
    dropped: ErrorCounter,
    reopen: Arc<AtomicBool>,
    /// Dropped, it writes what is queued.
    flush: Mutex<Option<WorkerGuard>>,
}

/// What a line says. Absent facts are left out.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Milliseconds since 1970 at which the trip began.
    pub time_ms: u128,
    pub kind: &'a str,
    pub outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    pub connection: u64,
    pub listener: &'a str,
    pub client: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    pub generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pick: Option<&'a str>,
    pub tries: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    pub bytes_to_endpoint: u64,
    pub bytes_to_client: u64,
    pub seconds: f64,
}

impl AccessLog {
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(config: &config::AccessLog) -> std::io::Result<AccessLog> {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("access-log");
        let reopen = Arc::new(AtomicBool::new(false));
        let (writer, flush) = match config {
            config::AccessLog::Off => return Ok(AccessLog(None)),
            config::AccessLog::Stdout => builder.finish(std::io::stdout()),
            config::AccessLog::File(path) => builder.finish(LogFile::open(path, reopen.clone())?),
        };
        let dropped = writer.error_counter();
        Ok(AccessLog(Some(Open { writer, dropped, reopen, flush: Mutex::new(Some(flush)) })))
    }

    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    pub fn write(&self, line: &Line<'_>) {
        let Some(open) = &self.0 else { return };
        let mut text = Vec::with_capacity(512);
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
            // A full queue is counted by the writer itself; nothing else can fail here.
            open.writer.clone().write_all(&text).ok();
        }
    }

    /// The file may have been renamed away: the next line opens its path again.
    pub fn reopen(&self) {
        if let Some(open) = &self.0 {
            open.reopen.store(true, Relaxed);
        }
    }

    /// Writes what is queued, at the end of the process.
    pub fn close(&self) {
        if let Some(open) = &self.0 {
            drop(open.flush.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Lines lost because the queue was full.
    pub fn dropped_lines(&self) -> usize {
        self.0.as_ref().map_or(0, |open| open.dropped.dropped_lines())
    }
}

/// A file that log rotation may take away.
struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Arc<AtomicBool>,
}

impl LogFile {
    fn open(path: &Path, reopen: Arc<AtomicBool>) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_owned(), file: append_to(path)?, reopen })
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Relaxed) {
            match append_to(&self.path) {
                Ok(file) => self.file = file,
                // Better into the old file than nowhere.
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "access log cannot be opened again"),
            }
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

pub fn millis_since_1970(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_renamed_away_is_opened_again_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let reopen = Arc::new(AtomicBool::new(false));
        let mut log = LogFile::open(&path, reopen.clone()).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.write_all(b"two\n").unwrap();
        reopen.store(true, Relaxed);
        log.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }
}
