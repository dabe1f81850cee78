//! Load on an edge: many users of the IM protocol, or plain HTTP requests, at a rate that does not slow down when the
//! target does. docs/load.md is the page.
//!
//! **Open loop.** Every message has its instant beforehand ([`schedule`]), and its time is counted from there and not
//! from when it was sent. A target that stalls for a second therefore shows in all messages that were due in that second,
//! and not in the one that was on its way (the correction for what Gil Tene calls coordinated omission: "How NOT to
//! Measure Latency", 2013). The load measures its own lateness, too, and says when it was the limit itself.
//!
//! A run reads [`plan`] → [`apart`] (several processes) → [`shard`] (one process) → [`user`] or [`requests`] → [`tally`]
//! → [`report`]. What several processes saw is added up without loss ([`times`]).

mod apart;
pub(crate) mod compare;
pub(crate) mod countries;
mod live;
mod pacer;
pub(crate) mod plan;
mod report;
mod requests;
pub(crate) mod schedule;
mod shard;
mod tally;
mod times;
pub(crate) mod trace;
pub(crate) mod user;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use apart::{CHILD, run_child};
use live::Live;
use plan::{Part, Plan};
use report::Run;

use crate::{drill::Kept, harness, im::Secret, output};

/// Descriptors that a process has beside those of its users.
const OWN_FILES: usize = 200;
/// Processes of one run at most.
pub(crate) const MOST_PROCESSES: usize = 64;

/// What `warbler-bench load` was asked for.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) plan: Plan,
    pub(crate) secret: Secret,
    /// As many as the limit of open files asks for unless set.
    pub(crate) processes: Option<usize>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
}

/// Makes the load, and reports what came of it.
///
/// # Errors
/// When it cannot be made to the end, such as because a process of it is gone; when nothing was answered, and when nobody
/// can say whether every promise was kept.
pub(crate) async fn run(settings: Settings) -> Result<Kept> {
    let Settings { plan, secret, processes, json, html } = settings;
    let processes = processes_for(&plan, processes, harness::open_files())?;
    let json = json.map(Saved::open).transpose()?;
    let html = html.map(Saved::open).transpose()?;
    say_what_comes(&plan, processes);
    let mut live = Live::new(plan.arriving() + plan.time());
    let outcome = if processes == 1 {
        let part = Part { number: 0, of: 1 };
        shard::run(Arc::new(plan.clone()), &secret, part, |tick| live.tick(&tick)).await
    } else {
        apart::run(&plan, &secret, processes, |tick| live.tick(&tick)).await
    };
    live.end();
    let run = Run::new(plan, processes, outcome?);
    output::data(report::text(&run));
    // One that cannot be written does not cost the other one.
    let text = serde_json::to_string(&run).context("a report cannot be written");
    let saved = json.map_or(Ok(()), |file| file.write(&(text? + "\n")));
    html.map_or(Ok(()), |file| file.write(&report::html(&run)))?;
    saved?;
    if !run.promises_kept() {
        return Ok(Kept::NotAll);
    }
    if let Some(why) = run.tells_nothing() {
        bail!(why);
    }
    Ok(Kept::All)
}

/// A file for a report. It is opened before the load begins: who may not write it is told at once.
#[derive(Debug)]
struct Saved {
    path: PathBuf,
    file: File,
}

impl Saved {
    /// Leaves what is in it as it is.
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(mut self, text: &str) -> Result<()> {
        self.replace(text).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn replace(&mut self, text: &str) -> std::io::Result<()> {
        // A terminal or a pipe has no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())
    }
}

/// As many as were asked for, or so many that each has the descriptors for its users.
fn processes_for(plan: &Plan, asked: Option<usize>, open_files: usize) -> Result<usize> {
    let each = open_files.saturating_sub(OWN_FILES);
    let most = plan.most_parts().min(MOST_PROCESSES);
    let processes = asked.unwrap_or_else(|| (1..most).find(|of| plan.largest_part(*of) <= each).unwrap_or(most));
    let largest = plan.largest_part(processes);
    ensure!(
        largest <= each,
        "a process of {processes} would have {largest} of {} users, and may have descriptors for {each} (`ulimit -Hn` is \
         {open_files}): more --processes, a smaller --group or fewer --users may help",
        plan.users
    );
    Ok(processes)
}

fn say_what_comes(plan: &Plan, processes: usize) {
    let what = if plan.over.is_http() { "connections" } else { "users" };
    let by = if processes == 1 { String::new() } else { format!(" by {processes} processes") };
    output::talk(format!(
        "{} {what}{by} to {}; {:.0} s to arrive, then {:.0} s",
        plan.users,
        plan.target,
        plan.arriving().as_secs_f64(),
        plan.time().as_secs_f64()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::{Over, tests::plan};

    #[test]
    fn there_are_as_many_processes_as_whole_rooms_need() {
        let of = |users, group, over, files| {
            processes_for(&Plan { users, group, over, ..plan() }, None, files).map_err(|error| error.to_string())
        };
        assert_eq!(of(100, 10, Over::Tcp, 1000), Ok(1));
        assert_eq!(of(100, 10, Over::Tcp, 250), Ok(2));
        // Of 100 users in rooms of 40, the larger of two processes has 80, and each of three 40 at most.
        assert_eq!(of(100, 40, Over::Tcp, 250), Ok(3));
        assert_eq!(of(100, 100, Over::Http, 250), Ok(2), "connections know of no rooms");
        let error = of(100, 100, Over::Tcp, 250).unwrap_err();
        assert!(error.contains("100 of 100 users") && error.contains("descriptors for 50"), "{error}");
    }
}
