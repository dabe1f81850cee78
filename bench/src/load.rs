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
mod user;

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};

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
/// When it cannot be made to the end, such as because a process of it is gone.
pub(crate) async fn run(settings: Settings) -> Result<Kept> {
    let Settings { plan, secret, processes, json, html } = settings;
    let processes = match processes {
        Some(processes) => processes,
        None => processes_for(plan.users)?,
    };
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
    if let Some(file) = json {
        let text = serde_json::to_string(&run).context("a report cannot be written")? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = html {
        fs::write(&file, report::html(&run)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if run.promises_kept() { Kept::All } else { Kept::NotAll })
}

/// So many that each has the descriptors for its users.
fn processes_for(users: usize) -> Result<usize> {
    let each = harness::open_files().saturating_sub(OWN_FILES);
    ensure!(each > 0, "this process may not open files enough for any user (`ulimit -Hn`)");
    let processes = users.div_ceil(each);
    ensure!(
        processes <= MOST_PROCESSES,
        "{users} users are more than {MOST_PROCESSES} processes may have descriptors for (`ulimit -Hn` is {})",
        harness::open_files()
    );
    Ok(processes.max(1))
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
