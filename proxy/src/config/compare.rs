//! What differs between two configurations, key by key, as it counts.
//!
//! Both are compared as the files write them (all files of each together), because that is where names, units and effect
//! classes are what operators know. A key that only one side writes is compared with its default, so writing a default
//! out is no change, and neither is writing `"60s"` as `"1m"`. Entries of lists are known by what they are (an endpoint by its
//! address, a route by its name, a rule by its position), not by where they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use toml::{Table, Value};

use super::check::Loaded;
use super::diagnostic::FileIx;
use super::reference::{Effect, Fallback, KEYS, Key, schema::optional_tables};
use super::units::{Distance, Percent, Period, Rate, Size};
use super::{Config, Serves};

/// One thing that is different.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `clusters.im.localities.fra.endpoints[10.1.0.4:5222].weight`
    pub path: String,
    pub kind: ChangeKind,
    /// As it counted before; none for what was added.
    pub old: Option<Setting>,
    pub new: Option<Setting>,
    /// When it counts after a reload: `live`, `new connections`, `start`.
    pub effect: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A key counts for something else.
    Changed,
    /// A table is there that was not: a listener, an endpoint, a rule.
    Added,
    Removed,
}

/// What a key is set to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    Value(Value),
    /// A default that is found when the configuration is used, in the words of the reference.
    Words(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Value(value) => f.write_str(&shortened(value.to_string())),
            Setting::Words(words) => write!(f, "({words})"),
        }
    }
}

/// A whole cluster does not fit into a line.
fn shortened(text: String) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  ", self.path)?;
        match (self.kind, &self.old, &self.new) {
            (ChangeKind::Added, _, Some(new)) => write!(f, "added: {new}")?,
            (ChangeKind::Removed, Some(old), _) => write!(f, "removed: {old}")?,
            (_, Some(old), Some(new)) => write!(f, "{old}  →  {new}")?,
            (kind, ..) => write!(f, "{kind:?}")?,
        }
        write!(f, "  ({})", self.effect)
    }
}

/// Every difference, in the order of their paths; empty if both mean the same.
pub fn compare(old: &Loaded, new: &Loaded) -> Vec<Change> {
    let (before, after) = (Tree::of(old), Tree::of(new));
    let mut changes = tables(&before, &after);
    let whole: Vec<String> = changes.iter().map(|change| change.path.clone()).collect();
    let inside_of_those = |path: &str| whole.iter().any(|table| is_inside(path, table));
    changes.retain(|change| !inside_of_those(&change.path));
    changes.extend(settings(&before, &after).into_iter().filter(|change| !inside_of_those(&change.path)));
    changes.retain(|change| !counts_the_same(&change.path, &old.config, &new.config));
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    changes
}

/// One configuration, flat.
#[derive(Default)]
struct Tree {
    settings: BTreeMap<String, (&'static Key, Value)>,
    /// Tables that may be there or not: named ones, entries of lists, and those that switch something on.
    tables: BTreeMap<String, (Pattern, Value)>,
}

/// A path as the reference has it.
type Pattern = String;

impl Tree {
    fn of(loaded: &Loaded) -> Tree {
        let mut tree = Tree::default();
        let walk = Walk { config: &loaded.config, optional: optional_tables() };
        walk.table(&all_files(loaded), "", "", &mut tree);
        tree
    }
}

/// All files as one table. A listener or cluster stands in one file only, and so does each other table.
fn all_files(loaded: &Loaded) -> Table {
    let mut whole = Table::new();
    for file in (0..loaded.sources.paths().count()).map(FileIx) {
        // It was accepted, so it is TOML.
        let table: Table = loaded.sources.text(file).parse().unwrap_or_default();
        for (name, value) in table {
            match (whole.get_mut(&name).and_then(Value::as_table_mut), value) {
                (Some(known), Value::Table(more)) => known.extend(more),
                (_, value) => _ = whole.insert(name, value),
            }
        }
    }
    whole.remove("include");
    if let Some(clusters) = whole.get_mut("clusters").and_then(Value::as_table_mut) {
        clusters.iter_mut().filter_map(|(_, cluster)| cluster.as_table_mut()).for_each(probes_as_they_count);
    }
    whole
}

/// Who says nothing of probing gets `health.tcp`.
fn probes_as_they_count(cluster: &mut Table) {
    let health = cluster.entry("health").or_insert_with(|| Table::new().into());
    if let Some(health) = health.as_table_mut()
        && !health.values().any(|value| value.is_table() || value.as_bool() == Some(true))
    {
        health.insert("tcp".to_owned(), Table::new().into());
    }
}

struct Walk<'a> {
    config: &'a Config,
    optional: BTreeSet<String>,
}

