//! The command line: what operators type and scripts rely on.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong command line, 3 wrong
//! configuration, 4 a stated limit was not kept.

pub mod check;
pub mod controls;
pub mod diff;
mod edge;
pub mod explain;
pub mod reload;
pub mod run;
pub mod schema;
pub mod simulate;
pub mod socket;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An edge load balancer and smart router for instant messaging.
#[derive(Debug, Parser)]
#[command(name = "warbler", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the edge.
    Run(run::RunArgs),
    /// Check a configuration and everything it names.
    Check(check::CheckArgs),
    /// Show which endpoint a client would get, and why.
    Explain(explain::ExplainArgs),
    /// Show what differs between two configurations, and how many clients would go elsewhere.
    Diff(diff::DiffArgs),
    /// Try a configuration out on clients that came before, or that are made up.
    Simulate(simulate::SimulateArgs),
    /// Tell a running edge to read its files again, and say what came of it.
    Reload(reload::ReloadArgs),
    /// Take an endpoint out of service: no new clients, and its tunnels are asked to leave at drain.rate.
    Drain(controls::OutArgs),
    /// Take an endpoint out of service and leave its tunnels alone: no new clients.
    Maintenance(controls::OutArgs),
    /// Bring an endpoint back from drain or maintenance.
    Ready(controls::ReadyArgs),
    /// Shift new clients: the share or weight of a locality, the weight of an endpoint.
    Shift(controls::ShiftArgs),
    /// List what is set by hand, with what the files say.
    Overrides(controls::OverridesArgs),
    /// Take back what is set by hand: what the files say counts again.
    Reset(controls::ResetArgs),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Done = 0,
    Failed = 1,
    Usage = 2,
    WrongConfig = 3,
    LimitNotKept = 4,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    match cli.command {
        Command::Run(args) => run::run(&args, &mut err),
        Command::Check(args) => check::check(&args, &mut out, &mut err).unwrap_or(Code::Failed.into()),
        Command::Explain(args) => explain::explain(&args, &mut out, &mut err).into(),
        Command::Diff(args) => diff::diff(&args, &mut out, &mut err).into(),
        Command::Simulate(args) => simulate::simulate(&args, &mut out, &mut err).into(),
        Command::Reload(args) => reload::reload(&args, &mut out, &mut err).into(),
        Command::Drain(args) => controls::drain(&args, &mut out, &mut err).into(),
        Command::Maintenance(args) => controls::maintenance(&args, &mut out, &mut err).into(),
        Command::Ready(args) => controls::ready(&args, &mut out, &mut err).into(),
        Command::Shift(args) => controls::shift(&args, &mut out, &mut err).into(),
        Command::Overrides(args) => controls::overrides(&args, &mut out, &mut err).into(),
        Command::Reset(args) => controls::reset(&args, &mut out, &mut err).into(),
        Command::Schema => if schema::print(&mut out).is_ok() { Code::Done } else { Code::Failed }.into(),
    }
}

/// Says something to people. Who closed stderr does not want to hear it.
fn say(err: &mut dyn Write, text: impl std::fmt::Display) {
    writeln!(err, "{text}").ok();
}
