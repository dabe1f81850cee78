//! `warbler reload`: asks the running edge, through its admin socket, to read its files again.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::edge::EdgeArgs;
use super::{Code, say, socket};

#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    edge: EdgeArgs,
}

pub fn reload(args: &ReloadArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let path = match args.edge.path("the running config was kept", err) {
        Ok(path) => path,
        Err(code) => return code,
    };
    match socket::send_to(&path, "POST", "/api/v1/reload", b"") {
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
