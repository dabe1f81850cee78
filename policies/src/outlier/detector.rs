//! Decides who is ejected and who returns.

use std::fmt;
use std::time::Duration;

use super::counters::{KINDS, OutlierCounters, Streak, Term};
use super::rates::Record;
use super::rules::OutlierRules;
use crate::dice::Dice;
use crate::plan::Kind;
use crate::tick::Tick;

/// One endpoint as the detector sees it.
#[derive(Debug, Clone, Copy)]
pub struct OutlierEndpoint<'a> {
    pub counters: &'a OutlierCounters,
    /// Whether it would take new clients if it were not ejected: nothing else speaks against it.
    pub takes_new: bool,
    /// When active probes have brought it up, having failed before; `None` while they fail, or if there are none.
    pub proven: Option<Tick>,
}

/// Something changed for one endpoint, or nearly.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierChange {
    /// The position among the endpoints that were given.
    pub endpoint: usize,
    pub event: OutlierEvent,
}

#[derive(Debug, Clone, PartialEq)]
pub enum OutlierEvent {
    /// No new clients until then; `nth` in a row, counted from 1.
    Ejected { cause: Cause, rest: Duration, nth: u32 },
    /// An outlier that stays, because enough are ejected already or nobody would be left.
    Spared { cause: Cause },
    /// The ejection is over, after this time; `early` when its time was not over: probes brought the endpoint up again, or
    /// detection was turned off.
    Returned { after: Duration, early: bool },
}

/// Why an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    InARow {
        kind: Kind,
        streak: Streak,
    },
    /// In percent.
    SuccessRate {
        kind: Kind,
        rate: f64,
        mean: f64,
        threshold: f64,
    },
    /// In percent.
    FailurePercentage {
        kind: Kind,
        failed: f64,
    },
}

impl Cause {
    fn is_unreachable(&self) -> bool {
        matches!(self, Cause::InARow { streak, .. } if streak.is_unreachable())
    }

    /// The word that metrics see: the failure of most of a streak, or the comparison.
    pub fn as_str(&self) -> &'static str {
        match self {
            Cause::InARow { streak, .. } => streak.chief().as_str(),
            Cause::SuccessRate { .. } => "success-rate",
            Cause::FailurePercentage { .. } => "failure-percentage",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::InARow { streak, .. } => streak.fmt(f),
            Cause::SuccessRate { kind, rate, mean, threshold } => write!(
                f,
                "{rate:.1}% of its {}s succeeded, under the limit of {threshold:.1}% (average {mean:.1}%)",
                kind.as_str()
            ),
            Cause::FailurePercentage { kind, failed } => write!(f, "{failed:.1}% of its {}s failed", kind.as_str()),
        }
    }
}

/// The detector of one cluster; it keeps the beat, and everything else is in the counters of the endpoints.
#[derive(Debug, Default)]
pub struct OutlierDetector {
    interval_began: Option<Tick>,
}

impl OutlierDetector {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets those return whose time is over, ejects whose streak is full, and at the end of an interval compares success
    /// rates. To be called about every second, and soon after a failure.
    pub fn run(
        &mut self,
        rules: &OutlierRules,
        endpoints: &[OutlierEndpoint<'_>],
        now: Tick,
        dice: &mut impl Dice,
    ) -> Vec<OutlierChange> {
        let mut round = Round { rules, endpoints, now, dice, changes: Vec::new() };
        round.let_return();
        round.judge_streaks();
        let began = *self.interval_began.get_or_insert(now);
        if now.since(began) >= rules.interval {
            self.interval_began = Some(now);
            round.judge_rates();
            round.forgive();
        }
        round.changes
    }

    /// Detection is turned off: everybody returns, and nothing is remembered. To be called as often as [`run`](Self::run)
    /// would be.
    pub fn release(&mut self, endpoints: &[OutlierEndpoint<'_>], now: Tick) -> Vec<OutlierChange> {
        self.interval_began = None;
        let release = |(endpoint, OutlierEndpoint { counters, .. }): (usize, &OutlierEndpoint<'_>)| {
            // Also what was counted meanwhile: it would be held against the endpoint when detection is turned on.
            counters.forget();
            let before = std::mem::take(&mut *counters.lock());
            let Term { began, .. } = before.now?;
            Some(OutlierChange { endpoint, event: OutlierEvent::Returned { after: now.since(began), early: true } })
        };
        endpoints.iter().enumerate().filter_map(release).collect()
    }
}

struct Round<'a, D> {
    rules: &'a OutlierRules,
    endpoints: &'a [OutlierEndpoint<'a>],
    now: Tick,
    dice: &'a mut D,
    changes: Vec<OutlierChange>,
}

