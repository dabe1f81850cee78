//! How warbler's costs grow: with connections, workers, endpoints, and with reloads going on. The same measurements as in
//! a comparison, under other circumstances, which take turns.

mod report;
mod variation;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    measure::{
        Circumstances, Conditions, Cores, Programs, Row, Size, Stage,
        figure::Figure,
        peer::{self, Peer},
    },
    output,
    report::{Progress, Section, Span},
};
use report::Report;
pub use variation::Variation;
use variation::{Case, MOST_CONNECTIONS};

const SPAN: Span =
    Span { begin: "<!-- growth: begin (written by `warbler-bench growth --write`) -->", end: "<!-- growth: end -->" };
/// For the estimate of a run, which corrects itself.
const GUESS: Duration = Duration::from_secs(3);

/// What to vary, and where the outcome goes.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rounds: u32,
    /// All variations when empty.
    pub only: Vec<Variation>,
    /// All rows of a variation when empty.
    pub rows: Vec<Row>,
    /// Messages by second where latency is measured.
    pub rate: f64,
    pub size: Size,
    /// The other proxies as well, where a variation suits them.
    pub with_peers: bool,
    pub cores: Cores,
    pub programs: Programs,
    pub save: Option<PathBuf>,
    pub write: Option<PathBuf>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    round: u32,
    variation: Variation,
    case: &'static str,
    row: Row,
    peer: &'static str,
    figure: Figure,
    value: f64,
    unit: &'static str,
    #[serde(flatten)]
    conditions: Conditions,
}

/// One measurement to be made.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    round: u32,
    variation: Variation,
    row: Row,
    case: Case,
    peer: &'a Peer,
}

/// Measures everything, prints the report, and saves and writes it where the settings say.
///
/// # Errors
/// When warbler is not there or does not do its work, or a file cannot be written.
pub async fn run(settings: Settings) -> Result<()> {
    let section = settings.write.as_deref().map(|file| Section::open(file, SPAN)).transpose()?;
    let tunnels = MOST_CONNECTIONS.max(settings.size.mass).max(settings.size.connections);
    let stage = Stage::new(settings.cores, settings.size, tunnels)?;
    let mut peers = peer::present(&settings.programs, stage.workspace()).await;
    if !settings.with_peers {
        peers.retain(Peer::is_warbler);
    }
    if !peers.iter().any(Peer::is_warbler) {
        bail!("there is no warbler to measure");
    }
    let all = Variation::value_variants().iter().copied();
    let variations: Vec<Variation> =
        all.filter(|one| settings.only.is_empty() || settings.only.contains(one)).collect();
    let steps = steps(&settings, &variations, &peers);
    if steps.is_empty() {
        bail!("none of these rows is measured of these variations: see `warbler-bench growth --help`");
    }
    let samples = measure_all(&stage, &steps, settings.rate).await;
    let samples = samples.inspect_err(|_| stage.workspace().keep())?;
    let report = Report::new(settings.rounds, settings.size, settings.rate, variations, &peers, samples);
    output::data(report.markdown());
    if let Some(file) = &settings.save {
        fs::write(file, report.json()?).with_context(|| format!("cannot write {}", file.display()))?;
        output::talk(format!("saved: {}", file.display()));
    }
    if let Some(section) = section {
        section.write(&report.markdown())?;
        output::talk(format!("written: {}", section.file().display()));
    }
    Ok(())
}

/// Each round has every case of every row, beginning with the next.
fn steps<'a>(settings: &Settings, variations: &[Variation], peers: &'a [Peer]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for round in 1..=settings.rounds {
        for &variation in variations {
            let mut cases = variation.cases();
            let first = round as usize % cases.len();
            cases.rotate_left(first);
            for row in variation.rows().filter(|row| settings.rows.is_empty() || settings.rows.contains(row)) {
                for &case in &cases {
                    let able = peers.iter().filter(|peer| peer.can(row));
                    let able = able.filter(|peer| peer.is_warbler() || variation.suits_peers());
                    steps.extend(able.map(|peer| Step { round, variation, row, case, peer }));
                }
            }
        }
    }
    steps
}

async fn measure_all(stage: &Stage, steps: &[Step<'_>], rate: f64) -> Result<Vec<Sample>> {
    let rounds = steps.iter().map(|step| step.round).max().unwrap_or(0);
    let mut progress = Progress::start(std::iter::repeat_n(GUESS, steps.len()));
    let mut samples = Vec::new();
    for step in steps {
        let &Step { round, variation, row, case, peer } = step;
        let what = format!("{row}, {variation}: {}, {}", case.name, peer.name());
        let circumstances = Circumstances { rate: Some(rate), ..case.circumstances };
        let measurement = stage.measure(row, peer, circumstances).await.with_context(|| what.clone())?;
        let mut shown = Vec::new();
        for &figure in variation::figures(row) {
            let Some(value) = measurement.figure(figure) else { continue };
            shown.push(figure.show(value));
            samples.push(Sample {
                round,
                variation,
                case: case.name,
                row,
                peer: peer.name(),
                figure,
                value,
                unit: figure.unit(),
                conditions: measurement.conditions,
            });
        }
        progress.step(GUESS, &format!("round {round}/{rounds} {what} {}", shown.join(", ")));
    }
    Ok(samples)
}
