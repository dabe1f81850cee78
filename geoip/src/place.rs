//! What can be known about where an address is.

use std::{fmt, str};

use crate::{continent::continent_of, distance::Coordinates};

/// What is known of a place. Every part may be unknown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    pub continent: Option<ContinentCode>,
    pub country: Option<CountryCode>,
    /// The code of the first-level division inside the country (`BE`, not `DE-BE`), or its name where a database has no
    /// codes.
    pub subdivision: Option<String>,
    /// In English where there is a choice.
    pub city: Option<String>,
    pub location: Option<Coordinates>,
    /// The client is with a probability of 67 % within this many kilometres of `location`.
    pub accuracy_radius_km: Option<u16>,
    /// The number of the autonomous system that announces the address.
    pub asn: Option<u32>,
}

impl Place {
    /// Whether nothing at all is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// The code of the division inside its country, the part of ISO 3166-2 after the hyphen: `BE`, also where a database
    /// writes `DE-BE`. `None` where only a name is known, and names of different databases are not compared.
    pub fn subdivision_code(&self) -> Option<&str> {
        let written = self.subdivision.as_deref()?;
        let code = match (written.split_once('-'), self.country) {
            (Some((country, code)), Some(own)) if country.eq_ignore_ascii_case(own.as_str()) => code,
            _ => written,
        };
        let is_code = (1..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_code.then_some(code)
    }

    /// Whether anything is known of where it is; an autonomous system is no place.
    pub(crate) fn is_somewhere(&self) -> bool {
        self.continent.is_some()
            || self.country.is_some()
            || self.subdivision.is_some()
            || self.city.is_some()
            || self.location.is_some()
    }

    /// Derives the continent from the country where only that is known.
    pub(crate) fn with_continent(mut self) -> Self {
        self.continent = self.continent.or_else(|| self.country.and_then(continent_of));
        self
    }

    /// Fills what is unknown here with what another source knows. If the two disagree on the country, only the
    /// autonomous system is taken over: the city of one and the country of the other would be a place that nobody claimed.
    pub(crate) fn fill_from(&mut self, other: Self) {
        self.asn = self.asn.or(other.asn);
        let disagree = self.country.is_some() && other.country.is_some() && self.country != other.country;
        if disagree {
            return;
        }
        self.continent = self.continent.or(other.continent);
        self.country = self.country.or(other.country);
        self.subdivision = self.subdivision.take().or(other.subdivision);
        self.city = self.city.take().or(other.city);
        if self.location.is_none() {
            // A radius without its centre says nothing, so the two travel together.
            (self.location, self.accuracy_radius_km) = (other.location, other.accuracy_radius_km);
        }
    }
}

/// Which facts a source has at all, for at least one address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knows {
    pub country: bool,
    /// The code of a subdivision; a name alone does not count.
    pub subdivision: bool,
    pub location: bool,
    pub asn: bool,
}

impl Knows {
    pub(crate) const EVERYTHING: Self = Self { country: true, subdivision: true, location: true, asn: true };

    pub(crate) fn of(place: &Place) -> Self {
        Self {
            country: place.country.is_some(),
            subdivision: place.country.is_some() && place.subdivision_code().is_some(),
            location: place.location.is_some(),
            asn: place.asn.is_some(),
        }
    }

    /// What either knows.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            country: self.country || other.country,
            subdivision: self.subdivision || other.subdivision,
            location: self.location || other.location,
            asn: self.asn || other.asn,
        }
    }
}

/// A country as ISO 3166-1 alpha-2 names it: two letters, kept in upper case. Whether a country has this code is not
/// checked, since databases use some that ISO has not assigned (`XK`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountryCode([u8; 2]);

impl CountryCode {
    /// `None` for anything but two ASCII letters, of any case.
    pub fn parse(text: &str) -> Option<Self> {
        two_letters(text).map(Self)
    }

    pub fn bytes(self) -> [u8; 2] {
        self.0
    }

    pub fn as_str(&self) -> &str {
        as_str(&self.0)
    }
}

/// A continent: `AF`, `AN`, `AS`, `EU`, `NA`, `OC` or `SA`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContinentCode([u8; 2]);

impl ContinentCode {
    pub const AFRICA: Self = Self(*b"AF");
    pub const ANTARCTICA: Self = Self(*b"AN");
    pub const ASIA: Self = Self(*b"AS");
    pub const EUROPE: Self = Self(*b"EU");
    pub const NORTH_AMERICA: Self = Self(*b"NA");
    pub const OCEANIA: Self = Self(*b"OC");
    pub const SOUTH_AMERICA: Self = Self(*b"SA");

    pub const ALL: [Self; 7] = [
        Self::AFRICA,
        Self::ANTARCTICA,
        Self::ASIA,
        Self::EUROPE,
        Self::NORTH_AMERICA,
        Self::OCEANIA,
        Self::SOUTH_AMERICA,
    ];

    /// `None` for anything but one of the seven codes, of any case.
    pub fn parse(text: &str) -> Option<Self> {
        let code = Self(two_letters(text)?);
        Self::ALL.contains(&code).then_some(code)
    }

    pub fn bytes(self) -> [u8; 2] {
        self.0
    }

    pub fn as_str(&self) -> &str {
        as_str(&self.0)
    }
}

fn two_letters(text: &str) -> Option<[u8; 2]> {
    let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
    letters.iter().all(u8::is_ascii_alphabetic).then(|| letters.map(|letter| letter.to_ascii_uppercase()))
}

fn as_str(code: &[u8; 2]) -> &str {
    str::from_utf8(code).expect("ASCII letters, as it was made from two of them")
}

impl fmt::Display for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountryCode({})", self.as_str())
    }
}

impl fmt::Display for ContinentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ContinentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContinentCode({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_two_letters_in_upper_case() {
        assert_eq!(CountryCode::parse("de").map(CountryCode::bytes), Some(*b"DE"));
        for bad in ["", "D", "DEU", "D1", "é", "日"] {
            assert_eq!(CountryCode::parse(bad), None, "{bad}");
        }
        assert_eq!(ContinentCode::parse("eu"), Some(ContinentCode::EUROPE));
        assert_eq!(ContinentCode::parse("XX"), None);
        assert_eq!(CountryCode::parse("SG").unwrap().to_string(), "SG");
    }

    #[test]
    fn a_subdivision_has_a_code_or_only_a_name() {
        let check = |written: &str, want: Option<&str>| {
            let country = CountryCode::parse("DE");
            let place = Place { country, subdivision: Some(written.to_owned()), ..Place::default() };
            assert_eq!(place.subdivision_code(), want, "{written}");
        };
        check("BE", Some("BE"));
        check("DE-BE", Some("BE"));
        check("2A", Some("2A"));
        check("FR-2A", None);
        check("Berlin", None);
        check("", None);
        check("DE-", None);
        assert_eq!(Place::default().subdivision_code(), None);
    }

    #[test]
    fn a_place_is_not_put_together_from_two_countries() {
        let mut place = Place { country: CountryCode::parse("DE"), ..Place::default() };
        let elsewhere = Place {
            country: CountryCode::parse("US"),
            city: Some("Milton".to_owned()),
            asn: Some(209),
            ..Place::default()
        };
        place.fill_from(elsewhere);
        assert_eq!((place.city, place.asn), (None, Some(209)));
    }
}
