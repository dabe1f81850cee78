//! Codes of places, as rules and maps write them, and whether anything can tell that a client is there.

use std::ops::Range;

use geoip::{ContinentCode, CountryCode, Knows};
use policies::{Area, Matched, Subdivision};

use super::findings::Scope;
use crate::config::raw::Placed;

/// What `[geoip]` offers to tell where clients are.
pub(super) struct Geography {
    /// Whether it names any source.
    pub(super) has_sources: bool,
    /// `None` if that is not known: the files were not read, or are wrong.
    pub(super) knows: Option<Knows>,
}

impl Geography {
    /// Warns of a value that no client can match, because nothing tells that fact of any client; says whether it did.
    pub(super) fn warn_if_unknowable(
        &self,
        what: &Matched,
        span: Option<Range<usize>>,
        scope: &mut Scope<'_, '_>,
    ) -> bool {
        let Some(knows) = self.knows else { return false };
        let (known, message, help) = match what {
            Matched::Country(_) | Matched::Continent(_) => (
                knows.country,
                "nothing says in which country one is",
                "no file in [geoip] has countries; a city or country database does",
            ),
            Matched::Subdivision(_) => (
                knows.subdivision,
                "nothing says in which subdivision one is",
                "no file in [geoip] has codes of subdivisions; a city database does",
            ),
            Matched::Asn(_) => (
                knows.asn,
                "nothing says from which autonomous system one comes",
                "no file in [geoip] has autonomous systems; a database of them can stand beside that of places",
            ),
            Matched::Network(_) | Matched::Everybody => return false,
        };
        if known {
            return false;
        }
        let help = if self.has_sources { help } else { "name `databases` or `overrides` in [geoip]" };
        scope.warning(span, format!("no client matches this: {message}")).help(help);
        true
    }
}

