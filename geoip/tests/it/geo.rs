//! Several sources as one answer.

use geoip::{Coordinates, CountryCode, Geo, Overrides, Source};

use crate::written::{Double, Map, Text, U32, Value, database, ip};

fn of(code: &'static str) -> Value {
    Map(vec![("country_code", Text(code))])
}

fn system(number: u32) -> Value {
    Map(vec![("autonomous_system_number", U32(number))])
}

fn source(name: &str, network: &str) -> Source {
    Source::Database { name: name.into(), network: network.parse().unwrap() }
}

#[test]
fn a_city_file_and_a_file_of_autonomous_systems_are_one_answer() {
    let city = database("city", &[("192.0.2.0/24", of("SG"))]);
    let asn = database("asn", &[("192.0.0.0/16", system(7473))]);
    // The order does not matter for who says where it is.
    for databases in [vec![&city, &asn], vec![&asn, &city]] {
        let names: Vec<&str> = databases.iter().map(|database| database.name().as_ref()).collect();
        let geo = Geo::new(
            names
                .iter()
                .map(|&name| match name {
                    "city" => database("city", &[("192.0.2.0/24", of("SG"))]),
                    _ => database("asn", &[("192.0.0.0/16", system(7473))]),
                })
                .collect(),
            Overrides::empty(),
        );
        let located = geo.locate(ip("192.0.2.1"));
        assert_eq!(located.place.country, CountryCode::parse("SG"));
        assert_eq!(located.place.asn, Some(7473));
        assert_eq!(located.source, source("city", "192.0.2.0/24"));
    }
}

#[test]
fn where_only_the_autonomous_system_is_known_that_file_is_the_source() {
    let geo = Geo::new(vec![database("asn", &[("192.0.0.0/16", system(7473))])], Overrides::empty());
    let located = geo.locate(ip("192.0.2.1"));
    assert!(matches!(located.source, Source::Database { name, .. } if name.as_ref() == "asn"));
    assert_eq!(located.place.country, None);
}

#[test]
fn one_file_for_ipv4_and_one_for_ipv6_are_one_answer() {
    let geo = Geo::new(
        vec![database("v4", &[("192.0.2.0/24", of("SG"))]), database("v6", &[("2001:db8::/32", of("JP"))])],
        Overrides::empty(),
    );
    assert_eq!(geo.locate(ip("::ffff:192.0.2.1")).source, source("v4", "192.0.2.0/24"));
    assert_eq!(geo.locate(ip("2001:db8::1")).source, source("v6", "2001:db8::/32"));
}

#[test]
fn the_first_file_that_knows_is_believed_and_no_place_is_mixed_from_two_countries() {
    let located = |first, second| {
        let detailed = Map(vec![("country_code", Text(second)), ("latitude", Double(1.0)), ("longitude", Double(2.0))]);
        let databases =
            vec![database("a", &[("192.0.2.0/24", of(first))]), database("b", &[("192.0.2.0/24", detailed)])];
        Geo::new(databases, Overrides::empty()).locate(ip("192.0.2.1"))
    };
    let agreed = located("SG", "SG");
    assert_eq!(agreed.place.location, Coordinates::new(1.0, 2.0));
    let disagreed = located("SG", "US");
    assert_eq!((disagreed.place.country, disagreed.place.location), (CountryCode::parse("SG"), None));
    assert_eq!(disagreed.source, source("a", "192.0.2.0/24"));
}

#[test]
fn an_override_wins_whole_and_leaves_the_autonomous_system_to_the_databases() {
    let record = Map(vec![("country_code", Text("US")), ("city", Text("Milton")), ("asn", U32(209))]);
    let overrides = Overrides::parse("['192.0.2.0/25']\ncountry = 'SG'\n['192.0.2.64/26']\nasn = 64512").unwrap();
    let geo = Geo::new(vec![database("city", &[("192.0.2.0/24", record)])], overrides);

    let overridden = geo.locate(ip("192.0.2.1"));
    assert_eq!(overridden.source, Source::Override("192.0.2.0/25".parse().unwrap()));
    assert_eq!(overridden.place.country, CountryCode::parse("SG"));
    assert_eq!((overridden.place.city, overridden.place.asn), (None, Some(209)));

    assert_eq!(geo.locate(ip("192.0.2.65")).place.asn, Some(64_512));
    assert_eq!(geo.locate(ip("192.0.2.200")).source, source("city", "192.0.2.0/24"));
}

#[test]
fn what_nobody_knows_is_unknown() {
    let located = Geo::default().locate(ip("192.0.2.1"));
    assert_eq!(located.source, Source::Unknown);
    assert!(located.place.is_unknown());
}

#[test]
fn whereabouts_are_the_same_place_without_its_city() {
    let detailed = |code| {
        let place = [("latitude", Double(1.0)), ("longitude", Double(2.0)), ("city", Text("Milton"))];
        Map([vec![("country_code", Text(code)), ("region_code", Text("WA"))], place.to_vec()].concat())
    };
    let first = [("192.0.2.0/26", of("SG")), ("192.0.2.64/26", Map(vec![("city", Text("Nowhere"))]))];
    let second =
        [("192.0.2.0/27", detailed("US")), ("192.0.2.32/27", detailed("SG")), ("192.0.2.64/27", detailed("JP"))];
    let overrides = "['192.0.2.16/28']\ncountry = 'DE'\ncity = 'Frankfurt'\n['192.0.2.96/28']\nasn = 64512";
    let geo = Geo::new(
        vec![
            database("first", &first),
            database("second", &second),
            database("asn", &[("192.0.2.0/25", system(7473))]),
        ],
        Overrides::parse(overrides).unwrap(),
    );
    let mut cities = 0;
    for last in 0..=255 {
        for address in [format!("192.0.2.{last}"), format!("::ffff:192.0.2.{last}"), format!("2001:db8::{last:x}")] {
            let mut place = geo.locate(ip(&address)).place;
            cities += usize::from(place.city.take().is_some());
            assert_eq!(geo.whereabouts(ip(&address)), place, "{address}");
        }
    }
    assert!(cities > 50, "{cities} of these places have a city");
}
