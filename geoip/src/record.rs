//! One record of a database, in whichever layout it comes.
//!
//! Two families are in use. GeoIP2, GeoLite2 and DB-IP nest (`country.iso_code`, `city.names.en`, `location.latitude`).
//! IPinfo, ip-location-db and most that people build themselves are flat (`country_code`, `city`, `latitude`), with
//! numbers as numbers or as text, and disagree on names. One reader takes them all, field by field: a field of an
//! unexpected type is unknown and does not spoil its neighbours.
//!
//! Everything is borrowed from the file, and what nobody asks for is skipped without being decoded.

use std::fmt;

use maxminddb::LookupResult;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    distance::Coordinates,
    place::{ContinentCode, CountryCode, Place},
};

/// What a record says of a place, if anything. What expands beyond the decoder's limits says nothing.
pub(crate) fn place(found: &LookupResult<'_, Vec<u8>>) -> Option<Place> {
    decode::<Field<'_>>(found)
}

/// The same without the city.
pub(crate) fn whereabouts(found: &LookupResult<'_, Vec<u8>>) -> Option<Place> {
    decode::<IgnoredAny>(found)
}

fn decode<'a, C: City + Default + Deserialize<'a>>(found: &LookupResult<'a, Vec<u8>>) -> Option<Place> {
    Some(found.decode::<Record<'a, C>>().ok()??.place()).filter(|place| !place.is_unknown())
}

/// The fields of both layouts. Where one name has a meaning in both, it is an object in the nested layout and text in the
/// flat one. `C` is the city: who does not ask for it spares its names, which lie far from the rest of the record.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
struct Record<'a, C> {
    #[serde(borrow)]
    continent: Field<'a>,
    continent_code: Field<'a>,
    country: Field<'a>,
    country_code: Field<'a>,
    subdivisions: First<'a>,
    region_code: Field<'a>,
    region: Field<'a>,
    state1: Field<'a>,
    city: C,
    location: Field<'a>,
    latitude: Field<'a>,
    lat: Field<'a>,
    longitude: Field<'a>,
    lng: Field<'a>,
    lon: Field<'a>,
    loc: Field<'a>,
    accuracy_radius: Field<'a>,
    autonomous_system_number: Field<'a>,
    asn: Field<'a>,
}

/// A city, if anybody asks.
trait City {
    fn name(&self) -> Option<&str>;
}

impl City for Field<'_> {
    fn name(&self) -> Option<&str> {
        Field::name(self)
    }
}

impl City for IgnoredAny {
    fn name(&self) -> Option<&str> {
        None
    }
}

impl<C: City> Record<'_, C> {
    fn place(&self) -> Place {
        Place {
            continent: [self.continent_code, self.continent]
                .iter()
                .find_map(|field| ContinentCode::parse(field.code()?)),
            country: [self.country_code, self.country].iter().find_map(|field| CountryCode::parse(field.code()?)),
            subdivision: self.subdivision().map(str::to_owned),
            city: self.city.name().map(str::to_owned),
            location: self.coordinates(),
            accuracy_radius_km: [self.location.object().accuracy_radius, self.accuracy_radius.scalar()]
                .iter()
                .find_map(|radius| whole(radius.number()?)),
            asn: [self.autonomous_system_number, self.asn].iter().find_map(|field| autonomous_system(field.scalar())),
        }
        .with_continent()
    }

    fn subdivision(&self) -> Option<&str> {
        let nested = &self.subdivisions.0;
        nested
            .code()
            .or_else(|| nested.name())
            .or_else(|| [self.region_code, self.region, self.state1].into_iter().find_map(|field| field.name()))
    }

    fn coordinates(&self) -> Option<Coordinates> {
        let nested = self.location.object();
        let pair =
            |latitude: Scalar<'_>, longitude: Scalar<'_>| Coordinates::new(latitude.number()?, longitude.number()?);
        let first = |fields: &[Field<'_>]| fields.iter().map(|f| f.scalar().number()).find(Option::is_some).flatten();
        pair(nested.latitude, nested.longitude)
            .or_else(|| {
                let latitude = first(&[self.latitude, self.lat])?;
                Coordinates::new(latitude, first(&[self.longitude, self.lng, self.lon])?)
            })
            .or_else(|| [self.loc, self.location].iter().find_map(|field| pair_in_text(field.scalar().text()?)))
    }
}

/// IPinfo writes both into one text: `37.40599,-122.078514`.
fn pair_in_text(text: &str) -> Option<Coordinates> {
    let (latitude, longitude) = text.split_once(',')?;
    Coordinates::new(latitude.trim().parse().ok()?, longitude.trim().parse().ok()?)
}

/// A number, or `AS15169`. Zero is reserved and means that there is none.
fn autonomous_system(field: Scalar<'_>) -> Option<u32> {
    let number = match field.text() {
        Some(text) => text.trim_start_matches(['A', 'S', 'a', 's']).parse().ok()?,
        None => whole(field.number()?)?,
    };
    (number != 0).then_some(number)
}

