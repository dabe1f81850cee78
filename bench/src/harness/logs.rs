//! What a program printed: whole in a file, the newest part in memory.
//!
//! Reader threads, not tasks: they read on while a test blocks its runtime, and a program never stalls on a full pipe.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::locked;

/// What is kept in memory of one stream; older lines stay in the file only.
const KEPT_BYTES: usize = 4 << 20;
/// A longer line is cut in two.
const LONGEST_LINE: u64 = 256 << 10;

/// One captured stream.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) file: PathBuf,
    kept: Arc<Mutex<Kept>>,
    seen: watch::Receiver<Progress>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    /// How many lines were dropped at the front of `lines`.
    forgotten: usize,
    ready: Option<Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Progress {
    lines: usize,
    ended: bool,
}

impl Log {
    /// Starts reading `source` into `file`.
    pub(super) fn capture(source: impl Read + Send + 'static, file: PathBuf) -> Result<Self> {
        let copy = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (progress, seen) = watch::channel(Progress::default());
        let shared = Arc::clone(&kept);
        std::thread::Builder::new()
            .name("log reader".into())
            .spawn(move || {
                // A stream that breaks off has ended, whatever the reason: the program is gone.
                _ = read_lines(source, copy, |line| {
                    let lines = locked(&shared).push(line);
                    progress.send_replace(Progress { lines, ended: false });
                });
                progress.send_modify(|progress| progress.ended = true);
            })
            .context("cannot start a log reader")?;
        Ok(Self { file, kept, seen })
    }

    /// The lines in memory, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        locked(&self.kept).lines.iter().cloned().collect()
    }

    /// The last `count` lines.
    pub(super) fn tail(&self, count: usize) -> Vec<String> {
        let kept = locked(&self.kept);
        kept.lines.iter().skip(kept.lines.len().saturating_sub(count)).cloned().collect()
    }

    /// How many lines were printed up to now.
    pub(super) fn mark(&self) -> usize {
        let kept = locked(&self.kept);
        kept.forgotten + kept.lines.len()
    }

    /// The first line at or after `mark` that contains `needle` and is still in memory.
    pub(super) fn find(&self, needle: &str, mark: usize) -> Option<String> {
        let kept = locked(&self.kept);
        kept.lines.iter().skip(mark.saturating_sub(kept.forgotten)).find(|line| line.contains(needle)).cloned()
    }

    /// Waits for the ready line.
    pub(super) async fn ready(&self, within: Duration) -> Result<Value> {
        self.until(within, "the ready line on stdout", |log| locked(&log.kept).ready.clone()).await
    }

    /// Waits until `look` finds something, looking again at every new line. Fails as soon as the stream has ended.
    async fn until<T>(&self, within: Duration, what: &str, look: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut seen = self.seen.clone();
        loop {
            let ended = seen.borrow_and_update().ended;
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if ended {
                bail!("the program closed its output before {what} was seen");
            }
            match timeout_at(deadline, seen.changed()).await {
                Ok(_) => {}
                Err(_) => bail!("{what} was not seen within {within:?}"),
            }
        }
    }

    /// Resolves at the next new line or at the end of the stream.
    pub(super) async fn changed(&self, mark: usize) {
        // A closed channel is an ended stream.
        _ = self.seen.clone().wait_for(|progress| progress.lines > mark || progress.ended).await;
    }

    pub(super) fn ended(&self) -> bool {
        self.seen.borrow().ended
    }

    /// Resolves when the stream has ended.
    pub(super) async fn end(&self) {
        _ = self.seen.clone().wait_for(|progress| progress.ended).await;
    }
}

impl Kept {
    /// Keeps a line and says how many lines there were in all.
    fn push(&mut self, line: String) -> usize {
        if self.ready.is_none() {
            self.ready = ready_line(&line);
        }
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
            self.forgotten += 1;
        }
        self.forgotten + self.lines.len()
    }
}

fn ready_line(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(|value| value.get("event").is_some_and(|event| event == "ready"))
}

fn read_lines(source: impl Read, mut copy: impl Write, mut take: impl FnMut(String)) -> std::io::Result<()> {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        if source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        copy.write_all(&line)?;
        take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_talkative_program_is_bounded_and_marks_stay_right() {
        let mut kept = Kept::default();
        let line = "x".repeat(100_000);
        for _ in 0..100 {
            kept.push(line.clone());
        }
        assert!(kept.bytes <= KEPT_BYTES);
        assert_eq!(kept.push("last".into()), 101);
        assert_eq!(kept.forgotten + kept.lines.len(), 101);
    }

    #[test]
    fn only_a_ready_event_is_a_ready_line() {
        assert!(ready_line(r#"{"event":"ready","addresses":{}}"#).is_some());
        assert!(ready_line(r#"{"event":"starting"}"#).is_none());
        assert!(ready_line("ready").is_none());
    }
}
