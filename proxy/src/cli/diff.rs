//! `warbler diff`: what differs between two configurations, and how many clients would go elsewhere.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Code, say};
use crate::config::compare::{Change, compare};
use crate::config::diagnostic::counted;
use crate::config::{Loaded, OpenFiles, load};

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The main configuration file as it was.
    old: PathBuf,
    /// The main configuration file as it will be.
    new: PathBuf,
    /// Do not open the files that they name: certificates, keys, databases, tokens.
    #[arg(long)]
    no_files: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn diff(args: &DiffArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let open = if args.no_files { OpenFiles::No } else { OpenFiles::Yes };
    let (old, new) = (loaded(&args.old, open, "OLD", err), loaded(&args.new, open, "NEW", err));
    let (Some(old), Some(new)) = (old, new) else { return Code::WrongConfig };
    let changes = compare(&old, &new);
    match print(args, &changes, out) {
        Ok(()) => Code::Done,
        Err(_closed) => Code::Failed,
    }
}

/// Both are judged before anything is compared, so that one run tells everything that is wrong.
fn loaded(file: &Path, open: OpenFiles, which: &str, err: &mut dyn Write) -> Option<Loaded> {
    let verdict = load(file, open);
    if let Err(report) = &verdict {
        say(err, report.render(&format!("{which}, {}, is wrong and nothing was compared", file.display())));
    }
    verdict.ok()
}

fn print(args: &DiffArgs, changes: &[Change], out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{:#}", json!({ "old": args.old, "new": args.new, "changes": changes }));
    }
    for change in changes {
        writeln!(out, "{change}")?;
    }
    writeln!(out, "{}", summary(changes))
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
