//! `warbler simulate`: what a configuration would do with clients that came before, or that are made up.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Code, say};
use crate::config::units::{Period, Rate};
use crate::config::{Config, OpenFiles, load};
use crate::simulate::crowd::{self, Crowd, Places};
use crate::simulate::{Outage, Report, Scenario, SimulateError, Simulation, picture};
use crate::trace::{self, Lines};

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The main configuration file.
    #[arg(long, env = "WARBLER_CONFIG")]
    config: PathBuf,
    /// Clients that came: an access log or another trace, one JSON object a line; `-` reads stdin.
    #[arg(long, value_name = "TRACE", required_unless_present = "generate", conflicts_with = "generate")]
    clients: Option<PathBuf>,
    /// Makes so many clients up instead.
    #[arg(long, value_name = "COUNT")]
    generate: Option<u64>,
    /// Writes the generated clients to this file, too, as a trace: to try them on other configurations.
    #[arg(long, value_name = "FILE", requires = "generate")]
    trace_out: Option<PathBuf>,
    /// Where generated clients are, each place with its share: countries, or latitude/longitude.
    #[arg(
        long,
        value_name = "DE=30,48.9/2.4=20",
        default_value = "US=30,DE=20,BR=15,IN=20,JP=15",
        conflicts_with = "clients"
    )]
    countries: Places,
    /// How many generated clients come in a time.
    #[arg(long, default_value = "200/s", value_parser = simulated_rate, conflicts_with = "clients")]
    rate: Rate,
    /// How long a generated client stays, on average.
    #[arg(long, default_value = "30m", conflicts_with = "clients")]
    lifetime: Period,
    /// A second configuration: who would go elsewhere with it?
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// A locality or endpoint that is down: `fra`, `im/fra`, `10.1.0.4:5222`, or for a time since the first client
    /// `fra@10m..20m`. May be given several times.
    #[arg(long, value_name = "LOCALITY")]
    fail: Vec<Outage>,
    /// How many clients come for each one of the trace.
    #[arg(long, value_name = "1.5x", default_value = "1x", value_parser = load_factor)]
    load: f64,
    /// Equal seeds give equal results.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Writes a picture to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Fewer would not come within any span that is simulated.
const LOWEST_RATE: f64 = 0.05 / 3_600.0;

fn simulated_rate(text: &str) -> Result<Rate, String> {
    let rate: Rate = text.parse().map_err(|error: crate::config::units::UnitError| error.to_string())?;
    if rate.per_second >= LOWEST_RATE { Ok(rate) } else { Err("must be at least 0.05/h, about one a day".to_owned()) }
}

fn load_factor(text: &str) -> Result<f64, String> {
    let factor = text.strip_suffix('x').unwrap_or(text).parse::<f64>().ok();
    factor.filter(|factor| (0.001..=1000.0).contains(factor)).ok_or_else(|| "must be 0.001x to 1000x".to_owned())
}

pub fn simulate(args: &SimulateArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let mut configs = Vec::new();
    for file in std::iter::once(&args.config).chain(&args.against) {
        configs.push(loaded(file, err));
    }
    let Some(configs) = configs.into_iter().collect::<Option<Vec<_>>>() else { return Code::WrongConfig };
    let scenario = Scenario { seed: args.seed, load: args.load, outages: args.fail.clone() };
    match run(args, scenario, configs, err).and_then(|report| show(args, &report, out).map_err(failed)) {
        Ok(()) => Code::Done,
        Err((code, error)) => {
            say(err, format!("error: {error}"));
            code
        }
    }
}

/// What a run ends with that did not get to its end, and why.
type Ended = (Code, String);

fn failed(error: String) -> Ended {
    (Code::Failed, error)
}

fn refused(error: SimulateError) -> Ended {
    (if error.is_usage() { Code::Usage } else { Code::Failed }, error.to_string())
}

fn loaded(file: &Path, err: &mut dyn Write) -> Option<(String, Config)> {
    match load(file, OpenFiles::Yes) {
        Ok(loaded) => Some((file.display().to_string(), loaded.config)),
        Err(report) => {
            say(err, report.render(&format!("{} is wrong and nothing was simulated", file.display())));
            None
        }
    }
}

fn run(
    args: &SimulateArgs,
    scenario: Scenario,
    configs: Vec<(String, Config)>,
    err: &mut dyn Write,
) -> Result<Report, Ended> {
    let seed = scenario.seed;
    let mut simulation = Simulation::new(scenario, configs).map_err(refused)?;
    let lines = match (&args.clients, args.generate) {
        (Some(file), _) => Some(read_trace(file, &mut simulation, err).map_err(failed)?),
        (None, count) => {
            let (clients, places) = (count.unwrap_or(0), args.countries.clone());
            let (per_second, lifetime) = (args.rate.per_second, args.lifetime.0);
            let crowd = Crowd { clients, per_second, lifetime, places, seed };
            if let Some(file) = &args.trace_out {
                write_trace(&crowd, file).map_err(failed)?;
            }
            crowd.for_each(|visit| simulation.admit(visit));
            None
        }
    };
    let report = simulation.run().map_err(refused)?;
    Ok(Report { lines, ..report })
}

/// Admits every client of a trace; `-` is stdin.
///
/// # Errors
/// When it cannot be read to its end.
pub(super) fn read_trace(file: &Path, simulation: &mut Simulation, err: &mut dyn Write) -> Result<Lines, String> {
    let complain = |broken: &trace::Broken| say(err, broken);
    let admit = |visit: &trace::Visit<'_>| simulation.admit(visit);
    let lines = if file == Path::new("-") {
        trace::read(io::stdin().lock(), "stdin", admit, complain)
    } else {
        let open = File::open(file).map_err(|cause| format!("{} cannot be opened: {cause}", file.display()))?;
        trace::read(BufReader::with_capacity(1 << 18, open), &file.display().to_string(), admit, complain)
    };
    lines.map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

fn write_trace(crowd: &Crowd, file: &Path) -> Result<(), String> {
    let write = || {
        let mut out = BufWriter::new(File::create(file)?);
        let mut written = Ok(());
        crowd.for_each(|visit| {
            if written.is_ok() {
                written = crowd::write_line(visit, &mut out);
            }
        });
        written.and_then(|()| out.flush())
    };
    write().map_err(|cause: io::Error| format!("{} cannot be written: {cause}", file.display()))
}

fn show(args: &SimulateArgs, report: &Report, out: &mut dyn Write) -> Result<(), String> {
    if let Some(file) = &args.svg {
        let written = std::fs::write(file, picture::svg(report));
        written.map_err(|cause| format!("{} cannot be written: {cause}", file.display()))?;
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(report).map_err(|error| error.to_string())?,
        false => report.to_string(),
    };
    writeln!(out, "{text}").map_err(|error| error.to_string())
}
