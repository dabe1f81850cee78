//! `warbler diff`: what differs between two configurations, and how many clients would go elsewhere.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::simulate::read_trace;
use super::{Code, say};
use crate::config::compare::{Change, compare};
use crate::config::diagnostic::counted;
use crate::config::{Config, Loaded, OpenFiles, load};
use crate::simulate::report::Moves;
use crate::simulate::{Scenario, Simulation};

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The main configuration file as it was.
    old: PathBuf,
    /// The main configuration file as it will be.
    new: PathBuf,
    /// Clients that came, an access log or another trace: how many would go elsewhere? `-` reads stdin.
    #[arg(long, value_name = "TRACE")]
    clients: Option<PathBuf>,
    /// Fail (exit code 4) when more of the clients than this have to go to another endpoint.
    #[arg(long, value_name = "PERCENT", requires = "clients", value_parser = percentage)]
    max_move: Option<f64>,
    /// Equal seeds give equal results.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not open the files that they name: certificates, keys, databases, tokens. With --clients, databases are needed.
    #[arg(long)]
    no_files: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A share with a percent sign; part of a percent counts here.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let percent = number.filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "must be a percentage such as 5% or 0.5%".to_owned())
}

pub fn diff(args: &DiffArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let open = if args.no_files { OpenFiles::No } else { OpenFiles::Yes };
    let (old, new) = (loaded(&args.old, open, "OLD", err), loaded(&args.new, open, "NEW", err));
    let (Some(old), Some(new)) = (old, new) else { return Code::WrongConfig };
    let changes = compare(&old, &new);
    let moves = match &args.clients {
        None => Ok(None),
        Some(trace) => moves(args, trace, [old.config, new.config], err).map(Some),
    };
    let printed = moves.and_then(|moves| {
        let printed = print(args, &changes, moves.as_ref(), out).map_err(|error| error.to_string());
        printed.map(|()| moves)
    });
    match printed {
        Ok(moves) if is_too_much(args, moves.as_ref()) => Code::LimitNotKept,
        Ok(_) => Code::Done,
        Err(error) => {
            say(err, format!("error: {error}"));
            Code::Failed
        }
    }
}

fn is_too_much(args: &DiffArgs, moves: Option<&Moves>) -> bool {
    moves.zip(args.max_move).is_some_and(|(moves, limit)| moves.moved as f64 * 100.0 > limit * moves.clients as f64)
}

fn moves(args: &DiffArgs, trace: &Path, [old, new]: [Config; 2], err: &mut dyn Write) -> Result<Moves, String> {
    let name = |file: &Path| file.display().to_string();
    let scenario = Scenario { seed: args.seed, ..Scenario::default() };
    let configs = vec![(name(&args.old), old), (name(&args.new), new)];
    let mut simulation = Simulation::new(scenario, configs).map_err(|error| error.to_string())?;
    read_trace(trace, &mut simulation, err)?;
    let report = simulation.run().map_err(|error| error.to_string())?;
    report.moves.ok_or_else(|| "two configurations are compared".to_owned())
}

/// Both are judged before anything is compared, so that one run tells everything that is wrong.
fn loaded(file: &Path, open: OpenFiles, which: &str, err: &mut dyn Write) -> Option<Loaded> {
    let verdict = load(file, open);
    if let Err(report) = &verdict {
        say(err, report.render(&format!("{which}, {}, is wrong and nothing was compared", file.display())));
    }
    verdict.ok()
}

fn print(args: &DiffArgs, changes: &[Change], moves: Option<&Moves>, out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        let kept = args.max_move.map(|_| !is_too_much(args, moves));
        let answer = json!({
            "old": args.old,
            "new": args.new,
            "changes": changes,
            "moves": moves,
            "max_move_percent": args.max_move,
            "kept": kept,
        });
        return writeln!(out, "{answer:#}");
    }
    for change in changes {
        writeln!(out, "{change}")?;
    }
    writeln!(out, "{}", summary(changes))?;
    let Some(moves) = moves else { return Ok(()) };
    writeln!(out, "\n{moves}")?;
    match args.max_move {
        Some(limit) if is_too_much(args, Some(moves)) => {
            writeln!(out, "\nmore than {limit} % would move: the limit is not kept")
        }
        _ => Ok(()),
    }
}

/// `3 changes: 2 live, 1 start`
fn summary(changes: &[Change]) -> String {
    let of = |effect: &str| changes.iter().filter(|change| change.effect == effect).count();
    let effects = ["live", "new connections", "start"].into_iter().filter(|effect| of(effect) > 0);
    let effects: Vec<String> = effects.map(|effect| format!("{} {effect}", of(effect))).collect();
    match changes {
        [] => "no change".to_owned(),
        _ => format!("{}: {}", counted(changes.len(), "change"), effects.join(", ")),
    }
}
