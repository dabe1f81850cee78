//! Which continent a country is on, for databases that only name the country.

use crate::place::{ContinentCode, CountryCode};

/// The continent of a country, `None` if no country has that code.
///
/// All of ISO 3166-1, and Kosovo (`XK`), which ISO has not assigned. Where a country lies on two continents, or near one
/// that it does not count itself to, GeoNames decides, since the databases that do name continents follow it: Russia and
/// Cyprus are in Europe, Turkey and the Caucasus in Asia, Egypt in Africa.
pub fn continent_of(country: CountryCode) -> Option<ContinentCode> {
    COUNTRIES
        .iter()
        .find(|(_, countries)| countries.as_bytes().chunks(3).any(|code| code.starts_with(&country.bytes())))
        .map(|&(continent, _)| continent)
}

/// Two letters and a space for each country.
const COUNTRIES: [(ContinentCode, &str); 7] = [
    (
        ContinentCode::ASIA,
        "AE AF AM AZ BD BH BN BT CC CN GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH PK PS \
         QA SA SG SY TH TJ TM TR TW UZ VN YE",
    ),
    (
        ContinentCode::EUROPE,
        "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK MT NL \
         NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    ),
    (
        ContinentCode::NORTH_AMERICA,
        "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX TC TT US VC \
         VG VI",
    ),
    (ContinentCode::SOUTH_AMERICA, "AR BO BR CL CO EC FK GF GY PE PY SR UY VE"),
    (
        ContinentCode::AFRICA,
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG RE \
         RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    ),
    (ContinentCode::OCEANIA, "AS AU CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV UM VU WF WS"),
    (ContinentCode::ANTARCTICA, "AQ BV GS HM TF"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn continent(code: &str) -> Option<&'static str> {
        let continent = continent_of(CountryCode::parse(code).unwrap())?;
        ContinentCode::ALL.iter().find(|&&known| known == continent).map(ContinentCode::as_str)
    }

    #[test]
    fn every_country_of_iso_3166_is_on_one_continent() {
        let codes: Vec<&str> = COUNTRIES.iter().flat_map(|(_, countries)| countries.split(' ')).collect();
        assert!(codes.iter().all(|code| code.len() == 2 && CountryCode::parse(code).is_some()), "{codes:?}");
        assert_eq!(codes.len(), 250, "249 of ISO 3166-1 and Kosovo");
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), 250, "none twice");
    }

    #[test]
    fn countries_are_where_people_look_for_them() {
        let expected = [
            ("DE", "EU"),
            ("SG", "AS"),
            ("US", "NA"),
            ("BR", "SA"),
            ("ZA", "AF"),
            ("AU", "OC"),
            ("AQ", "AN"),
            ("XK", "EU"),
            ("RU", "EU"),
            ("TR", "AS"),
            ("EG", "AF"),
            ("NA", "AF"),
            ("AS", "OC"),
            ("YE", "AS"),
            ("VI", "NA"),
            ("ZW", "AF"),
        ];
        for (country, on) in expected {
            assert_eq!(continent(country), Some(on), "{country}");
        }
    }

    #[test]
    fn a_code_that_no_country_has_is_on_no_continent() {
        for code in ["ZZ", "UK", "AP", "XX"] {
            assert_eq!(continent(code), None, "{code}");
        }
    }
}
