//! Many lengths of time, kept so that quantiles of several processes together are those of one that saw all.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Shorter times are told apart no further.
const FINEST: u64 = 1_000;
/// Longer ones count as this.
const LONGEST: u64 = 3_600_000_000_000;

/// An HdrHistogram of nanoseconds, from a microsecond to an hour. `DIGITS` is to how many digits times are told apart.
///
/// Written as pairs of a time and how often it came, one for each bucket that has any. A merge adds bucket by bucket and
/// so loses nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Times<const DIGITS: u8>(Histogram<u32>);

/// Those of a whole run.
pub(crate) type Fine = Times<3>;
/// Those of a short part of it, of which there are many.
pub(crate) type Coarse = Times<2>;

impl<const DIGITS: u8> Default for Times<DIGITS> {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(FINEST, LONGEST, DIGITS).expect("the bounds above are bounds"))
    }
}

impl<const DIGITS: u8> Times<DIGITS> {
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which this share of them is, in milliseconds; `None` without any.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of an hour are below 2^52")]
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1e6)
    }

    /// Times in nanoseconds and how often each came, in their order.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value().into()))
    }

    /// How many are longer.
    #[cfg(test)]
    pub(crate) fn count_above(&self, time: Duration) -> u64 {
        let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0
            .iter_recorded()
            .filter(|bucket| bucket.value_iterated_to() > limit)
            .map(|b| u64::from(b.count_at_value()))
            .sum()
    }
}

impl<const DIGITS: u8> Serialize for Times<DIGITS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(self.0.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value())))
    }
}

impl<'de, const DIGITS: u8> Deserialize<'de> for Times<DIGITS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut times = Self::default();
        for (value, count) in Vec::<(u64, u32)>::deserialize(deserializer)? {
            times.0.record_n(value, count).map_err(D::Error::custom)?;
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_saw_is_what_one_would_have_seen() {
        let random: Vec<Duration> =
            (0..20_000).map(|_| Duration::from_nanos(fastrand::u64(..10_u64.pow(fastrand::u32(3..12))))).collect();
        let mut one = Fine::default();
        let mut parts = [Fine::default(), Fine::default(), Fine::default()];
        for (at, time) in random.iter().enumerate() {
            one.record(*time);
            parts[at % 3].record(*time);
        }
        let mut merged = Fine::default();
        for part in &parts {
            let text = serde_json::to_string(part).unwrap();
            merged.merge(&serde_json::from_str(&text).unwrap());
        }
        assert_eq!(merged.count(), 20_000);
        for share in (0..=1000).map(|part| f64::from(part) / 1000.0) {
            assert_eq!(merged.quantile_ms(share), one.quantile_ms(share), "{share}");
        }
        assert_eq!(serde_json::to_string(&merged).unwrap(), serde_json::to_string(&one).unwrap());
    }

    #[test]
    fn nothing_has_no_quantiles_and_what_is_beyond_the_bounds_is_at_them() {
        let mut times = Coarse::default();
        assert_eq!(times.quantile_ms(0.5), None);
        times.record(Duration::from_secs(10_000));
        assert!(times.quantile_ms(1.0).unwrap() >= 3_600_000.0);
    }
}
