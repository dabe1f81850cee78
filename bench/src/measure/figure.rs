//! The numbers that measurements give: each with a unit, and a side that is better.

use serde::Serialize;

/// One number of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// User memory by tunnel.
    Memory,
    /// CPU time by message, request or connection.
    Cpu,
    /// Connections by second of the clock on the wall.
    Rate,
    P50,
    /// What p99 is in the windows of time in which no neighbour of the machine was at work.
    QuietP99,
    P99,
    P999,
    /// Bytes by second of CPU time.
    Speed,
    /// The part of the memory that tunnels took and that came back.
    GivenBack,
    /// The memory that did not come back.
    LeftOver,
}

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

impl Figure {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Memory | Self::LeftOver => "KB",
            Self::Cpu | Self::P50 | Self::QuietP99 | Self::P99 | Self::P999 => "µs",
            Self::Rate => "/s",
            Self::Speed => "MB/s",
            Self::GivenBack => "%",
        }
    }

    pub(crate) fn better(self) -> Better {
        match self {
            Self::Rate | Self::Speed | Self::GivenBack => Better::More,
            Self::Memory | Self::Cpu | Self::P50 | Self::QuietP99 | Self::P99 | Self::P999 | Self::LeftOver => {
                Better::Less
            }
        }
    }

    /// Whether a ratio to this value says something.
    pub(crate) fn can_be_divided_by(self, value: f64) -> bool {
        match self {
            // Beside somebody who gives nothing back, everybody is a thousand times as good.
            Self::GivenBack => value >= 1.0,
            _ => value > 0.0,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "CPU",
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::QuietP99 => "p99 of quiet windows",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Speed => "bytes by CPU second",
            Self::GivenBack => "given back",
            Self::LeftOver => "left over",
        }
    }

    /// A value with its unit: as many digits as say something.
    pub(crate) fn show(self, value: f64) -> String {
        format!("{} {}", digits(value), self.unit())
    }
}

/// Two places for what is small, none for what is large.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        small if small < 100.0 => format!("{value:.2}"),
        middle if middle < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl Better {
    /// Whether `one` is better than `other`, or as good.
    pub(crate) fn holds(self, one: f64, other: f64) -> bool {
        match self {
            Self::Less => one <= other,
            Self::More => one >= other,
        }
    }

    /// The best of some values.
    pub(crate) fn best(self, values: impl IntoIterator<Item = f64>) -> Option<f64> {
        values.into_iter().reduce(|best, value| if self.holds(best, value) { best } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_smallest_cost_and_the_largest_yield() {
        let check = |better: Better, want: f64| {
            assert!((better.best([2.0, 1.0, 3.0]).unwrap() - want).abs() < 1e-9, "{better:?}");
        };
        check(Better::Less, 1.0);
        check(Better::More, 3.0);
        assert!(Better::Less.best([]).is_none());
    }

    #[test]
    fn values_have_as_many_digits_as_say_something() {
        assert_eq!(Figure::Cpu.show(7.333), "7.33 µs");
        assert_eq!(Figure::Rate.show(12_345.6), "12346 /s");
        assert_eq!(Figure::GivenBack.show(100.04), "100.0 %");
    }
}
