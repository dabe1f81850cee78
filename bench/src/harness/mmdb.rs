//! Small GeoIP databases in the MMDB format, so that tests and the demo need no file from elsewhere.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use maxminddb_writer::{Database, metadata::IpVersion, paths::IpAddrWithMask};
use serde::Serialize;

/// What is known about a network. Empty parts are left out of the record.
#[derive(Debug, Clone)]
pub struct Row {
    pub network: IpNet,
    /// ISO 3166-1, two letters.
    pub country: Option<&'static str>,
    /// Two letters, as in GeoIP2: AF, AN, AS, EU, NA, OC, SA.
    pub continent: Option<&'static str>,
    /// ISO 3166-2 without the country: `BY`.
    pub subdivision: Option<&'static str>,
    pub city: Option<&'static str>,
    /// Latitude and longitude in degrees.
    pub location: Option<(f64, f64)>,
    /// Autonomous system number.
    pub asn: Option<u32>,
}

impl Row {
    /// A network of which nothing is known yet.
    ///
    /// # Panics
    /// When `network` is none, such as `203.0.113.0/24`.
    #[must_use]
    pub fn new(network: &str) -> Self {
        let network = network.parse().unwrap_or_else(|error| panic!("{network:?} is no network: {error}"));
        Self { network, country: None, continent: None, subdivision: None, city: None, location: None, asn: None }
    }

    #[must_use]
    pub fn country(self, country: &'static str) -> Self {
        Self { country: Some(country), ..self }
    }

    #[must_use]
    pub fn continent(self, continent: &'static str) -> Self {
        Self { continent: Some(continent), ..self }
    }

    #[must_use]
    pub fn subdivision(self, subdivision: &'static str) -> Self {
        Self { subdivision: Some(subdivision), ..self }
    }

    #[must_use]
    pub fn city(self, city: &'static str) -> Self {
        Self { city: Some(city), ..self }
    }

    #[must_use]
    pub fn at(self, latitude: f64, longitude: f64) -> Self {
        Self { location: Some((latitude, longitude)), ..self }
    }

    #[must_use]
    pub fn asn(self, asn: u32) -> Self {
        Self { asn: Some(asn), ..self }
    }
}

/// How records are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Nested, as MaxMind's GeoIP2 and GeoLite2 City.
    GeoIp2City,
    /// As MaxMind's ASN files.
    GeoIp2Asn,
    /// Flat, as the city files made of DB-IP's data.
    Flat,
    /// Flat with text throughout, as IPinfo's files: `asn` is `"AS64500"`, `lat` and `lng` are strings.
    IpInfo,
}

/// The bytes of a database. Where networks contain each other, the smaller one wins, in whatever order they are given.
///
/// # Errors
/// When a record cannot be written.
pub fn build(layout: Layout, rows: &[Row]) -> Result<Vec<u8>> {
    let mut database = Database::default();
    // An IPv6 tree keeps IPv4 networks under ::/96; a reader finds both in it.
    database.metadata.ip_version = IpVersion::V6;
    // The writer's default is 0, which readers refuse.
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = layout.name().into();
    database.metadata.description.insert("en".into(), "made by warbler-bench".into());
    database.metadata.build_epoch = 1_790_000_000;
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| prefix_in_ipv6(row.network));
    for row in rows {
        let inserted = match layout {
            Layout::GeoIp2City => database.insert_value(City::of(row)),
            Layout::GeoIp2Asn => database.insert_value(Asn { autonomous_system_number: row.asn }),
            Layout::Flat => database.insert_value(Flat::of(row)),
            Layout::IpInfo => database.insert_value(IpInfo::of(row)),
        };
        let record = inserted.map_err(|error| anyhow::anyhow!("no record for {}: {error}", row.network))?;
        database.insert_node(in_ipv6(row.network), record);
    }
    database.write_to(Vec::new()).map_err(|error| anyhow::anyhow!("{error}")).context("cannot write a database")
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::GeoIp2City => "Test-City",
            Self::GeoIp2Asn => "Test-ASN",
            Self::Flat => "Test-Flat-City",
            Self::IpInfo => "Test-ipinfo",
        }
    }
}

fn prefix_in_ipv6(network: IpNet) -> u8 {
    network.prefix_len() + if network.addr().is_ipv4() { 96 } else { 0 }
}

fn in_ipv6(network: IpNet) -> IpAddrWithMask {
    let address = match network.network() {
        // Not `to_ipv6_mapped`: the tree wants ::a.b.c.d.
        IpAddr::V4(v4) => std::net::Ipv6Addr::from(u128::from(v4.to_bits())),
        IpAddr::V6(v6) => v6,
    };
    IpAddrWithMask::new(address.into(), prefix_in_ipv6(network))
}

