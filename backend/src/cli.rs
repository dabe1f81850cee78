//! The command line, the signals, and what is printed.

use std::{
    fmt, fs,
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use backend::{
    Backend, Config, Limits, Pace, Ports, Stopped, duration,
    store::{
        Sqlite,
        backup::{self, BackupError, Manifest},
    },
    token::{Signer, Verifier},
};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::log::{self, Format, Limit};

/// How a run ended, for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    /// Failed while running, or sessions had to be cut at the end.
    Failed = 1,
    // 2 is a wrong command line; clap exits with it by itself.
    WrongConfiguration = 3,
}

/// The reference IM server of warbler.
#[derive(Debug, Parser)]
#[command(name = "warbler-im", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM. Prints one JSON line with all addresses when ready; logs JSON to stderr.
    ///
    /// Exit codes: 0 done, 1 failed while running, 2 wrong command line, 3 wrong configuration.
    Run(Box<Run>),
    /// Take a backup of a store into a new directory, while servers run and write.
    ///
    /// Prints the backup's manifest as one JSON line. Exit codes: 0 done, 1 failed, 2 wrong command line.
    Backup(Backup),
    /// Make a store of a backup, after checking every byte of it. Refuses where a store is already. Stop the servers first.
    ///
    /// Prints the backup's manifest as one JSON line. Exit codes: 0 done, 1 failed, 2 wrong command line.
    Restore(Restore),
    /// Check every byte of a backup.
    ///
    /// Prints its manifest as one JSON line. Exit codes: 0 it is whole, 1 it is not, 2 wrong command line.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Backup {
    /// Directory of the database.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory that the backup becomes; it must not be there yet.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

#[derive(Debug, Args)]
struct Restore {
    /// Directory of the backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory of the database to be; made if it is not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct Verify {
    /// Directory of the backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    /// Address for HTTP and WebSocket; may be given several times. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    bind: Vec<SocketAddr>,
    /// Address for frames over plain TCP; may be given several times. None without.
    #[arg(long, value_name = "ADDRESS")]
    tcp: Vec<SocketAddr>,
    /// Address where load balancers ask how much this server can take, in HAProxy's agent-check words; may be given several
    /// times. None without.
    #[arg(long, value_name = "ADDRESS")]
    agent: Vec<SocketAddr>,
    /// Network of proxies that announce their clients by PROXY headers, version 1 or 2, as in 10.0.0.0/8; may be given
    /// several times. From there, sessions need such a header; from elsewhere it is refused.
    #[arg(long, value_name = "NETWORK")]
    proxy_from: Vec<IpNet>,
    /// Directory of the database; made if it is not there. Processes of one machine may share it.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of this process, told to clients.
    #[arg(long, default_value = "im-1", value_parser = node)]
    node: String,
    /// File with the secret of HS256 tokens; a newline at its end does not count.
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,
    /// The secret itself. Other users of the machine can see a command line: prefer the file or the environment.
    #[arg(long, value_name = "SECRET", env = "WARBLER_IM_JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<Secret>,
    /// PEM file with an Ed25519 or P-256 public key, for EdDSA or ES256 tokens; may be given several times.
    #[arg(long, value_name = "FILE")]
    jwt_public_key_file: Vec<PathBuf>,
    /// How often clients are told to send PING. A session silent for three of these is closed.
    #[arg(long, default_value = "50s", value_parser = heartbeat)]
    heartbeat: Duration,
    /// How long a connection may take to log in.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    login_timeout: Duration,
    /// How long a client may take nothing while there is something to send.
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    stall_timeout: Duration,
    /// Connections for sessions at the same time; more get 503, or CLOSE 1013 over TCP.
    #[arg(long, default_value_t = 100_000)]
    max_sessions: usize,
    /// Requests of one session in a second, twice as many at once; 0 is no limit. Too fast ones are refused, and who goes
    /// on regardless is closed with 4008.
    #[arg(long, default_value_t = 1000)]
    request_rate: u32,
    /// Sessions of one user at this process, on different devices.
    #[arg(long, default_value = "32", value_parser = at_least_one)]
    user_sessions: usize,
    /// After SIGTERM or a drain: how long /readyz fails before sessions are asked to leave.
    #[arg(long, default_value = "0s", value_parser = duration::parse)]
    stop_grace: Duration,
    /// After that: how many sessions are sent RECONNECT in a second.
    #[arg(long, default_value = "200")]
    drain_rate: NonZeroU32,
    /// How long after the first RECONNECT those that are left are closed with 1012; 0s closes all at once.
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    drain_deadline: Duration,
    /// After that close: how long sessions may take to leave before they are cut.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    stop_deadline: Duration,
    /// Worker threads; by default one for each core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// What is logged, as in `info` or `backend=debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is written to stderr.
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    log_format: Format,
    /// Lines of the log in a second, and as many warnings and errors; more are left out and counted. 0 is no limit.
    #[arg(long, default_value_t = 500, value_name = "LINES")]
    log_rate: u32,
    /// Serve /admin/drain to everybody who reaches the address; let the edge not pass it on.
    #[arg(long)]
    admin: bool,
    /// For tests: serve /admin/fault, which makes things go wrong.
    #[arg(long)]
    faults: bool,
    /// For demos: let everybody sign in under any name, with tokens that this server signs. Needs a secret.
    #[arg(long)]
    demo_login: bool,
}

