//! The log on stderr: its form, and how fast it may grow.
//!
//! A crowd that comes back logs a line for each session, and a disk that is full one for each message. So a second has
//! room for so many lines, and for as many warnings and errors, lest a crowd hide them. What is left out is counted, and
//! a line says how many that was.

use std::{
    io,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, fmt,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// How often it is told how much was left out.
const TELL: Duration = Duration::from_secs(1);

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

/// Begins to log, with so many lines a second.
///
/// # Errors
/// When the filter is none, or something logs already.
pub(crate) fn start(filter: &str, format: Format, rate: Option<NonZeroU32>) -> anyhow::Result<Limit> {
    let filter = EnvFilter::try_new(filter).context("--log is no filter")?;
    let limit = Limit::new(rate);
    let registry = tracing_subscriber::registry().with(filter).with(limit.clone());
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
    match format {
        Format::Json => registry.with(lines.json()).try_init(),
        Format::Text => registry.with(lines).try_init(),
    }
    .context("the log cannot be started")?;
    Ok(limit)
}

/// How fast the log may grow.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rate: Option<NonZeroU32>,
    begun: Instant,
    lines: Second,
    troubles: Second,
    left_out: AtomicU64,
}

impl Limit {
    fn new(rate: Option<NonZeroU32>) -> Self {
        let (lines, troubles) = (Second::default(), Second::default());
        Self { shared: Arc::new(Shared { rate, begun: Instant::now(), lines, troubles, left_out: AtomicU64::new(0) }) }
    }

    /// Whether there is room for one more line `now`, counted from the beginning of the log.
    fn has_room(&self, level: Level, now: Duration) -> bool {
        let Some(rate) = self.shared.rate else { return true };
        let second = if level <= Level::WARN { &self.shared.troubles } else { &self.shared.lines };
        let fits = second.count(now) <= u64::from(rate.get());
        if !fits {
            self.shared.left_out.fetch_add(1, Relaxed);
        }
        fits
    }

    /// Says, as long as the process runs, how many lines were left out.
    pub(crate) async fn tell(self) {
        loop {
            tokio::time::sleep(TELL).await;
            let left_out = self.shared.left_out.swap(0, Relaxed);
            if left_out > 0 {
                tracing::warn!(left_out, "lines of the log were left out, there were too many (--log-rate)");
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // What was left out must not be left out.
        event.metadata().target() == module_path!()
            || self.has_room(*event.metadata().level(), self.shared.begun.elapsed())
    }
}

/// Lines of the second in progress: the number of the second in the upper half, their count in the lower one.
#[derive(Debug, Default)]
struct Second(AtomicU64);

impl Second {
    /// Counts one more, and says the how manieth of its second it is.
    fn count(&self, now: Duration) -> u64 {
        let this = now.as_secs() << 32;
        let next = |counted: u64| if counted >> 32 == now.as_secs() { counted + 1 } else { this + 1 };
        let before = self.0.fetch_update(Relaxed, Relaxed, |counted| Some(next(counted))).unwrap_or_default();
        next(before) & u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_so_many_lines_and_for_as_many_troubles() {
        let limit = Limit::new(NonZeroU32::new(3));
        let lines = |level, millis| (0..10).filter(|_| limit.has_room(level, Duration::from_millis(millis))).count();
        assert_eq!((lines(Level::INFO, 0), lines(Level::DEBUG, 500)), (3, 0));
        assert_eq!((lines(Level::WARN, 500), lines(Level::ERROR, 999)), (3, 0));
        assert_eq!(lines(Level::INFO, 1000), 3);
        assert_eq!(limit.shared.left_out.load(Relaxed), 41);
        let free = Limit::new(None);
        assert!((0..10_000).all(|_| free.has_room(Level::INFO, Duration::ZERO)));
    }
}
