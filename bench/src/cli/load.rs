//! The command line of `load`.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::{SocketAddr, ToSocketAddrs},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, value_parser};
use ipnet::IpNet;

use crate::{
    drill::Kept,
    im::Secret,
    load::{
        self, MOST_PROCESSES, Settings, compare,
        countries::{self, Weighted},
        plan::{self, Announce, Habits, LONGEST, MOST_DUE, MOST_USERS, Over, Placed, Plan},
        schedule::Schedule,
        trace,
        user::STAMP,
    },
    units,
};

/// Where users connect from when the target is this machine: an address for each.
const LOOPBACK_SOURCES: &str = "127.64.0.0/12";
/// What a client can wait for an answer, and how short a session and a back-off can be: with less it would do nothing
/// else than to come and go.
const PATIENCE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
const SHORTEST_SESSION: Duration = Duration::from_millis(100);
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(10);
/// The field that edges trust, unless another is named.
const FORWARDED: &str = "X-Forwarded-For";

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 done, 1 could not be made to the end, 2 wrong command line, 4 a promise was not kept.\ndocs/load.md has examples, and says how to read the report."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares two runs by their JSON: which quantiles differ by more than the noise within the runs.
    Compare {
        /// The run before.
        before: PathBuf,
        /// The run after.
        after: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The target: HOST:PORT, an edge or a server.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// `Host` of requests, and the name in the target's certificate [default: the target as it is written].
    #[arg(long)]
    host: Option<String>,
    /// What is spoken.
    #[arg(long, value_enum, default_value = "websocket")]
    over: Over,
    /// PEM file with the authority of the target's certificate, for TLS.
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// Path of the WebSocket, or of the requests [default: /ws, over HTTP /whoami].
    #[arg(long)]
    path: Option<String>,
    /// File with the secret of HS256 tokens that the servers know; a newline at its end does not count.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Users, or connections over HTTP.
    #[arg(long, default_value_t = 100, value_parser = parse_users)]
    users: usize,
    /// Messages or requests a second.
    #[arg(long, default_value_t = 100.0, value_parser = parse_rate)]
    rate: f64,
    /// The rate at the end, reached evenly [default: the same as at the beginning].
    #[arg(long, value_parser = parse_rate)]
    rate_to: Option<f64>,
    /// How long messages or requests are due, after everybody has arrived.
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    time: Duration,
    /// New users a second until all have arrived.
    #[arg(long, default_value_t = 200.0, value_parser = parse_rate)]
    arrivals: f64,
    /// How many users share a room.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1000))]
    group: u32,
    /// Share of messages that go to the room; the others go to one other user.
    #[arg(long, default_value = "30%", value_parser = units::share)]
    in_rooms: f64,
    /// Share of users that are online and never say anything.
    #[arg(long, default_value = "0%", value_parser = units::share)]
    silent: f64,
    /// Bytes of a message or of a request's body; a request without one is a GET.
    #[arg(long, value_parser = value_parser!(u32).range(0..=60 * 1024))]
    body: Option<u32>,
    /// Mean length of a session, exponentially distributed; users stay unless set.
    #[arg(long, value_name = "MEAN", value_parser = units::duration)]
    sessions: Option<Duration>,
    /// Mean time between two sessions of a user, likewise.
    #[arg(long, value_name = "MEAN", default_value = "5s", value_parser = units::duration)]
    away: Duration,
    /// Share of sessions that end by a reset, as when a network changes; the others end in order.
    #[arg(long, default_value = "50%", value_parser = units::share)]
    cut: f64,
    /// The most that a client waits before its first try to come back after a broken connection.
    #[arg(long, default_value = "1s", value_parser = units::duration)]
    back_off: Duration,
    /// The most that it waits after many tries in vain.
    #[arg(long, default_value = "60s", value_parser = units::duration)]
    back_off_longest: Duration,
    /// How long a client waits for an answer, and the end of the run for acknowledgements.
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    patience: Duration,
    /// Networks to connect from, an address for each user [default: 127.64.0.0/12 to this machine, else the kernel's].
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    sources: Vec<IpNet>,
    /// Countries where users are, with weights: `DE=3,JP=2`.
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',', value_parser = countries::parse, requires = "geoip", conflicts_with = "trace")]
    countries: Vec<Weighted>,
    /// The GeoIP database (MMDB) in which addresses of these countries are looked for.
    #[arg(long, value_name = "FILE", requires = "countries")]
    geoip: Option<PathBuf>,
    /// Who does what when: lines of `offset,address,action` (docs/load.md), instead of users, rate, time and sessions.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How addresses of countries and traces are told to the target: `proxy-v2`, or the name of a field
    /// [default: proxy-v2, over HTTP X-Forwarded-For].
    #[arg(long, value_name = "HOW")]
    announce: Option<String>,
    /// Processes to split the users over [default: as many as their descriptors need].
    #[arg(long, value_parser = parse_processes)]
    processes: Option<usize>,
    /// Saves everything that was measured as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Saves the report as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Does not ask for all conversations at the end and hold them against what was promised.
    #[arg(long)]
    no_check: bool,
    /// Allows a target outside of this machine and of private networks.
    #[arg(long)]
    target_is_mine: bool,
}

