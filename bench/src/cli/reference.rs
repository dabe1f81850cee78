//! The command line of `reference`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::{Args, value_parser};

use crate::{reference, units};

#[derive(Debug, Args)]
pub(super) struct Reference {
    /// Idle sessions held open for the memory by session.
    #[arg(long, default_value_t = 4000, value_parser = value_parser!(u32).range(10..=9000))]
    sessions: u32,
    /// People who talk through the edge, in pairs, each with one message on its way.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(2..=4000))]
    talkers: u32,
    /// How long they talk.
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    time: Duration,
    /// Saves the figures as JSON.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Writes the report into the marked section of this file.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl Reference {
    pub(super) async fn run(self) -> Result<()> {
        let Self { sessions, talkers, time, save, write } = self;
        ensure!(
            !time.is_zero() && time <= reference::LONGEST,
            "--time is from more than nothing to {:?}",
            reference::LONGEST
        );
        let (sessions, talkers) = (sessions.try_into()?, talkers.try_into()?);
        reference::run(reference::Settings { sessions, talkers, time, save, write }).await
    }
}
