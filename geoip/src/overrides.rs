//! What the operator knows better than any database: networks with the place of their clients.
//!
//! ```toml
//! ["10.0.0.0/8"]
//! country = "SG"
//! location = [1.35, 103.82]       # latitude, longitude
//!
//! ["10.7.0.0/16"]
//! country = "DE"
//! city = "Frankfurt"
//! asn = 64512
//! ```
//!
//! The keys of a network: `continent`, `country`, `subdivision`, `city`, `location`, `accuracy-radius-km`, `asn`. The
//! continent follows from the country where it is not given. The longest prefix wins, and it wins whole: nothing is
//! inherited from a wider network.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use ipnet::{IpNet, Ipv4Net};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    continent::continent_of,
    distance::Coordinates,
    place::{ContinentCode, CountryCode, Knows, Place},
};

/// Networks and their places.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    places: HashMap<IpNet, Place>,
    /// The prefix lengths in use, longest first: one look into the map for each, however many networks there are.
    ipv4_lengths: Vec<u8>,
    ipv6_lengths: Vec<u8>,
}

/// One thing that is wrong in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideProblem {
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    pub message: String,
    /// The way out, if there is an obvious one.
    pub help: Option<String>,
}

impl Overrides {
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads the text of an override file.
    ///
    /// # Errors
    /// Every problem of the text, in its order. If the text is not TOML, that is all there is to say.
    pub fn parse(text: &str) -> Result<Self, Vec<OverrideProblem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<OverrideProblem> =
            errors.iter().map(|error| problem(error.span().unwrap_or(0..0), error.message().to_owned())).collect();
        let mut overrides = Self::empty();
        if problems.is_empty() {
            for (network, fields) in table.get_ref() {
                overrides.read_network(network, fields, &mut problems);
            }
        }
        if problems.is_empty() {
            overrides.index();
            return Ok(overrides);
        }
        problems.sort_by_key(|problem| problem.span.start);
        Err(problems)
    }

    /// The place of the narrowest network around an address.
    pub fn place(&self, ip: IpAddr) -> Option<(&Place, IpNet)> {
        let ip = ip.to_canonical();
        let lengths = if ip.is_ipv4() { &self.ipv4_lengths } else { &self.ipv6_lengths };
        lengths.iter().find_map(|&length| {
            let network = IpNet::new(ip, length).ok()?.trunc();
            Some((self.places.get(&network)?, network))
        })
    }

    /// Which facts are given for some network.
    pub fn knows(&self) -> Knows {
        self.places.values().map(Knows::of).fold(Knows::default(), Knows::or)
    }

    /// How many networks there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn read_network(
        &mut self,
        key: &Spanned<impl AsRef<str>>,
        fields: &Spanned<DeValue<'_>>,
        problems: &mut Vec<OverrideProblem>,
    ) {
        let network = parse_network(key.get_ref().as_ref())
            .map_err(|(message, help)| problems.push(OverrideProblem { span: key.span(), message, help }));
        let Some(fields) = fields.get_ref().as_table() else {
            problems.push(problem(fields.span(), "a network needs a table with the place of its clients".to_owned()));
            return;
        };
        let found = problems.len();
        let place = read_place(fields, problems);
        if problems.len() == found && place.is_unknown() {
            problems.push(OverrideProblem {
                span: key.span(),
                message: "this network says nothing about its clients".to_owned(),
                help: Some(format!("give it at least one of {}", KEYS.join(", "))),
            });
        }
        if let Ok(network) = network
            && self.places.insert(network, place).is_some()
        {
            problems.push(problem(key.span(), format!("the network {network} is here twice")));
        }
    }

    fn index(&mut self) {
        let lengths = |v4: bool| {
            let used: BTreeSet<u8> =
                self.places.keys().filter(|net| matches!(net, IpNet::V4(_)) == v4).map(IpNet::prefix_len).collect();
            used.into_iter().rev().collect()
        };
        (self.ipv4_lengths, self.ipv6_lengths) = (lengths(true), lengths(false));
    }
}

const KEYS: [&str; 7] = ["continent", "country", "subdivision", "city", "location", "accuracy-radius-km", "asn"];

fn read_place(fields: &DeTable<'_>, problems: &mut Vec<OverrideProblem>) -> Place {
    let mut place = Place::default();
    for (key, value) in fields {
        if let Err((message, help)) = read_field(&mut place, key.get_ref(), value.get_ref()) {
            let span = if KEYS.contains(&key.get_ref().as_ref()) { value.span() } else { key.span() };
            problems.push(OverrideProblem { span, message, help });
        }
    }
    if place.accuracy_radius_km.is_some()
        && place.location.is_none()
        && let Some((key, _)) = fields.iter().find(|(key, _)| key.get_ref() == "accuracy-radius-km")
        && !fields.iter().any(|(key, _)| key.get_ref() == "location")
    {
        problems.push(problem(key.span(), "an accuracy radius needs a location".to_owned()));
    }
    place.with_continent()
}

