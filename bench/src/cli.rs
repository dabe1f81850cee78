//! The command line of `warbler-bench`.

mod drill;
mod load;
mod measuring;
mod reference;
mod wan;

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use serde_json::json;
use tokio::runtime::Builder;

use crate::{
    compare,
    demo::{self, Afterwards},
    drill::Kept,
    growth, output,
    serve::{self, Kind},
    stop,
};
use measuring::{Compare, Growth};
use reference::Reference;
use wan::Wan;

/// Failed while running. A wrong command line is 2, by clap.
const FAILED: u8 = 1;
/// A stated limit was not kept.
const LIMIT_NOT_KEPT: u8 = 4;

/// Load, comparisons, drills and the demo of warbler, with real programs over loopback.
#[derive(Debug, Parser)]
#[command(name = "warbler-bench", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares warbler with nginx and HAProxy, side by side: memory of tunnels, CPU by message, request, connection and
    /// handshake, added latency, downloads.
    Compare(Box<Compare>),
    /// Measures how warbler's costs grow with connections, workers and endpoints, and with reloads going on.
    Growth(Growth),
    /// Starts an edge with six IM servers in three places, and shows what it does when things happen to them.
    Demo(Demo),
    /// Breaks something while people talk, and says whether anything they were promised was lost.
    Drill(drill::Arguments),
    /// Measures the reference server: memory of idle sessions, and messages acknowledged in a second through the edge.
    Reference(Reference),
    /// Makes load at a rate that does not slow down when the target does, and reports how long everything took.
    Load(Box<load::Arguments>),
    /// A part of a load, for its other processes.
    #[command(name = crate::load::CHILD, hide = true)]
    LoadPart,
    /// Runs an endpoint to put behind a proxy.
    Serve(Serve),
    /// Relays TCP as a long or bad way between two places would: later, in pieces, or not at all.
    Wan(Wan),
}

#[derive(Debug, Args)]
struct Demo {
    /// Leaves everything up at the end, until Ctrl-C, and says where to look; so it does by itself on a terminal.
    #[arg(long)]
    keep: bool,
    /// Ends at the end, on a terminal too.
    #[arg(long, conflicts_with = "keep")]
    end: bool,
}

impl Demo {
    fn afterwards(&self) -> Afterwards {
        // Somebody who looks at it may want to look further; a script wants to get on.
        if self.keep || (!self.end && io::stdout().is_terminal()) { Afterwards::Stay } else { Afterwards::Stop }
    }
}

#[derive(Debug, Args)]
struct Serve {
    /// What the endpoint does.
    #[arg(long)]
    kind: Kind,
    /// Where it listens; port 0 takes a free one, which the ready line names.
    #[arg(long, default_value = "127.0.0.1:0")]
    bind: SocketAddr,
}

/// Runs the command line and says how the process ends: 0 done, 1 failed while running, 2 wrong command line, 4 a
/// stated limit was not kept.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Compare(arguments) => on_one_thread(stop::unless_asked(compare::run(arguments.settings()))),
        Command::Growth(arguments) => on_one_thread(stop::unless_asked(growth::run(arguments.settings()))),
        Command::Demo(arguments) => on_one_thread(demo::run(arguments.afterwards())),
        Command::Reference(arguments) => on_one_thread(stop::unless_asked(arguments.run())),
        Command::Drill(arguments) => return exit_code(on_one_thread(stop::unless_asked(arguments.run()))),
        Command::Load(arguments) => {
            if let Some(complaint) = arguments.complaint() {
                CommandLine::command().error(ErrorKind::ValueValidation, complaint).exit();
            }
            return exit_code(on_one_thread(stop::unless_asked(arguments.run())));
        }
        Command::LoadPart => on_one_thread(crate::load::run_child()),
        Command::Serve(arguments) => serve(&arguments),
        Command::Wan(arguments) => on_one_thread(arguments.run()),
    };
    exit_code(outcome.map(|()| Kept::All))
}

fn exit_code(outcome: Result<Kept>) -> ExitCode {
    match outcome {
        Ok(Kept::All) => ExitCode::SUCCESS,
        Ok(Kept::NotAll) => ExitCode::from(LIMIT_NOT_KEPT),
        Err(error) => {
            output::talk(format!("warbler-bench: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn serve(arguments: &Serve) -> Result<()> {
    on_one_thread(async {
        let endpoint = serve::bind(arguments.kind, arguments.bind)?;
        output::ready(&json!({ "listen": [endpoint.address()?.to_string()] }));
        tokio::select! {
            outcome = endpoint.run() => outcome,
            outcome = stop::asked() => outcome,
        }
    })
}

fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
