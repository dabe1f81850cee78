//! The override file: what it can say, and how it says what is wrong.

use geoip::{ContinentCode, Coordinates, CountryCode, Knows, Overrides};

use crate::written::ip;

/// The text that each problem points at, with its message and help in one line.
fn problems(text: &str) -> Vec<(&str, String)> {
    let problems = Overrides::parse(text).unwrap_err();
    let line =
        |message: String, help: Option<String>| help.map_or(message.clone(), |help| format!("{message}; {help}"));
    problems.into_iter().map(|p| (&text[p.span], line(p.message, p.help))).collect()
}

#[test]
fn every_key_is_read() {
    let text = r#"
        ["10.0.0.0/8"]
        continent = "eu"
        country = "de"
        subdivision = "HE"
        city = "Frankfurt"
        location = [50.11, 8.68]
        accuracy-radius-km = 0x10
        asn = 64_512
    "#;
    let overrides = Overrides::parse(text).unwrap();
    let (place, network) = overrides.place(ip("10.200.0.1")).unwrap();
    assert_eq!(network.to_string(), "10.0.0.0/8");
    assert_eq!((place.continent, place.country), (Some(ContinentCode::EUROPE), CountryCode::parse("DE")));
    assert_eq!((place.subdivision.as_deref(), place.city.as_deref()), (Some("HE"), Some("Frankfurt")));
    assert_eq!((place.location, place.accuracy_radius_km), (Coordinates::new(50.11, 8.68), Some(16)));
    assert_eq!(place.asn, Some(64_512));
}

#[test]
fn the_longest_prefix_wins_and_inherits_nothing() {
    let text = r#"
        "10.0.0.0/8" = { country = "SG", city = "Singapore" }
        "10.1.0.0/16" = { country = "DE" }
        "10.1.2.3" = { country = "FR" }
        "2001:db8::/32" = { country = "JP" }
        "::ffff:192.0.2.0/120" = { country = "BR" }
    "#;
    let overrides = Overrides::parse(text).unwrap();
    assert_eq!(overrides.len(), 5);
    let country = |address| overrides.place(ip(address)).map(|(place, _)| place.country.unwrap().to_string());
    assert_eq!(country("10.9.9.9").as_deref(), Some("SG"));
    assert_eq!(country("10.1.9.9").as_deref(), Some("DE"));
    assert_eq!(country("::ffff:10.1.2.3").as_deref(), Some("FR"));
    assert_eq!(country("2001:db8::1").as_deref(), Some("JP"));
    assert_eq!(country("192.0.2.1").as_deref(), Some("BR"));
    assert_eq!(country("11.0.0.1"), None);
    assert_eq!(country("::10.1.2.3"), None, "an IPv6 address that only looks like IPv4");
    assert_eq!(overrides.place(ip("10.1.9.9")).unwrap().0.city, None);
}

#[test]
fn whole_numbers_are_coordinates_too_and_the_continent_follows_from_the_country() {
    let overrides = Overrides::parse("'0.0.0.0/0' = { location = [-34, 151], country = 'AU' }").unwrap();
    let (place, _) = overrides.place(ip("1.1.1.1")).unwrap();
    assert_eq!((place.location, place.continent), (Coordinates::new(-34.0, 151.0), Some(ContinentCode::OCEANIA)));
}

#[test]
fn an_empty_file_overrides_nothing() {
    for text in ["", "# nothing yet\n"] {
        let overrides = Overrides::parse(text).unwrap();
        assert!(overrides.is_empty() && overrides.place(ip("10.0.0.1")).is_none());
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = r#"
["10.0.0.0/8"]
county = "SG"
location = [1.35]

["10.0.0.1/8"]
country = "UK"

[office]
continent = "XX"
asn = -1
"#;
    let told = problems(text);
    let places: Vec<&str> = told.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, ["county", "[1.35]", "\"10.0.0.1/8\"", "\"UK\"", "office", "\"XX\"", "-1"]);
    assert!(told[0].1.contains("no key is named `county`; known keys: continent, country"), "{told:?}");
    assert!(told[2].1.ends_with("the network is 10.0.0.0/8"));
    assert!(told[3].1.ends_with("the United Kingdom is GB"));
    assert!(told[4].1.starts_with("`office` is not a network; for example"));
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let check = |fields: &str, at: &str| {
        let text = format!("\"10.0.0.0/8\" = {{ {fields} }}");
        let told = problems(&text);
        assert_eq!(told.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [at], "{told:?}");
    };
    check("country = 'ZZ'", "'ZZ'");
    check("country = 7", "7");
    check("city = ''", "''");
    check("location = [91, 0]", "[91, 0]");
    check("location = [1, 2, 3]", "[1, 2, 3]");
    check("location = [1, 'x']", "[1, 'x']");
    check("location = [nan, 0.0]", "[nan, 0.0]");
    check("location = '1.35, 103.82'", "'1.35, 103.82'");
    check("asn = 0", "0");
    check("asn = 4294967296", "4294967296");
    check("country = 'SG', accuracy-radius-km = 5", "accuracy-radius-km");
    check("location = [1, 2], accuracy-radius-km = 70000", "70000");
    check("", "\"10.0.0.0/8\"");
}

#[test]
fn coordinates_in_the_wrong_order_are_recognised() {
    let told = problems("'10.0.0.0/8' = { location = [103.82, 1.35] }");
    assert!(told[0].1.ends_with("the latitude comes first"), "{told:?}");
}

#[test]
fn a_network_that_is_not_a_table_or_is_here_twice_is_refused() {
    assert_eq!(problems("'10.0.0.0/8' = 'SG'")[0].0, "'SG'");
    let twice = problems("'10.0.0.0/8' = { asn = 1 }\n'::ffff:10.0.0.0/104' = { asn = 2 }");
    assert_eq!(twice.len(), 1);
    assert!(twice[0].1.contains("10.0.0.0/8 is here twice"), "{twice:?}");
    assert!(!problems("'10.0.0.0/8' = { asn = 1 }\n'10.0.0.0/8' = { asn = 2 }").is_empty(), "TOML's own rule");
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let told = problems("['10.0.0.0/8']\ncountry = SG\n");
    assert_eq!(told[0].0, "SG", "{told:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\\n){0,80}") {
        drop(Overrides::parse(&text));
    }

    #[test]
    fn no_value_makes_it_panic(key in "[a-z-]{1,20}", value in "[\\PC&&[^\n]]{0,20}") {
        drop(Overrides::parse(&format!("'10.0.0.0/8'.{key} = {value}")));
    }
}

#[test]
fn overrides_know_what_any_network_says() {
    let text = "[\"10.0.0.0/8\"]\ncountry = \"DE\"\nsubdivision = \"DE-BY\"\n[\"10.1.0.0/16\"]\nasn = 64512\n";
    let knows = Overrides::parse(text).unwrap().knows();
    assert_eq!(knows, Knows { country: true, subdivision: true, location: false, asn: true });
    assert_eq!(Overrides::empty().knows(), Knows::default());
}
