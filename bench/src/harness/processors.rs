//! What the processors did, read from `/proc/stat`: to tell a measurement that was disturbed from one that was not.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Time of all processors, or of one of them, since the machine started. By ticks: differences of less than a tenth of a
/// second say little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorTime {
    /// Spent on programs and the kernel.
    pub busy: Duration,
    pub idle: Duration,
    /// Wanted, and given to another virtual machine.
    pub stolen: Duration,
}

impl ProcessorTime {
    /// Of all processors together.
    ///
    /// # Errors
    /// When the kernel does not tell it.
    pub fn of_all() -> Result<Self> {
        Self::of_line("cpu")
    }

    /// Of one processor.
    ///
    /// # Errors
    /// When there is no such processor.
    pub fn of_core(core: usize) -> Result<Self> {
        Self::of_line(&format!("cpu{core}"))
    }

    fn of_line(name: &str) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let ticks = parse(&text, name).with_context(|| format!("/proc/stat has no line {name}"))?;
        let per_second = rustix::param::clock_ticks_per_second();
        #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
        let [busy, idle, stolen] = ticks.map(|ticks| Duration::from_secs_f64(ticks as f64 / per_second as f64));
        Ok(Self { busy, idle, stolen })
    }

    /// What came since an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            idle: self.idle.saturating_sub(earlier.idle),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }

    /// The part of the time that was given to another virtual machine, 0 to 1.
    #[must_use]
    pub fn stolen_share(self) -> f64 {
        let all = self.busy + self.idle + self.stolen;
        if all.is_zero() { 0.0 } else { self.stolen.as_secs_f64() / all.as_secs_f64() }
    }
}

/// Ticks of a line: busy, idle, stolen. Its numbers are user, nice, system, idle, waiting for a disk, interrupts, soft
/// interrupts, stolen; guests are in user already.
fn parse(text: &str, name: &str) -> Option<[u64; 3]> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    let numbers = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let &[user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen, ..] = numbers.as_slice() else {
        return None;
    };
    Some([user + nice + system + interrupts + soft_interrupts, idle + waiting, stolen])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_stat_is_busy_idle_and_stolen() {
        let text = "cpu  100 1 20 700 8 0 13 7 50 0\ncpu0 60 1 10 300 4 0 6 3 0 0\ncpu1 1 2\n";
        assert_eq!(parse(text, "cpu"), Some([134, 708, 7]));
        assert_eq!(parse(text, "cpu0"), Some([77, 304, 3]));
        assert_eq!(parse(text, "cpu1"), None);
        assert_eq!(parse(text, "cpu2"), None);
    }

    #[test]
    fn the_stolen_share_is_of_all_time() {
        let second = Duration::from_secs(1);
        let time = ProcessorTime { busy: second * 6, idle: second * 3, stolen: second };
        assert!((time.stolen_share() - 0.1).abs() < 1e-9);
        assert!(time.since(time).stolen_share().abs() < 1e-9);
        assert!(ProcessorTime::of_core(0).unwrap().idle <= ProcessorTime::of_all().unwrap().idle);
    }
}
