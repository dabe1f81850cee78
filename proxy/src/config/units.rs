//! Values with a unit, as the files write them: `"30s"`, `"64KiB"`, `"200/s"`, `"50%"`, `"500km"`.
//!
//! Every one is a string with its unit in it, because a bare `30` is read as seconds by one person and as
//! milliseconds by the next. (A size may also be a plain integer: bytes leave no doubt.) A value that cannot be read
//! is answered with what is wrong and an example. [`Display`](std::fmt::Display) writes a value the way
//! the files write it, so that the reference and messages use one spelling.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};

/// A length of time: numbers with the units `ns`, `us`, `ms`, `s`, `m`, `h`, `d`, from the largest to the smallest:
/// `"30s"`, `"1h30m"`, `"1.5s"`. At most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes: `"64KiB"`, `"1MiB"`, `"64kB"`, or a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// So many per second, minute or hour: `"200/s"`, `"10/m"`. Finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate {
    pub per_second: f64,
}

/// A whole percentage from 0 to 100: `"50%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// A distance on the ground: `"500km"`. Finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Distance {
    pub km: f64,
}

/// Why a text is not the value that it should be; a sentence for the operator, without an example.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Period, UnitError> {
        let wrong = |why: &str| UnitError(format!("`{text}` is not a duration: {why}"));
        let mut rest = text;
        let mut nanoseconds = 0.0_f64;
        let mut smaller_than = f64::INFINITY;
        while !rest.is_empty() {
            let (number, tail) = leading_number(rest).ok_or_else(|| wrong("a number with a unit is expected"))?;
            let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let scale = nanoseconds_in(unit).ok_or_else(|| match unit {
                "" => wrong("the unit is missing (ns, us, ms, s, m, h, d)"),
                _ => wrong(&format!("`{unit}` is not a unit of time (ns, us, ms, s, m, h, d)")),
            })?;
            if scale >= smaller_than {
                return Err(wrong("units go from the largest to the smallest, each once"));
            }
            (smaller_than, rest) = (scale, tail);
            nanoseconds += number * scale;
        }
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        // Beyond this, deadlines computed from it could overflow the clock.
        if nanoseconds > TEN_YEARS_IN_NANOSECONDS {
            return Err(wrong("it is longer than ten years"));
        }
        Ok(Period(rounded_to_nanoseconds(nanoseconds)))
    }
}

const TEN_YEARS_IN_NANOSECONDS: f64 = 3650.0 * 86_400.0 * 1e9;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to ten years in ns is below 2^59")]
fn rounded_to_nanoseconds(nanoseconds: f64) -> Duration {
    Duration::from_nanos(nanoseconds.round() as u64)
}

fn nanoseconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3_600e9,
        "d" => 86_400e9,
        _ => return None,
    })
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        let wrong = |why: &str| UnitError(format!("`{text}` is not a size: {why}"));
        let (number, unit) = leading_number(text).ok_or_else(|| wrong("a number with a unit is expected"))?;
        let scale = match unit.trim_start() {
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "KiB" => 1024.0,
            "MiB" => 1_048_576.0,
            "GiB" => 1_073_741_824.0,
            "" => return Err(wrong("the unit is missing (B, KiB, MiB, GiB, kB, MB, GB)")),
            unit => return Err(wrong(&format!("`{unit}` is not a unit of size (B, KiB, MiB, GiB, kB, MB, GB)"))),
        };
        let bytes = number * scale;
        if bytes.fract() != 0.0 {
            return Err(wrong("it is not a whole number of bytes"));
        }
        if bytes > LARGEST_SIZE {
            return Err(wrong("it is larger than 8192 TiB"));
        }
        Ok(Size(whole_bytes(bytes)))
    }
}

