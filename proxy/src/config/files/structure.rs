//! One file's text as raw structs: TOML, and the right keys and types.
//!
//! serde stops at its first error, and an operator wants to know all of them. So a value that serde refuses is reported,
//! taken out of the parsed document, and the rest is tried again, until it is accepted. What was taken out is kept as
//! [`Refused`]: a later complaint that the key is missing would only repeat the first one.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use crate::config::diagnostic::nearest;
use crate::config::raw::RawFile;
use crate::config::reference::{Shape, required_keys, shape};

/// Problems of structure that one file can have before the rest is left unread: each costs another reading.
const MOST_FLAWS: usize = 100;

/// What one text is, and what is wrong with its form.
#[derive(Debug)]
pub struct Structure {
    /// What could be read; `None` if the text is not TOML, or has too many flaws.
    pub raw: Option<RawFile>,
    pub flaws: Vec<Flaw>,
    pub refused: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

/// The keys whose values were refused, as dotted paths without positions in lists: `listeners.web.routes.cluster`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Refused(Vec<String>);

impl Refused {
    /// Whether something at this path, above it or below it was refused.
    pub fn touches(&self, path: &str) -> bool {
        let below = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'));
        self.0.iter().any(|refused| refused == path || below(refused, path) || below(path, refused))
    }

    /// Whether a key of the file itself was refused that is this one, or a slip for it.
    pub fn may_have_been(&self, table: &str) -> bool {
        self.0.iter().any(|refused| !refused.contains('.') && nearest(refused, [table]).is_some())
    }

    pub fn extend(&mut self, other: Refused) {
        self.0.extend(other.0);
    }
}

pub fn parse(text: &str) -> Structure {
    let (document, errors) = DeTable::parse_recoverable(text);
    let (document_span, mut document) = (document.span(), document.into_inner());
    let mut refused = Refused::default();
    let mut flaws: Vec<Flaw> = errors.iter().map(|error| syntax_flaw(text, error)).collect();
    if !flaws.is_empty() {
        return Structure { raw: None, flaws, refused };
    }
    take_out_lists_for_tables(&mut document, &Path::default(), &mut flaws, &mut refused);
    let mut taken_out = TakenOut::default();
    loop {
        let whole = Spanned::new(document_span.clone(), DeValue::Table(document.clone()));
        let error = match RawFile::deserialize(ValueDeserializer::from(whole)) {
            Ok(raw) => return Structure { raw: Some(raw), flaws, refused },
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let Some(path) = find(&document, &span) else {
            flaws.push(Flaw { span, message: error.message().to_owned(), help: None });
            break;
        };
        if !taken_out.explains(&error) {
            flaws.push(structure_flaw(&error, &path, &document, span));
        }
        if flaws.len() >= MOST_FLAWS {
            let message = format!("{MOST_FLAWS} problems in this file so far; the rest of it was not read");
            flaws.push(Flaw { span: text.len()..text.len(), message, help: None });
            break;
        }
        taken_out.remember(&document, &path);
        refused.0.push(path.dotted());
        take_out(&mut document, &path.0);
    }
    Structure { raw: None, flaws, refused }
}

/// The keys that were taken out, each with the place of its table.
#[derive(Default)]
struct TakenOut(Vec<(Range<usize>, String)>);

impl TakenOut {
    fn remember(&mut self, document: &DeTable<'_>, path: &Path) {
        if let Some((Step::Key(key), table)) = path.0.split_last() {
            self.0.push((at(document, table).0, key.clone()));
        }
    }

    /// Whether an error says that a key is missing which was there, but wrong or mistyped.
    fn explains(&self, error: &toml::de::Error) -> bool {
        let (Some(missing), Some(table)) = (missing_field(error), error.span()) else { return false };
        self.0.iter().any(|(span, key)| *span == table && nearest(key, [missing]).is_some())
    }
}

/// The place of what is at a path, and the table if it is one.
fn at<'d, 'i>(document: &'d DeTable<'i>, path: &[Step]) -> (Range<usize>, Option<&'d DeTable<'i>>) {
    let mut span = 0..0;
    let mut table = Some(document);
    let mut items: Option<&DeArray<'_>> = None;
    for step in path {
        let value = match step {
            Step::Key(key) => table.and_then(|table| table.get(key.as_str())),
            Step::Item(nth) => items.and_then(|items| items.get(*nth)),
        };
        let Some(value) = value else { break };
        span = value.span();
        table = value.get_ref().as_table();
        items = value.get_ref().as_array();
    }
    (span, table)
}

fn syntax_flaw(text: &str, error: &toml::de::Error) -> Flaw {
    let span = error.span().unwrap_or(text.len()..text.len());
    Flaw { span, message: format!("not TOML: {}", error.message()), help: None }
}

/// Where a value is in a document.
#[derive(Debug, Clone, Default)]
struct Path(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Item(usize),
}

impl Path {
    fn dotted(&self) -> String {
        self.keys().collect::<Vec<_>>().join(".")
    }

    /// The last key.
    fn name(&self) -> &str {
        self.keys().last().unwrap_or_default()
    }

    /// What the operator calls this value.
    fn subject(&self) -> String {
        match self.0.last() {
            None => "the file".to_owned(),
            Some(Step::Key(key)) => format!("`{key}`"),
            Some(Step::Item(_)) => format!("an entry of `{}`", self.name()),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Item(_) => None,
        })
    }

    fn with(&self, step: Step) -> Path {
        let mut steps = self.0.clone();
        steps.push(step);
        Path(steps)
    }
}

/// The innermost key or value that has this very span.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<Path> {
    fn in_table(table: &DeTable<'_>, span: &Range<usize>, at: &Path) -> Option<Path> {
        table.iter().find_map(|(key, value)| {
            let here = at.with(Step::Key(key.get_ref().to_string()));
            in_value(value, span, &here).or_else(|| (key.span() == *span).then_some(here))
        })
    }
    fn in_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, at: &Path) -> Option<Path> {
        let inside = match value.get_ref() {
            DeValue::Table(table) => in_table(table, span, at),
            DeValue::Array(items) => {
                items.iter().enumerate().find_map(|(nth, item)| in_value(item, span, &at.with(Step::Item(nth))))
            }
            _ => None,
        };
        inside.or_else(|| (value.span() == *span).then(|| at.clone()))
    }
    in_table(table, span, &Path::default())
}

