//! Databases as bytes go in, places come out.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test; clippy only knows this inside test functions"
)]

mod damaged;
mod geo;
mod layouts;
mod maxmind;
mod overrides;
mod written;
