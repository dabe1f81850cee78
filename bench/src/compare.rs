//! warbler beside nginx and HAProxy: the same work, the same core, taking turns.
//!
//! Why turns and not one after the other: a machine's speed drifts (clock, neighbours, temperature), and a proxy
//! measured in a good minute looks better than it is. Every round measures every proxy once, in another order; ratios are
//! made within a round, and their medians are reported, with the spread beside them.

mod picture;
mod plan;
mod report;
mod samples;
mod targets;
mod verdict;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    measure::{
        Circumstances, Cores, Measurement, Programs, Row, Size, Stage,
        peer::{self, Peer},
        row::Measure,
    },
    output,
    report::{Progress, Section, Span},
};
use plan::Step;
use report::Report;
use samples::Samples;

const SPAN: Span = Span {
    begin: "<!-- compare: begin (written by `warbler-bench compare --write`) -->",
    end: "<!-- compare: end -->",
};
/// Of what the slowest proxy can do in a closed loop.
const LOAD: f64 = 0.5;
/// Microseconds (p99) within which the load has its answers straight from the endpoint. With more messages than that
/// their core is full, and it is their own waiting that is measured.
const ON_TIME: f64 = 250.0;
/// How often a rate is halved for it.
const HALVINGS: u32 = 4;

/// What to compare, with what, and where the outcome goes.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rounds: u32,
    /// All rows when empty.
    pub only: Vec<Row>,
    pub size: Size,
    /// Messages by second where latency is measured; half of what the slowest proxy can do unless set.
    pub rate: Option<f64>,
    pub cores: Cores,
    pub programs: Programs,
    pub save: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub write: Option<PathBuf>,
}

/// Messages by second for each row of latency.
type Rates = HashMap<Row, f64>;

/// Measures everything, prints the report, and saves and writes it where the settings say.
///
/// # Errors
/// When none of the proxies is there, one of them does not do its work, or a file cannot be written. Nothing is
/// written then.
pub async fn run(settings: Settings) -> Result<()> {
    // Found now, a file that cannot be written does not cost the whole run.
    let section = settings.write.as_deref().map(|file| Section::open(file, SPAN)).transpose()?;
    let rows = Row::chosen(&settings.only);
    let stage = Stage::new(settings.cores, settings.size, most_tunnels(&rows, settings.size))?;
    let peers = peer::present(&settings.programs, stage.workspace()).await;
    if peers.is_empty() {
        bail!("none of the proxies is there: nothing to compare");
    }
    let rates = rates(&stage, &rows, &peers, settings.rate).await.inspect_err(|_| stage.workspace().keep())?;
    let samples = measure_all(&stage, &plan::steps(settings.rounds, &rows, &peers), &rates).await;
    let samples = samples.inspect_err(|_| stage.workspace().keep())?;
    let report = Report::new(settings.rounds, &stage, rows, &peers, rates, samples);
    deliver(&settings, section, &report)
}

fn deliver(settings: &Settings, section: Option<Section>, report: &Report) -> Result<()> {
    let picture = section.as_ref().map(|section| section.file().with_extension("").join("compare.svg"));
    output::data(report.markdown(None));
    if let Some(file) = &settings.save {
        write(file, &report.json()?)?;
    }
    for file in settings.svg.iter().chain(&picture) {
        write(file, &picture::svg(report))?;
    }
    if let (Some(section), Some(picture)) = (section, picture) {
        section.write(&report.markdown(Some(&beside(section.file(), &picture))))?;
        output::talk(format!("written: {}", section.file().display()));
    }
    Ok(())
}

/// The picture as a link from the file, in the same folder or below.
fn beside(file: &Path, picture: &Path) -> String {
    let folder = file.parent().unwrap_or(Path::new(""));
    picture.strip_prefix(folder).unwrap_or(picture).display().to_string()
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    folder.and_then(|()| fs::write(file, text)).with_context(|| format!("cannot write {}", file.display()))?;
    output::talk(format!("saved: {}", file.display()));
    Ok(())
}

fn most_tunnels(rows: &[Row], size: Size) -> usize {
    let of = |row: &Row| match row.measure {
        Measure::Idle => size.connections,
        Measure::GivenBack => size.mass,
        _ => size.active,
    };
    rows.iter().map(of).max().unwrap_or(0)
}

/// The rate for each row of latency.
async fn rates(stage: &Stage, rows: &[Row], peers: &[Peer], fixed: Option<f64>) -> Result<Rates> {
    let mut rates = Rates::new();
    for &row in rows.iter().filter(|row| row.measure == Measure::Latency) {
        let rate = match fixed {
            Some(rate) => rate,
            None => calibrated(stage, row, peers).await?,
        };
        rates.insert(row, rate);
    }
    Ok(rates)
}

/// Half of what the slowest proxy can do in a closed loop, or less where the load itself would not be on time.
async fn calibrated(stage: &Stage, row: Row, peers: &[Peer]) -> Result<f64> {
    let mut lowest = f64::INFINITY;
    for peer in peers.iter().filter(|peer| peer.can(row)) {
        let reached = stage.throughput(row, peer).await.with_context(|| format!("{row}, {}", peer.name()))?;
        output::talk(format!("calibration {row} {} {reached:.0} /s", peer.name()));
        lowest = lowest.min(reached);
    }
    let mut rate = lowest * LOAD;
    for _ in 0..HALVINGS {
        let time = stage.quickest_direct(row, rate).await.with_context(|| format!("{row}, direct"))?;
        output::talk(format!("calibration {row} direct {rate:.0} /s, p99 {time:.0} µs"));
        if time <= ON_TIME {
            break;
        }
        rate /= 2.0;
    }
    Ok(rate)
}

async fn measure_all(stage: &Stage, steps: &[Step<'_>], rates: &Rates) -> Result<Samples> {
    let rounds = steps.iter().map(|step| step.round).max().unwrap_or(0);
    let mut progress = Progress::start(steps.iter().map(|step| step.guess(&stage.size)));
    let mut samples = Samples::default();
    for step in steps {
        let &Step { round, row, .. } = step;
        let side = step.side();
        let measurement = measure(stage, step, rates).await.with_context(|| format!("{row}, {side}"))?;
        samples.add(round, row, side, &measurement);
        let figures = shown(row, &measurement);
        progress.step(step.guess(&stage.size), &format!("round {round}/{rounds} {row} {side} {figures}"));
    }
    Ok(samples)
}

async fn measure(stage: &Stage, step: &Step<'_>, rates: &Rates) -> Result<Measurement> {
    let rate = rates.get(&step.row).copied();
    match (step.peer, rate) {
        (Some(peer), rate) => stage.measure(step.row, peer, Circumstances { rate, ..Circumstances::default() }).await,
        (None, Some(rate)) => stage.direct_latency(step.row, rate, stage.size.time).await,
        (None, None) => bail!("nothing but latency is measured without a proxy"),
    }
}

/// All figures of one measurement in a few words.
fn shown(row: Row, measurement: &Measurement) -> String {
    let one = |(figure, value): &(_, f64)| crate::measure::figure::Figure::show(*figure, *value);
    let figures: Vec<String> = measurement.figures.iter().map(one).collect();
    let whole = if row.measure == Measure::Latency { " in all" } else { "" };
    let doubt = measurement.conditions.disturbance().map_or_else(String::new, |doubt| format!(" (doubtful: {doubt})"));
    format!("{}{whole}{doubt}", figures.join(", "))
}
