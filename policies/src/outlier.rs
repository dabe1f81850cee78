//! Passive outlier detection: an endpoint that fails the clients it gets, while others do not, gets none for a while.
//!
//! Workers count on [`OutlierCounters`], one for each endpoint, without a lock. The control thread lets an
//! [`OutlierDetector`] look at all endpoints of a cluster together, and it decides who is ejected, for how long, and who
//! comes back. Algorithm and defaults are those of Envoy's outlier detection (its architecture overview and
//! `outlier_detection_impl.cc`) and of gRPC proposal A50. What differs, and why:
//!
//! - Tunnels and requests are counted apart. An endpoint that answers every request and refuses every WebSocket is no use
//!   to a client that wants one, and ten thousand good requests would hide a hundred tunnels that failed.
//! - No ejection goes beyond the share of endpoints that may be ejected, save that one always may (in Envoy:
//!   `always_eject_one_host`, off there; ten percent of nine endpoints would be nobody). Nor does one take the last
//!   endpoint that takes new clients: that would help nobody. Nobody is brought back to keep the share: when endpoints
//!   leave the cluster, or an ejected one that was down as well is up again, more can be ejected for a while.
//! - Who is out for another reason (down by probes, drained, in maintenance) is not ejected, and an ejection does not
//!   count while its endpoint is. In Envoy both count, and a dead server could hold the only place of a small cluster
//!   while one that fails its clients stays.
//! - The return is spread by default (in Envoy: `max_ejection_time_jitter`, zero there), so that several edges, or
//!   several endpoints that failed together, do not come back in step.
//! - Among those below the success rate the worst goes first, when the share allows only some of them.
//! - A good health probe does not end an ejection (in Envoy: `successful_active_health_check_uneject_host`, on there). A
//!   probe that connects says nothing about upgrades that are refused, and what clients met outweighs it; Linkerd
//!   decides alike. One exception: who is out for connect failures alone is back as soon as its probes, having failed
//!   as well, have brought it up again. That is a server that was restarted, and probes test just what had failed.
//!
//! Always true, and tested: no ejection goes beyond the share, every ejection ends, and the order in which outcomes are
//! counted within an interval changes none of the counts.

mod counters;
mod detector;
mod rates;
mod rules;

pub use counters::{Ejection, Failure, OutlierCounters, Streak, Term};
pub use detector::{Cause, OutlierChange, OutlierDetector, OutlierEndpoint, OutlierEvent};
pub use rules::{FailurePercentage, OutlierRules, SuccessRate};
