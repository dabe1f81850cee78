//! Clusters and their endpoints: what is known about them, as against what the files say of them.
//!
//! Configuration and state are apart. A snapshot's [`ClusterPlan`] says what the files say, compiled for picking; an
//! [`EndpointState`] (health, RTT, counts) belongs to an address in a cluster by identity, and survives every reload
//! and every DNS answer that keeps the address. That is why least-connections stays true after ten thousand reloads.

pub mod agent;
pub mod class;
pub mod endpoint;
pub mod members;
pub mod outlier;
pub mod overrides;
pub mod plan;
pub mod probe;
pub mod resolve;
pub mod roster;
pub mod sticky;
pub mod votes;

pub use class::{Cell, Client};
pub use endpoint::EndpointState;
pub use members::ClusterState;
pub use plan::ClusterPlan;
