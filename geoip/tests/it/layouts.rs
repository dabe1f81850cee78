//! One place, however a database writes it down.

use geoip::{ContinentCode, Coordinates, CountryCode, Database, DatabaseError, Knows, Place};
use maxminddb_writer::metadata::IpVersion;

use crate::written::{Bool, Double, Float, List, Map, Text, U16, U32, Value, bytes, coded, database, ip};

/// What a database with this one record says.
fn read(record: Vec<(&'static str, Value)>) -> Place {
    database("test", &[("192.0.2.0/24", Map(record))]).place(ip("192.0.2.7")).unwrap().0
}

fn country(code: &str) -> Option<CountryCode> {
    Some(CountryCode::parse(code).unwrap())
}

fn at(latitude: f64, longitude: f64) -> Option<Coordinates> {
    Some(Coordinates::new(latitude, longitude).unwrap())
}

#[test]
fn the_nested_layout_of_geoip2_is_read() {
    let names = |en, de| Map(vec![("de", Text(de)), ("en", Text(en)), ("ja", Text("?"))]);
    let place = read(vec![
        ("city", Map(vec![("geoname_id", U32(2_867_714)), ("names", names("Munich", "München"))])),
        ("continent", coded("code", "EU")),
        ("country", Map(vec![("is_in_european_union", Bool(true)), ("iso_code", Text("DE"))])),
        (
            "location",
            Map(vec![
                ("accuracy_radius", U16(20)),
                ("latitude", Double(48.14)),
                ("longitude", Double(11.58)),
                ("time_zone", Text("Europe/Berlin")),
            ]),
        ),
        ("registered_country", coded("iso_code", "FR")),
        ("subdivisions", List(vec![coded("iso_code", "BY"), coded("iso_code", "XX")])),
        ("traits", Map(vec![("is_anycast", Bool(true))])),
    ]);
    assert_eq!(
        place,
        Place {
            continent: Some(ContinentCode::EUROPE),
            country: country("DE"),
            subdivision: Some("BY".to_owned()),
            city: Some("Munich".to_owned()),
            location: at(48.14, 11.58),
            accuracy_radius_km: Some(20),
            asn: None,
        }
    );
}

#[test]
fn the_flat_layout_of_db_ip_and_ip_location_db_is_read() {
    let place = read(vec![
        ("city", Text("Singapore")),
        ("country_code", Text("SG")),
        ("latitude", Float(1.25)),
        ("longitude", Float(103.75)),
        ("postcode", Text("")),
        ("state1", Text("Central")),
        ("state2", Text("")),
        ("timezone", Text("Asia/Singapore")),
    ]);
    assert_eq!(
        place,
        Place {
            continent: Some(ContinentCode::ASIA),
            country: country("SG"),
            subdivision: Some("Central".to_owned()),
            city: Some("Singapore".to_owned()),
            location: at(1.25, 103.75),
            ..Place::default()
        }
    );
}

#[test]
fn the_flat_layout_of_ipinfo_is_read() {
    let lite = read(vec![
        ("as_domain", Text("google.com")),
        ("asn", Text("AS15169")),
        ("continent", Text("North America")),
        ("continent_code", Text("NA")),
        ("country", Text("United States")),
        ("country_code", Text("US")),
    ]);
    assert_eq!(
        (lite.country, lite.continent, lite.asn),
        (country("US"), Some(ContinentCode::NORTH_AMERICA), Some(15_169))
    );

    let standard = read(vec![
        ("city", Text("Zürich")),
        ("country", Text("CH")),
        ("lat", Text("47.37")),
        ("lng", Text("8.54")),
        ("region", Text("Zurich")),
        ("region_code", Text("ZH")),
    ]);
    assert_eq!((standard.country, standard.location), (country("CH"), at(47.37, 8.54)));
    assert_eq!((standard.subdivision.as_deref(), standard.city.as_deref()), (Some("ZH"), Some("Zürich")));
    assert_eq!(standard.continent, Some(ContinentCode::EUROPE), "derived from the country");

    let joined = read(vec![("country", Text("AU")), ("loc", Text("-33.87, 151.21"))]);
    assert_eq!(joined.location, at(-33.87, 151.21));
}

#[test]
fn autonomous_systems_are_read_as_number_and_as_text() {
    assert_eq!(read(vec![("autonomous_system_number", U32(3320))]).asn, Some(3320));
    assert_eq!(read(vec![("asn", U32(4_294_967_295))]).asn, Some(u32::MAX));
    assert_eq!(read(vec![("asn", Text("AS7473"))]).asn, Some(7473));
    assert_eq!(read(vec![("asn", Text("7473"))]).asn, Some(7473));
    for none in [Text("AS"), Text("ASx"), Text(""), U32(0), Text("AS99999999999"), Bool(true), Double(1.5)] {
        assert_eq!(read(vec![("country", Text("SG")), ("asn", none.clone())]).asn, None, "{none:?}");
    }
}

#[test]
fn a_field_of_an_unexpected_type_is_unknown_and_spoils_no_other() {
    for odd in [U32(7), Bool(false), Double(0.5), List(vec![Text("x"), List(vec![])]), Map(vec![("x", Map(vec![]))])] {
        let place = read(vec![
            ("city", odd.clone()),
            ("continent", odd.clone()),
            ("country", coded("iso_code", "BR")),
            ("location", odd.clone()),
            ("subdivisions", odd.clone()),
        ]);
        assert_eq!((place.country, place.city, place.location), (country("BR"), None, None), "{odd:?}");
        let inside = read(vec![
            ("city", Map(vec![("names", odd.clone())])),
            ("country", Text("BR")),
            ("location", Map(vec![("latitude", odd.clone()), ("longitude", Double(3.0))])),
        ]);
        assert_eq!((inside.country, inside.city), (country("BR"), None), "{odd:?}");
    }
}

#[test]
fn places_that_are_nowhere_on_earth_are_unknown() {
    for (latitude, longitude) in [(91.0, 0.0), (0.0, -181.0), (f64::NAN, 0.0)] {
        let place =
            read(vec![("country", Text("SG")), ("latitude", Double(latitude)), ("longitude", Double(longitude))]);
        assert_eq!(place.location, None);
    }
    assert_eq!(read(vec![("country", Text("SG")), ("loc", Text("1.35"))]).location, None);
    assert_eq!(read(vec![("country", Text("SG")), ("latitude", Double(1.0))]).location, None);
}

#[test]
fn the_narrowest_network_is_found_and_told() {
    let of = |code| Map(vec![("country_code", Text(code))]);
    let nets = [("10.0.0.0/8", of("US")), ("10.1.0.0/16", of("DE")), ("2001:db8::/32", of("JP"))];
    let database = database("test", &nets);
    let check = |address, code, network: &str| {
        let (place, net) = database.place(ip(address)).unwrap();
        assert_eq!((place.country, net.to_string()), (country(code), network.to_owned()), "{address}");
    };
    check("10.1.2.3", "DE", "10.1.0.0/16");
    check("::ffff:10.1.2.3", "DE", "10.1.0.0/16");
    check("2001:db8::1", "JP", "2001:db8::/32");
    let (place, network) = database.place(ip("10.200.0.1")).unwrap();
    assert_eq!(place.country, country("US"));
    assert!(network.contains(&ip("10.200.0.1")) && !network.contains(&ip("10.1.0.1")), "{network}");
    assert_eq!(database.place(ip("192.0.2.1")), None);
    assert_eq!(database.place(ip("2001:db9::1")), None);
}

#[test]
fn a_file_for_ipv4_alone_knows_no_ipv6_address_and_every_form_of_an_ipv4_one() {
    let bytes = bytes(IpVersion::V4, &[("192.0.2.0/24", Map(vec![("country_code", Text("SG"))]))]);
    let database = Database::from_bytes("v4", bytes).unwrap();
    assert!(database.place(ip("192.0.2.1")).is_some());
    assert!(database.place(ip("::ffff:192.0.2.1")).is_some());
    assert_eq!(database.place(ip("2001:db8::1")), None);
    assert_eq!(database.place(ip("::192.0.2.1")), None);
}

#[test]
fn a_database_about_something_else_is_refused_with_its_type() {
    let record = Map(vec![("is_anonymous_proxy", Bool(true)), ("city", Text(""))]);
    let refused =
        Database::from_bytes("anonymous.mmdb", bytes(IpVersion::V6, &[("192.0.2.0/24", record)])).unwrap_err();
    assert!(matches!(&refused, DatabaseError::NothingKnown { .. }));
    let told = refused.to_string();
    assert!(told.contains("anonymous.mmdb") && told.contains("Test-City"), "{told}");
}

#[test]
fn a_database_tells_about_itself() {
    let database = database("city.mmdb", &[("192.0.2.0/24", Map(vec![("country_code", Text("SG"))]))]);
    assert_eq!(database.name().as_ref(), "city.mmdb");
    assert_eq!(database.kind(), "Test-City");
    assert_eq!(database.build_epoch(), 1_790_000_000);
    assert!(database.node_count() > 0);
}

#[test]
fn a_database_knows_what_any_of_its_records_says() {
    let knows = |records: &[(&str, Value)]| database("test", records).knows();
    let country = ("192.0.2.0/25", Map(vec![("country", coded("iso_code", "DE"))]));
    assert_eq!(knows(std::slice::from_ref(&country)), Knows { country: true, ..Knows::default() });
    let division = Map(vec![
        ("country", coded("iso_code", "DE")),
        ("subdivisions", List(vec![coded("iso_code", "BY")])),
        ("asn", Text("AS64500")),
    ]);
    let both = [country, ("192.0.2.128/25", division)];
    assert_eq!(knows(&both), Knows { country: true, subdivision: true, location: false, asn: true });
    // A name is none that rules could be compared with.
    let named = Map(vec![("country_code", Text("DE")), ("state1", Text("Bavaria")), ("asn", U32(64_500))]);
    let named = knows(&[("192.0.2.0/24", named)]);
    assert_eq!(named, Knows { country: true, subdivision: false, location: false, asn: true });
}
