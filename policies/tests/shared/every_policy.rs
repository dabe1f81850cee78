//! Every policy with the settings that it has by default.

use std::time::Duration;

use policies::{BalanceFactor, Latency, Policy, RingSize, TableSize};

/// Every policy, as it is configured without further settings, with the name that its figures have.
pub(crate) fn every_policy() -> [(&'static str, Policy); 10] {
    let (choices, latency) = (2, Latency::default());
    let prequal =
        |choices| Policy::Prequal { choices, hot_above_percent: 84, report_age: Duration::from_secs(5), latency };
    let (table, ring, balance) = (TableSize::default(), RingSize::default(), Some(BalanceFactor::default()));
    [
        ("round-robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("p2c", Policy::P2C),
        ("peak-ewma", Policy::PeakEwma { choices, latency }),
        ("prequal", prequal(16)),
        ("maglev", Policy::Maglev { size: table, balance: None }),
        ("maglev, bounded", Policy::Maglev { size: table, balance }),
        ("ring-hash", Policy::RingHash { size: ring, balance: None }),
        ("ring-hash, bounded", Policy::RingHash { size: ring, balance }),
        ("least-connections", Policy::LeastConnections),
    ]
}
