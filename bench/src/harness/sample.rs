//! What a process costs, read from `/proc` by its id.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// What tells CPU time on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuClock {
    /// The scheduler's own count, in nanoseconds.
    Scheduler,
    /// Clock ticks, 10 ms each on most machines, for a kernel without scheduler statistics.
    Ticks,
}

impl CpuClock {
    /// The finer one that works here.
    #[must_use]
    pub fn of_this_machine() -> Self {
        // This process has run, so a count of zero is none.
        match on_cpu(std::process::id()) {
            Ok(time) if !time.is_zero() => Self::Scheduler,
            _ => Self::Ticks,
        }
    }

    /// CPU time that a process has used in user and kernel mode, all its threads together. By the scheduler's count,
    /// threads that have ended are no longer in it, and one that runs just now is behind by up to a tick: compare two
    /// readings of a process that keeps its threads and is at rest.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(self, pid: u32) -> Result<Duration> {
        match self {
            Self::Scheduler => on_cpu(pid),
            Self::Ticks => in_ticks(pid),
        }
    }
}

fn on_cpu(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in threads(pid)? {
        let file = format!("task/{thread}/schedstat");
        let schedstat = read(pid, &file)?;
        sum += nanoseconds_on_cpu(&schedstat)
            .with_context(|| format!("/proc/{pid}/{file} is not understood: {schedstat}"))?;
    }
    Ok(sum)
}

/// The first of three numbers: time on the CPU, time waiting for it, and how often it ran.
fn nanoseconds_on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn in_ticks(pid: u32) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat is not understood: {stat}"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Fields 14 and 15 of `stat`. The second field is the program's name in parentheses and may contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// The memory of a process in user space, in bytes: its own pages whole, shared pages by its share of them (PSS).
/// Kernel memory such as socket buffers is not in it.
///
/// # Errors
/// When the process is gone, or belongs to somebody else.
pub fn proportional_memory(pid: u32) -> Result<u64> {
    let rollup = read(pid, "smaps_rollup")?;
    kilobytes(&rollup, "Pss:")
        .map(|kilobytes| kilobytes * 1024)
        .with_context(|| format!("/proc/{pid}/smaps_rollup has no Pss"))
}

/// The resident memory of a process, in bytes.
///
/// # Errors
/// When the process is gone.
pub fn resident_memory(pid: u32) -> Result<u64> {
    let status = read(pid, "status")?;
    kilobytes(&status, "VmRSS:")
        .map(|kilobytes| kilobytes * 1024)
        .with_context(|| format!("/proc/{pid}/status has no VmRSS"))
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// How many descriptors a process has open.
///
/// # Errors
/// When the process is gone, or belongs to somebody else.
pub fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path).with_context(|| format!("cannot list {path}"))?.count())
}

/// The ids of a process's threads.
///
/// # Errors
/// When the process is gone.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task");
    let listed = fs::read_dir(&path).with_context(|| format!("cannot list {path}"))?;
    Ok(listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The ids of the processes that a process has started and that still run.
///
/// # Errors
/// When the process is gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for thread in threads(pid)? {
        let listed = read(pid, &format!("task/{thread}/children"))?;
        found.extend(listed.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Binds every thread that a process has now to one core. Threads that it starts later follow the thread that starts
/// them. To bind a program from its first instruction, launch it with `Launch::pinned`.
///
/// # Errors
/// When the process is gone or the core does not exist.
pub fn pin(pid: u32, core: usize) -> Result<()> {
    for thread in threads(pid)? {
        let id = i32::try_from(thread).ok().and_then(Pid::from_raw).context("a thread id is positive")?;
        sched_setaffinity(Some(id), &set_of(&[core]))
            .with_context(|| format!("cannot bind process {pid} to core {core}"))?;
    }
    Ok(())
}

/// Binds the calling thread, and those that it starts from now on, to one core.
///
/// # Errors
/// When the core does not exist.
pub fn pin_this_thread(core: usize) -> Result<()> {
    sched_setaffinity(None, &set_of(&[core])).with_context(|| format!("cannot bind a thread to core {core}"))
}

/// Does something on these cores, then gives the thread its cores back. What is started meanwhile stays bound.
pub(super) fn on_cores<T>(cores: &[usize], act: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None).context("cannot read which cores this thread may use")?;
    sched_setaffinity(None, &set_of(cores)).with_context(|| format!("cannot bind a thread to cores {cores:?}"))?;
    let outcome = act();
    sched_setaffinity(None, &before).context("cannot give a thread its cores back")?;
    Ok(outcome)
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    set
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_files_threads_and_time() {
        let me = std::process::id();
        let busy = std::time::Instant::now();
        for clock in [CpuClock::Scheduler, CpuClock::Ticks] {
            let before = clock.cpu_time(me).unwrap();
            while clock.cpu_time(me).unwrap() == before {
                assert!(busy.elapsed() < Duration::from_secs(20), "{clock:?} counted no time");
            }
            assert!(clock.cpu_time(u32::MAX).is_err());
        }
        assert!(proportional_memory(me).unwrap() > 100_000);
        assert!(resident_memory(me).unwrap() > 100_000);
        assert!(open_files(me).unwrap() >= 3);
        assert!(threads(me).unwrap().len() >= 2);
    }

    #[test]
    fn time_on_the_cpu_is_the_first_number_of_schedstat() {
        assert_eq!(nanoseconds_on_cpu("36295082 8602744 124\n"), Some(Duration::from_nanos(36_295_082)));
        assert_eq!(nanoseconds_on_cpu(""), None);
        assert_eq!(nanoseconds_on_cpu("no number"), None);
    }

    #[test]
    fn a_child_started_on_one_core_stays_on_it_and_this_thread_is_free_again() {
        let before = sched_getaffinity(None).unwrap();
        let mut child = on_cores(&[0], || std::process::Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
        let status = read(child.id(), "status").unwrap();
        let listed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
        let mine = children(std::process::id()).unwrap();
        let id = child.id();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(listed, "0");
        assert_eq!(sched_getaffinity(None).unwrap(), before);
        assert!(mine.contains(&id));
    }
}
