//! `warbler run`: from the command line to a running process, and to its exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use clap::Args;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs as PingoraArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::mpsc;

use super::{Code, say};
use crate::access_log::AccessLog;
use crate::admin;
use crate::config::Config;
use crate::control::{self, ControlService, Exit, Start};
use crate::log::LogFilter;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::reload::First;
use crate::sockets::Sockets;
use crate::state::{Clock, State};
use crate::sys;
use crate::tls::{self, Tickets};
use crate::upstream::MAX_TRIES;
use crate::worker::{COMMANDS, WorkerService};

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The main configuration file.
    #[arg(long, env = "WARBLER_CONFIG")]
    config: PathBuf,
}

pub fn run(args: &RunArgs, err: &mut dyn Write) -> ExitCode {
    match start(args, err) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, text }) => {
            say(err, text);
            code.into()
        }
    }
}

struct Failure {
    code: Code,
    text: String,
}

fn wrong(text: impl ToString) -> Failure {
    Failure { code: Code::WrongConfig, text: text.to_string() }
}

fn failed(text: impl ToString) -> Failure {
    Failure { code: Code::Failed, text: text.to_string() }
}

fn start(args: &RunArgs, err: &mut dyn Write) -> Result<u8, Failure> {
    let descriptors = sys::raise_descriptor_limit();
    tls::install_provider();
    let tickets = Tickets::new().map_err(failed)?;
    let clock = Clock::start();
    let mut worker_ends = Vec::new();
    let sockets_for = |config: &Config| {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..config.edge.workers.get()).map(|_| mpsc::channel(COMMANDS)).unzip();
        worker_ends = receivers;
        Sockets::new(senders)
    };
    let mut first = First::load(args.config.clone(), &tickets, clock.now(), sockets_for).map_err(wrong)?;
    let config = first.snapshot.config.clone();
    let log_filter = LogFilter::start(&config.log).map_err(wrong)?;
    first.warnings.drain(..).for_each(|warning| say(err, warning));
    let admin = admin::Bound::bind(&config.admin).map_err(wrong)?;
    let access_log = AccessLog::open(&config.log.access).map_err(|error| wrong(format!("access log: {error}")))?;

    let orders = control::orders();
    let clusters = std::mem::take(&mut first.clusters);
    let snapshot = first.snapshot.clone();
    let (reloader, prepared) = first.into_parts(args.config.clone(), orders.0.clone());
    let registry = Arc::new(Registry::new(config.edge.workers.get()));
    let metrics = Metrics::new().map_err(failed)?;
    let state = Arc::new(State::new(
        snapshot,
        registry,
        metrics,
        access_log,
        clock,
        tickets,
        log_filter,
        args.config.clone(),
        descriptors,
        clusters,
    ));
    let exit = Arc::new(Exit::default());
    let control =
        ControlService::new(Start { state: state.clone(), reloader, prepared, orders, admin, exit: exit.clone() });
    serve(&state, control, worker_ends, exit.clone());
    state.access_log.close();
    if let Some(socket) = &config.admin.socket {
        // Left behind it would be taken for a process that died; that is handled too.
        std::fs::remove_file(socket).ok();
    }
    Ok(exit.code())
}

/// Idle upstream connections that a worker keeps, of all endpoints together; each ends after a minute without a request.
/// pingora's own 128 are fewer than a crowd of clients needs at once: those beyond were closed and opened anew.
const POOLED: usize = 4096;

/// At most this part of the process's descriptors are for those of one version of HTTP, of which pingora keeps two pools:
/// they are counted for no client, and the clients that come next need two each.
const POOLED_SHARE: usize = 16;

/// Runs pingora's server until [`Exit`] says that it is over.
fn serve(
    state: &Arc<State>,
    control: ControlService,
    worker_ends: Vec<mpsc::Receiver<crate::worker::WorkerCommand>>,
    exit: Arc<Exit>,
) {
    let conf = ServerConf {
        threads: 1,
        // One thread a service, and what it spawns stays on it.
        work_stealing: false,
        max_retries: usize::from(MAX_TRIES),
        upstream_keepalive_pool_size: POOLED.min(state.descriptors / POOLED_SHARE / worker_ends.len().max(1)),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let conf = server.configuration.clone();
    for (ix, commands) in worker_ends.into_iter().enumerate() {
        server.add_service(WorkerService::new(ix, state.clone(), &conf, commands));
    }
    server.add_service(control);
    server.run(PingoraArgs { shutdown_signal: Box::new(WhenOver(exit)) });
}

/// The signals are ours: pingora's own graceful stop sleeps its whole grace and then cuts.
struct WhenOver(Arc<Exit>);

#[async_trait]
impl ShutdownSignalWatch for WhenOver {
    async fn recv(&self) -> ShutdownSignal {
        self.0.over().await;
        ShutdownSignal::FastShutdown
    }
}