/// 2^53: up to here an `f64` counts single bytes.
const LARGEST_SIZE: f64 = 9_007_199_254_740_992.0;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^53, and checked to be whole")]
fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Rate, UnitError> {
        let wrong = |why: &str| UnitError(format!("`{text}` is not a rate: {why}"));
        let (number, unit) = leading_number(text).ok_or_else(|| wrong("a number with a unit is expected"))?;
        let seconds = match unit {
            "/s" => 1.0,
            "/m" => 60.0,
            "/h" => 3_600.0,
            "" => return Err(wrong("the unit is missing (/s, /m, /h)")),
            unit => return Err(wrong(&format!("`{unit}` is not a unit of rate (/s, /m, /h)"))),
        };
        Ok(Rate { per_second: number / seconds })
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Percent, UnitError> {
        let wrong = |why: &str| UnitError(format!("`{text}` is not a percentage: {why}"));
        let number = text.strip_suffix('%').ok_or_else(|| wrong("the `%` is missing"))?;
        match number.parse::<u8>() {
            Ok(whole @ 0..=100) => Ok(Percent(whole)),
            _ => Err(wrong("it must be a whole number from 0 to 100")),
        }
    }
}

impl FromStr for Distance {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Distance, UnitError> {
        let wrong = |why: &str| UnitError(format!("`{text}` is not a distance: {why}"));
        let (number, unit) = leading_number(text).ok_or_else(|| wrong("a number with a unit is expected"))?;
        match unit.trim_start() {
            "km" => Ok(Distance { km: number }),
            "m" => Ok(Distance { km: number / 1000.0 }),
            "" => Err(wrong("the unit is missing (km, m)")),
            unit => Err(wrong(&format!("`{unit}` is not a unit of distance (km, m)"))),
        }
    }
}

/// A decimal number at the start of a text, and what follows it. No sign, no exponent: neither is of use in a
/// configuration, and so every number here is finite and not negative.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let number = digits.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some((number, rest))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        const UNITS: [(&str, u128); 7] = [
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ];
        let mut left = self.0.as_nanos();
        for (unit, scale) in UNITS {
            let count = left / scale;
            left %= scale;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}km", self.km)
    }
}

/// What reading and the JSON Schema need to know of a unit.
trait Unit: FromStr<Err = UnitError> {
    /// As in "must be ...".
    const EXPECTED: &'static str;
    const NAME: &'static str;
    /// For editors: an ECMA-262 expression of the same language.
    const PATTERN: &'static str;

    /// What a plain integer means, if anything.
    fn from_integer(_: u64) -> Option<Self> {
        None
    }
}

impl Unit for Period {
    const EXPECTED: &'static str = "a duration such as \"30s\", \"250ms\" or \"1h30m\"";
    const NAME: &'static str = "Duration";
    const PATTERN: &'static str = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d))+$";
}

impl Unit for Size {
    const EXPECTED: &'static str = "a size such as \"64KiB\" or \"1MiB\", or a number of bytes";
    const NAME: &'static str = "Size";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)? ?(B|kB|KB|MB|GB|KiB|MiB|GiB)$";

    fn from_integer(bytes: u64) -> Option<Size> {
        Some(Size(bytes))
    }
}

impl Unit for Rate {
    const EXPECTED: &'static str = "a rate such as \"200/s\" or \"10/m\"";
    const NAME: &'static str = "Rate";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)?/[smh]$";
}

impl Unit for Percent {
    const EXPECTED: &'static str = "a percentage such as \"50%\"";
    const NAME: &'static str = "Percent";
    const PATTERN: &'static str = r"^(100|[0-9]{1,2})%$";
}

impl Unit for Distance {
    const EXPECTED: &'static str = "a distance such as \"500km\"";
    const NAME: &'static str = "Distance";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)? ?(km|m)$";
}

struct UnitVisitor<T>(PhantomData<T>);

impl<T: Unit> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number).ok().and_then(T::from_integer) {
            Some(value) => Ok(value),
            None => Err(E::invalid_type(serde::de::Unexpected::Signed(number), &self)),
        }
    }
}

/// `Deserialize` and `JsonSchema` of a unit; a blanket implementation would break the orphan rule.
macro_rules! read_as_unit {
    ($($unit:ty),+) => { $(
        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$unit, D::Error> {
                deserializer.deserialize_any(UnitVisitor(PhantomData))
            }
        }

        impl JsonSchema for $unit {
            fn schema_name() -> Cow<'static, str> {
                <$unit as Unit>::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schema_of_unit::<$unit>()
            }
        }
    )+ };
}