impl<D: Dice> Round<'_, D> {
    fn let_return(&mut self) {
        for (endpoint, OutlierEndpoint { counters, proven, .. }) in self.endpoints.iter().enumerate() {
            let mut ejection = counters.lock();
            let Some(term) = ejection.now else { continue };
            let early = term.unreachable && proven.is_some_and(|proven| proven > term.began);
            if term.until > self.now && !early {
                continue;
            }
            ejection.now = None;
            ejection.returned = Some(self.now);
            counters.forget();
            let event = OutlierEvent::Returned { after: self.now.since(term.began), early };
            self.changes.push(OutlierChange { endpoint, event });
        }
    }

    fn judge_streaks(&mut self) {
        if self.rules.consecutive == 0 {
            return;
        }
        for (endpoint, OutlierEndpoint { counters, .. }) in self.endpoints.iter().enumerate() {
            for kind in KINDS {
                let streak = counters.streak(kind);
                if streak.length() >= self.rules.consecutive && !counters.is_ejected() {
                    // Whoever is spared needs a new streak to be looked at again, as in Envoy.
                    counters.end_streak(kind);
                    self.eject(endpoint, Cause::InARow { kind, streak });
                }
            }
        }
    }

    fn judge_rates(&mut self) {
        for kind in KINDS {
            let records = self.interval_records(kind);
            if let Some((peers, below)) = self.rules.success_rate.and_then(|rule| rule.outliers(&records)) {
                for record in below {
                    let rate = record.success_percent();
                    let cause = Cause::SuccessRate { kind, rate, mean: peers.mean, threshold: peers.threshold };
                    self.eject(record.endpoint, cause);
                }
            }
            let above = self.rules.failure_percentage.and_then(|rule| rule.outliers(&records));
            for record in above.into_iter().flatten() {
                let failed = 100.0 - record.success_percent();
                self.eject(record.endpoint, Cause::FailurePercentage { kind, failed });
            }
        }
    }

    /// Ends the interval for all endpoints; the ejected ones are not compared.
    fn interval_records(&self, kind: Kind) -> Vec<Record> {
        let records = self.endpoints.iter().enumerate().filter_map(|(endpoint, OutlierEndpoint { counters, .. })| {
            let (successes, failures) = counters.take_interval(kind);
            (!counters.is_ejected()).then_some(Record { endpoint, successes, failures })
        });
        records.collect()
    }

    /// An interval that was no worse makes the next ejection shorter.
    fn forgive(&mut self) {
        for OutlierEndpoint { counters, .. } in self.endpoints {
            let mut ejection = counters.lock();
            let calm = ejection.returned.is_some_and(|returned| self.now.since(returned) >= self.rules.interval);
            if ejection.now.is_none() && calm {
                ejection.in_a_row = ejection.in_a_row.saturating_sub(1);
            }
        }
    }

    fn eject(&mut self, endpoint: usize, cause: Cause) {
        let OutlierEndpoint { counters, takes_new, .. } = self.endpoints[endpoint];
        // Who is out already, whatever the reason, has no clients to be kept from it.
        if counters.is_ejected() || !takes_new {
            return;
        }
        let event = if self.may_eject(endpoint) {
            let nth = counters.ejection().in_a_row.saturating_add(1);
            let rest = self.spread(self.rules.rest(nth));
            let mut ejection = counters.lock();
            let until = Tick(self.now.0.saturating_add(rest));
            ejection.now = Some(Term { began: self.now, until, unreachable: cause.is_unreachable() });
            // Beyond the longest ejection there is nothing to count up to, and good times would be held against it.
            if self.rules.base_ejection.saturating_mul(ejection.in_a_row) < self.rules.max_ejection {
                ejection.in_a_row = nth;
            }
            OutlierEvent::Ejected { cause, rest, nth }
        } else {
            OutlierEvent::Spared { cause }
        };
        self.changes.push(OutlierChange { endpoint, event });
    }

    /// The share is of all endpoints; used up is it by those alone that an ejection keeps from clients.
    fn may_eject(&self, endpoint: usize) -> bool {
        let ejected = self.endpoints.iter().filter(|one| one.takes_new && one.counters.is_ejected()).count();
        let others = self.endpoints.iter().enumerate().filter(|(ix, _)| *ix != endpoint);
        let somebody_stays = others.into_iter().any(|(_, one)| one.takes_new && !one.counters.is_ejected());
        ejected < self.rules.most_ejected(self.endpoints.len()) && somebody_stays
    }

    fn spread(&mut self, rest: Duration) -> Duration {
        const STEPS: u32 = 10_000;
        let share = f64::from(self.rules.jitter_percent) / 100.0;
        let drawn = f64::from(self.dice.below(STEPS + 1)) / f64::from(STEPS);
        rest.saturating_add(rest.mul_f64(share * drawn))
    }
}
