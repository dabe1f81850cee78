//! A value and where it stands in its file.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Unexpected, Visitor};

/// A value with its place in the file, or a default, which has none.
///
/// Our own type around `toml::Spanned`, for two reasons: a default can have no place, and a JSON Schema can be made.
/// Comparing looks at the value alone, so that it can be a key.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    value: T,
    span: Option<Range<usize>>,
}

impl<T> Placed<T> {
    /// In bytes from the start of the file; `None` for a default.
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    pub fn is_written(&self) -> bool {
        self.span.is_some()
    }

    pub fn into_inner(self) -> T {
        self.value
    }
}

/// A default.
impl<T> From<T> for Placed<T> {
    fn from(value: T) -> Placed<T> {
        Placed { value, span: None }
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Placed<T>) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Placed<T> {}

impl<T: Ord> PartialOrd for Placed<T> {
    fn partial_cmp(&self, other: &Placed<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for Placed<T> {
    fn cmp(&self, other: &Placed<T>) -> Ordering {
        self.value.cmp(&other.value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Placed<T>, D::Error> {
        let spanned = toml::Spanned::deserialize(deserializer)?;
        Ok(Placed { span: Some(spanned.span()), value: spanned.into_inner() })
    }
}

impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// `"EU"` or `["EU", "AS"]`; `64512` or `[64512, 64513]`.
#[derive(Debug, Clone)]
pub struct OneOrMany<T = String> {
    values: Vec<Placed<T>>,
    span: Option<Range<usize>>,
}

impl<T> OneOrMany<T> {
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// The value, if it was written without a list around it.
    pub fn single(&self) -> Option<&Placed<T>> {
        match &self.values[..] {
            [only] if only.span == self.span => Some(only),
            _ => None,
        }
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> OneOrMany<T> {
        OneOrMany { values: vec![], span: None }
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = [Placed<T>];

    fn deref(&self) -> &[Placed<T>] {
        &self.values
    }
}

impl<'de, T: Item<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany<T>, D::Error> {
        // Only a `Spanned` around both forms gets a place for the single one.
        let either = toml::Spanned::<Either<T>>::deserialize(deserializer)?;
        let span = Some(either.span());
        let values = match either.into_inner() {
            Either::One(value) => vec![Placed { value, span: span.clone() }],
            Either::Many(values) => values,
        };
        Ok(OneOrMany { values, span })
    }
}

enum Either<T> {
    One(T),
    Many(Vec<Placed<T>>),
}

/// What may stand alone or in a list.
trait Item<'de>: Deserialize<'de> {
    const EXPECTED: &'static str;

    fn from_text<E: serde::de::Error>(text: &str) -> Result<Self, E>;

    fn from_number<E: serde::de::Error>(number: i64) -> Result<Self, E>;
}

impl Item<'_> for String {
    const EXPECTED: &'static str = "a string or a list of strings";

    fn from_text<E: serde::de::Error>(text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn from_number<E: serde::de::Error>(number: i64) -> Result<String, E> {
        Err(E::invalid_type(Unexpected::Signed(number), &Self::EXPECTED))
    }
}

impl Item<'_> for i64 {
    const EXPECTED: &'static str = "a whole number or a list of whole numbers";

    fn from_text<E: serde::de::Error>(text: &str) -> Result<i64, E> {
        Err(E::invalid_type(Unexpected::Str(text), &Self::EXPECTED))
    }

    fn from_number<E: serde::de::Error>(number: i64) -> Result<i64, E> {
        Ok(number)
    }
}

impl<'de, T: Item<'de>> Deserialize<'de> for Either<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Either<T>, D::Error> {
        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}

struct EitherVisitor<T>(PhantomData<T>);

impl<'de, T: Item<'de>> Visitor<'de> for EitherVisitor<T> {
    type Value = Either<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Either<T>, E> {
        T::from_text(value).map(Either::One)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Either<T>, E> {
        T::from_number(value).map(Either::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Either<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Either::Many(values))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::json_schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}
