//! `warbler reload`: asks the running edge, through its admin socket, to read its files again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{Code, say, socket};
use crate::config::{self, OpenFiles};

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The main configuration file: it names the admin socket.
    #[arg(long, env = "WARBLER_CONFIG")]
    config: PathBuf,
    /// The admin socket, when the file does not name the one of the running edge.
    #[arg(long)]
    socket: Option<PathBuf>,
}

pub fn reload(args: &ReloadArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let asked = match &args.socket {
        Some(path) => socket::ask_at(path, "POST", "/api/v1/reload"),
        None => match config::load(&args.config, OpenFiles::No) {
            Ok(loaded) => socket::ask(&loaded.config, "POST", "/api/v1/reload"),
            Err(report) => {
                say(err, report.render("the running config was kept"));
                return Code::WrongConfig;
            }
        },
    };
    match asked {
        Ok((200, body)) => {
            let page: Value = serde_json::from_slice(&body).unwrap_or_default();
            let text = serde_json::to_string_pretty(&page).unwrap_or_default();
            if writeln!(out, "{text}").is_ok() { Code::Done } else { Code::Failed }
        }
        Ok((422, body)) => {
            let page: Value = serde_json::from_slice(&body).unwrap_or_default();
            say(err, page["report"].as_str().unwrap_or("refused"));
            Code::WrongConfig
        }
        Ok((_, body)) => {
            say(err, format!("error: {}", socket::error_in(&body)));
            Code::Failed
        }
        Err(error) => {
            say(err, format!("error: {error}"));
            Code::Failed
        }
    }
}