pub(crate) fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Run(run) => match configure(run) {
            Ok(configured) => serve(configured).unwrap_or_else(|error| fail(&error, Exit::Failed)),
            Err(error) => fail(&error, Exit::WrongConfiguration),
        },
        Command::Backup(Backup { data, to }) => tell("backed-up", backup::back_up(&Sqlite, &data, &to)),
        Command::Restore(Restore { from, data }) => tell("restored", backup::restore(&Sqlite, &from, &data)),
        Command::Verify(Verify { from }) => tell("verified", backup::verify(&Sqlite, &from)),
    };
    ExitCode::from(exit as u8)
}

/// Says what was done with a backup.
fn tell(event: &str, done: Result<Manifest, BackupError>) -> Exit {
    let told = done.map_err(anyhow::Error::from).and_then(|manifest| {
        let mut line = serde_json::to_value(manifest).context("the manifest cannot be shown")?;
        line["event"] = event.into();
        writeln!(io::stdout(), "{line}").context("the manifest cannot be printed")
    });
    told.map_or_else(|error| fail(&error, Exit::Failed), |()| Exit::Done)
}

fn fail(error: &anyhow::Error, exit: Exit) -> Exit {
    // Nobody is left to tell when stderr is gone too.
    let _told = writeln!(io::stderr(), "warbler-im: {error:#}");
    exit
}

/// What a run needs.
struct Configured {
    config: Config,
    threads: Option<u16>,
    log: Limit,
}

fn configure(run: Box<Run>) -> anyhow::Result<Configured> {
    let log = log::start(&run.log, run.log_format, NonZeroU32::new(run.log_rate))?;
    let (verifier, signer) = keys(&run)?;
    let demo_login = if run.demo_login {
        Some(signer.context("--demo-login signs tokens: give --jwt-secret-file or WARBLER_IM_JWT_SECRET")?)
    } else {
        None
    };
    let config = Config {
        bind: run.bind,
        ports: Ports { tcp: run.tcp, agent: run.agent, proxy_from: run.proxy_from },
        data: run.data,
        node: run.node,
        verifier,
        heartbeat: run.heartbeat,
        login_timeout: run.login_timeout,
        stall_timeout: run.stall_timeout,
        max_sessions: run.max_sessions,
        limits: Limits { requests_per_second: NonZeroU32::new(run.request_rate), sessions_per_user: run.user_sessions },
        stop_grace: run.stop_grace,
        drain: Pace { rate: run.drain_rate, deadline: run.drain_deadline },
        stop_deadline: run.stop_deadline,
        admin: run.admin,
        faults: run.faults,
        demo_login,
    };
    Ok(Configured { config, threads: run.threads, log })
}