impl Arguments {
    /// Does what was asked for.
    pub(super) async fn run(self) -> Result<Kept> {
        match self.command {
            Some(Command::Compare { before, after }) => compare::run(&before, &after).map(|()| Kept::All),
            None => load::run(self.run.settings()?).await,
        }
    }

    /// Whether something is missing that clap cannot know of.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.command.is_some() {
            return None;
        }
        self.run.check().err().map(|error| format!("{error:#}"))
    }
}

impl RunArguments {
    /// Everything that is wrong with the command line alone.
    fn check(&self) -> Result<()> {
        ensure!(self.to.is_some(), "--to HOST:PORT is missing: what the load is for");
        ensure!(self.over.is_http() || self.secret_file.is_some(), "--secret-file is missing: users have to log in");
        ensure!(
            !self.over.is_tls() || self.authority.is_some(),
            "--authority is missing: whose certificates are believed"
        );
        ensure!(!self.time.is_zero() && self.time <= LONGEST, "--time is from more than nothing to {LONGEST:?}");
        let due = self.schedule().count();
        ensure!(due <= MOST_DUE, "{due} messages or requests are more than the {MOST_DUE} of one run");
        ensure!(due > 0, "nothing would be due: --rate times --time is less than one");
        self.check_clients()?;
        self.check_target()
    }

    /// What is wrong with how clients behave.
    fn check_clients(&self) -> Result<()> {
        let arriving = plan::arrival(self.users, self.arrivals);
        ensure!(
            self.over.is_http() || self.trace.is_some() || arriving <= LONGEST,
            "{} users at {} a second take longer to arrive than {LONGEST:?}: more --arrivals",
            self.users,
            self.arrivals
        );
        ensure!(PATIENCE.contains(&self.patience), "--patience is from {:?} to {:?}", PATIENCE.start(), PATIENCE.end());
        ensure!(
            self.sessions.is_none_or(|mean| mean >= SHORTEST_SESSION),
            "--sessions is at least {SHORTEST_SESSION:?}: shorter ones would only come and go"
        );
        ensure!(self.back_off >= SHORTEST_BACK_OFF, "--back-off is at least {SHORTEST_BACK_OFF:?}");
        ensure!(self.back_off <= self.back_off_longest, "--back-off is longer than --back-off-longest");
        ensure!(
            self.over.is_http() || self.body.is_none_or(|body| body as usize >= STAMP),
            "--body of a message is at least {STAMP} bytes, in which it says when it was due"
        );
        let parts = plan::most_parts(self.users, self.group as usize, self.over.is_http());
        ensure!(
            self.trace.is_some() || self.processes.is_none_or(|processes| processes <= parts),
            "more processes than users can be split over: {parts}, because those of a room and of a pair stay together"
        );
        Ok(())
    }

