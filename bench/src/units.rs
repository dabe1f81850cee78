//! Quantities as people write them on a command line.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A number with `us`, `ms` or `s`.
///
/// # Errors
/// When it is none.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = split(text);
    ensure!(!unit.is_empty(), "{text:?} has no unit: us, ms or s");
    let seconds = match unit {
        "us" => number_of(number)? / 1e6,
        "ms" => number_of(number)? / 1e3,
        "s" => number_of(number)?,
        _ => bail!("{unit:?} is no unit: us, ms or s"),
    };
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text:?} is no length of time"))
}

/// A share of a whole: `2.5%` is 0.025.
///
/// # Errors
/// When it is none, or not from 0 to 100 %.
pub(crate) fn share(text: &str) -> Result<f64> {
    let number = text.strip_suffix('%').with_context(|| format!("{text:?} is no percentage, such as 2.5%"))?;
    let percent = number_of(number)?;
    ensure!((0.0..=100.0).contains(&percent), "{text:?} is not from 0% to 100%");
    Ok(percent / 100.0)
}

/// Bytes: a whole number from 1, alone or with `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// When it is none.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => bail!("{unit:?} is no unit: KiB, MiB or GiB"),
    };
    let number: u64 = number.parse().with_context(|| format!("{number:?} is no whole number"))?;
    ensure!(number > 0, "{text:?} is nothing");
    number.checked_mul(1 << shift).with_context(|| format!("{text:?} is too much"))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()))
}

fn number_of(text: &str) -> Result<f64> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_a_unit() {
        assert_eq!(duration("40ms").unwrap(), Duration::from_millis(40));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("7us").unwrap(), Duration::from_micros(7));
        for wrong in ["40", "ms", "40min", "-1s", "NaNs", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert!((share("2.5%").unwrap() - 0.025).abs() < 1e-12);
        for wrong in ["2", "101%", "-1%", "NaN%", "%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_whole() {
        assert_eq!((bytes("1500").unwrap(), bytes("64KiB").unwrap()), (1500, 65536));
        for wrong in ["0", "1.5KiB", "64kB", "KiB", "99999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
