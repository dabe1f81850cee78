//! `warbler check`: whether a configuration would be accepted.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::config::Config;
use crate::config::check::{Loaded, OpenFiles, load};
use crate::config::diagnostic::{Problem, Report, counted};

/// Exit code for a wrong configuration; docs/config.md lists them all.
const WRONG_CONFIGURATION: u8 = 3;

/// Arguments of `warbler check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The main configuration file
    pub file: PathBuf,
    /// Do not open the files that it names: certificates, keys, databases, tokens
    #[arg(long)]
    pub no_files: bool,
    /// Write the verdict and the problems to stdout as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Checks a configuration, writes the verdict to `out` and problems to `err`; 0 if it would be accepted, else 3.
///
/// # Errors
///
/// When `out` or `err` take no more.
pub fn check(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitCode> {
    let open = if args.no_files { OpenFiles::No } else { OpenFiles::Yes };
    let verdict = load(&args.file, open);
    match (args.json, &verdict) {
        (true, verdict) => write_json(args, verdict, out)?,
        (false, Ok(loaded)) => {
            for warning in &loaded.warnings {
                writeln!(err, "{warning}")?;
            }
            writeln!(out, "{}: ok ({})", args.file.display(), contents(&loaded.config))?;
        }
        (false, Err(report)) => writeln!(err, "{}", report.render("this configuration would be refused"))?,
    }
    Ok(ExitCode::from(if verdict.is_ok() { 0 } else { WRONG_CONFIGURATION }))
}

/// `2 listeners, 1 cluster, 6 endpoints`
fn contents(config: &Config) -> String {
    let endpoints = config.clusters.iter().flat_map(|cluster| &cluster.localities).map(|place| place.endpoints.len());
    [
        counted(config.listeners.len(), "listener"),
        counted(config.clusters.len(), "cluster"),
        counted(endpoints.sum(), "endpoint"),
    ]
    .join(", ")
}

fn write_json(args: &CheckArgs, verdict: &Result<Loaded, Report>, out: &mut dyn Write) -> io::Result<()> {
    let problems: &[Problem] = match verdict {
        Ok(loaded) => &loaded.warnings,
        Err(report) => &report.problems,
    };
    let verdict = json!({ "file": args.file, "ok": verdict.is_ok(), "problems": problems });
    writeln!(out, "{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
        [clusters.im.localities.here]\nendpoints = [{ address = \"10.0.0.7:5222\" }, { address = \"im:5222\" }]\n";

    /// The exit code and what went to stdout and stderr, with the folder cut off the paths.
    fn run(config: &str, json: bool) -> (ExitCode, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("main.toml");
        std::fs::write(&file, config).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = super::check(&CheckArgs { file, no_files: false, json }, &mut out, &mut err).unwrap();
        let prefix = format!("{}/", folder.path().display());
        let said = |bytes| String::from_utf8(bytes).unwrap().replace(&prefix, "");
        (code, said(out), said(err))
    }

    #[test]
    fn a_right_configuration_is_counted_on_stdout() {
        let want = "main.toml: ok (1 listener, 1 cluster, 2 endpoints)\n";
        assert_eq!(run(GOOD, false), (ExitCode::SUCCESS, want.to_owned(), String::new()));
    }

    #[test]
    fn warnings_are_told_and_accepted() {
        let config =
            format!("{GOOD}[clusters.other.localities.here]\nendpoints = [{{ address = \"10.0.0.8:5222\" }}]\n");
        let (code, out, err) = run(&config, false);
        assert_eq!(code, ExitCode::SUCCESS);
        assert_eq!(out, "main.toml: ok (1 listener, 2 clusters, 3 endpoints)\n");
        assert_eq!(err, "main.toml:7:11: warning: nothing uses cluster `other`\n");
    }

    #[test]
    fn a_wrong_configuration_is_explained_on_stderr() {
        let (code, out, err) = run("listners = 1\n", false);
        assert_eq!((code, out), (ExitCode::from(3), String::new()));
        assert_eq!(
            err,
            "main.toml:1:1: error: unknown key `listners`\n   help: did you mean `listeners`?\n\
             1 problem; this configuration would be refused\n"
        );
    }

    #[test]
    fn json_is_one_object_on_stdout() {
        let (code, out, err) = run("listners = 1\n", true);
        assert_eq!((code, err), (ExitCode::from(3), String::new()));
        let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
        let want = json!({
            "file": "main.toml",
            "ok": false,
            "problems": [{
                "file": "main.toml",
                "line": 1,
                "column": 1,
                "severity": "error",
                "message": "unknown key `listners`",
                "help": "did you mean `listeners`?",
            }],
        });
        assert_eq!(verdict, want);
        let (code, out, _) = run(GOOD, true);
        assert_eq!(
            (code, out),
            (ExitCode::SUCCESS, "{\"file\":\"main.toml\",\"ok\":true,\"problems\":[]}\n".to_owned())
        );
    }
}
