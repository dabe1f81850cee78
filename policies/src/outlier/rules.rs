//! When an endpoint is an outlier, and what follows.

use std::time::Duration;

/// The rules of one cluster. The defaults are Envoy's, save `jitter_percent`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierRules {
    /// Failures in a row, without one success between, that eject at once. Default: 5. Zero never does.
    pub consecutive: u32,
    /// Between two looks at success rates, and the step in which the memory of ejections fades. Default: 10 s.
    pub interval: Duration,
    /// The first ejection lasts this long, the second in a row twice as long, and so on. Default: 30 s.
    pub base_ejection: Duration,
    /// Longer than this none of them lasts, the jitter aside. Default: 300 s.
    pub max_ejection: Duration,
    /// How much of the endpoints may be ejected at a time, those not counted that are out for another reason as well; see
    /// [`most_ejected`](Self::most_ejected). Default: 10.
    pub max_ejected_percent: u8,
    /// Up to this much of its time is added to each ejection, by dice. Default: 20 (Envoy: none).
    pub jitter_percent: u8,
    /// `None` does not compare endpoints.
    pub success_rate: Option<SuccessRate>,
    /// `None`, the default, has no absolute limit.
    pub failure_percentage: Option<FailurePercentage>,
}

/// An endpoint is an outlier when its success rate is far below that of its peers: below
/// `mean - deviations * standard deviation`, both taken over the endpoints with enough volume.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// So many endpoints must have the volume. Default: 5; with fewer, no single one can be 1.9 deviations away.
    pub hosts: u32,
    /// Outcomes in the interval that an endpoint must have to be compared. Default: 100.
    pub volume: u32,
    /// Default: 1.9.
    pub deviations: f64,
}

/// An endpoint is an outlier when so much of what it gets fails, whatever its peers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Default: 85.
    pub threshold_percent: u8,
    /// So many endpoints must have the volume. Default: 5.
    pub hosts: u32,
    /// Outcomes in the interval that an endpoint must have to be judged. Default: 50.
    pub volume: u32,
}

impl Default for OutlierRules {
    fn default() -> Self {
        Self {
            consecutive: 5,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 10,
            jitter_percent: 20,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { hosts: 5, volume: 100, deviations: 1.9 }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold_percent: 85, hosts: 5, volume: 50 }
    }
}

impl OutlierRules {
    /// How many of `endpoints` may be ejected at a time: the share, rounded down; one at least, if the share is not zero;
    /// and never all.
    pub fn most_ejected(&self, endpoints: usize) -> usize {
        if self.max_ejected_percent == 0 {
            return 0;
        }
        let share = endpoints * usize::from(self.max_ejected_percent.min(100)) / 100;
        share.max(1).min(endpoints.saturating_sub(1))
    }

    /// How long the ejection lasts that is the `nth` in a row, counted from 1, without jitter.
    pub fn rest(&self, nth: u32) -> Duration {
        self.base_ejection.saturating_mul(nth.max(1)).min(self.max_ejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_percent_is_one_endpoint_until_there_are_twenty() {
        let check = |endpoints, want| {
            assert_eq!(OutlierRules::default().most_ejected(endpoints), want, "of {endpoints}");
        };
        for (endpoints, want) in [(0, 0), (1, 0), (2, 1), (9, 1), (10, 1), (15, 1), (19, 1), (20, 2), (100, 10)] {
            check(endpoints, want);
        }
    }

    #[test]
    fn not_even_a_hundred_percent_is_everybody() {
        let rules = OutlierRules { max_ejected_percent: 100, ..OutlierRules::default() };
        assert_eq!([1, 2, 10].map(|endpoints| rules.most_ejected(endpoints)), [0, 1, 9]);
        let none = OutlierRules { max_ejected_percent: 0, ..OutlierRules::default() };
        assert_eq!(none.most_ejected(100), 0);
    }

    /// Envoy's defaults: 30 s more each time, and 300 s at most.
    #[test]
    fn ejections_in_a_row_get_longer_up_to_the_maximum() {
        let seconds = |nth| OutlierRules::default().rest(nth).as_secs();
        assert_eq!([1, 2, 3, 10, 11, u32::MAX].map(seconds), [30, 60, 90, 300, 300, 300]);
    }
}
