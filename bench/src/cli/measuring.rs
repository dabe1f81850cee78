//! The command lines of what measures: `compare` and `growth`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Args, value_parser};

use crate::{
    compare,
    growth::{self, Variation},
    measure::{Cores, Programs, Row, Size},
    units,
};

#[derive(Debug, Args)]
pub(super) struct Compare {
    /// How often everything is measured; the proxies take turns, and medians are reported.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measures these only: rows (`message/tcp`) or measures (`message`), with commas between. A wrong name lists all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Named::parse)]
    only: Vec<Named>,
    /// Messages of 200 bytes for the CPU figures, each sent and echoed.
    #[arg(long, default_value_t = 40_000, value_parser = value_parser!(u32).range(100..))]
    messages: u32,
    /// HTTP requests for the CPU figures.
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(100..))]
    requests: u32,
    /// Tunnels that come, carry one message and go. No more than there are ports, which rest for a while.
    #[arg(long, default_value_t = 3000, value_parser = value_parser!(u32).range(10..=20_000))]
    new_connections: u32,
    /// Connections that carry the messages and requests, one in flight on each; over HTTP/2, requests in flight.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    active: u32,
    /// Idle tunnels held open for the memory by tunnel. Each takes two descriptors of the proxy.
    #[arg(long, default_value_t = 2000, value_parser = value_parser!(u32).range(1..=9000))]
    connections: u32,
    /// Tunnels that are opened and then closed all at once.
    #[arg(long, default_value_t = 4000, value_parser = value_parser!(u32).range(1..=9000))]
    mass: u32,
    /// From closing them to the look at the memory that came back.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    rest: Duration,
    /// MiB to download, a quarter of it with TLS.
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u64).range(1..))]
    bulk: u64,
    /// Messages by second where latency is measured [default: half of what the slowest proxy can do].
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long messages are sent at that rate.
    #[arg(long, default_value_t = 4.0, value_parser = parse_seconds)]
    seconds: f64,
    #[command(flatten)]
    place: Place,
    /// Saves every single measurement, settings, versions and configurations as JSON.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Saves the picture: every figure as a multiple of the better other.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Writes the report into the marked section of this Markdown file, and makes the file if there is none; the picture
    /// goes into a folder beside it (docs/performance.md: docs/performance/compare.svg).
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Growth {
    /// How often everything is measured; medians are reported.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Varies these only, with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<Variation>,
    /// Measures these only: rows (`message/tcp`) or measures (`message`), with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Named::parse)]
    rows: Vec<Named>,
    /// Measures nginx and HAProxy as well, by open connections.
    #[arg(long)]
    with_peers: bool,
    /// Messages for each figure: with reloads, enough for some of them to happen meanwhile.
    #[arg(long, default_value_t = 200_000, value_parser = value_parser!(u32).range(100..))]
    messages: u32,
    /// HTTP requests for each figure.
    #[arg(long, default_value_t = 60_000, value_parser = value_parser!(u32).range(100..))]
    requests: u32,
    /// Tunnels that come, carry one message and go. No more than there are ports, which rest for a while.
    #[arg(long, default_value_t = 12_000, value_parser = value_parser!(u32).range(10..=20_000))]
    new_connections: u32,
    /// Messages and requests in flight.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    active: u32,
    /// Idle tunnels held open for the memory by tunnel, where their number is not what varies.
    #[arg(long, default_value_t = 2000, value_parser = value_parser!(u32).range(1..=9000))]
    connections: u32,
    /// Tunnels that are closed all at once, where their number is not what varies.
    #[arg(long, default_value_t = 4000, value_parser = value_parser!(u32).range(1..=9000))]
    mass: u32,
    /// From closing them to the look at the memory that came back.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    rest: Duration,
    /// MiB to download.
    #[arg(long, default_value_t = 2048, value_parser = value_parser!(u64).range(1..))]
    bulk: u64,
    /// Messages by second where latency is measured. With 9000 connections, at least one message for each has to be due.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// How long messages are sent at that rate.
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    seconds: f64,
    #[command(flatten)]
    place: Place,
    /// Saves every single measurement, settings and versions as JSON.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Writes the report into the marked section of this Markdown file, and makes the file if there is none.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// The rows that one name stands for.
#[derive(Debug, Clone)]
struct Named(Vec<Row>);

#[derive(Debug, Args)]
struct Place {
    /// The core for the proxy.
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// The core for the load and the endpoints.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// The warbler to measure [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    warbler: Option<PathBuf>,
    /// The nginx to measure.
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// The HAProxy to measure.
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
}

impl Compare {
    pub(super) fn settings(self) -> compare::Settings {
        let size = Size {
            connections: self.connections as usize,
            messages: self.messages as usize,
            requests: self.requests as usize,
            active: self.active as usize,
            new_connections: self.new_connections as usize,
            mass: self.mass as usize,
            rest: self.rest,
            bulk_mib: self.bulk,
            time: Duration::from_secs_f64(self.seconds),
        };
        compare::Settings {
            rounds: self.rounds,
            only: self.only.into_iter().flat_map(|named| named.0).collect(),
            size,
            rate: self.rate.map(f64::from),
            cores: self.place.cores(),
            programs: self.place.programs(),
            save: self.save,
            svg: self.svg,
            write: self.write,
        }
    }
}

impl Growth {
    pub(super) fn settings(self) -> growth::Settings {
        let size = Size {
            messages: self.messages as usize,
            requests: self.requests as usize,
            active: self.active as usize,
            new_connections: self.new_connections as usize,
            connections: self.connections as usize,
            mass: self.mass as usize,
            rest: self.rest,
            bulk_mib: self.bulk,
            time: Duration::from_secs_f64(self.seconds),
        };
        growth::Settings {
            rounds: self.rounds,
            only: self.only,
            rows: self.rows.into_iter().flat_map(|named| named.0).collect(),
            rate: f64::from(self.rate),
            size,
            with_peers: self.with_peers,
            cores: self.place.cores(),
            programs: self.place.programs(),
            save: self.save,
            write: self.write,
        }
    }
}

impl Named {
    fn parse(name: &str) -> Result<Self> {
        Row::named(name).map(Self)
    }
}

impl Place {
    fn cores(&self) -> Cores {
        Cores { proxy: self.proxy_core, load: self.load_core }
    }

    fn programs(self) -> Programs {
        Programs { warbler: self.warbler, nginx: self.nginx, haproxy: self.haproxy }
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.1 to 60".into()),
    }
}