/// What tokens are checked with, and what they could be signed with if there is a secret.
fn keys(run: &Run) -> anyhow::Result<(Verifier, Option<Signer>)> {
    let mut verifier = Verifier::default();
    let mut signer = None;
    if let Some(file) = &run.jwt_secret_file {
        let secret = fs::read(file).with_context(|| format!("secret file {} cannot be read", file.display()))?;
        let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        verifier = verifier.with_secret(secret).with_context(|| format!("secret file {}", file.display()))?;
        signer = Some(Signer::new(secret));
    }
    if let Some(Secret(secret)) = &run.jwt_secret {
        verifier = verifier.with_secret(secret.as_bytes()).context("the JWT secret")?;
        signer = Some(Signer::new(secret.as_bytes()));
    }
    for file in &run.jwt_public_key_file {
        let pem = fs::read_to_string(file).with_context(|| format!("key file {} cannot be read", file.display()))?;
        verifier = verifier.with_public_key(&pem).with_context(|| format!("key file {}", file.display()))?;
    }
    anyhow::ensure!(
        verifier.has_keys(),
        "nobody could log in: give --jwt-secret-file, --jwt-public-key-file, or WARBLER_IM_JWT_SECRET"
    );
    Ok((verifier, signer))
}

fn serve(Configured { config, threads, log }: Configured) -> anyhow::Result<Exit> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads.into());
    }
    let runtime = runtime.enable_all().build().context("the runtime cannot be started")?;
    runtime.spawn(log.tell());
    let exit = runtime.block_on(run(config));
    // Whatever is still there was cut.
    runtime.shutdown_background();
    exit
}

async fn run(config: Config) -> anyhow::Result<Exit> {
    // Before anything is ready, so that no signal finds its default action.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let node = config.node.clone();
    let backend = Backend::start(config).await.context("cannot start")?;
    let addresses = backend.all_addresses();
    let ready = json!({
        "event": "ready",
        "node": node,
        "addresses": { "http": addresses.http, "tcp": addresses.tcp, "agent": addresses.agent },
        "pid": std::process::id(),
    });
    writeln!(io::stdout(), "{ready}").context("the ready line cannot be printed")?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => return Ok(at_once(&backend)),
    }
    tracing::info!(sessions = backend.sessions(), "SIGTERM: stopping");
    let Stopped { cut } = tokio::select! {
        stopped = stop(backend) => stopped,
        _ = either(&mut terminate, &mut interrupt) => {
            tracing::warn!("second signal: stopping at once");
            return Ok(Exit::Failed);
        }
    };
    Ok(if cut == 0 { Exit::Done } else { Exit::Failed })
}

async fn stop(backend: Backend) -> Stopped {
    backend.stop().await
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Every acknowledged message is durable already, so leaving at once loses nothing but politeness.
fn at_once(backend: &Backend) -> Exit {
    let cut = backend.sessions();
    tracing::warn!(cut, "SIGINT: stopping at once");
    if cut == 0 { Exit::Done } else { Exit::Failed }
}

/// A secret from the command line or the environment; never shown.
#[derive(Clone)]
struct Secret(String);

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A node's name goes into a header.
fn node(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("1 to 64 visible ASCII characters without spaces are needed".into()) }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().map_err(|_not_a_number| "a whole number is needed")?;
    if number == 0 { Err("at least 1 is needed".into()) } else { Ok(number) }
}

/// Clients are told whole seconds.
fn heartbeat(text: &str) -> Result<Duration, String> {
    let heartbeat = duration::parse(text)?;
    if heartbeat.as_secs() == 0 { Err("at least `1s` is needed".into()) } else { Ok(heartbeat) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_heartbeat_has_at_least_a_second() {
        assert_eq!(heartbeat("1s"), Ok(Duration::from_secs(1)));
        assert!(heartbeat("999ms").is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "***");
    }
}