#[derive(Serialize)]
struct City {
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<Names>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continent: Option<Continent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<Country>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subdivisions: Option<[Country; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct Names {
    names: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct Continent {
    code: &'static str,
}

/// A country or a part of one.
#[derive(Serialize)]
struct Country {
    iso_code: &'static str,
}

#[derive(Serialize)]
struct Location {
    latitude: f64,
    longitude: f64,
}

impl City {
    fn of(row: &Row) -> Self {
        Self {
            city: row.city.map(|city| Names { names: [("en", city)].into() }),
            continent: row.continent.map(|code| Continent { code }),
            country: row.country.map(|iso_code| Country { iso_code }),
            subdivisions: row.subdivision.map(|iso_code| [Country { iso_code }]),
            location: row.location.map(|(latitude, longitude)| Location { latitude, longitude }),
        }
    }
}

#[derive(Serialize)]
struct Asn {
    #[serde(skip_serializing_if = "Option::is_none")]
    autonomous_system_number: Option<u32>,
}

#[derive(Serialize)]
struct Flat {
    #[serde(skip_serializing_if = "Option::is_none")]
    autonomous_system_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continent_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state1: Option<&'static str>,
}

impl Flat {
    fn of(row: &Row) -> Self {
        Self {
            autonomous_system_number: row.asn,
            city: row.city,
            continent_code: row.continent,
            country_code: row.country,
            latitude: row.location.map(|(latitude, _)| latitude),
            longitude: row.location.map(|(_, longitude)| longitude),
            state1: row.subdivision,
        }
    }
}

#[derive(Serialize)]
struct IpInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    asn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continent_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lng: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region_code: Option<&'static str>,
}

impl IpInfo {
    fn of(row: &Row) -> Self {
        Self {
            asn: row.asn.map(|asn| format!("AS{asn}")),
            city: row.city,
            continent_code: row.continent,
            country_code: row.country,
            lat: row.location.map(|(latitude, _)| latitude.to_string()),
            lng: row.location.map(|(_, longitude)| longitude.to_string()),
            region_code: row.subdivision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxminddb::{PathElement, Reader};

    fn rows() -> Vec<Row> {
        vec![
            Row::new("10.1.0.0/16").country("US").at(40.7, -74.0),
            Row::new("10.0.0.0/8").country("CA").continent("NA").city("Ottawa").at(45.4, -75.7).asn(64500),
            Row::new("2001:db8::/32").country("JP"),
        ]
    }

    fn text(reader: &Reader<Vec<u8>>, address: &str, path: &[&'static str]) -> Option<String> {
        let path: Vec<_> = path.iter().map(|key| PathElement::Key(key)).collect();
        reader.lookup(address.parse().unwrap()).unwrap().decode_path(&path).unwrap()
    }

    #[test]
    fn a_reader_accepts_it_and_the_smaller_network_wins() {
        let reader = Reader::from_source(build(Layout::GeoIp2City, &rows()).unwrap()).unwrap();
        reader.verify().unwrap();
        assert_eq!(text(&reader, "10.1.2.3", &["country", "iso_code"]).as_deref(), Some("US"));
        assert_eq!(text(&reader, "10.2.2.3", &["continent", "code"]).as_deref(), Some("NA"));
        assert_eq!(text(&reader, "10.2.2.3", &["city", "names", "en"]).as_deref(), Some("Ottawa"));
        assert_eq!(text(&reader, "2001:db8::1", &["country", "iso_code"]).as_deref(), Some("JP"));
        assert!(!reader.lookup("8.8.8.8".parse().unwrap()).unwrap().has_data());
    }

    #[test]
    fn the_other_layouts_hold_the_same_rows() {
        for layout in [Layout::Flat, Layout::IpInfo] {
            let reader = Reader::from_source(build(layout, &rows()).unwrap()).unwrap();
            reader.verify().unwrap();
            assert_eq!(text(&reader, "10.1.2.3", &["country_code"]).as_deref(), Some("US"));
        }
        let reader = Reader::from_source(build(Layout::IpInfo, &rows()).unwrap()).unwrap();
        assert_eq!(text(&reader, "10.9.9.9", &["asn"]).as_deref(), Some("AS64500"));
        let reader = Reader::from_source(build(Layout::GeoIp2Asn, &rows()).unwrap()).unwrap();
        reader.verify().unwrap();
    }
}
