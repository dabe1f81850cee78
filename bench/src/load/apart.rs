//! One run by several processes: each has users of its own, and what they saw is added up here.
//!
//! The parent starts children of its own program, gives each its part on stdin, lets all of them begin together, and
//! reads what they say. A child ends by itself when its parent is gone; all of them end when one has.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin, stdin},
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
}

/// Runs a plan by so many processes.
pub(super) async fn run(plan: &Plan, secret: &Secret, processes: usize, mut tell: impl FnMut(Tick)) -> Result<Outcome> {
    let (said, mut hear) = mpsc::channel(64);
    let mut inputs = Vec::new();
    for number in 0..processes {
        let (child, input) = start(plan, secret, Part { number, of: processes }).await?;
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
    let mut ticks: Vec<Option<Tick>> = vec![None; processes];
    let mut outcome: Option<Outcome> = None;
    let mut done = 0;
    while done < processes {
        let (number, said) = hear.recv().await.context("all processes of the load are gone")?;
        match expect(number, processes, said)? {
            Said::Ready => bail!("process {number} is ready twice"),
            Said::Tick(tick) => {
                ticks[number] = Some(tick);
                if let Some(all) = together(&mut ticks) {
                    tell(all);
                }
            }
            Said::Done(one) => {
                done += 1;
                merge(&mut outcome, *one);
            }
        }
    }
    outcome.context("nobody has done anything")
}

fn expect(number: usize, processes: usize, said: Result<Said>) -> Result<Said> {
    said.with_context(|| {
        format!(
            "process {} of {processes} is gone, with its users; the others were stopped, and nothing is reported",
            number + 1
        )
    })
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

/// How all of them are, when each has told it again.
fn together(ticks: &mut [Option<Tick>]) -> Option<Tick> {
    if ticks.iter().any(Option::is_none) {
        return None;
    }
    let mut all = Tick::default();
    for tick in ticks.iter_mut().filter_map(Option::take) {
        all.merge(&tick);
    }
    Some(all)
}

async fn start(plan: &Plan, secret: &Secret, part: Part) -> Result<(Child, ChildStdin)> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let mut child = Command::new(program)
        .arg(CHILD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a process of the load")?;
    let mut input = child.stdin.take().context("a child has an input")?;
    let orders = Orders { plan: plan.clone(), secret: secret.reveal().into(), part };
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
        let last = matches!(parsed, Ok(Said::Done(_)) | Err(_));
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
    let mut lines = BufReader::new(stdin()).lines();
    let orders = lines.next_line().await?.context("a part of a load is started by the load, not by people")?;
    let Orders { plan, secret, part } = serde_json::from_str(&orders).context("no orders")?;
    say(&Said::Ready)?;
    let go = lines.next_line().await?.context("the parent is gone")?;
    ensure!(go == GO, "told to {go:?} instead of {GO:?}");
    let secret = Secret::from(secret);
    let work = shard::run(Arc::new(plan), &secret, part, |tick| _ = say(&Said::Tick(tick)));
    let outcome = tokio::select! {
        outcome = work => outcome?,
        () = until_gone(lines) => bail!("the parent is gone"),
    };
    say(&Said::Done(Box::new(outcome)))
}

async fn until_gone(mut lines: Lines<BufReader<Stdin>>) {
    while let Ok(Some(_)) = lines.next_line().await {}
}

fn say(said: &Said) -> Result<()> {
    output::data(serde_json::to_string(said)?);
    Ok(())
}
