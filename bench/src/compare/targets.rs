//! What warbler is to reach.

use super::samples::Side;
use crate::measure::{
    Row,
    figure::{Better, Figure, digits},
    peer::Product,
    row::{Measure, Protocol},
};

/// One figure of warbler, and its limit: at most or at least, as the figure is better.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) row: Row,
    pub(super) figure: Figure,
    pub(super) limit: Limit,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// In the unit of the figure.
    Of(f64),
    /// So many times what the better of the others has in the same round.
    TimesTheBetter(f64),
    /// So many times what HAProxy has in the same round.
    TimesHaproxy(f64),
}

pub(super) const TARGETS: [Target; 25] = [
    target(Measure::Idle, Protocol::Tcp, Figure::Memory, Limit::Of(2.0)),
    target(Measure::Idle, Protocol::Tcp, Figure::Memory, Limit::TimesHaproxy(0.55)),
    target(Measure::Idle, Protocol::WebSocket, Figure::Memory, Limit::Of(2.3)),
    target(Measure::Idle, Protocol::WebSocket, Figure::Memory, Limit::TimesHaproxy(0.5)),
    target(Measure::Idle, Protocol::WebSocketTls, Figure::Memory, Limit::Of(10.0)),
    target(Measure::Idle, Protocol::WebSocketTls, Figure::Memory, Limit::TimesHaproxy(0.55)),
    target(Measure::Message, Protocol::Tcp, Figure::Cpu, Limit::TimesTheBetter(0.95)),
    target(Measure::Message, Protocol::WebSocket, Figure::Cpu, Limit::TimesTheBetter(0.95)),
    target(Measure::Message, Protocol::Tls, Figure::Cpu, Limit::TimesTheBetter(0.85)),
    target(Measure::Message, Protocol::WebSocketTls, Figure::Cpu, Limit::TimesTheBetter(0.85)),
    target(Measure::Connect, Protocol::Tcp, Figure::Cpu, Limit::TimesTheBetter(1.0)),
    target(Measure::Connect, Protocol::WebSocket, Figure::Cpu, Limit::TimesTheBetter(1.0)),
    target(Measure::HandshakeFull, Protocol::Tls, Figure::Cpu, Limit::TimesTheBetter(0.75)),
    target(Measure::HandshakeResumed, Protocol::Tls, Figure::Cpu, Limit::TimesTheBetter(1.0)),
    target(Measure::Request, Protocol::Http1, Figure::Cpu, Limit::TimesTheBetter(1.25)),
    target(Measure::Latency, Protocol::Tcp, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::WebSocket, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::Tls, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::WebSocketTls, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::Http1, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::Http1Tls, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Latency, Protocol::Http2, Figure::QuietP99, Limit::TimesTheBetter(1.0)),
    target(Measure::Bulk, Protocol::Tcp, Figure::Speed, Limit::TimesHaproxy(1.0)),
    target(Measure::GivenBack, Protocol::Tcp, Figure::GivenBack, Limit::Of(90.0)),
    target(Measure::GivenBack, Protocol::Tls, Figure::GivenBack, Limit::Of(90.0)),
];

const fn target(measure: Measure, protocol: Protocol, figure: Figure, limit: Limit) -> Target {
    Target { row: Row::new(measure, protocol), figure, limit }
}

/// The targets of a figure.
pub(super) fn of(row: Row, figure: Figure) -> impl Iterator<Item = Target> {
    TARGETS.into_iter().filter(move |target| target.row == row && target.figure == figure)
}

impl Target {
    /// Whether a measured value, or ratio, keeps the limit.
    pub(super) fn is_met_by(&self, measured: f64) -> bool {
        self.figure.better().holds(measured, self.number())
    }

    pub(super) fn number(&self) -> f64 {
        match self.limit {
            Limit::Of(number) | Limit::TimesTheBetter(number) | Limit::TimesHaproxy(number) => number,
        }
    }

    /// Whether the limit is for a ratio.
    pub(super) fn is_ratio(&self) -> bool {
        !matches!(self.limit, Limit::Of(_))
    }

    /// With whom warbler is compared; empty for a plain number.
    pub(super) fn others(&self) -> &'static [Side] {
        match self.limit {
            Limit::Of(_) => &[],
            Limit::TimesTheBetter(_) => &Side::OTHERS,
            Limit::TimesHaproxy(_) => &[Side::Proxy(Product::Haproxy)],
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.figure.better() {
            Better::Less => '≤',
            Better::More => '≥',
        };
        match self.limit {
            Limit::Of(number) => write!(f, "{side} {} {}", digits(number), self.figure.unit()),
            Limit::TimesTheBetter(times) => write!(f, "{side} {times:.2} × the better"),
            Limit::TimesHaproxy(times) => write!(f, "{side} {times:.2} × HAProxy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::row::ROWS;

    #[test]
    fn every_target_is_about_a_figure_that_is_measured() {
        for target in TARGETS {
            assert!(ROWS.contains(&target.row) && target.row.figures().contains(&target.figure), "{target:?}");
        }
    }

    #[test]
    fn costs_have_an_upper_and_yields_a_lower_limit() {
        let check = |row: &str, figure, want: &[&str]| {
            let row = Row::named(row).unwrap()[0];
            let shown: Vec<String> = of(row, figure).map(|target| target.to_string()).collect();
            assert_eq!(shown, want);
        };
        check("idle/tcp", Figure::Memory, &["≤ 2.00 KB", "≤ 0.55 × HAProxy"]);
        check("message/tls", Figure::Cpu, &["≤ 0.85 × the better"]);
        check("given-back/tcp", Figure::GivenBack, &["≥ 90.00 %"]);
        check("connect/tcp", Figure::Rate, &[]);
        assert!(TARGETS[0].is_met_by(1.9) && !TARGETS[0].is_met_by(2.1));
    }
}
