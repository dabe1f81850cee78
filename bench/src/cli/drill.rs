//! The command line of `drill`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    drill::{self, DRILLS, Drill, Kept, Settings},
    output,
};

/// Lists the drills instead of running one.
const LIST: &str = "list";
/// Runs all of them.
const ALL: &str = "all";

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all limits kept, 1 a drill could not be run, 2 wrong command line, 4 a limit was not kept.\ndocs/drills.md describes each drill and its limits."
)]
pub(super) struct Arguments {
    /// Which one; `list` names all that there are, and `all` runs them one after the other.
    #[arg(value_parser = Chosen::parse)]
    name: Chosen,
    /// How many people take part [default: as many as the drill says]. Each takes three descriptors or so.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=6000))]
    clients: Option<u32>,
    /// Saves figures, limits and the series over time as JSON.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Saves the picture over time. With `all`, each drill has its own: its name goes before the extension.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone)]
enum Chosen {
    List,
    Drills(Vec<&'static Drill>),
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List => f.write_str(LIST),
            Self::Drills(drills) => f.debug_list().entries(drills.iter().map(|drill| drill.name)).finish(),
        }
    }
}

impl Chosen {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            LIST => Self::List,
            ALL => Self::Drills(DRILLS.to_vec()),
            _ => Self::Drills(vec![drill::named(name)?]),
        })
    }
}

impl Arguments {
    /// Does what was chosen. A list has no limits to keep.
    pub(super) async fn run(self) -> Result<Kept> {
        let Chosen::Drills(drills) = self.name else {
            for drill in DRILLS {
                output::data(format!("{:<18}{}", drill.name, drill.about));
            }
            return Ok(Kept::All);
        };
        let clients = self.clients.map(|clients| clients as usize);
        drill::run(&drills, &Settings { clients, save: self.save, svg: self.svg }).await
    }
}
