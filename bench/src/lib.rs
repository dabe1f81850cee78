//! `warbler-bench`: the one harness that starts processes for tests, demo, comparisons and drills, and what is built on it.
//!
//! Everything here talks to the programs as their users do: over sockets, files and signals. No room of the edge is
//! called from the inside, so what holds here holds for the binary that is shipped.

pub mod cli;
pub mod compare;
pub mod demo;
pub mod drill;
mod edge;
pub mod growth;
pub mod harness;
pub mod im;
mod load;
pub mod measure;
pub mod output;
pub mod reference;
mod report;
pub mod serve;
mod stop;
mod units;
