//! `warbler explain`: which endpoint a client would get, and why.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Code, say, socket};
use crate::admin::decisions::Told;
use crate::admin::explain::{Answer, Question, answer};
use crate::cluster::plan;
use crate::config::{self, ClusterIx, Config, OpenFiles, Serves};
use crate::listener::{ListenerIdentity, ListenerPlan, ListenerSlot};
use crate::reload::files::GeoFiles;
use crate::route::Routes;
use crate::snapshot::Snapshot;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The main configuration file.
    #[arg(long, env = "WARBLER_CONFIG")]
    config: PathBuf,
    /// The client's IP address.
    #[arg(long, required_unless_present = "connection", conflicts_with = "connection")]
    from: Option<String>,
    /// Ask the running edge what it decided for this connection (its number is in the access log), as far as it is kept.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["listener", "host", "path", "headers", "upgrade"])]
    connection: Option<u64>,
    /// The listener that the client connects to; needed when there are several.
    #[arg(long)]
    listener: Option<String>,
    /// The host that the client asks for.
    #[arg(long)]
    host: Option<String>,
    /// The path that the client asks for, with or without a query.
    #[arg(long)]
    path: Option<String>,
    /// A header field of the request, for routes and `hash-on`; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// A WebSocket or other upgrade instead of a plain request.
    #[arg(long)]
    upgrade: bool,
    /// Ask the running edge through its admin socket: with its health, RTT and load.
    #[arg(long)]
    live: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn explain(args: &ExplainArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    // The running edge is asked through its socket: what else the files name may be unreadable, or wrong just now.
    let open = if args.live || args.connection.is_some() { OpenFiles::No } else { OpenFiles::Yes };
    let loaded = match config::load(&args.config, open) {
        Ok(loaded) => loaded,
        Err(report) => {
            say(err, report.render("nothing was explained"));
            return Code::WrongConfig;
        }
    };
    if let Some(connection) = args.connection {
        let told = ask_decisions(&loaded.config, connection);
        return print(told, args.json, out, err);
    }
    let question = Question {
        from: args.from.clone().unwrap_or_default(),
        listener: args.listener.clone(),
        host: args.host.clone(),
        path: args.path.clone(),
        upgrade: args.upgrade,
        headers: args.headers.join("\n"),
    };
    let answered = if args.live { ask_edge(&loaded.config, &question) } else { work_out(loaded.config, &question) };
    print(answered, args.json, out, err)
}

fn print(
    answered: Result<impl Serialize + Display, String>,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Code {
    let answer = match answered {
        Ok(answer) => answer,
        Err(error) => {
            say(err, format!("error: {error}"));
            return Code::Failed;
        }
    };
    let text = if json { serde_json::to_string_pretty(&answer).unwrap_or_default() } else { answer.to_string() };
    match writeln!(out, "{text}") {
        Ok(()) => Code::Done,
        Err(_closed) => Code::Failed,
    }
}

fn ask_decisions(config: &Config, connection: u64) -> Result<Told, String> {
    answer_of(socket::ask(config, "GET", &format!("/api/v1/decisions/{connection}"))?)
}

fn ask_edge(config: &Config, question: &Question) -> Result<Answer, String> {
    let mut target = format!(
        "/api/v1/explain?from={}&upgrade={}&headers={}",
        socket::encode(&question.from),
        question.upgrade,
        socket::encode(&question.headers)
    );
    for (name, value) in [("listener", &question.listener), ("host", &question.host), ("path", &question.path)] {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", socket::encode(value)));
        }
    }
    answer_of(socket::ask(config, "GET", &target)?)
}

fn answer_of<T: DeserializeOwned>((status, body): (u16, Vec<u8>)) -> Result<T, String> {
    if status == 200 {
        return serde_json::from_slice(&body).map_err(|error| error.to_string());
    }
    Err(socket::error_in(&body))
}

/// Without a running edge: every endpoint up, nothing measured, names without addresses.
fn work_out(config: Config, question: &Question) -> Result<Answer, String> {
    let geo = GeoFiles::default().load(&config.geoip)?;
    let config = Arc::new(config);
    let clusters = (0..config.clusters.len()).map(|ix| Arc::new(plan::offline(&config, ClusterIx(ix)))).collect();
    let listener = |(listener, slot): (&config::Listener, u32)| {
        let routes = match &listener.serves {
            Serves::Tcp { .. } => Routes::default(),
            Serves::Http(http) => Routes::new(&http.routes),
        };
        let (config, slot) = (listener.clone(), ListenerSlot(slot));
        let identity = Arc::new(ListenerIdentity::new(slot, config.name.clone()));
        Arc::new(ListenerPlan { slot, config, routes, tls: None, took_over: Vec::new(), identity })
    };
    let listeners = config.listeners.iter().zip(0..).map(listener).collect();
    let snapshot = Snapshot { generation: 0, clusters, listeners, geo, config };
    answer(&snapshot, question, policies::Tick(std::time::Duration::ZERO)).map_err(|error| error.to_string())
}