fn take_out(table: &mut DeTable<'_>, path: &[Step]) {
    let Some((Step::Key(key), rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.remove(key.as_str());
    } else if let Some(value) = table.get_mut(key.as_str()) {
        take_out_of_value(value.get_mut(), rest);
    }
}

fn take_out_of_value(value: &mut DeValue<'_>, path: &[Step]) {
    match (value, path) {
        (DeValue::Table(table), _) => take_out(table, path),
        (DeValue::Array(items), [Step::Item(nth)]) => {
            let mut kept = DeArray::new();
            let others = items.iter().enumerate().filter(|(at, _)| at != nth);
            others.for_each(|(_, item)| kept.push(item.clone()));
            *items = kept;
        }
        (DeValue::Array(items), [Step::Item(nth), rest @ ..]) => {
            if let Some(item) = items.get_mut(*nth) {
                take_out_of_value(item.get_mut(), rest);
            }
        }
        _ => {}
    }
}

/// serde reads a list into a struct, field by field, so that `[[stop]]` would be accepted or misunderstood. Every list
/// that stands where the reference has a table is taken out before.
fn take_out_lists_for_tables(table: &mut DeTable<'_>, at: &Path, flaws: &mut Vec<Flaw>, refused: &mut Refused) {
    let mut wrong = Vec::new();
    for (key, value) in table.iter_mut() {
        let here = at.with(Step::Key(key.get_ref().to_string()));
        let span = value.span();
        match (value.get_mut(), shape(here.keys())) {
            (DeValue::Table(inner), _) => take_out_lists_for_tables(inner, &here, flaws, refused),
            (DeValue::Array(_), Shape::Table) => {
                let message = format!("`{}` is one table, not a list", here.name());
                flaws.push(Flaw { span, message, help: Some(format!("write [{}]", here.dotted())) });
                refused.0.push(here.dotted());
                wrong.push(key.get_ref().to_string());
            }
            (DeValue::Array(items), Shape::ListOfTables) => {
                if let Some(item) = items.iter().find(|item| item.get_ref().is_array()) {
                    let message = format!("each entry of `{}` must be a table, not a list", here.name());
                    flaws.push(Flaw { span: item.span(), message, help: None });
                    refused.0.push(here.dotted());
                    wrong.push(key.get_ref().to_string());
                    continue;
                }
                for inner in items.iter_mut().filter_map(|item| as_table(item.get_mut())) {
                    take_out_lists_for_tables(inner, &here, flaws, refused);
                }
            }
            _ => {}
        }
    }
    for key in wrong {
        table.remove(key.as_str());
    }
}

fn as_table<'a, 'i>(value: &'a mut DeValue<'i>) -> Option<&'a mut DeTable<'i>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// serde's words in an operator's words.
fn structure_flaw(error: &toml::de::Error, path: &Path, document: &DeTable<'_>, span: Range<usize>) -> Flaw {
    let (message, help) = match missing_field(error) {
        Some(field) => (format!("{} needs {}", path.subject(), missing_keys(field, path, document)), None),
        None => reworded(error.message(), path),
    };
    Flaw { span, message, help }
}

fn missing_field(error: &toml::de::Error) -> Option<&str> {
    error.message().strip_prefix("missing field `")?.strip_suffix('`')
}

/// serde names the first key that is missing, and here are all of them.
fn missing_keys(first: &str, path: &Path, document: &DeTable<'_>) -> String {
    let (_, table) = at(document, &path.0);
    let there = |key: &str| table.is_some_and(|table| table.contains_key(key));
    let mut missing = vec![first];
    missing.extend(required_keys(path.keys()).into_iter().filter(|key| *key != first && !there(key)));
    format!("`{}`", missing.join("` and `"))
}

fn reworded(message: &str, path: &Path) -> (String, Option<String>) {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (&quoted[..], message) {
        ([key, known @ ..], _) if message.starts_with("unknown field") => {
            (format!("unknown key `{key}`"), Some(suggestion(key, known, "known here")))
        }
        ([value, known @ ..], _) if message.starts_with("unknown variant") => {
            (format!("{} cannot be `{value}`", path.subject()), Some(suggestion(value, known, "possible here")))
        }
        // What toml says when a word is expected and something else is there.
        (_, "wanted string or table") => {
            (format!("{} must be a string", path.subject()), Some("write it in quotes".to_owned()))
        }
        _ => match message.split_once(", expected ") {
            Some((got, expected)) if message.starts_with("invalid ") => {
                let got = got.split_once(": ").map_or_else(|| got.trim_start_matches("invalid "), |(_, got)| got);
                let steps: Vec<&str> = path.keys().collect();
                let help = match (shape(path.keys()), got, &steps[..]) {
                    (Shape::ListOfTables, "map", _) => Some(format!("write [[{}]]", path.dotted())),
                    (_, "map", ["clusters", _, "map", area]) => {
                        Some(format!("an area inside this one is one key with a path: \"{area}/...\""))
                    }
                    _ => None,
                };
                (format!("{} must be {}, not {}", path.subject(), wanted(expected), found(got)), help)
            }
            _ => (format!("{}: {message}", path.subject()), None),
        },
    }
}

fn suggestion(written: &str, known: &[&str], otherwise: &str) -> String {
    match nearest(written, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("{otherwise}: `{}`", known.join("`, `")),
    }
}

/// What serde expected, said without Rust's types.
fn wanted(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a map" => "a table",
        "a sequence" => "a list",
        "an array of length 2" => "[latitude, longitude]",
        expected if expected.starts_with("struct ") => "a table",
        expected if expected.starts_with("string or table") || expected.starts_with("enum ") => "a string",
        expected => expected,
    }
}

/// What serde got, said without serde's data model.
fn found(got: &str) -> String {
    match got.split_once(' ') {
        _ if got == "map" => "a table".to_owned(),
        _ if got == "sequence" => "a list".to_owned(),
        Some(("length", count)) => format!("a list of {count}"),
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer", number)) => format!("the number {}", number.split(" as ").next().unwrap_or(number)),
        Some(("floating", number)) => format!("the number {}", number.trim_start_matches("point ")),
        Some(("boolean", value)) => value.to_owned(),
        _ => got.to_owned(),
    }
}
