//! Clients that are made up: so many, from these places, at this rate, for so long.

use std::io::{self, Write};
use std::time::Duration;

use geoip::{Coordinates, CountryCode, Place, continent_of};
use policies::{Kind, SeededDice};
use serde::Serialize;

use super::countries::middle_of;
use super::fraction;
use crate::trace::Visit;

/// A crowd of tunnels. They arrive as a Poisson process, and their lifetimes are spread exponentially: what many people
/// who do not know of each other look like.
#[derive(Debug, Clone)]
pub struct Crowd {
    pub clients: u64,
    pub per_second: f64,
    /// The mean.
    pub lifetime: Duration,
    pub places: Places,
    pub seed: u64,
}

/// Places with their share of the clients: `DE=30,FR=20,48.9/2.4=50`.
#[derive(Debug, Clone, PartialEq)]
pub struct Places(Vec<(f64, Place)>);

impl Crowd {
    /// Hands over every client, in the order of arrival.
    pub fn for_each(&self, mut take: impl FnMut(&Visit<'_>)) {
        // Dice of its own: the same crowd comes whatever the simulation does with its dice.
        let mut dice = SeededDice::new(!self.seed);
        let mut exponential = |mean: f64| -(1.0 - fraction(&mut dice)).ln() * mean;
        let mut at = 0.0;
        let mut where_from = SeededDice::new(self.seed);
        for _ in 0..self.clients {
            at += exponential(1.0 / self.per_second);
            let lasts = exponential(self.lifetime.as_secs_f64());
            take(&Visit {
                at: Duration::from_secs_f64(at),
                lasts: Duration::from_secs_f64(lasts),
                kind: Kind::Tunnel,
                address: None,
                place: self.places.draw(fraction(&mut where_from)).cloned(),
                listener: None,
                route: None,
                cluster: None,
                host: None,
                path: None,
            });
        }
    }
}

/// A client that was made up, as a line of a trace.
#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<[f64; 2]>,
}

/// Writes a client of a crowd as a line of a trace, its times to the millisecond.
///
/// # Errors
/// Those of the writer.
pub fn write_line(visit: &Visit<'_>, out: &mut impl Write) -> io::Result<()> {
    let place = visit.place.as_ref();
    let line = Line {
        time_ms: u64::try_from(visit.at.as_millis()).unwrap_or(u64::MAX),
        seconds: (visit.lasts.as_secs_f64() * 1000.0).round() / 1000.0,
        country: place.and_then(|place| place.country.as_ref()).map(CountryCode::as_str),
        location: place.and_then(|place| place.location).map(|at| [at.latitude, at.longitude]),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

impl Places {
    /// The place at this part of the whole, 0 to 1.
    fn draw(&self, part: f64) -> Option<&Place> {
        let mut left = part * self.0.iter().map(|(share, _)| share).sum::<f64>();
        let here = |(share, _): &&(f64, Place)| {
            left -= share;
            left < 0.0
        };
        self.0.iter().find(here).or(self.0.last()).map(|(_, place)| place)
    }
}

impl std::str::FromStr for Places {
    type Err = String;

    fn from_str(text: &str) -> Result<Places, String> {
        let entry = |entry: &str| -> Result<(f64, Place), String> {
            let (place, share) = entry
                .split_once('=')
                .ok_or_else(|| format!("`{entry}` is no place with a share: write `DE=30` or `48.9/2.4=30`"))?;
            let parsed = share.trim().parse::<f64>().ok().filter(|share| share.is_finite() && *share > 0.0);
            let share = parsed.ok_or_else(|| format!("`{share}` is no share: it must be a number above 0"))?;
            Ok((share, read_place(place.trim())?))
        };
        text.split(',').map(|text| entry(text.trim())).collect::<Result<_, _>>().map(Places)
    }
}

fn read_place(text: &str) -> Result<Place, String> {
    if let Some((latitude, longitude)) = text.split_once('/') {
        let degrees = |text: &str| text.trim().parse::<f64>().ok();
        let location =
            degrees(latitude).zip(degrees(longitude)).and_then(|(north, east)| Coordinates::new(north, east));
        let location = location.ok_or_else(|| format!("`{text}` is no place: write latitude/longitude in degrees"))?;
        return Ok(Place { location: Some(location), ..Place::default() });
    }
    let country = CountryCode::parse(text).filter(|country| continent_of(*country).is_some());
    let country = country.ok_or_else(|| format!("no country has the code `{text}`: use the letters of ISO 3166-1"))?;
    Ok(Place {
        country: Some(country),
        continent: continent_of(country),
        location: middle_of(country),
        ..Place::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_comes_at_its_rate_from_its_places_for_its_time() {
        let places: Places = "DE=30, FR=20, 1.35/103.8=50".parse().unwrap();
        let crowd = Crowd { clients: 20_000, per_second: 100.0, lifetime: Duration::from_secs(60), places, seed: 7 };
        let (mut last, mut stayed, mut german, mut placed) = (Duration::ZERO, 0.0, 0_u32, 0_u32);
        crowd.for_each(|visit| {
            assert!(visit.at >= last);
            last = visit.at;
            stayed += visit.lasts.as_secs_f64();
            let place = visit.place.as_ref().unwrap();
            german += u32::from(place.country == CountryCode::parse("DE"));
            placed += u32::from(place.country.is_none());
        });
        // 20 000 draws: a standard deviation is 0.7 % of the means and 65 and 71 clients; five of them are a fault.
        assert!((last.as_secs_f64() / 200.0 - 1.0).abs() < 0.036, "{last:?}");
        assert!((stayed / 20_000.0 / 60.0 - 1.0).abs() < 0.036, "{stayed}");
        assert!(german.abs_diff(6_000) < 325 && placed.abs_diff(10_000) < 355, "{german} {placed}");
    }

    #[test]
    fn a_slip_in_the_places_is_explained() {
        let check = |text: &str, want: &str| assert_eq!(text.parse::<Places>(), Err(want.to_owned()));
        check("DE", "`DE` is no place with a share: write `DE=30` or `48.9/2.4=30`");
        check("DE=x", "`x` is no share: it must be a number above 0");
        check("UK=3", "no country has the code `UK`: use the letters of ISO 3166-1");
        check("99/0=3", "`99/0` is no place: write latitude/longitude in degrees");
    }
}
