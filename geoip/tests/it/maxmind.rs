//! MaxMind's own test databases, where somebody has them: `WARBLER_GEOIP_TESTDATA` names the folder. They are not part of
//! the project (github.com/maxmind/MaxMind-DB, `test-data` and, in a folder `bad`, `bad-data`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use geoip::{Coordinates, Database, DatabaseError, Geo, Knows, Overrides, continent_of, great_circle_km};

use crate::written::ip;

const VARIABLE: &str = "WARBLER_GEOIP_TESTDATA";

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os(VARIABLE).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("NOT TESTED: {VARIABLE} is not set, so MaxMind's test databases were not read");
    }
    folder
}

fn open(folder: &Path, file: &str) -> Result<Database, DatabaseError> {
    Database::from_bytes(file, fs::read(folder.join(file)).expect(file))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "mmdb")).collect();
    files.sort();
    files
}

#[test]
fn known_addresses_are_where_maxmind_put_them() {
    let Some(folder) = folder() else { return };
    let database = open(&folder, "GeoIP2-City-Test.mmdb").unwrap();
    let expected = [
        ("2.125.160.216", "GB", "Boxford", 51.75, -1.25, "2.125.160.216/29"),
        ("81.2.69.160", "GB", "London", 51.5142, -0.0931, "81.2.69.160/27"),
        ("89.160.20.128", "SE", "Linköping", 58.4167, 15.6167, "89.160.20.128/25"),
        ("216.160.83.56", "US", "Milton", 47.2513, -122.3149, "216.160.83.56/29"),
        ("175.16.199.1", "CN", "Changchun", 43.88, 125.3228, "175.16.199.0/24"),
    ];
    for (address, country, city, latitude, longitude, network) in expected {
        let (place, found) = database.place(ip(address)).expect(address);
        assert_eq!(place.country.unwrap().as_str(), country);
        assert_eq!(place.city.as_deref(), Some(city));
        let km = great_circle_km(place.location.unwrap(), Coordinates::new(latitude, longitude).unwrap());
        assert!(km < 1.0, "{address} is {km} km off");
        assert_eq!(found.to_string(), network);
        let mapped = ip(&format!("::ffff:{address}"));
        assert_eq!(database.place(mapped).unwrap().0, place);
    }
}

#[test]
fn city_and_autonomous_system_come_from_two_files() {
    let Some(folder) = folder() else { return };
    let files = ["GeoLite2-City-Test.mmdb", "GeoLite2-ASN-Test.mmdb"];
    let geo = Geo::new(files.map(|file| open(&folder, file).unwrap()).into(), Overrides::empty());
    let located = geo.locate(ip("89.160.20.128"));
    assert_eq!(located.place.country.unwrap().as_str(), "SE");
    assert_eq!(located.place.asn, Some(29_518));
}

#[test]
fn subdivisions_come_as_codes_that_rules_can_name() {
    let Some(folder) = folder() else { return };
    let database = open(&folder, "GeoIP2-City-Test.mmdb").unwrap();
    let expected = [("2.125.160.216", "ENG"), ("89.160.20.128", "E"), ("216.160.83.56", "WA"), ("175.16.199.1", "22")];
    for (address, code) in expected {
        let (place, _) = database.place(ip(address)).expect(address);
        assert_eq!(place.subdivision_code(), Some(code), "{address}");
    }
}

#[test]
fn a_file_knows_the_facts_of_its_kind() {
    let Some(folder) = folder() else { return };
    let knows = |file: &str| open(&folder, file).unwrap().knows();
    let city = Knows { country: true, subdivision: true, location: true, asn: false };
    assert_eq!(knows("GeoIP2-City-Test.mmdb"), city);
    assert_eq!(knows("GeoLite2-City-Test.mmdb"), city);
    assert_eq!(knows("GeoIP2-Country-Test.mmdb"), Knows { country: true, ..Knows::default() });
    assert_eq!(knows("GeoLite2-ASN-Test.mmdb"), Knows { asn: true, ..Knows::default() });
}

#[test]
fn our_table_of_continents_agrees_with_maxminds() {
    let Some(folder) = folder() else { return };
    let mut compared = 0;
    for file in ["GeoIP2-Country-Test.mmdb", "GeoIP2-City-Test.mmdb", "GeoLite2-City-Test.mmdb"] {
        let database = open(&folder, file).unwrap();
        for first in 1..=223_u8 {
            for second in 0..=255_u8 {
                // Somewhere in the middle of what such networks usually are.
                let Some((place, _)) = database.place([first, second, 69, 160].into()) else { continue };
                if let (Some(country), Some(continent)) = (place.country, place.continent) {
                    assert_eq!(continent_of(country), Some(continent), "{country}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 0);
}

#[test]
fn an_ipv4_address_above_the_ipv4_part_of_the_tree_is_no_fault() {
    let Some(folder) = folder() else { return };
    // Its records are not of our kind, so it may well be refused; it must not panic.
    match open(&folder, "MaxMind-DB-no-ipv4-search-tree.mmdb") {
        Ok(database) => {
            assert!(database.place(ip("1.2.3.4")).is_none_or(|(_, network)| network.contains(&ip("1.2.3.4"))))
        }
        Err(refused) => assert!(matches!(refused, DatabaseError::NothingKnown { .. }), "{refused}"),
    }
}

#[test]
fn every_damaged_file_is_refused() {
    let Some(folder) = folder() else { return };
    let damaged: Vec<PathBuf> = files(&folder)
        .into_iter()
        .filter(|path| path.to_string_lossy().to_ascii_lowercase().contains("broken"))
        .chain(files(&folder.join("bad")))
        .chain([folder.join("GeoIP2-City-Test-Invalid-Node-Count.mmdb")])
        .collect();
    assert!(damaged.len() > 20, "{damaged:?}");
    let accepted: Vec<_> =
        damaged.iter().filter(|path| Database::from_bytes("damaged", fs::read(path).unwrap()).is_ok()).collect();
    assert!(accepted.is_empty(), "{accepted:?}");
}
