//! One program that runs for a test: started on port 0, ready when it says so, gone with its owner.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{Workspace, logs::Log, sample};

/// How long a program may take to print its ready line, unless the launch says otherwise. Debug builds on a busy
/// machine need some of it.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long the rest of the output may take after a program's end; a grandchild may hold the pipe for longer.
const OUTPUT_AFTER_END: Duration = Duration::from_secs(2);
/// How often a program is asked whether it has ended.
const END_POLL: Duration = Duration::from_millis(5);
/// How many last lines of each stream are shown when something failed.
const SHOWN_LINES: usize = 60;

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    name: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    cores: Vec<usize>,
    ready_within: Duration,
}

impl Launch {
    /// A program by its path, or by its name on `PATH`. It runs in the workspace's directory unless told otherwise,
    /// with nothing on stdin.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let name = program.file_name().map_or_else(|| "program".into(), |name| name.to_string_lossy().into_owned());
        Self {
            program,
            name,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            cores: Vec::new(),
            ready_within: READY_WITHIN,
        }
    }

    /// Starts the program by another one, which takes its path and arguments behind its own.
    #[must_use]
    pub fn through(mut self, program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let started = std::mem::replace(&mut self.program, program.into());
        let before = arguments.iter().map(Into::into).chain([started.into_os_string()]);
        self.arguments.splice(0..0, before);
        self
    }

    /// The name in messages and of the log files; the program's file name unless set.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory, instead of the workspace's.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs the program, and everything it starts, on these cores only; on those of the calling thread unless set.
    #[must_use]
    pub fn pinned(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = cores.into_iter().collect();
        self
    }

    /// How long the program may take until its ready line (20 s unless set).
    #[must_use]
    pub fn ready_within(mut self, within: Duration) -> Self {
        self.ready_within = within;
        self
    }
}