    /// What is wrong with whom and how clients ask.
    fn check_target(&self) -> Result<()> {
        let path = self.path.as_deref().unwrap_or("/");
        ensure!(
            path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok(),
            "--path {path:?} is no path: it begins with / and has no spaces"
        );
        let host = self.host.as_deref().unwrap_or_default();
        ensure!(http::HeaderValue::from_str(host).is_ok(), "--host {host:?} cannot be in a request");
        ensure!(
            self.announce.is_none() || !self.countries.is_empty() || self.trace.is_some(),
            "--announce has nothing to tell without --countries or --trace"
        );
        let field = self.announce.as_deref().filter(|how| *how != "proxy-v2");
        ensure!(
            field.is_none() || !matches!(self.over, Over::Tcp | Over::TcpTls),
            "--announce {}: over TCP there are no fields; proxy-v2 is what there is",
            field.unwrap_or_default()
        );
        Ok(())
    }

    fn schedule(&self) -> Schedule {
        Schedule { from: self.rate, to: self.rate_to.unwrap_or(self.rate), time: self.time.as_secs_f64() }
    }

    fn settings(self) -> Result<Settings> {
        let to = self.to.clone().context("no target")?;
        let target = resolve(&to)?;
        ensure!(
            self.target_is_mine || plan::is_near(target.ip()),
            "{target} is neither this machine nor in a private network: load hurts whoever is not asked. \
             --target-is-mine says that you may"
        );
        let trace = self.trace.as_deref().map(|file| read_trace(file, self.over.is_http())).transpose()?;
        let places = match (&trace, &self.geoip) {
            (Some(trace), _) => {
                let place = |address: &std::net::IpAddr| Placed { country: String::new(), address: *address };
                trace.addresses.iter().map(place).collect()
            }
            (None, Some(database)) => countries::place(self.users, &self.countries, database)?,
            (None, None) => Vec::new(),
        };
        let places: BTreeMap<usize, Placed> = places.into_iter().enumerate().collect();
        if let Some(other) = self.sources.iter().find(|network| network.addr().is_ipv4() != target.is_ipv4()) {
            bail!("--sources {other}: nobody gets from there to {target}, which is of the other family of addresses");
        }
        let drawn_from = self.drawn_from(trace.as_ref());
        let secret = match &self.secret_file {
            Some(file) => Secret::from(read(file)?.trim_end_matches('\n').to_owned()),
            None => Secret::random(),
        };
        let sources = match (&self.sources[..], target.ip().is_loopback() && target.is_ipv4()) {
            ([], true) => vec![LOOPBACK_SOURCES.parse().context("a network")?],
            (given, _) => given.to_vec(),
        };
        let http = self.over.is_http();
        let mut schedule = self.schedule();
        if let Some(last) = trace.as_ref().and_then(|trace| trace.entries.last()) {
            // What is not read is a rate; the time is that of the trace.
            schedule = Schedule { from: 0.0, to: 0.0, time: last.at.max(1.0) };
        }
        let plan = Plan {
            target,
            host: self.host.unwrap_or(to),
            path: self.path.unwrap_or_else(|| if http { "/whoami" } else { "/ws" }.into()),
            over: self.over,
            authority: self.authority.as_deref().map(read).transpose()?,
            run: std::iter::repeat_with(fastrand::alphanumeric).take(6).collect(),
            users: trace.as_ref().map_or(self.users, |trace| trace.addresses.len()),
            group: self.group as usize,
            in_rooms: self.in_rooms,
            silent: self.silent,
            body: self.body.unwrap_or(if http { 0 } else { 200 }) as usize,
            arrivals: self.arrivals,
            schedule,
            habits: Habits {
                session: self.sessions.map(|mean| mean.as_secs_f64()),
                away: self.away.as_secs_f64(),
                cut: self.cut,
                back_off_first: self.back_off.as_secs_f64(),
                back_off_longest: self.back_off_longest.as_secs_f64(),
            },
            announce: announce(self.announce.as_deref(), !places.is_empty(), http)?,
            sources,
            patience: self.patience.as_secs_f64(),
            check: !self.no_check,
            drawn_from,
            places,
            trace: trace.map(|trace| trace.entries),
        };
        // Said before anything is started.
        plan.tls()?;
        let parts = plan.most_parts();
        ensure!(
            self.processes.is_none_or(|processes| processes <= parts),
            "the {} users of the trace can be split over {parts} processes at most",
            plan.users
        );
        ensure!(plan.trace.is_some() || plan.talkers(1) != [0], "--silent leaves nobody who says anything");
        Ok(Settings { plan, secret, processes: self.processes, json: self.json, html: self.html })
    }
}

