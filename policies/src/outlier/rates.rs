//! Endpoints compared by how much of what they got succeeded.

use super::rules::{FailurePercentage, SuccessRate};

/// What one endpoint did in an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Record {
    /// The position among the cluster's endpoints.
    pub(super) endpoint: usize,
    pub(super) successes: u32,
    pub(super) failures: u32,
}

impl Record {
    fn volume(&self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// In percent. Asked of records with volume alone.
    pub(super) fn success_percent(&self) -> f64 {
        100.0 * f64::from(self.successes) / f64::from(self.volume().max(1))
    }
}

/// What an endpoint's success rate is compared with, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Peers {
    pub(super) mean: f64,
    pub(super) threshold: f64,
}

impl SuccessRate {
    /// The endpoints below the threshold, the worst first; `None` when there are too few to compare.
    pub(super) fn outliers(&self, records: &[Record]) -> Option<(Peers, Vec<Record>)> {
        let compared: Vec<Record> = with_volume(records, self.volume, self.hosts)?;
        let rates: Vec<f64> = compared.iter().map(Record::success_percent).collect();
        let peers = self.threshold(&rates);
        let mut below: Vec<Record> =
            compared.into_iter().filter(|record| record.success_percent() < peers.threshold).collect();
        below.sort_by(|a, b| a.success_percent().total_cmp(&b.success_percent()));
        Some((peers, below))
    }

    /// The mean and `mean - deviations * standard deviation` of the population (Envoy: `successRateEjectionThreshold`).
    fn threshold(&self, rates: &[f64]) -> Peers {
        let hosts = f64::from(u32::try_from(rates.len()).unwrap_or(u32::MAX).max(1));
        let mean = rates.iter().sum::<f64>() / hosts;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / hosts;
        Peers { mean, threshold: mean - self.deviations * variance.sqrt() }
    }
}

impl FailurePercentage {
    /// The endpoints that fail too much, the worst first; `None` when there are too few to judge.
    pub(super) fn outliers(&self, records: &[Record]) -> Option<Vec<Record>> {
        let limit = 100.0 - f64::from(self.threshold_percent);
        let judged: Vec<Record> = with_volume(records, self.volume, self.hosts)?;
        let mut above: Vec<Record> = judged.into_iter().filter(|record| record.success_percent() <= limit).collect();
        above.sort_by(|a, b| a.success_percent().total_cmp(&b.success_percent()));
        Some(above)
    }
}

fn with_volume(records: &[Record], volume: u32, hosts: u32) -> Option<Vec<Record>> {
    let volume = volume.max(1);
    let enough: Vec<Record> = records.iter().copied().filter(|record| record.volume() >= volume).collect();
    let hosts = usize::try_from(hosts).unwrap_or(usize::MAX).max(1);
    (enough.len() >= hosts).then_some(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(percents: &[u32]) -> Vec<Record> {
        let record =
            |(endpoint, percent): (usize, &u32)| Record { endpoint, successes: *percent, failures: 100 - *percent };
        percents.iter().enumerate().map(record).collect()
    }

    /// The example in Envoy's source: {50, 100, 100, 100, 100} has mean 90, deviation 20 and threshold 52.
    #[test]
    fn envoys_example_has_envoys_threshold() {
        let (peers, below) = SuccessRate::default().outliers(&records(&[50, 100, 100, 100, 100])).unwrap();
        assert!((peers.mean - 90.0).abs() < 1e-9 && (peers.threshold - 52.0).abs() < 1e-9, "{peers:?}");
        assert_eq!(below.iter().map(|record| record.endpoint).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn only_who_is_far_below_its_peers_is_an_outlier() {
        let check = |percents: &[u32], want: Option<&[usize]>| {
            let found = SuccessRate::default().outliers(&records(percents));
            let found = found.map(|(_, below)| below.iter().map(|record| record.endpoint).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), want, "{percents:?}");
        };
        check(&[100, 100, 100, 100, 100], Some(&[]));
        // Everybody is bad: nobody is an outlier, and ejecting would help nobody.
        check(&[0, 0, 0, 0, 0], Some(&[]));
        check(&[99, 100, 100, 100, 100], Some(&[0]));
        check(&[100, 100, 0, 100, 100, 100], Some(&[2]));
        // Two of five are a group of their own: 1.9 deviations cannot tell them from the rest.
        check(&[0, 0, 100, 100, 100], Some(&[]));
        // Four endpoints: the farthest that one can be away is 1.73 deviations.
        check(&[0, 100, 100, 100], None);
        // The worst goes first.
        check(&[20, 100, 100, 100, 100, 0, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100], Some(&[5, 0]));
    }

    #[test]
    fn endpoints_with_little_volume_are_left_out() {
        let mut few = records(&[50, 100, 100, 100, 100, 100]);
        few[0].failures = 49;
        assert_eq!(SuccessRate::default().outliers(&few).map(|(_, below)| below.len()), Some(0));
        few[1].successes = 99;
        assert!(SuccessRate::default().outliers(&few).is_none());
    }

    /// Envoy: at 85 % of failures or more.
    #[test]
    fn the_failure_percentage_is_a_limit_of_its_own() {
        let check = |percents: &[u32], want: Option<&[usize]>| {
            let found = FailurePercentage::default().outliers(&records(percents));
            let found = found.map(|above| above.iter().map(|record| record.endpoint).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), want, "{percents:?}");
        };
        check(&[15, 16, 100, 100, 0], Some(&[4, 0]));
        check(&[0, 0, 0, 0], None);
        check(&[0, 0, 0, 0, 0], Some(&[0, 1, 2, 3, 4]));
    }
}
