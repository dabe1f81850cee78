//! The running edge that a command speaks to: which one, and what its answers mean for the exit code.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::{Code, say, socket};
use crate::config::{self, OpenFiles};

#[derive(Debug, Args)]
pub(super) struct EdgeArgs {
    /// The main configuration file: it names the admin socket
    #[arg(long, env = "WARBLER_CONFIG", required_unless_present = "socket")]
    config: Option<PathBuf>,
    /// The admin socket itself, when the files are wrong just now or do not name that of the running edge
    #[arg(long)]
    socket: Option<PathBuf>,
}

impl EdgeArgs {
    /// Asks the edge. Its page, or the code to end with when everything is said already: a refusal of what was typed is
    /// [`Code::Usage`], any other [`Code::Failed`].
    pub(super) fn ask(&self, method: &str, target: &str, body: &[u8], err: &mut dyn Write) -> Result<Value, Code> {
        let path = self.path("nothing was changed", err)?;
        match socket::send_to(&path, method, target, body) {
            Ok((200, body)) => Ok(serde_json::from_slice(&body).unwrap_or_default()),
            Ok((status, body)) => {
                say(err, format!("error: {}", socket::error_in(&body)));
                Err(if matches!(status, 400 | 404) { Code::Usage } else { Code::Failed })
            }
            Err(error) => {
                say(err, format!("error: {error}"));
                Err(Code::Failed)
            }
        }
    }

    /// Its admin socket. `outcome` says in short what it means that it could not be found out.
    pub(super) fn path(&self, outcome: &str, err: &mut dyn Write) -> Result<PathBuf, Code> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let Some(config) = &self.config else { return Err(Code::Usage) };
        let loaded = config::load(config, OpenFiles::No).map_err(|report| {
            say(err, report.render(&format!("{outcome}; --socket PATH needs no configuration")));
            Code::WrongConfig
        })?;
        let path = socket::of(&loaded.config).map(Path::to_owned);
        path.map_err(|error| {
            say(err, format!("error: {error}"));
            Code::Failed
        })
    }
}