impl RunArguments {
    /// What is left in a report of who was where, and did what: countries as they were given, or a fingerprint of the trace.
    fn drawn_from(&self, trace: Option<&trace::Trace>) -> Option<String> {
        if let Some(trace) = trace {
            let mut hasher = DefaultHasher::new();
            trace.addresses.hash(&mut hasher);
            trace.entries.iter().for_each(|entry| (entry.at.to_bits(), entry.user, entry.action).hash(&mut hasher));
            return Some(format!("a trace with the fingerprint {:016x}", hasher.finish()));
        }
        let weights = self.countries.iter().map(|weighted| format!("{}={}", weighted.country, weighted.weight));
        (!self.countries.is_empty()).then(|| weights.collect::<Vec<_>>().join(","))
    }
}

fn announce(how: Option<&str>, placed: bool, http: bool) -> Result<Announce> {
    Ok(match how {
        _ if !placed => Announce::Nothing,
        Some("proxy-v2") => Announce::ProxyV2,
        None if !http => Announce::ProxyV2,
        None => Announce::Field(FORWARDED.into()),
        Some(name) => {
            ensure!(
                name.parse::<http::HeaderName>().is_ok(),
                "--announce {name:?} is neither proxy-v2 nor a field's name"
            );
            Announce::Field(name.into())
        }
    })
}

fn resolve(to: &str) -> Result<SocketAddr> {
    let mut found = to.to_socket_addrs().with_context(|| format!("--to {to} is no address: HOST:PORT"))?;
    found.next().with_context(|| format!("{to} has no address"))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn read_trace(file: &Path, http: bool) -> Result<trace::Trace> {
    match trace::parse(&read(file)?, http) {
        Ok(trace) => {
            ensure!(trace.addresses.len() <= MOST_USERS, "more than {MOST_USERS} addresses");
            Ok(trace)
        }
        Err(wrong) => bail!("{} is no trace:\n  {}", file.display(), wrong.join("\n  ")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1_000_000.0 => Ok(rate),
        _ => Err("a rate above nothing and up to 1000000 a second".into()),
    }
}

fn parse_users(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|users| (1..=MOST_USERS).contains(users)).ok_or(format!("from 1 to {MOST_USERS}"))
}

fn parse_processes(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=MOST_PROCESSES).contains(count)).ok_or(format!("from 1 to {MOST_PROCESSES}"))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/load.md");

    #[test]
    fn the_page_has_every_option_and_no_other() {
        let command = Arguments::augment_args(Command::new("load"));
        let own: Vec<String> =
            command.get_arguments().filter_map(|option| Some(format!("--{}", option.get_long()?))).collect();
        let word = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>();
        let told: Vec<String> = PAGE.match_indices("--").map(|(at, _)| word(&PAGE[at..])).collect();
        for option in own.iter().filter(|option| !matches!(&***option, "--help")) {
            assert!(told.contains(option), "docs/load.md does not tell of {option}");
        }
        for option in told.iter().filter(|option| option.len() > 2 && !option.starts_with("---")) {
            assert!(own.contains(option), "docs/load.md tells of {option}, which there is not");
        }
    }
}
