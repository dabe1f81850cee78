//! A value and where it stands in its file.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

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

/// `"EU"` or `["EU", "AS"]`.
#[derive(Debug, Clone, Default)]
pub struct OneOrMany {
    values: Vec<Placed<String>>,
    span: Option<Range<usize>>,
}

impl OneOrMany {
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }
}

impl Deref for OneOrMany {
    type Target = [Placed<String>];

    fn deref(&self) -> &[Placed<String>] {
        &self.values
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        // Only a `Spanned` around both forms gets a place for the single one.
        let either = toml::Spanned::<Either>::deserialize(deserializer)?;
        let span = Some(either.span());
        let values = match either.into_inner() {
            Either::One(value) => vec![Placed { value, span: span.clone() }],
            Either::Many(values) => values,
        };
        Ok(OneOrMany { values, span })
    }
}

enum Either {
    One(String),
    Many(Vec<Placed<String>>),
}

impl<'de> Deserialize<'de> for Either {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Either, D::Error> {
        deserializer.deserialize_any(EitherVisitor)
    }
}

struct EitherVisitor;

impl<'de> Visitor<'de> for EitherVisitor {
    type Value = Either;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Either, E> {
        Ok(Either::One(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Either, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Either::Many(values))
    }
}

impl JsonSchema for OneOrMany {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}