impl Walk<'_> {
    fn table(&self, table: &Table, pattern: &str, path: &str, tree: &mut Tree) {
        for (name, value) in table {
            let pattern = step(pattern, name);
            self.value(value, &pattern, &dotted(path, name), tree);
        }
    }

    fn value(&self, value: &Value, pattern: &str, path: &str, tree: &mut Tree) {
        if let Some(key) = KEYS.iter().find(|key| key.path == pattern) {
            tree.settings.insert(path.to_owned(), (key, normal(key, value)));
            return;
        }
        match value {
            Value::Table(table) => {
                if pattern.ends_with('*') || self.optional.contains(pattern) {
                    tree.tables.insert(path.to_owned(), (pattern.to_owned(), value.clone()));
                }
                self.table(table, pattern, path, tree);
            }
            Value::Array(entries) => {
                let names = self.names(entries, pattern, path);
                for (entry, name) in entries.iter().zip(names) {
                    let (pattern, path) = (format!("{pattern}[]"), format!("{path}[{name}]"));
                    tree.tables.insert(path.clone(), (pattern.clone(), entry.clone()));
                    self.table(entry.as_table().unwrap_or(&Table::new()), &pattern, &path, tree);
                }
            }
            _ => {}
        }
    }

    /// What the entries of a list of tables are known by.
    fn names(&self, entries: &[Value], pattern: &str, path: &str) -> Vec<String> {
        let listener = path.strip_prefix("listeners.").and_then(|path| path.strip_suffix(".routes"));
        let named = match listener {
            Some(listener) => self.route_names(listener),
            None => entries.iter().map_while(|entry| identity(entry, pattern)).collect(),
        };
        let distinct = named.iter().collect::<BTreeSet<_>>().len() == entries.len();
        if distinct && named.len() == entries.len() {
            return named;
        }
        (1..=entries.len()).map(|nth| nth.to_string()).collect()
    }

    /// The names that routes were given or got from their matches.
    fn route_names(&self, listener: &str) -> Vec<String> {
        let found = self.config.listeners.iter().find(|known| &*known.name == listener.trim_matches('"'));
        match found.map(|listener| &listener.serves) {
            Some(Serves::Http(http)) => http.routes.iter().map(|route| route.name.to_string()).collect(),
            _ => Vec::new(),
        }
    }
}

