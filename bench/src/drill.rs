//! Drills: something breaks while people talk, and nothing that they were promised may be lost.
//!
//! Each starts servers, an edge and a crowd of its own (`scene`), does its damage, and ends with the same questions:
//! is everything that was acknowledged stored ([`checker`](crate::im::checker)), when were all back, and were the stated
//! limits kept. A drill is a row of [`DRILLS`]: a name, what it is about, its limits, what it needs, and a function over
//! the scene. docs/drills.md describes each.
//!
//! Always true: traffic stays on loopback, everything that was started ends with the drill, and every wait has a deadline.

mod admissions;
mod crowd;
mod figures;
mod outcome;
mod picture;
mod report;
mod scene;
mod stage;

mod backend_killed;
mod bad_config;
mod cloud_lost;
mod config_churn;
mod dns_lost;
mod drain;
mod edge_killed;
mod geoip_swapped;
mod half_open;
mod reconnect_storm;
mod region_lost;
mod restore;
mod slow_readers;
mod slow_region;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;
use serde_json::json;
use tokio::time::timeout;

use crate::{harness::Workspace, output};
use outcome::Outcome;
use scene::Scene;
use stage::Stage;

/// A drill that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(240);

/// All drills, in the order in which `drill all` runs them.
pub const DRILLS: &[&Drill] = &[
    &backend_killed::DRILL,
    &edge_killed::DRILL,
    &drain::DRILL,
    &slow_readers::DRILL,
    &config_churn::DRILL,
    &bad_config::DRILL,
    &half_open::DRILL,
    &reconnect_storm::DRILL,
    &region_lost::DRILL,
    &slow_region::DRILL,
    &dns_lost::DRILL,
    &geoip_swapped::DRILL,
    &cloud_lost::DRILL,
    &restore::DRILL,
];

/// Something to be survived.
pub struct Drill {
    pub name: &'static str,
    /// What happens in it, in a sentence.
    pub about: &'static str,
    limits: Limits,
    /// What is there before anything happens.
    stage: fn() -> Stage,
    /// What happens.
    act: for<'a> fn(&'a mut Scene<'_>) -> LocalBoxFuture<'a, Result<()>>,
}

/// What must not be exceeded, besides that no promise may be broken. What is not set is not judged.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// From the blow until the last of those it hit is online again.
    back: Option<Duration>,
    /// Sessions that end without their phone's doing.
    broken: Option<usize>,
    /// Of 100 messages, 99 are acknowledged within this time from when they were due.
    p99_during: Option<Duration>,
    p99_after: Option<Duration>,
}

impl Limits {
    const NONE: Self = Self { back: None, broken: None, p99_during: None, p99_after: None };
}

/// How drills are run, and where their outcome goes.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Instead of as many people as each drill has by itself.
    pub clients: Option<usize>,
    pub save: Option<PathBuf>,
    /// With several drills, each has a file of its own: its name goes before the extension.
    pub svg: Option<PathBuf>,
}

/// Whether every limit of every drill was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    All,
    NotAll,
}

/// The drill of this name.
///
/// # Errors
/// When there is none: the error lists those that there are.
pub fn named(name: &str) -> Result<&'static Drill> {
    let known = || DRILLS.iter().map(|drill| drill.name).collect::<Vec<_>>().join(", ");
    DRILLS
        .iter()
        .copied()
        .find(|drill| drill.name == name)
        .with_context(|| format!("there is no drill {name:?}: {}", known()))
}

/// Runs drills one after the other, prints what came of each, and saves it where the settings say.
///
/// # Errors
/// When a drill could not be run to its end, or a file cannot be written. A limit that was not kept is no error.
pub async fn run(drills: &[&Drill], settings: &Settings) -> Result<Kept> {
    let mut outcomes = Vec::new();
    for drill in drills {
        output::talk(format!("{}: {}", drill.name, drill.about));
        let outcome = run_one(drill, settings).await.with_context(|| format!("the drill {} failed", drill.name))?;
        output::data(report::text(&outcome));
        if let Some(file) = &settings.svg {
            let file = if drills.len() > 1 { file_of(file, drill.name) } else { file.clone() };
            write(&file, &picture::svg(&outcome))?;
        }
        outcomes.push(outcome);
    }
    if drills.len() > 1 {
        output::data(report::summary(&outcomes));
    }
    if let Some(file) = &settings.save {
        write(file, &(serde_json::to_string_pretty(&json!({ "drills": outcomes }))? + "\n"))?;
    }
    Ok(if outcomes.iter().all(Outcome::kept) { Kept::All } else { Kept::NotAll })
}

async fn run_one(drill: &Drill, settings: &Settings) -> Result<Outcome> {
    let mut stage = (drill.stage)();
    stage.cast.clients = settings.clients.unwrap_or(stage.cast.clients);
    let workspace = Workspace::new()?;
    let outcome = timeout(PATIENCE, perform(drill, &stage, &workspace)).await;
    let outcome = outcome.with_context(|| format!("not done within {PATIENCE:?}")).flatten();
    if !outcome.as_ref().is_ok_and(Outcome::kept) {
        workspace.keep();
    }
    outcome
}

async fn perform(drill: &Drill, stage: &Stage, workspace: &Workspace) -> Result<Outcome> {
    let mut scene = Scene::start(stage, workspace).await?;
    (drill.act)(&mut scene).await.with_context(|| scene.crowd.troubles())?;
    Outcome::of(drill, scene).await
}

/// `drills.svg` of the drill `half-open` is `drills-half-open.svg`.
fn file_of(file: &Path, drill: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let named = file.with_file_name(format!("{stem}-{drill}"));
    file.extension().map_or(named.clone(), |extension| named.with_added_extension(extension))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    output::talk(format!("saved: {}", file.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_has_a_name_of_its_own_and_a_place_in_the_page() {
        let page = include_str!("../../docs/drills.md");
        for (at, drill) in DRILLS.iter().enumerate() {
            assert!(DRILLS[..at].iter().all(|other| other.name != drill.name), "{} twice", drill.name);
            assert!(
                page.contains(&format!("\n## `{}`\n", drill.name)),
                "docs/drills.md does not describe {}",
                drill.name
            );
            assert!(page.contains(&format!("warbler-bench drill {}", drill.name)), "no command for {}", drill.name);
        }
        assert!(named("backend-killed").is_ok());
    }

    #[test]
    fn a_drill_that_does_not_exist_is_answered_with_those_that_do() {
        let Err(error) = named("earthquake") else { panic!("found") };
        assert!(error.to_string().contains("backend-killed"), "{error}");
    }

    #[test]
    fn each_of_several_drills_has_a_picture_of_its_own() {
        assert_eq!(file_of(Path::new("out/drills.svg"), "half-open"), Path::new("out/drills-half-open.svg"));
        assert_eq!(file_of(Path::new("drills"), "half-open"), Path::new("drills-half-open"));
    }
}