/// What is wrong, and the way out if there is an obvious one.
type Wrong = (String, Option<String>);

fn read_field(place: &mut Place, key: &str, value: &DeValue<'_>) -> Result<(), Wrong> {
    match key {
        "continent" => place.continent = Some(continent(value)?),
        "country" => place.country = Some(country(value)?),
        "subdivision" => place.subdivision = Some(text(value)?.to_owned()),
        "city" => place.city = Some(text(value)?.to_owned()),
        "location" => place.location = Some(location(value)?),
        "accuracy-radius-km" => {
            place.accuracy_radius_km = Some(whole(value).ok_or("must be whole kilometres, 0 to 65535".wrong())?);
        }
        "asn" => {
            let number = whole(value).filter(|&number: &u32| number != 0);
            place.asn = Some(number.ok_or("must be the number of an autonomous system, 1 to 4294967295".wrong())?);
        }
        unknown => {
            return Err((format!("no key is named `{unknown}`"), Some(format!("known keys: {}", KEYS.join(", ")))));
        }
    }
    Ok(())
}

fn continent(value: &DeValue<'_>) -> Result<ContinentCode, Wrong> {
    let text = text(value)?;
    ContinentCode::parse(text).ok_or_else(|| {
        let known: Vec<&str> = ContinentCode::ALL.iter().map(ContinentCode::as_str).collect();
        (format!("no continent has the code `{text}`"), Some(format!("one of {}", known.join(", "))))
    })
}

/// Stricter than [`CountryCode::parse`]: what an operator types is checked against the list of countries.
fn country(value: &DeValue<'_>) -> Result<CountryCode, Wrong> {
    let text = text(value)?;
    let known = CountryCode::parse(text).filter(|&country| continent_of(country).is_some());
    known.ok_or_else(|| {
        let help = match text.to_ascii_uppercase().as_str() {
            "UK" => "the United Kingdom is GB",
            "EL" => "Greece is GR",
            _ => "use the two letters of ISO 3166-1, for example SG",
        };
        (format!("no country has the code `{text}`"), Some(help.to_owned()))
    })
}

fn location(value: &DeValue<'_>) -> Result<Coordinates, Wrong> {
    let numbers: Vec<f64> = value.as_array().into_iter().flatten().filter_map(|item| number(item.get_ref())).collect();
    let is_pair = value.as_array().is_some_and(|items| items.len() == 2);
    match *numbers {
        [latitude, longitude] if is_pair => Coordinates::new(latitude, longitude).ok_or_else(|| {
            let turned = Coordinates::new(longitude, latitude).is_some();
            let help = turned.then(|| "the latitude comes first".to_owned());
            ("the latitude is -90 to 90, the longitude -180 to 180".to_owned(), help)
        }),
        _ => Err("must be [latitude, longitude], in degrees".wrong()),
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Wrong> {
    value.as_str().filter(|text| !text.is_empty()).ok_or("must be a text in quotes, and not empty".wrong())
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(_) => whole_or_negative(value).and_then(|whole| i32::try_from(whole).ok()).map(f64::from),
        _ => None,
    }
}

fn whole<N: TryFrom<i64>>(value: &DeValue<'_>) -> Option<N> {
    N::try_from(whole_or_negative(value)?).ok()
}

fn whole_or_negative(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A network or a single address. An IPv4 network inside IPv6 becomes what it means.
fn parse_network(text: &str) -> Result<IpNet, Wrong> {
    let network: IpNet =
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).ok_or_else(|| {
            (format!("`{text}` is not a network"), Some("for example \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned()))
        })?;
    if network.trunc() != network {
        let message = format!("`{text}` has bits set behind its prefix");
        return Err((message, Some(format!("the network is {}", network.trunc()))));
    }
    Ok(unmapped(network))
}

fn unmapped(network: IpNet) -> IpNet {
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped();
    match network {
        IpNet::V6(net) if net.prefix_len() >= 96 => mapped(net.addr())
            .and_then(|address| Ipv4Net::new(address, net.prefix_len() - 96).ok())
            .map_or(network, IpNet::from),
        _ => network,
    }
}

fn problem(span: Range<usize>, message: String) -> OverrideProblem {
    OverrideProblem { span, message, help: None }
}

/// A fixed complaint without further help.
trait IntoWrong {
    fn wrong(self) -> Wrong;
}

impl IntoWrong for &str {
    fn wrong(self) -> Wrong {
        (self.to_owned(), None)
    }
}