/// The first text or number that an entry cannot be without: an endpoint's address, a certificate's file, a priority.
fn identity(entry: &Value, pattern: &str) -> Option<String> {
    let prefix = format!("{pattern}[].");
    let required = KEYS.iter().filter(|key| key.default == Fallback::Required && !key.kind.contains("list"));
    let mut names = required.filter_map(|key| key.path.strip_prefix(&prefix)).filter(|name| !name.contains('.'));
    names.find_map(|name| match entry.get(name)? {
        Value::String(text) => Some(text.to_ascii_lowercase()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    })
}

/// The pattern of what is called `name` in a table with this pattern.
fn step(pattern: &str, name: &str) -> Pattern {
    let known = dotted(pattern, name);
    let continues =
        |path: &str| path.strip_prefix(&*known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    if KEYS.iter().any(|key| continues(key.path)) { known } else { dotted(pattern, "*") }
}

/// A name with a dot in it is quoted, as TOML does it: `web.eu` is not inside of `web`.
fn dotted(path: &str, name: &str) -> String {
    let name = if name.contains(['.', '[']) { format!("\"{name}\"") } else { name.to_owned() };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn is_inside(path: &str, table: &str) -> bool {
    path.strip_prefix(table).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Tables that one side has and the other has not.
fn tables(before: &Tree, after: &Tree) -> Vec<Change> {
    let paths: BTreeSet<&String> = before.tables.keys().chain(after.tables.keys()).collect();
    let change = |path: &String| {
        let (kind, (pattern, value)) = match (before.tables.get(path), after.tables.get(path)) {
            (Some(old), None) => (ChangeKind::Removed, old),
            (None, Some(new)) => (ChangeKind::Added, new),
            _ => return None,
        };
        let setting = Some(Setting::Value(value.clone()));
        let (old, new) = if kind == ChangeKind::Removed { (setting, None) } else { (None, setting) };
        Some(Change { path: path.clone(), kind, old, new, effect: soonest(pattern).as_str() })
    };
    paths.into_iter().filter_map(change).collect()
}

/// A table as a whole counts as soon as anything in it does.
fn soonest(pattern: &str) -> Effect {
    let inside = KEYS.iter().filter(|key| is_inside(key.path, pattern)).map(|key| key.effect);
    let order = |effect: &Effect| match effect {
        Effect::Live => 0,
        Effect::NewConnections => 1,
        Effect::Start => 2,
    };
    inside.min_by_key(order).unwrap_or(Effect::Live)
}

fn settings(before: &Tree, after: &Tree) -> Vec<Change> {
    let paths: BTreeSet<&String> = before.settings.keys().chain(after.settings.keys()).collect();
    let change = |path: &String| {
        let (old, new) = (before.settings.get(path), after.settings.get(path));
        let key = old.or(new)?.0;
        let counts = |written: Option<&(&Key, Value)>| match written {
            Some((_, value)) => Setting::Value(value.clone()),
            None => default(key),
        };
        let (old, new) = (counts(old), counts(new));
        (old != new).then(|| Change {
            path: path.clone(),
            kind: ChangeKind::Changed,
            old: Some(old),
            new: Some(new),
            effect: key.effect.as_str(),
        })
    };
    paths.into_iter().filter_map(change).collect()
}

fn default(key: &Key) -> Setting {
    match key.default {
        Fallback::Value(text) => match toml::from_str::<Table>(&format!("value = {text}")) {
            Ok(table) => Setting::Value(normal(key, &table["value"])),
            Err(_) => Setting::Words(text.to_owned()),
        },
        Fallback::Computed(words) => Setting::Words(words.to_owned()),
        Fallback::Required => Setting::Words("not written".to_owned()),
    }
}

/// A value in the one spelling that it is compared and shown in.
fn normal(key: &Key, value: &Value) -> Value {
    let respelled = |value: &Value, kind: &str| -> Option<Value> {
        let text = value.as_str();
        Some(match kind.split([',', ' ']).next()? {
            "duration" | "durations" => text?.parse::<Period>().ok()?.to_string().into(),
            "rate" => text?.parse::<Rate>().ok()?.to_string().into(),
            "percent" => text?.parse::<Percent>().ok()?.to_string().into(),
            "distance" => text?.parse::<Distance>().ok()?.to_string().into(),
            "size" => match value.as_integer() {
                Some(bytes) => Size(u64::try_from(bytes).ok()?).to_string().into(),
                None => text?.parse::<Size>().ok()?.to_string().into(),
            },
            "number" | "[latitude" => Value::Float(f64::from(i32::try_from(value.as_integer()?).ok()?)),
            _ => return None,
        })
    };
    let one = |value: &Value, kind: &str| respelled(value, kind).unwrap_or_else(|| value.clone());
    match value {
        Value::Array(items) if key.kind.contains("or a list") => one_or_many(key, items.clone()),
        value if key.kind.contains("or a list") => one_or_many(key, vec![value.clone()]),
        Value::Array(items) => {
            let kind = key.kind.strip_prefix("list of ").unwrap_or(key.kind);
            items.iter().map(|item| one(item, kind)).collect::<Vec<_>>().into()
        }
        value => one(value, key.kind),
    }
}

/// What may be written as one value or as a list. Whom a rule is for has no order; where these clients go may have one.
fn one_or_many(key: &Key, mut items: Vec<Value>) -> Value {
    if !key.kind.contains("name of a locality") {
        items.sort_by_key(Value::to_string);
        items.dedup();
    }
    items.into()
}

/// Whether the part that a path is in means the same on both sides whatever it says, because a default was written out
/// that is only found when it is used. What is positions in a configuration is compared only where these are the same.
fn counts_the_same(path: &str, old: &Config, new: &Config) -> bool {
    let part = path.split('.').next().unwrap_or_default();
    let is_of = |name: &str| {
        let own = dotted(part, name);
        path == own || is_inside(path, &own)
    };
    let same_clusters = || old.clusters.iter().map(|one| &one.name).eq(new.clusters.iter().map(|one| &one.name));
    match part {
        "edge" => old.edge == new.edge,
        "listeners" => {
            let find = |config: &Config| config.listeners.iter().find(|known| is_of(&known.name)).cloned();
            same_clusters() && find(old).is_some() && find(old) == find(new)
        }
        "clusters" => {
            let find = |config: &Config| config.clusters.iter().find(|known| is_of(&known.name)).cloned();
            find(old).is_some() && find(old) == find(new)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OpenFiles, load_text};

    const BASE: &str = r#"
        [listeners.im]
        bind = ["127.0.0.1:0"]
        protocol = "tcp"
        cluster = "im"
        [listeners.web]
        bind = ["127.0.0.1:0"]
        protocol = "http"
        [[listeners.web.routes]]
        path-prefix = "/ws"
        cluster = "im"
        [[listeners.web.routes]]
        name = "rest"
        cluster = "im"
        [clusters.im]
        [[clusters.im.rules]]
        country = ["FR", "DE"]
        localities = "fra"
        [clusters.im.localities.fra]
        endpoints = [{ address = "10.1.0.4:5222" }, { address = "10.1.0.5:5222", weight = 3 }]
        [clusters.im.localities.par]
        location = [48.9, 2]
        endpoints = [{ address = "10.2.0.4:5222" }]
    "#;

    fn loaded(text: &str) -> Loaded {
        load_text("t.toml", text, OpenFiles::No).unwrap_or_else(|report| panic!("{report}\n{text}"))
    }

    /// The changes that an edit of the base makes.
    fn check(edits: &[(&str, &str)], want: &[&str]) {
        let edited = edits.iter().fold(BASE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        let said: Vec<String> =
            compare(&loaded(BASE), &loaded(&edited)).iter().map(|change| change.to_string()).collect();
        assert_eq!(said, want);
    }

    /// A default that is only found when it is used, written out.
    #[test]
    fn what_counts_the_same_is_no_change_whatever_the_name() {
        for name in ["eu", "\"im.eu\""] {
            let text = |capacity: &str| {
                format!(
                    "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = {0}\n\
                     [clusters.{name}.localities.fra]\n{capacity}\n\
                     endpoints = [{{ address = \"10.1.0.4:5222\", max-connections = 100 }}]\n",
                    if name.starts_with('"') { name.to_owned() } else { format!("{name:?}") }
                )
            };
            let said = compare(&loaded(&text("")), &loaded(&text("capacity = 100")));
            assert!(said.is_empty(), "{name}: {}", said[0]);
        }
    }

    #[test]
    fn a_changed_value_is_shown_with_its_path_and_effect() {
        check(
            &[("weight = 3", "weight = 2")],
            &["clusters.im.localities.fra.endpoints[10.1.0.5:5222].weight  3  →  2  (live)"],
        );
        check(
            &[(
                "[clusters.im]",
                "[drain]\nclose-wait = \"6s\"\n[edge]\nworkers = 3\n[clusters.im]\nconnect-timeout = \"1s\"",
            )],
            &[
                "clusters.im.connect-timeout  \"2s\"  →  \"1s\"  (live)",
                "drain.close-wait  \"5s\"  →  \"6s\"  (new connections)",
                "edge.workers  (the number of CPUs)  →  3  (start)",
            ],
        );
    }

    #[test]
    fn writing_a_default_or_another_spelling_is_no_change() {
        check(&[("[clusters.im]", "[clusters.im]\npolicy = \"p2c\"\nconnect-timeout = \"2000ms\"")], &[]);
        check(&[("[clusters.im]", "[clusters.im]\nhealth.tcp.interval = \"2s\"\noverprovisioning = 1.4")], &[]);
        check(&[("[\"FR\", \"DE\"]", "[\"DE\", \"FR\"]"), ("\"fra\"", "[\"fra\"]"), ("48.9, 2]", "48.90, 2.0]")], &[]);
        check(&[("{ address = \"10.1.0.4:5222\" }", "{ address = \"10.1.0.4:5222\", weight = 1 }")], &[]);
        check(&[("protocol = \"http\"", "protocol = \"http\"\nhttp-versions = [\"1.1\"]\nmax-head = 32768")], &[]);
        check(&[("[clusters.im]", "[dns]\n[stop]\ngrace = \"5s\"\n[clusters.im]\nhealth = {}")], &[]);
    }

    #[test]
    fn entries_of_lists_are_known_by_what_they_are() {
        check(
            &[("{ address = \"10.1.0.4:5222\" }, ", "")],
            &["clusters.im.localities.fra.endpoints[10.1.0.4:5222]  removed: { address = \"10.1.0.4:5222\" }  (live)"],
        );
        check(
            &[("name = \"rest\"\n", "name = \"rest\"\npath = \"/x\"\n")],
            &["listeners.web.routes[rest].path  (any path)  →  \"/x\"  (live)"],
        );
        check(
            &[("country = [\"FR\", \"DE\"]", "country = \"FR\"\nstrict = true")],
            &[
                "clusters.im.rules[1].country  [\"DE\", \"FR\"]  →  [\"FR\"]  (live)",
                "clusters.im.rules[1].strict  false  →  true  (live)",
            ],
        );
    }

    #[test]
    fn tables_that_come_and_go_are_one_change_each() {
        check(
            &[(
                "[listeners.web]",
                "[clusters.x.localities.y]\nendpoints = [{ address = \"10.9.0.1:1\" }]\n[listeners.web]",
            )],
            &[
                "clusters.x  added: { health = { tcp = {} }, localities = { y = { endpoints = [{ address = \"10.9.0.1:1\" }] } } }  (live)",
            ],
        );
        check(
            &[("[clusters.im]", "[clusters.im]\nhealth.http = {}\ntls.name = \"im\"")],
            &[
                "clusters.im.health.http  added: {}  (live)",
                "clusters.im.health.tcp  removed: {}  (live)",
                "clusters.im.tls  added: { name = \"im\" }  (new connections)",
            ],
        );
        check(
            &[("[clusters.im]", "[clusters.im]\nhealth.off = true")],
            &["clusters.im.health.off  false  →  true  (live)", "clusters.im.health.tcp  removed: {}  (live)"],
        );
    }

    #[test]
    fn a_name_with_a_dot_is_not_inside_of_another() {
        let more = "[listeners.web]\nbind = [\"127.0.0.2:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let dotted = "[listeners.\"im.eu\"]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
                      [[listeners.\"im.eu\".routes]]\nname = \"all\"\ncluster = \"im\"\n";
        let rest = "[clusters.im.localities.x]\nendpoints = [{ address = \"10.0.0.1:1\" }]\n";
        let before = loaded(&format!("{dotted}{rest}"));
        let after =
            loaded(&format!("{}{more}{rest}", dotted.replace("name = \"all\"", "name = \"all\"\nhost = \"a.b\"")));
        let said: Vec<String> = compare(&before, &after).iter().map(|change| change.path.clone()).collect();
        assert_eq!(said, ["listeners.\"im.eu\".routes[all].host", "listeners.web"]);
    }

    #[test]
    fn every_key_of_the_reference_leads_to_itself() {
        for key in KEYS {
            let mut pattern = String::new();
            for name in key.path.split('.') {
                let (name, list) = match name.strip_suffix("[]") {
                    Some(name) => (name, "[]"),
                    None => (name, ""),
                };
                pattern = step(&pattern, if name == "*" { "any-name" } else { name }) + list;
            }
            assert_eq!(pattern, key.path);
        }
    }
}
