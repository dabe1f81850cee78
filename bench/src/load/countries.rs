//! Users placed in countries: so many of each, at addresses of which a GeoIP database says that they are there.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use maxminddb::{PathElement, Reader};

use super::{
    plan::{Placed, address_in},
    schedule::furthest_behind,
};

/// Networks of a country that are drawn from.
const NETWORKS: usize = 2000;

/// A country, by its two letters (ISO 3166-1), and its weight among the others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) country: String,
    pub(crate) weight: f64,
}

/// Reads `DE=3`; without a weight it is 1.
///
/// # Errors
/// When it is none.
pub(crate) fn parse(text: &str) -> Result<Weighted> {
    let (country, weight) = text.split_once('=').unwrap_or((text, "1"));
    let country = country.trim().to_ascii_uppercase();
    ensure!(
        country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()),
        "{country:?} is no country: two letters, such as DE"
    );
    let weight = weight.trim().parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight > 0.0);
    let weight = weight.with_context(|| format!("{text:?} has no weight above 0, such as DE=3"))?;
    Ok(Weighted { country, weight })
}

/// Gives each user a country, in proportion to the weights for any number of first users, and an address there.
pub(crate) fn place(users: usize, countries: &[Weighted], database: &Path) -> Result<Vec<Placed>> {
    let networks = networks(database, countries)?;
    let weights: Vec<f64> = countries.iter().map(|weighted| weighted.weight).collect();
    let mut taken = vec![0_usize; countries.len()];
    let mut places = Vec::with_capacity(users);
    for _ in 0..users {
        let next = furthest_behind(&weights, &taken);
        taken[next] += 1;
        let country = &countries[next].country;
        let all = networks.get(country).with_context(|| format!("{country} has no networks"))?;
        let network = &all[fastrand::usize(..all.len())];
        let address = address_in(network, fastrand::u128(..));
        places.push(Placed { country: country.clone(), address });
    }
    Ok(places)
}

/// Some networks of each of these countries.
fn networks(database: &Path, countries: &[Weighted]) -> Result<BTreeMap<String, Vec<IpNet>>> {
    let shown = database.display();
    let reader = Reader::open_readfile(database).with_context(|| format!("{shown} is no GeoIP database"))?;
    let mut found: BTreeMap<String, (usize, Vec<IpNet>)> =
        countries.iter().map(|weighted| (weighted.country.clone(), Default::default())).collect();
    for record in reader.networks(Default::default()).with_context(|| format!("{shown} cannot be read"))? {
        let record = record.with_context(|| format!("{shown} cannot be read"))?;
        let Some(country) = country_of(&record) else { continue };
        let Some((seen, kept)) = found.get_mut(&country) else { continue };
        let network = record.network().with_context(|| format!("{shown} has a network that is none"))?;
        let Ok(network) = IpNet::new(unmapped(network.ip()), prefix(network.ip(), network.prefix())) else { continue };
        // A sample of all, each as likely as the others (Vitter's algorithm R).
        *seen += 1;
        if kept.len() < NETWORKS {
            kept.push(network);
        } else if let Some(place) = kept.get_mut(fastrand::usize(..*seen)) {
            *place = network;
        }
    }
    let missing: Vec<&str> =
        found.iter().filter(|(_, (seen, _))| *seen == 0).map(|(country, _)| country.as_str()).collect();
    if !missing.is_empty() {
        bail!("{shown} knows no network in {}", missing.join(", "));
    }
    Ok(found.into_iter().map(|(country, (_, kept))| (country, kept)).collect())
}

/// Nested as in MaxMind's files, or flat.
fn country_of<S: AsRef<[u8]>>(record: &maxminddb::LookupResult<'_, S>) -> Option<String> {
    let nested = [PathElement::Key("country"), PathElement::Key("iso_code")];
    let flat = [PathElement::Key("country_code")];
    let flatter = [PathElement::Key("country")];
    [&nested[..], &flat, &flatter].into_iter().find_map(|path| record.decode_path::<String>(path).ok().flatten())
}

/// IPv4 networks of an IPv6 tree begin with 96 bits of nothing.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.octets()[..12] == [0; 12] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::from([a, b, c, d])
        }
        address => address,
    }
}

fn prefix(address: IpAddr, prefix: u8) -> u8 {
    if address.is_ipv6() && unmapped(address).is_ipv4() { prefix.saturating_sub(96) } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{
        Workspace,
        mmdb::{self, Layout, Row},
    };

    fn weighted(text: &str) -> Vec<Weighted> {
        text.split(',').map(|part| parse(part).unwrap()).collect()
    }

    #[test]
    fn users_are_in_proportion_and_where_the_database_says() {
        let rows = [
            Row::new("203.0.113.0/25").country("DE"),
            Row::new("203.0.113.128/25").country("DE"),
            Row::new("198.51.100.0/24").country("JP"),
            Row::new("2001:db8:1::/48").country("FR"),
        ];
        let workspace = Workspace::new().unwrap();
        for layout in [Layout::GeoIp2City, Layout::Flat] {
            let file = workspace.write("places.mmdb", mmdb::build(layout, &rows).unwrap()).unwrap();
            let places = place(600, &weighted("DE=3,JP=2,FR"), &file).unwrap();
            let count = |country: &str| places.iter().filter(|placed| placed.country == country).count();
            assert_eq!((count("DE"), count("JP")), (300, 200));
            for Placed { country, address } in &places {
                let right = rows.iter().any(|row| row.country == Some(country) && row.network.contains(address));
                assert!(right, "{address} is not in {country}");
            }
            let error = place(1, &weighted("DE,BR"), &file).unwrap_err();
            assert!(error.to_string().ends_with("knows no network in BR"), "{error}");
        }
    }

    #[test]
    fn weights_are_positive_and_countries_have_two_letters() {
        assert_eq!(parse("de=2.5").unwrap(), Weighted { country: "DE".into(), weight: 2.5 });
        for wrong in ["DEU=1", "D1=1", "DE=0", "DE=-1", "DE=x", "=1", "DE=inf"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
