//! The limit of open files: many connections need it higher than most systems set it at first.

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit of open files to its hard limit; programs started from now on inherit it.
///
/// # Errors
/// When even the hard limit is below `needed`.
pub fn raise_open_files(needed: u64) -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    let enough = hard.is_none_or(|hard| hard >= needed);
    ensure!(enough, "{needed} open files are needed, and a process may have {} (`ulimit -Hn`)", hard.unwrap_or(needed));
    // Without a hard limit there may still be one of the kernel: ask for what is needed and no more.
    let limit = Rlimit { current: hard.or(Some(needed)), maximum: hard };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// How many files this process may open when its limit is [raised](raise_open_files).
#[must_use]
pub fn open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum;
    hard.map_or(usize::MAX, |hard| usize::try_from(hard).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_or_named() {
        raise_open_files(10).unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(10), now.maximum.unwrap_or(10));
        if now.maximum.is_some() {
            assert!(raise_open_files(u64::MAX).unwrap_err().to_string().contains("ulimit -Hn"));
        }
    }
}
