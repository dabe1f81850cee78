//! One run by several processes: each has users of its own, and what they saw is added up here.
//!
//! The parent starts children of its own program, gives each its part on stdin, lets all of them begin together, and
//! reads what they say. A child ends by itself when its parent is gone; all of them end when one has.

use std::{
    io::{BufRead, stdin},
    process::Stdio,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

use super::{
    plan::{Part, Plan},
    shard::{self, Outcome},
    tally::Tick,
};
use crate::{im::Secret, output};

/// The subcommand by which a child is started; not for people.
pub(crate) const CHILD: &str = "load-part";
/// How long a child may take until it is ready.
const STARTING: Duration = Duration::from_secs(60);
const GO: &str = "go";

/// What a child is told first.
#[derive(Serialize, Deserialize)]
struct Orders {
    plan: Plan,
    /// Over a pipe and not on a command line, which others can see.
    secret: String,
    part: Part,
}

/// What a child says, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    Ready,
    Tick(Tick),
    Done(Box<Outcome>),
    /// It cannot do its part, and why.
    Failed(String),
}

/// Runs a plan by so many processes.
pub(super) async fn run(plan: &Plan, secret: &Secret, processes: usize, tell: impl FnMut(Tick)) -> Result<Outcome> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let command = || {
        let mut command = Command::new(&program);
        command.arg(CHILD);
        command
    };
    run_by(command, plan, secret, processes, tell).await
}

/// Runs a plan by so many processes that are started like this.
async fn run_by(
    command: impl Fn() -> Command,
    plan: &Plan,
    secret: &Secret,
    processes: usize,
    mut tell: impl FnMut(Tick),
) -> Result<Outcome> {
    let (said, mut hear) = mpsc::channel(64);
    let mut inputs = Vec::new();
    for number in 0..processes {
        let (child, input) = start(command(), plan, secret, Part { number, of: processes }).await?;
        tokio::spawn(listen(number, child, said.clone()));
        inputs.push(input);
    }
    drop(said);
    let mut ready = 0;
    while ready < processes {
        let heard = timeout(STARTING, hear.recv()).await.context("a process of the load does not get ready")?;
        let (number, said) = heard.context("all processes of the load are gone")?;
        ensure!(
            matches!(expect(number, processes, said)?, Said::Ready),
            "process {number} began before it was told to"
        );
        ready += 1;
    }
    for input in &mut inputs {
        input.write_all(format!("{GO}\n").as_bytes()).await.context("a process of the load does not listen")?;
    }
    let mut ticks = Ticks::new(processes);
    let mut outcome: Option<Outcome> = None;
    let mut done = 0;
    while done < processes {
        let (number, said) = hear.recv().await.context("all processes of the load are gone")?;
        match expect(number, processes, said)? {
            Said::Ready => bail!("process {number} is ready twice"),
            Said::Tick(tick) => {
                if let Some(all) = ticks.heard(number, tick) {
                    tell(all);
                }
            }
            Said::Done(one) => {
                done += 1;
                ticks.done(number);
                merge(&mut outcome, *one);
            }
            // Told as it is heard, by `expect`.
            Said::Failed(_) => bail!("process {number} has failed"),
        }
    }
    outcome.context("nobody has done anything")
}

fn expect(number: usize, processes: usize, said: Result<Said>) -> Result<Said> {
    let stopped = "the others were stopped, and nothing is reported";
    let place = number + 1;
    match said {
        Ok(Said::Failed(why)) => bail!("process {place} of {processes} cannot do its part; {stopped}: {why}"),
        said => said.with_context(|| format!("process {place} of {processes} is gone, with its users; {stopped}")),
    }
}

fn merge(outcome: &mut Option<Outcome>, one: Outcome) {
    match outcome {
        None => *outcome = Some(one),
        Some(all) => {
            all.tally.merge(&one.tally);
            all.checked.merge(one.checked);
        }
    }
}

/// What each process told last of how it goes.
struct Ticks {
    last: Vec<Tick>,
    /// Who has told something that was not passed on yet.
    news: Vec<bool>,
    /// Who tells nothing any more. What it did still counts.
    done: Vec<bool>,
}

impl Ticks {
    fn new(processes: usize) -> Self {
        Self { last: vec![Tick::default(); processes], news: vec![false; processes], done: vec![false; processes] }
    }

    /// How all of them are, when each that still works has told it again.
    fn heard(&mut self, number: usize, tick: Tick) -> Option<Tick> {
        self.last[number] = tick;
        self.news[number] = true;
        if !self.news.iter().zip(&self.done).all(|(news, done)| *news || *done) {
            return None;
        }
        self.news.fill(false);
        let mut all = Tick::default();
        for last in &mut self.last {
            all.merge(last);
            // Told once.
            last.recent = Default::default();
        }
        Some(all)
    }