read_as_unit!(Period, Size, Rate, Percent, Distance);

fn schema_of_unit<T: Unit>() -> Schema {
    let text = json_schema!({ "type": "string", "pattern": T::PATTERN });
    match T::from_integer(0) {
        None => text,
        Some(_) => json_schema!({ "anyOf": [text, { "type": "integer", "minimum": 0 }] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = UnitError> + fmt::Display>(input: &str, want: Result<&str, &str>) {
        let got = input.parse::<T>().map(|value| value.to_string()).map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), want, "for {input:?}");
    }

    #[test]
    fn durations_are_read_and_written_back_in_their_shortest_form() {
        check::<Period>("30s", Ok("30s"));
        check::<Period>("250ms", Ok("250ms"));
        check::<Period>("1h30m", Ok("1h30m"));
        check::<Period>("90m", Ok("1h30m"));
        check::<Period>("1.5s", Ok("1s500ms"));
        check::<Period>("7us", Ok("7us"));
        check::<Period>("0s", Ok("0s"));
        check::<Period>("3650d", Ok("3650d"));
    }

    #[test]
    fn a_wrong_duration_says_what_is_wrong() {
        check::<Period>("", Err("`` is not a duration: it is empty"));
        check::<Period>("30", Err("`30` is not a duration: the unit is missing (ns, us, ms, s, m, h, d)"));
        check::<Period>("-3s", Err("`-3s` is not a duration: a number with a unit is expected"));
        check::<Period>("3 s", Err("`3 s` is not a duration: ` s` is not a unit of time (ns, us, ms, s, m, h, d)"));
        check::<Period>("2min", Err("`2min` is not a duration: `min` is not a unit of time (ns, us, ms, s, m, h, d)"));
        check::<Period>(
            "30m1h",
            Err("`30m1h` is not a duration: units go from the largest to the smallest, each once"),
        );
        check::<Period>("1s1s", Err("`1s1s` is not a duration: units go from the largest to the smallest, each once"));
        check::<Period>("1.2.3s", Err("`1.2.3s` is not a duration: a number with a unit is expected"));
        check::<Period>("3651d", Err("`3651d` is not a duration: it is longer than ten years"));
    }

    #[test]
    fn sizes_know_both_families_of_units() {
        check::<Size>("64KiB", Ok("64KiB"));
        check::<Size>("1.5 KiB", Ok("1536B"));
        check::<Size>("64kB", Ok("64000B"));
        check::<Size>("2048MiB", Ok("2GiB"));
        check::<Size>("1.5B", Err("`1.5B` is not a size: it is not a whole number of bytes"));
        check::<Size>("64k", Err("`64k` is not a size: `k` is not a unit of size (B, KiB, MiB, GiB, kB, MB, GB)"));
        check::<Size>("9999999GiB", Err("`9999999GiB` is not a size: it is larger than 8192 TiB"));
    }

    #[test]
    fn rates_percentages_and_distances_need_their_unit() {
        check::<Rate>("200/s", Ok("200/s"));
        check::<Rate>("30/m", Ok("0.5/s"));
        check::<Rate>("200", Err("`200` is not a rate: the unit is missing (/s, /m, /h)"));
        check::<Rate>("2/d", Err("`2/d` is not a rate: `/d` is not a unit of rate (/s, /m, /h)"));
        check::<Percent>("50%", Ok("50%"));
        check::<Percent>("50", Err("`50` is not a percentage: the `%` is missing"));
        check::<Percent>("101%", Err("`101%` is not a percentage: it must be a whole number from 0 to 100"));
        check::<Percent>("12.5%", Err("`12.5%` is not a percentage: it must be a whole number from 0 to 100"));
        check::<Distance>("500km", Ok("500km"));
        check::<Distance>("1500m", Ok("1.5km"));
        check::<Distance>("500mi", Err("`500mi` is not a distance: `mi` is not a unit of distance (km, m)"));
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        for nanoseconds in [1, 999, 1_000, 1_500_000, 59_999_999_999, 86_400_000_000_001, 90_061_001_001_001] {
            let period = Period(Duration::from_nanos(nanoseconds));
            assert_eq!(period.to_string().parse(), Ok(period));
        }
    }
}
