//! Where, when and with which command a report was made.

use std::{fs, process::Command};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory_gib: u64,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = field(&cpu, "model name").unwrap_or_else(|| "an unnamed processor".into());
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes =
            field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        Self {
            processor,
            // Not `available_parallelism`: this thread is bound to one of them.
            cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()),
            memory_gib: (kilobytes + (1 << 19)) >> 20,
        }
    }

    /// The first line of a report.
    pub(crate) fn headline(&self, date: &str, command: &str) -> String {
        let Self { processor, cores, kernel, memory_gib } = self;
        format!("{date}, on {processor} ({cores} cores), {memory_gib} GiB, {kernel}. Repeat it with `{command}`.")
    }
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

pub(crate) fn today() -> String {
    let said = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    said.map_or_else(|_| "at an unknown date".into(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The command line with the program's plain name.
pub(crate) fn command_line() -> String {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    format!("warbler-bench {arguments}")
}