    /// Nobody of it is online any more.
    fn done(&mut self, number: usize) {
        self.done[number] = true;
        self.last[number].online = 0;
    }
}

async fn start(mut command: Command, plan: &Plan, secret: &Secret, part: Part) -> Result<(Child, ChildStdin)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a process of the load")?;
    let mut input = child.stdin.take().context("a child has an input")?;
    let orders = Orders { plan: plan.of_part(part), secret: secret.reveal().into(), part };
    let line = serde_json::to_string(&orders).context("a plan cannot be written")? + "\n";
    input.write_all(line.as_bytes()).await.context("a process of the load does not listen")?;
    Ok((child, input))
}

/// Passes on what a child says, and at last how it ended if it was not done. Dropping the receiver ends the child.
async fn listen(number: usize, mut child: Child, said: mpsc::Sender<(usize, Result<Said>)>) {
    let Some(output) = child.stdout.take() else { return };
    let mut lines = BufReader::new(output).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            () = said.closed() => return,
        };
        let Ok(Some(line)) = line else { break };
        let parsed = serde_json::from_str::<Said>(&line).with_context(|| format!("it said {line:?}"));
        let last = matches!(parsed, Ok(Said::Done(_) | Said::Failed(_)) | Err(_));
        if said.send((number, parsed)).await.is_err() {
            return;
        }
        if last {
            // It ends by itself.
            _ = child.wait().await;
            return;
        }
    }
    let ended = match child.wait().await {
        Ok(status) => format!("it ended with {status}"),
        Err(error) => format!("it cannot be waited for: {error}"),
    };
    // Nobody to tell means that it does not matter any more.
    _ = said.send((number, Err(anyhow::Error::msg(ended)))).await;
}

/// What a child does.
pub(crate) async fn run_child() -> Result<()> {
    let mut lines = parent()?;
    let orders = lines.recv().await.context("a part of a load is started by the load, not by people")?;
    let Orders { plan, secret, part } = serde_json::from_str(&orders).context("no orders")?;
    say(&Said::Ready)?;
    let go = lines.recv().await.context("the parent is gone")?;
    ensure!(go == GO, "told to {go:?} instead of {GO:?}");
    let secret = Secret::from(secret);
    let work = shard::run(Arc::new(plan), &secret, part, |tick| _ = say(&Said::Tick(tick)));
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = until_gone(lines) => bail!("the parent is gone"),
    };
    match outcome {
        Ok(outcome) => say(&Said::Done(Box::new(outcome))),
        // The parent says it to people.
        Err(error) => say(&Said::Failed(format!("{error:#}"))),
    }
}

/// What the parent says, line by line, until it is gone. Read by a thread of its own, which ends with the process: the
/// runtime waits for its own threads at the end, and one that reads from a parent that waits for the end has none.
fn parent() -> Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel(2);
    let read = move || {
        for line in stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("parent".into()).spawn(read).context("cannot start a thread")?;
    Ok(lines)
}

async fn until_gone(mut lines: mpsc::Receiver<String>) {
    while lines.recv().await.is_some() {}
}

fn say(said: &Said) -> Result<()> {
    output::data(serde_json::to_string(said)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::plan;

    /// Once the parent waited for ever for a child that could not do its part, and the child for its parent.
    #[tokio::test]
    async fn a_child_that_cannot_do_its_part_is_told_and_not_waited_for() {
        let child = || {
            let mut command = Command::new("sh");
            // It goes on to listen, as a child that hangs does.
            command.args(["-c", r#"read orders; echo '"ready"'; read go; echo '{"failed":"no files"}'; cat"#]);
            command
        };
        let (plan, secret) = (plan(), Secret::random());
        let failed = run_by(child, &plan, &secret, 2, |_| ());
        let error = timeout(Duration::from_secs(20), failed).await.expect("it ends").unwrap_err();
        let told = format!("{error:#}");
        assert!(told.contains("of 2 cannot do its part") && told.ends_with("no files"), "{told}");
    }

    #[test]
    fn it_is_told_how_it_goes_when_some_are_done() {
        let mut ticks = Ticks::new(2);
        let tick = |seconds, done, online| Tick { seconds, done, online, ..Tick::default() };
        assert_eq!(ticks.heard(0, tick(1.0, 10, 5)), None);
        assert_eq!(ticks.heard(1, tick(1.0, 20, 7)), Some(tick(1.0, 30, 12)));
        ticks.done(0);
        assert_eq!(ticks.heard(1, tick(2.0, 40, 7)), Some(tick(2.0, 50, 7)));
    }
}
