//! What the policies do with many clients over time, held against what was published and against closed forms.
//!
//! Every simulation runs the code that live traffic runs: a view is compiled to a plan, the plan picks, and leases are held
//! for as long as the client stays. Only the clock and the clients are made up. One number seeds them all; a test that fails
//! prints it, and `WARBLER_SEED` repeats the run or tries another. The tolerances hold for any seed but the rare unlucky
//! one. `cargo run -p policies --example plots` draws the same simulations for docs/policies.md.

mod seed;

mod edge;
mod tunnels;

mod bins;
mod queues;

mod newcomer;
mod storm;

mod keys;
mod members;

mod waits;

mod headroom;
mod regions;
