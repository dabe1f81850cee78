//! From what the files say to what the program runs by; the only way there.
//!
//! Every problem is reported, not only the first. So a check goes on with whatever it could make sense of, and says
//! nothing about what was refused before: one mistake is one problem. If anything is an error, no [`Config`] comes out.

mod address;
mod affinity;
mod area;
mod cluster;
mod endpoint;
mod findings;
mod health;
mod listener;
mod opened;
mod outlier;
mod policy;
mod process;
mod route;
mod rtt;
mod rule;
mod shadow;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::findings::{Clusters, Findings};
use super::Config;
use super::diagnostic::{Problem, Report, Severity, Sources};
use super::files::{self, Gathered, Reading};

/// A configuration that passed, and what an operator should still know.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order of the files.
    pub warnings: Vec<Problem>,
    pub sources: Sources,
}

/// Whether the files that a configuration names are opened and judged, too: certificates, keys, databases, tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFiles {
    Yes,
    No,
}

/// Reads and checks the configuration whose main file is `path`, with all that it includes.
///
/// # Errors
///
/// Every problem of every file, if one of them is an error; a file that cannot be read is a problem like any other.
pub fn load(path: &Path, open: OpenFiles) -> Result<Loaded, Report> {
    judge(files::read(path), open)
}

/// Checks a text as if it were the main file `name`.
///
/// # Errors
///
/// As [`load`].
pub fn load_text(name: &str, text: &str, open: OpenFiles) -> Result<Loaded, Report> {
    judge(files::read_text(Path::new(name), text.to_owned()), open)
}

fn judge(reading: Reading, open: OpenFiles) -> Result<Loaded, Report> {
    let Reading { gathered, sources, mut problems, refused, incomplete, include_folders: _ } = reading;
    let mut config = None;
    if !incomplete {
        let mut findings = Findings::new(&sources, &refused, open);
        config = checked(gathered, &mut findings);
        problems.append(&mut findings.into_problems());
    }
    sort(&mut problems, &sources);
    match config {
        Some(config) if problems.iter().all(|problem| problem.severity == Severity::Warning) => {
            Ok(Loaded { config, warnings: problems, sources })
        }
        _ => Err(Report { problems }),
    }
}

/// In the order of the files, and within a file from top to bottom.
fn sort(problems: &mut [Problem], sources: &Sources) {
    let order: Vec<&Path> = sources.paths().collect();
    let position = |problem: &Problem| order.iter().position(|path| *path == problem.file).unwrap_or(order.len());
    problems.sort_by_key(|problem| (position(problem), problem.line, problem.column));
}

/// `None` if something is missing for which an error was reported.
fn checked(gathered: Gathered, findings: &mut Findings<'_>) -> Option<Config> {
    let Gathered { edge, admin, log, dns, geoip, stop, drain, listeners, clusters } = gathered;
    let edge = process::edge(edge, findings);
    let admin = process::admin(admin, findings);
    let log = process::log(log, findings);
    let dns = process::dns(dns, findings);
    let (geoip, geography) = process::geoip(geoip, findings);
    let stop = process::stop(stop, findings);
    let drain = process::drain(drain, findings);
    let mut names = Clusters::new(&clusters);
    let listeners = listener::all(listeners, &edge, &admin, &mut names, findings);
    // Whoever names a wrong cluster probably means one of those that nothing else uses.
    if listeners.is_some() {
        names.warn_of_unused(findings);
    }
    let clusters = cluster::all(clusters, &names, &geography, findings);
    let files = findings.sources.paths().map(Path::to_owned).collect();
    Some(Config {
        edge: edge?,
        admin: admin?.config,
        log: log?,
        dns: dns?,
        geoip,
        stop: stop?,
        drain: drain?,
        listeners: listeners?,
        clusters: clusters?,
        files,
    })
}
