//! The crate as its users see it: views go in, picks come out.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test; clippy only knows this inside test functions"
)]

mod cluster;
mod explain;
mod invariants;
mod latency;
mod modifiers;
mod outlier;
mod page;
mod picks;
mod queues;
mod rtt;
mod shares;
mod steering;
