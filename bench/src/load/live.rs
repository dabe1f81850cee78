//! How a run goes, while it does: one line that is drawn again and again on a terminal, and elsewhere a line now and then.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Duration,
};

use super::{report::as_float, tally::Tick};
use crate::output;

/// How often there is a line where there is no terminal.
const EVERY: f64 = 5.0;
/// Width of the bar.
const BAR: usize = 20;

#[derive(Debug)]
pub(super) struct Live {
    terminal: bool,
    /// Seconds from the beginning to the last thing that is due.
    whole: f64,
    /// What the last line told, for rates.
    told: Tick,
    /// What came since then.
    since: Tick,
}

impl Live {
    pub(super) fn new(whole: Duration) -> Self {
        let terminal = stderr().is_terminal();
        Self { terminal, whole: whole.as_secs_f64(), told: Tick::default(), since: Tick::default() }
    }

    pub(super) fn tick(&mut self, tick: &Tick) {
        let recent = std::mem::take(&mut self.since.recent);
        self.since = tick.clone();
        self.since.recent.merge(&recent);
        if self.terminal {
            // Nothing to draw on any more is no reason to stop.
            _ = write!(stderr(), "\r\x1b[2K{} {}", bar(tick.seconds / self.whole), self.line());
            _ = stderr().flush();
            self.begin_anew();
        } else if tick.seconds - self.told.seconds >= EVERY - 0.5 {
            output::talk(self.line());
            self.begin_anew();
        }
    }

    /// Leaves the line as it is.
    pub(super) fn end(&self) {
        if self.terminal {
            output::talk("");
        }
    }

    fn begin_anew(&mut self) {
        self.told = std::mem::take(&mut self.since);
        self.told.recent = Default::default();
    }

    fn line(&self) -> String {
        let (now, before) = (&self.since, &self.told);
        let seconds = (now.seconds - before.seconds).max(0.001);
        let a_second = |now: u64, before: u64| as_float(now.saturating_sub(before)) / seconds;
        let ms = |share| now.recent.quantile_ms(share).map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
        format!(
            "{:.0} of {:.0} s: {} connected, due {:.0}/s, done {:.0}/s, pushed {:.0}/s, p50 {} ms, p99 {} ms, {} wrong",
            now.seconds,
            self.whole,
            now.online,
            a_second(now.due, before.due),
            a_second(now.done, before.done),
            a_second(now.pushed, before.pushed),
            ms(0.5),
            ms(0.99),
            now.wrong,
        )
    }
}

fn bar(share: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from nothing to the width")]
    let full = ((share * super::plan::as_float(BAR)) as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_line_before() {
        let mut live = Live { terminal: false, ..Live::new(Duration::from_secs(60)) };
        let tick = |seconds, due| Tick { seconds, due, ..Tick::default() };
        for second in 1..=5 {
            live.tick(&tick(f64::from(second), 100 * u64::try_from(second).unwrap()));
        }
        live.since = tick(10.0, 2500);
        assert!(live.line().starts_with("10 of 60 s: 0 connected, due 400/s, done 0/s"), "{}", live.line());
    }

    #[test]
    fn a_bar_fills_and_does_not_run_over() {
        for (share, full) in [(0.0, 0), (0.5, 10), (1.0, 20), (7.0, 20)] {
            assert_eq!(bar(share).matches('#').count(), full);
        }
    }
}
