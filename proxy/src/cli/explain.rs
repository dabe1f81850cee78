//! `warbler explain`: which endpoint a client would get, and why.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Code, say, socket};
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
    #[arg(long)]
    from: String,
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
    let loaded = match config::load(&args.config, OpenFiles::Yes) {
        Ok(loaded) => loaded,
        Err(report) => {
            say(err, report.render("nothing was explained"));
            return Code::WrongConfig;
        }
    };
    let question = Question {
        from: args.from.clone(),
        listener: args.listener.clone(),
        host: args.host.clone(),
        path: args.path.clone(),
        upgrade: args.upgrade,
        headers: args.headers.join("\n"),
    };
    let answered = if args.live { ask_edge(&loaded.config, &question) } else { work_out(loaded.config, &question) };
    match answered {
        Ok(answer) => print(&answer, args.json, out),
        Err(error) => {
            say(err, format!("error: {error}"));
            Code::Failed
        }
    }
}

fn print(answer: &Answer, json: bool, out: &mut dyn Write) -> Code {
    let text = if json { serde_json::to_string_pretty(answer).unwrap_or_default() } else { answer.to_string() };
    match writeln!(out, "{text}") {
        Ok(()) => Code::Done,
        Err(_closed) => Code::Failed,
    }
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
    let (status, body) = socket::ask(config, "GET", &target)?;
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