pub(super) fn country(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<[u8; 2]> {
    if let Some(code) = country_code(value) {
        return Some(code);
    }
    let problem = scope.error(value.span(), format!("`{}` is not a country code", **value));
    problem.help(match value.to_uppercase() {
        upper if upper == "UK" => "the United Kingdom is `GB`".to_owned(),
        upper if country_code(&upper).is_some() => format!("write `{upper}`"),
        _ => "ISO 3166-1 alpha-2 in upper case, such as `DE`".to_owned(),
    });
    None
}

pub(super) fn continent(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<[u8; 2]> {
    if let Some(code) = continent_code(value) {
        return Some(code);
    }
    let problem = scope.error(value.span(), format!("`{}` is not a continent code", **value));
    problem.help(match value.to_uppercase() {
        upper if continent_code(&upper).is_some() => format!("write `{upper}`"),
        _ => format!("one of: {}", continents()),
    });
    None
}

/// ISO 3166-2, whole: `DE-BY`. Which divisions a country has is not checked: they change, and databases lag behind.
pub(super) fn subdivision(value: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Subdivision> {
    if let Some(subdivision) = subdivision_code(value) {
        return Some(subdivision);
    }
    let problem = scope.error(value.span(), format!("`{}` is not a subdivision code", **value));
    problem.help(match value.to_uppercase() {
        upper if subdivision_code(&upper).is_some() => format!("write `{upper}`"),
        upper if value.contains('/') && subdivision_code(&upper.replace('/', "-")).is_some() => {
            format!("write `{}`", upper.replace('/', "-"))
        }
        _ => {
            "ISO 3166-2 in upper case: the country, a hyphen and up to three letters or digits, such as `DE-BY`".into()
        }
    });
    None
}

pub(super) fn asn(value: &Placed<i64>, scope: &mut Scope<'_, '_>) -> Option<u32> {
    scope.whole("asn", value, 1..=i64::from(u32::MAX))
}

/// A key of the map: `default`, or a path that may skip the continent.
///
/// Four codes are those of a continent and of a country: AF, AS, NA, SA. A path never starts with a country of these, so that `SA` is
/// South America, and Saudi Arabia is `AS/SA`.
pub(super) fn path(key: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Area> {
    if **key == "default" {
        return Some(Area::World);
    }
    let steps: Vec<&str> = key.split('/').collect();
    let found = match steps[..] {
        [only] if let Some(continent) = continent_code(only) => Ok(Area::Continent(continent)),
        [first, ref below @ ..] if continent_code(first).is_some() => in_country(below, Some(first)),
        ref steps => in_country(steps, None),
    };
    found
        .map_err(|help| {
            scope.error(key.span(), format!("`{}` is not an area", **key)).help(help);
        })
        .ok()
}

/// A country and what may follow it, or the way out.
fn in_country(steps: &[&str], continent: Option<&str>) -> Result<Area, String> {
    let (country, code) = match steps {
        [country] => (*country, None),
        [country, code] => (*country, Some(*code)),
        _ => return Err("a path is `CONTINENT/COUNTRY/SUBDIVISION` at most; the continent can be left out".to_owned()),
    };
    if code == Some("default") || (country == "default" && continent.is_some()) {
        let outer = continent.into_iter().chain(code.map(|_| country)).collect::<Vec<_>>().join("/");
        return Err(format!("write `{outer}`: an area is the default of what is in it"));
    }
    let Some(bytes) = country_code(country) else { return Err(no_country(country, continent)) };
    let home = CountryCode::parse(country).and_then(geoip::continent_of);
    let home = home.as_ref().map(ContinentCode::as_str);
    if let (Some(named), Some(home)) = (continent, home)
        && named != home
    {
        return Err(format!("`{country}` is in `{home}`"));
    }
    let Some(code) = code else { return Ok(Area::Country(bytes)) };
    let bare = code.strip_prefix(country).and_then(|rest| rest.strip_prefix('-'));
    match (subdivision_code(&format!("{country}-{code}")), bare) {
        (Some(subdivision), _) => Ok(Area::Subdivision(subdivision)),
        (None, Some(bare)) => Err(format!("write `{bare}` for the subdivision: its country stands before it")),
        (None, None) => Err(format!("`{code}` is not a subdivision: up to three capitals or digits, such as `DE/BY`")),
    }
}

fn no_country(country: &str, continent: Option<&str>) -> String {
    let upper = country.to_uppercase();
    match continent {
        // Meant as a country: `SA/01`.
        Some(code) if country_code(country).is_none() && country_code(code).is_some() => {
            let home = CountryCode::parse(code).and_then(geoip::continent_of);
            let home = home.as_ref().map_or("", ContinentCode::as_str);
            format!("`{code}` is a continent here, and `{country}` no country; the country is `{home}/{code}`")
        }
        _ if upper == "UK" => "the United Kingdom is `GB`".to_owned(),
        _ if continent.is_none() && continent_code(&upper).is_some() => format!("write `{upper}`"),
        _ if country_code(&upper).is_some() => format!("write `{upper}`"),
        _ if continent.is_none() && subdivision_code(country).is_some() => {
            format!("write `{}`", country.replace('-', "/"))
        }
        _ => format!("`default`, a country of ISO 3166-1 such as `DE`, or a continent: {}", continents()),
    }
}

/// A code in upper case that stands for a country.
fn country_code(code: &str) -> Option<[u8; 2]> {
    let bytes = two_capitals(code)?;
    CountryCode::parse(code).and_then(geoip::continent_of).map(|_| bytes)
}

fn continent_code(code: &str) -> Option<[u8; 2]> {
    let bytes = two_capitals(code)?;
    ContinentCode::parse(code).map(|_| bytes)
}

fn subdivision_code(code: &str) -> Option<Subdivision> {
    let (country, division) = code.split_once('-')?;
    let in_capitals = !division.bytes().any(|byte| byte.is_ascii_lowercase());
    Subdivision::new(country_code(country)?, division).filter(|_| in_capitals)
}

fn two_capitals(code: &str) -> Option<[u8; 2]> {
    <[u8; 2]>::try_from(code.as_bytes()).ok().filter(|code| code.iter().all(u8::is_ascii_uppercase))
}

fn continents() -> String {
    let codes: Vec<String> = ContinentCode::ALL.iter().map(|code| format!("`{code}`")).collect();
    codes.join(", ")
}
