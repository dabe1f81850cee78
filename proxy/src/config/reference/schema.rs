//! The JSON Schema of a configuration file, for editors: `warbler schema`.
//!
//! It comes from the raw structs, so it cannot know other keys than the program does. Defaults and effect classes are
//! added from the reference, and `null` is removed: TOML has none.

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Fallback, KEYS};
use crate::config::raw::RawFile;

/// The schema, draft 7 (the newest that the common TOML editors read), without references.
pub fn schema() -> Value {
    let mut schema = bare_schema();
    let described = described_keys();
    for key in KEYS {
        if let Some(node) = node_at(&mut schema, key.path) {
            if let Fallback::Value(value) = key.default
                && let Some(value) = as_json(value)
            {
                node.insert("default".to_owned(), value);
            }
            let about = described.get(key.path).map(String::as_str).unwrap_or_default();
            let about = format!("{about}\n\nA change counts: {}.", key.effect.as_str());
            node.insert("description".to_owned(), json!(about));
        }
    }
    schema
}

/// Every key that the raw structs know, in the notation of the reference, with its description in one line.
pub fn described_keys() -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    collect_keys(&bare_schema(), "", "", &mut keys);
    keys
}

/// The tables that may be missing as a whole, in the notation of the reference, save those of the file itself: being there
/// switches something on even if nothing stands in them.
pub fn optional_tables() -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    collect_optional(&schema_with_null(), "", &mut tables);
    tables.retain(|table| table.contains('.'));
    tables
}

fn bare_schema() -> Value {
    let mut schema = schema_with_null();
    drop_null_and_formats(&mut schema);
    schema
}

fn schema_with_null() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<RawFile>().to_value()
}

fn collect_optional(schema: &Value, path: &str, tables: &mut BTreeSet<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let is_null = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "null");
    if let Some([one, other]) = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
        && is_null(other)
    {
        if one.get("properties").is_some() {
            tables.insert(path.to_owned());
        }
        collect_optional(one, path, tables);
    } else if let Some(Value::Object(properties)) = schema.get("properties") {
        let or_null = |kinds: &Value| kinds.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"));
        if schema.get("type").is_some_and(or_null) {
            tables.insert(path.to_owned());
        }
        for (name, inner) in properties {
            collect_optional(inner, &below(name), tables);
        }
    } else if let Some(named @ Value::Object(_)) = schema.get("additionalProperties") {
        collect_optional(named, &below("*"), tables);
    } else if let Some(items) = schema.get("items") {
        collect_optional(items, &format!("{path}[]"), tables);
    }
}

/// `Option` says "or null", and numbers carry Rust's widths as `format`: neither is a fact about TOML.
fn drop_null_and_formats(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(drop_null_and_formats),
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if object.get("format").is_some_and(Value::is_string) {
                object.remove("format");
            }
            for alternatives in ["anyOf", "oneOf", "enum"] {
                if let Some(Value::Array(items)) = object.get_mut(alternatives) {
                    items.retain(|item| !item.is_null() && *item != json!({ "type": "null" }));
                    // `anyOf` with one alternative is that alternative; the outer description tells more.
                    if let ("anyOf", [Value::Object(only)]) = (alternatives, &items[..]) {
                        let only = only.clone();
                        object.remove(alternatives);
                        for (name, value) in only {
                            object.entry(name).or_insert(value);
                        }
                    }
                }
            }
            object.values_mut().for_each(drop_null_and_formats);
        }
        _ => {}
    }
}

fn collect_keys(schema: &Value, path: &str, about: &str, keys: &mut BTreeMap<String, String>) {
    let about_of = |schema: &Value| match schema.get("description").and_then(Value::as_str) {
        Some(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        None => about.to_owned(),
    };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(Value::Object(properties)) = schema.get("properties") {
        for (name, inner) in properties {
            collect_keys(inner, &below(name), &about_of(inner), keys);
        }
    } else if let Some(named @ Value::Object(_)) = schema.get("additionalProperties") {
        collect_keys(named, &below("*"), &about_of(schema), keys);
    } else if let Some(items) = schema.get("items").filter(|items| items.get("properties").is_some()) {
        collect_keys(items, &format!("{path}[]"), &about_of(items), keys);
    } else {
        keys.insert(path.to_owned(), about.to_owned());
    }
}

fn node_at<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut node = schema;
    for step in path.split('.') {
        node = match step.strip_suffix("[]") {
            Some(list) => node.get_mut("properties")?.get_mut(list)?.get_mut("items")?,
            None if step == "*" => node.get_mut("additionalProperties")?,
            None => node.get_mut("properties")?.get_mut(step)?,
        };
    }
    node.as_object_mut()
}

fn as_json(toml_value: &str) -> Option<Value> {
    let table = toml::from_str::<toml::Table>(&format!("value = {toml_value}")).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_schema_is_described_and_carries_its_default() {
        let mut schema = schema();
        for key in KEYS {
            let node = node_at(&mut schema, key.path).unwrap_or_else(|| panic!("{} is not in the schema", key.path));
            let about = node["description"].as_str().unwrap();
            assert!(about.ends_with(&format!("A change counts: {}.", key.effect.as_str())), "{}: {about}", key.path);
            assert!(!about.starts_with('\n'), "{} has no description", key.path);
            assert_eq!(node.contains_key("default"), matches!(key.default, Fallback::Value(_)), "{}", key.path);
        }
    }

    #[test]
    fn tables_that_may_be_missing_are_known() {
        let tables = optional_tables();
        for table in ["listeners.*.tls", "clusters.*.tls", "clusters.*.health.tcp", "clusters.*.health.http"] {
            assert!(tables.contains(table), "{table} is not in {tables:?}");
        }
        assert!(!tables.contains("clusters.*.p2c") && !tables.contains("edge"), "{tables:?}");
    }

    #[test]
    fn the_schema_refuses_unknown_keys_and_knows_units() {
        let schema = schema();
        assert_eq!(schema["title"], "warbler configuration");
        assert_eq!(schema["additionalProperties"], false);
        let grace = &schema["properties"]["stop"]["properties"]["grace"];
        assert_eq!((&grace["type"], &grace["default"]), (&json!("string"), &json!("5s")));
        assert!(grace["pattern"].as_str().unwrap().contains("ms"));
        assert!(!schema.to_string().contains("null"), "TOML has no null");
        assert!(!schema.to_string().contains("$ref"), "everything stands in its place");
    }
}
