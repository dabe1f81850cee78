//! What the reference server costs and carries: memory of a session that is logged in and silent, and messages
//! acknowledged in a second through an edge, with the load on the same cores.
//!
//! Always true: only the server's memory is counted, and sessions that did not survive fail the run; a message counts
//! when its acknowledgement has come, durable as always.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    edge::Edge,
    harness::{CpuClock, Launch, Process, Workspace, binary, raise_open_files},
    im::{Door, Secret, Session},
    measure::Watched,
    output,
    report::{Machine, Section, Span, command_line, today},
};

const SPAN: Span = Span {
    begin: "<!-- reference: begin (written by `warbler-bench reference --write`) -->",
    end: "<!-- reference: end -->",
};
/// Sessions that come and go before memory is looked at, so that what the server makes once is not counted.
const WARM_UP: usize = 50;
/// Logins at a time.
const AT_ONCE: usize = 32;
/// How long a token is good: longer than a run.
const TOKEN: Duration = Duration::from_secs(3600);
/// The longest that people may talk: tokens are good beyond it, with the logins before.
pub const LONGEST: Duration = Duration::from_secs(3000);
/// Bytes of what is said.
const BODY: usize = 100;
/// From the last login until what is said counts.
const SETTLING: Duration = Duration::from_secs(1);

/// How much is measured, and where the outcome goes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Idle sessions.
    pub sessions: usize,
    /// People who talk, in pairs, each with one message on its way.
    pub talkers: usize,
    /// How long they talk.
    pub time: Duration,
    pub save: Option<PathBuf>,
    pub write: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    date: String,
    command: String,
    machine: Machine,
    sessions: usize,
    /// KB (1000 bytes) of the server's memory (PSS) for each session.
    idle_kb: f64,
    talkers: usize,
    seconds: f64,
    /// Messages by second.
    acknowledged: f64,
    /// Milliseconds from sending to the acknowledgement.
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time in microseconds for each message.
    edge_us: f64,
    server_us: f64,
    load_us: f64,
}

/// Measures both, prints the report, and saves and writes it where the settings say.
///
/// # Errors
/// When a program is not there or does not do its work, or a file cannot be written.
pub async fn run(settings: Settings) -> Result<()> {
    let section = settings.write.as_deref().map(|file| Section::open(file, SPAN)).transpose()?;
    let open = settings.sessions.max(2 * settings.talkers) + 500;
    raise_open_files(open.try_into()?)?;
    let workspace = Workspace::new()?;
    let report = measure(&settings, &workspace).await.inspect_err(|_| workspace.keep())?;
    output::data(report.markdown());
    if let Some(file) = &settings.save {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
        output::talk(format!("saved: {}", file.display()));
    }
    if let Some(section) = section {
        section.write(&report.markdown())?;
        output::talk(format!("written: {}", section.file().display()));
    }
    Ok(())
}

async fn measure(settings: &Settings, workspace: &Workspace) -> Result<Report> {
    let secret = Secret::random();
    let secret_file = workspace.write("jwt.secret", secret.reveal())?;
    output::talk(format!("{} idle sessions", settings.sessions));
    let idle_kb = idle(settings, workspace, &secret, &secret_file).await?;
    output::talk(format!("{} people talk for {:?}", settings.talkers, settings.time));
    let talk = talk(settings, workspace, &secret, &secret_file).await?;
    let by_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / talk.acknowledged;
    let ms = |quantile| as_float(talk.latency.value_at_quantile(quantile)) / 1000.0;
    Ok(Report {
        date: today(),
        command: command_line(),
        machine: Machine::this(),
        sessions: settings.sessions,
        idle_kb,
        talkers: settings.talkers,
        seconds: talk.seconds,
        acknowledged: talk.acknowledged / talk.seconds,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        edge_us: by_message(talk.edge),
        server_us: by_message(talk.server),
        load_us: by_message(talk.load),
    })
}

async fn server(workspace: &Workspace, name: &str, secret_file: &Path) -> Result<Process> {
    let launch = Launch::new(binary("warbler-im")?)
        .name(name)
        // Messages of a crowd that talks as fast as it can, and no more lines in the log than somebody would read.
        .args(["run", "--bind", "127.0.0.1:0", "--request-rate", "0", "--log-rate", "10", "--data"])
        .arg(workspace.path(name))
        .arg("--jwt-secret-file")
        .arg(secret_file);
    Process::start(workspace, launch).await
}

/// KB by session, straight at the server.
async fn idle(settings: &Settings, workspace: &Workspace, secret: &Secret, secret_file: &Path) -> Result<f64> {
    let server = server(workspace, "idle", secret_file).await?;
    let address = server.address("http", 0)?;
    let watched = Watched::alone(server.pid());
    for session in log_in(address, secret, "early", WARM_UP).await? {
        session.leave().await?;
    }
    let before = watched.settled_memory().await?;
    let mut sessions = log_in(address, secret, "idle", settings.sessions).await?;
    let after = watched.settled_memory().await?;
    for session in &mut sessions {
        session.ping().await.context("an idle session did not survive")?;
    }
    Ok((after - before) / 1000.0 / as_float(sessions.len().try_into()?))
}

