//! Which endpoint gets the client.
//!
//! This crate is pure: it knows no socket, task or clock, and has no random source of its own. Time and dice enter as
//! arguments, so the same inputs give the same pick, and live traffic, `explain` and a simulation run the same code.
//!
//! Two moments are kept apart. **Compiling** happens on a control tick: [`compile()`] orders the localities for one class
//! of clients, splits the traffic between the resulting tiers, and builds the tables of the policies. It may allocate and
//! take its time. **Picking** happens for every client: [`Plan::pick`] draws a tier, asks the policy, and reserves a
//! [`Lease`] on the endpoint. It allocates nothing and computes neither distance nor round-trip time.
//!
//! Always true, and tested: an endpoint that drains or is in maintenance gets nothing new; an endpoint is never given
//! more leases than its maximum; a strict rule is never left; a lease ends with its drop and in no other way.

mod plan;

mod compile;
mod snapshot;
mod steering;

mod area;
mod rule;
mod rule_index;

mod endpoint;
mod group;
mod load;

mod accept_rate;
mod slow_start;

mod by_latency;
mod hashed;
mod hot_cold;
mod least_connections;
mod p2c;
mod random;
mod round_robin;

mod bounded_load;
mod maglev;
mod membership;
mod preference;
mod primes;
mod ring_hash;
mod stable_hash;

mod alias;
mod candidates;
mod considered;
mod cursors;
mod dice;
mod headroom;
mod peak_ewma;
mod prequal;
mod spill;
mod stamped;
mod tried;

mod explain;
mod repeat;

mod outlier;
mod retry_budget;

mod rtt;
mod rtt_bands;
mod tick;

pub use accept_rate::AcceptRate;
pub use area::Area;
pub use bounded_load::BalanceFactor;
pub use compile::{CandidateSets, Compiler, compile};
pub use considered::{Considered, Look};
pub use cursors::Cursors;
pub use dice::{Dice, SeededDice};
pub use endpoint::{Endpoint, EndpointIx, Locality, LocalityIx, Share, Standing, Weight};
pub use explain::{Choice, Eligibility, EndpointExplained, Explanation, LocalityExplained, explain};
pub use group::{Group, Limits};
pub use hashed::HashTables;
pub use headroom::{Headroom, Shedding, Used};
pub use load::{Answer, Lease, Load};
pub use maglev::TableSize;
pub use outlier::{
    Cause, Ejection, Failure, FailurePercentage, OutlierChange, OutlierCounters, OutlierDetector, OutlierEndpoint,
    OutlierEvent, OutlierRules, Streak, SuccessRate, Term,
};
pub use peak_ewma::LatencyCell;
pub use plan::{Kind, NoPick, Pick, PickContext, Plan, Reason, Tier};
pub use prequal::{HotCold, POOL, ServerSignal, Signal, choose};
pub use repeat::{Missing, Past, Repeat, repeat};
pub use retry_budget::{Retry, RetryBudget, RetryRules};
pub use ring_hash::RingSize;
pub use rtt::{Rtt, RttEstimate, prior_rtt};
pub use rtt_bands::{BandState, LocalityRtt, RttBands};
pub use rule::{ClientPlace, LocalityOrder, Matched, Rule, Subdivision};
pub use rule_index::RuleIndex;
pub use slow_start::{Ramp, SlowStart};
pub use snapshot::{ClassView, ClusterView, Latency, Policy};
pub use spill::SpillBy;
pub use stable_hash::hash_key;
pub use steering::{Criterion, Steering};
pub use tick::Tick;
pub use tried::Tried;
