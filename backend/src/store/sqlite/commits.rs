//! What Prometheus learns of commits.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, core::Collector};

/// Up to the most that one commit takes.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// Seconds: from a fast local disk to one that is in trouble.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

#[derive(Clone, Debug)]
pub(super) struct Commits {
    size: Histogram,
    seconds: Histogram,
    failures: IntCounter,
}

impl Commits {
    pub(super) fn new() -> prometheus::Result<Self> {
        let size = HistogramOpts::new(
            "warbler_im_commit_batch_size",
            "Messages, moves of cursors, creations and changes of groups, and probes in a commit that succeeded.",
        );
        let seconds = HistogramOpts::new(
            "warbler_im_commit_duration_seconds",
            "Time of a commit that succeeded, with its turn among processes and its sync to the disk.",
        );
        Ok(Self {
            size: Histogram::with_opts(size.buckets(SIZES.to_vec()))?,
            seconds: Histogram::with_opts(seconds.buckets(SECONDS.to_vec()))?,
            failures: IntCounter::new(
                "warbler_im_commit_failures_total",
                "Commits that failed or whose end is unknown; nothing of them was acknowledged.",
            )?,
        })
    }

    pub(super) fn succeeded(&self, batch: usize, took: Duration) {
        self.size.observe(f64::from(u32::try_from(batch).unwrap_or(u32::MAX)));
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { size, seconds, failures } = self.clone();
        vec![Box::new(size), Box::new(seconds), Box::new(failures)]
    }
}