async fn log_in(address: SocketAddr, secret: &Secret, name: &str, count: usize) -> Result<Vec<Session>> {
    let open = |number| async move {
        let token = secret.token(&format!("{name}{number:05}"), TOKEN);
        Session::open(&Door::new(address), token, "phone", None).await
    };
    Ok(stream::iter(0..count).map(open).buffered(AT_ONCE).try_collect().await?)
}

/// What happened while they talked.
struct Talk {
    seconds: f64,
    acknowledged: f64,
    /// In microseconds.
    latency: Histogram<u64>,
    edge: Duration,
    server: Duration,
    load: Duration,
}

async fn talk(settings: &Settings, workspace: &Workspace, secret: &Secret, secret_file: &Path) -> Result<Talk> {
    let server = server(workspace, "talk", secret_file).await?;
    let configuration = configuration(server.address("http", 0)?);
    let edge = Edge::start(workspace, workspace.write("edge.toml", configuration)?).await?;
    edge.ready().await?;
    let sessions = log_in(edge.listener("im")?, secret, "talk", settings.talkers.max(2) & !1).await?;
    let clock = CpuClock::of_this_machine();
    let cpu = || -> Result<[Duration; 3]> {
        let pids = [edge.process.pid(), server.pid(), std::process::id()];
        let times: Vec<_> = pids.into_iter().map(|pid| clock.cpu_time(pid)).collect::<Result<_>>()?;
        Ok([times[0], times[1], times[2]])
    };
    let begin = Instant::now() + SETTLING;
    let end = begin + settings.time;
    let talking = stream::iter(sessions.into_iter().enumerate());
    let talking = talking.map(|(number, session)| talk_on(number, session, begin, end));
    let all = talking.buffer_unordered(settings.talkers.max(2)).try_collect::<Vec<Said>>();
    let used = async {
        tokio::time::sleep_until(begin).await;
        let before = cpu()?;
        tokio::time::sleep_until(end).await;
        let after = cpu()?;
        Ok::<_, anyhow::Error>([0, 1, 2].map(|which| after[which].saturating_sub(before[which])))
    };
    let (said, [edge, server, load]) = tokio::try_join!(all, used)?;
    let mut latency = Histogram::new_with_bounds(1, 600_000_000, 3).context("no histogram")?;
    for took in said.iter().flat_map(|said| &said.took) {
        latency.saturating_record(*took);
    }
    let acknowledged = said.iter().map(|said| said.acknowledged).sum();
    ensure!(acknowledged > 0, "nothing was acknowledged");
    let acknowledged = as_float(acknowledged);
    Ok(Talk { seconds: settings.time.as_secs_f64(), acknowledged, latency, edge, server, load })
}

/// What somebody said.
#[derive(Default)]
struct Said {
    /// Microseconds of everything that was said between beginning and end. What was on its way at the end is waited for:
    /// it may be what takes longest.
    took: Vec<u64>,
    /// Acknowledgements that came between beginning and end.
    acknowledged: u64,
}

/// Says one thing after the other to the other one of the pair.
async fn talk_on(number: usize, mut session: Session, begin: Instant, end: Instant) -> Result<Said> {
    let name = |number| format!("talk{number:05}");
    let conv = format!("dm:{}:{}", name(number & !1), name(number | 1));
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut said = Said::default();
    while Instant::now() < end {
        let id: [u8; 16] = fastrand::u128(..).to_be_bytes();
        let sent = Instant::now();
        session.send(&conv, Bytes::copy_from_slice(&id), body.clone()).await?;
        if sent >= begin {
            said.took.push(u64::try_from(sent.elapsed().as_micros())?);
        }
        said.acknowledged += u64::from((begin..end).contains(&Instant::now()));
    }
    Ok(said)
}

fn configuration(server: SocketAddr) -> String {
    format!(
        "[edge]\nname = \"reference\"\nworkers = 1\n\n[admin]\nbind = [\"127.0.0.1:0\"]\n\n[listeners.im]\nbind = \
         [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\n[[listeners.im.routes]]\npath-prefix = \"/ws\"\ncluster = \
         \"im\"\n\n[clusters.im.localities.here]\nendpoints = [{{ address = \"{server}\" }}]\n"
    )
}

impl Report {
    fn markdown(&self) -> String {
        let Self { sessions, idle_kb, talkers, seconds, acknowledged, p50_ms, p99_ms, .. } = self;
        let Self { edge_us, server_us, load_us, .. } = self;
        let headline = self.machine.headline(&self.date, &self.command);
        format!(
            "{headline}\n\n| | |\n|---|---|\n| memory of `warbler-im` by idle session over WebSocket, {sessions} of them \
             | **{idle_kb:.2} KB** |\n| messages acknowledged through the edge, {talkers} people in pairs, {seconds:.0} s \
             | **{acknowledged:.0} a second** |\n| from sending to the acknowledgement | p50 {p50_ms:.1} ms, p99 \
             {p99_ms:.1} ms |\n| processor time by message | edge {edge_us:.0} µs, server {server_us:.0} µs, load \
             {load_us:.0} µs |\n"
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}