/// A number that is whole and in range.
fn whole<N: TryFrom<u64>>(number: f64) -> Option<N> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative and exact, by the line before"
    )]
    let number = ((0.0..=EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)?;
    N::try_from(number).ok()
}

/// A value at the top of a record.
#[derive(Debug, Clone, Copy, Default)]
enum Field<'a> {
    #[default]
    Missing,
    Scalar(Scalar<'a>),
    Object(Object<'a>),
}

impl<'a> Field<'a> {
    fn scalar(&self) -> Scalar<'a> {
        match *self {
            Self::Scalar(scalar) => scalar,
            Self::Missing | Self::Object(_) => Scalar::Other,
        }
    }

    fn object(&self) -> Object<'a> {
        match *self {
            Self::Object(object) => object,
            Self::Missing | Self::Scalar(_) => Object::default(),
        }
    }

    fn code(&self) -> Option<&'a str> {
        self.object().code.text().or_else(|| self.scalar().text())
    }

    fn name(&self) -> Option<&'a str> {
        self.object().name.or_else(|| self.scalar().text()).filter(|name| !name.is_empty())
    }
}

/// A value that is no container.
#[derive(Debug, Clone, Copy, Default)]
enum Scalar<'a> {
    Text(&'a str),
    Number(f64),
    #[default]
    Other,
}

impl<'a> Scalar<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Other => None,
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Other => None,
        }
    }
}

/// An object of the nested layout: a continent, country, subdivision, city or location.
#[derive(Debug, Clone, Copy, Default)]
struct Object<'a> {
    code: Scalar<'a>,
    name: Option<&'a str>,
    latitude: Scalar<'a>,
    longitude: Scalar<'a>,
    accuracy_radius: Scalar<'a>,
}

/// The first of a list; of subdivisions that is the largest.
#[derive(Debug, Default)]
struct First<'a>(Field<'a>);

/// The English name of an object that has names in several languages, or any where there is none.
struct Names<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;
        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field<'de>;

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<'de>, A::Error> {
                object(map).map(Field::Object)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<'de>, A::Error> {
                skip_list(list).map(|()| Field::Missing)
            }

            scalars!(Field::Scalar);
        }
        deserializer.deserialize_any(FieldVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
                skip_map(map).map(|()| Scalar::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Scalar<'de>, A::Error> {
                skip_list(list).map(|()| Scalar::Other)
            }

            scalars!(std::convert::identity);
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for First<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstVisitor;
        impl<'de> Visitor<'de> for FirstVisitor {
            type Value = First<'de>;

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<'de>, A::Error> {
                let first = list.next_element()?.unwrap_or_default();
                skip_list(list).map(|()| First(first))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<First<'de>, A::Error> {
                skip_map(map).map(|()| First::default())
            }

            scalars!(|_| First::default());
        }
        deserializer.deserialize_any(FirstVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names<'de>;

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'de>, A::Error> {
                let mut name = None;
                while let Some(language) = map.next_key::<&str>()? {
                    name = map.next_value::<Scalar<'de>>()?.text().or(name);
                    if language == "en" {
                        break;
                    }
                }
                skip_map(map)?;
                Ok(Names(name))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Names<'de>, A::Error> {
                skip_list(list).map(|()| Names(None))
            }

            scalars!(|_| Names(None));
        }
        deserializer.deserialize_any(NamesVisitor)
    }
}

fn object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Object<'de>, A::Error> {
    let mut object = Object::default();
    while let Some(key) = map.next_key::<&str>()? {
        match key {
            "iso_code" | "code" => object.code = map.next_value()?,
            // Whoever has a code is not asked for its name, and names in eight languages are most of a record.
            "names" if object.code.text().is_none() => object.name = map.next_value::<Names<'de>>()?.0,
            "latitude" => object.latitude = map.next_value()?,
            "longitude" => object.longitude = map.next_value()?,
            "accuracy_radius" => object.accuracy_radius = map.next_value()?,
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(object)
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// The methods of a visitor for everything that is no container, made into the visitor's value by one function.
macro_rules! scalars {
    ($wrap:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }

        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Text(text)))
        }

        fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Number(number)))
        }

        #[expect(clippy::cast_precision_loss, reason = "no field of interest needs more than 53 bits")]
        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Number(number as f64)))
        }

        #[expect(clippy::cast_precision_loss, reason = "no field of interest needs more than 53 bits")]
        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Number(number as f64)))
        }

        fn visit_u128<E>(self, _number: u128) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Other))
        }

        fn visit_bool<E>(self, _value: bool) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Other))
        }

        fn visit_borrowed_bytes<E>(self, _bytes: &'de [u8]) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Other))
        }
    };
}
use scalars;
