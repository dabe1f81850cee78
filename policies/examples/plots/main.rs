//! Draws the plots and fills in the figures of docs/policies.md, by the simulations of `tests/simulation`:
//!
//! ```text
//! cargo run --release -p policies --example plots -- docs
//! ```
//!
//! Everything comes from one seed, so a second run changes nothing.
#![expect(dead_code, reason = "tests need more of the simulations than is drawn")]

use std::{error::Error, fs, path::Path};

mod chart;
mod figures;

#[path = "../../tests/simulation/bins.rs"]
mod bins;
#[path = "../../tests/simulation/edge.rs"]
mod edge;
#[path = "../../tests/simulation/keys.rs"]
mod keys;
#[path = "../../tests/simulation/members.rs"]
mod members;
#[path = "../../tests/simulation/newcomer.rs"]
mod newcomer;
#[path = "../../tests/simulation/queues.rs"]
mod queues;
#[path = "../../tests/simulation/storm.rs"]
mod storm;
#[path = "../../tests/simulation/tunnels.rs"]
mod tunnels;

const BEGIN: &str = "<!-- figures: begin (written by `cargo run --release -p policies --example plots -- docs`) -->";
const END: &str = "<!-- figures: end -->";

fn main() -> Result<(), Box<dyn Error>> {
    let docs = std::env::args().nth(1).ok_or("usage: plots DOCS, the folder with policies.md")?;
    let docs = Path::new(&docs);
    let page = docs.join("policies.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("policies.md has no place for figures")?;
    let (_, after) = rest.split_once(END).ok_or("the figures of policies.md do not end")?;

    let mut tables = String::new();
    for figure in figures::all() {
        tables.push_str(&figure.text);
        if let Some((name, chart)) = figure.chart {
            fs::write(docs.join("plots").join(format!("{name}.svg")), chart.to_svg())?;
        }
    }
    fs::write(&page, format!("{before}{BEGIN}\n\n{tables}{END}{after}"))?;
    Ok(())
}