/// A running program. Dropping it kills the program (SIGKILL, by its id) and, on a panicking thread, prints the last
/// lines of its logs.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Log,
    stderr: Log,
    ready: Value,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit code, or -1 for a program that a signal ended.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Process {
    /// Starts a program and waits for its ready line: the first line on stdout that is a JSON object with
    /// `"event":"ready"`.
    ///
    /// # Errors
    /// When the program cannot be started, ends, or is not ready in time: the error holds the end of its logs.
    pub async fn start(workspace: &Workspace, launch: Launch) -> Result<Self> {
        let within = launch.ready_within;
        let mut process = Self::spawn(workspace, launch)?;
        match process.stdout.ready(within).await {
            Ok(ready) => process.ready = ready,
            Err(cause) => {
                if process.stdout.ended() {
                    // A program that ended has more to say than that its output closed, and has no status until a
                    // moment later.
                    process.wait(OUTPUT_AFTER_END).await.ok();
                }
                let ended = process.child.try_wait().ok().flatten();
                let ended = ended.map_or_else(String::new, |status| format!(" ({status})"));
                workspace.keep();
                bail!("`{}` did not start: {cause}{ended}\n{}", process.name, process.last_lines());
            }
        }
        Ok(process)
    }

    /// Starts a program that has no ready line.
    ///
    /// # Errors
    /// When the program cannot be started or its log files cannot be written.
    pub fn spawn(workspace: &Workspace, launch: Launch) -> Result<Self> {
        let number = workspace.next_number();
        let log = |stream: &str| workspace.path(format!("{number:02}-{}.{stream}", launch.name));
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(launch.directory.as_deref().unwrap_or(workspace.root()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = match launch.cores.as_slice() {
            [] => command.spawn(),
            cores => sample::on_cores(cores, || command.spawn())?,
        };
        let mut child = spawned.with_context(|| format!("cannot start {}", launch.program.display()))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("`{}` has no output to read", launch.name);
        };
        let stdout = Log::capture(stdout, log("stdout"))?;
        let stderr = Log::capture(stderr, log("stderr"))?;
        Ok(Self { name: launch.name, child, stdout, stderr, ready: Value::Null })
    }

    /// Runs a program to its end, for commands such as `warbler check`.
    ///
    /// # Errors
    /// When the program cannot be started or does not end in time.
    pub async fn run(workspace: &Workspace, launch: Launch, within: Duration) -> Result<Finished> {
        let mut process = Self::spawn(workspace, launch)?;
        let status = process.wait(within).await?;
        let text = |log: &Log| log.lines().into_iter().map(|line| line + "\n").collect();
        Ok(Finished { status, stdout: text(&process.stdout), stderr: text(&process.stderr) })
    }

    /// The process id. It stays valid as long as this lives, even when the program has ended: it is reaped here only.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ready line; `Null` for a program that was only spawned.
    #[must_use]
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// The `addresses` of the ready line.
    #[must_use]
    pub fn addresses(&self) -> &Value {
        &self.ready["addresses"]
    }

    /// A bound address of the ready line, by the dotted name of a list and the index in it: `("listeners.im", 0)`.
    ///
    /// # Errors
    /// When there is no such list, it is too short, or it does not hold addresses.
    pub fn address(&self, name: &str, index: usize) -> Result<SocketAddr> {
        let found =
            name.split('.').try_fold(self.addresses(), |value, key| value.get(key)).and_then(|list| list.get(index));
        let text = found.and_then(Value::as_str);
        let text = text.with_context(|| format!("`{}` has no address {name}[{index}]: {}", self.name, self.ready))?;
        text.parse().with_context(|| format!("`{}` gave {text:?} as address {name}[{index}]", self.name))
    }

    /// The lines on stdout that are in memory, the ready line among them.
    #[must_use]
    pub fn stdout_lines(&self) -> Vec<String> {
        self.stdout.lines()
    }

    /// The lines on stderr that are in memory.
    #[must_use]
    pub fn stderr_lines(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// The part of stderr that is in memory.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        self.stderr.lines().join("\n")
    }

    /// The files with everything that was printed: stdout, stderr.
    #[must_use]
    pub fn log_files(&self) -> [&Path; 2] {
        [&self.stdout.file, &self.stderr.file]
    }

    /// Waits for a line on stderr or stdout that contains `needle`, also one that was printed before.
    ///
    /// # Errors
    /// When no such line comes in time, or the program closed its output.
    pub async fn wait_for_log(&self, needle: &str, within: Duration) -> Result<String> {
        self.wait_for_log_since((0, 0), needle, within).await
    }

    /// Where the logs are now, for [`wait_for_log_since`](Self::wait_for_log_since).
    #[must_use]
    pub fn log_mark(&self) -> (usize, usize) {
        (self.stderr.mark(), self.stdout.mark())
    }

    /// As [`wait_for_log`](Self::wait_for_log), but only for lines printed after the mark was taken.
    ///
    /// # Errors
    /// When no such line comes in time, or the program closed its output.
    pub async fn wait_for_log_since(&self, mark: (usize, usize), needle: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            let (ended, now) = (self.stderr.ended() && self.stdout.ended(), self.log_mark());
            if let Some(line) = self.stderr.find(needle, mark.0).or_else(|| self.stdout.find(needle, mark.1)) {
                return Ok(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if ended || left.is_zero() {
                let why =
                    if ended { "the program closed its output".into() } else { format!("{within:?} have passed") };
                bail!("`{}` did not log {needle:?}: {why}\n{}", self.name, self.last_lines());
            }
            tokio::select! {
                () = self.stderr.changed(now.0), if !self.stderr.ended() => {}
                () = self.stdout.changed(now.1), if !self.stdout.ended() => {}
                () = sleep(left) => {}
            }
        }
    }

    /// Waits until the program has ended and its output is read.
    ///
    /// # Errors
    /// When it still runs after `within`: the error holds the end of its logs.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("cannot ask after a program")? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("`{}` still runs after {within:?}\n{}", self.name, self.last_lines());
            }
            sleep(END_POLL).await;
        };
        let rest = async { tokio::join!(self.stdout.end(), self.stderr.end()) };
        timeout(OUTPUT_AFTER_END, rest).await.ok();
        Ok(status)
    }

    /// Whether the program still runs.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to this process alone. One that has ended already is no error: what the caller wanted to stop
    /// has stopped.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        let id = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id is positive")?;
        kill_process(id, signal).with_context(|| format!("cannot signal `{}`", self.name))
    }

    /// Kills the program (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).with_context(|| format!("cannot kill `{}`", self.name))?;
        Ok(())
    }

    /// The last lines of both streams, for messages.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let part = |title: &str, log: &Log| {
            let lines: String = log.tail(SHOWN_LINES).iter().map(|line| format!("\n    {line}")).collect();
            format!("  {title} ({}):{}\n", log.file.display(), if lines.is_empty() { "\n    nothing" } else { &lines })
        };
        part("stdout", &self.stdout) + &part("stderr", &self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test is understood by what its programs said")]
            {
                eprintln!("`{}` (pid {}) said last:\n{}", self.name, self.pid(), self.last_lines());
            }
        }
        // Both fail only for a child that is gone and reaped already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Launch {
        Launch::new("/bin/sh").args(["-c", script])
    }

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_program_is_ready_when_it_says_so_and_gives_its_addresses() {
        let workspace = Workspace::new().unwrap();
        let script = r#"echo hello; echo '{"event":"ready","addresses":{"listeners":{"im":["127.0.0.1:4000","[::1]:4001"]},"admin":["127.0.0.1:1"]}}'; exec sleep 60"#;
        let mut process = Process::start(&workspace, shell(script)).await.unwrap();
        assert_eq!(process.address("listeners.im", 1).unwrap(), "[::1]:4001".parse().unwrap());
        assert_eq!(process.address("admin", 0).unwrap().port(), 1);
        assert!(process.address("listeners.web", 0).unwrap_err().to_string().contains("listeners.web[0]"));
        assert!(process.runs());
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().code(), None);
        process.signal(Signal::TERM).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_ends_before_it_is_ready_shows_its_logs() {
        let workspace = Workspace::new().unwrap();
        let error = Process::start(&workspace, shell("echo no such file >&2; exit 3")).await.unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains("exit status: 3"), "{error}");
        std::fs::remove_dir_all(workspace.root()).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_never_ready_meets_the_deadline() {
        let workspace = Workspace::new().unwrap();
        let launch = shell("echo busy >&2; exec sleep 60").ready_within(Duration::from_millis(300));
        let error = Process::start(&workspace, launch).await.unwrap_err().to_string();
        assert!(error.contains("not seen within 300ms") && error.contains("busy"), "{error}");
        std::fs::remove_dir_all(workspace.root()).unwrap();
    }

    #[tokio::test]
    async fn a_command_runs_to_its_end_with_its_output_in_memory_and_on_disk() {
        let workspace = Workspace::new().unwrap();
        let done = Process::run(&workspace, shell("pwd; echo oops >&2; exit 4"), SOON).await.unwrap();
        assert_eq!((done.code(), done.stderr.as_str()), (4, "oops\n"));
        assert_eq!(Path::new(done.stdout.trim()).canonicalize().unwrap(), workspace.root().canonicalize().unwrap());
        assert_eq!(std::fs::read_to_string(workspace.path("00-sh.stderr")).unwrap(), "oops\n");
    }

    #[tokio::test]
    async fn a_log_line_is_seen_when_it_comes_and_old_ones_only_without_a_mark() {
        let workspace = Workspace::new().unwrap();
        let process = Process::spawn(&workspace, shell("echo reloaded >&2; read x; echo end")).unwrap();
        process.wait_for_log("reloaded", SOON).await.unwrap();
        let mark = process.log_mark();
        let error = process.wait_for_log_since(mark, "reloaded", SOON).await.unwrap_err().to_string();
        assert!(error.contains("closed its output"), "{error}");
        assert_eq!(process.wait_for_log("end", SOON).await.unwrap(), "end");
    }

    #[tokio::test]
    async fn dropping_a_process_ends_the_program() {
        let workspace = Workspace::new().unwrap();
        let process = Process::spawn(&workspace, shell("exec sleep 60")).unwrap();
        let status = format!("/proc/{}/status", process.pid());
        assert!(Path::new(&status).exists());
        drop(process);
        assert!(!Path::new(&status).exists());
    }
}
