//! Every configuration that the repository shows to people is one that warbler accepts, and a slip in any table of it is
//! found at its place.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use proxy::config::diagnostic::{Severity, line_and_column};
use proxy::config::reference::{KEYS, schema::described_keys};
use proxy::config::{OpenFiles, load, load_text};
use toml::de::{DeTable, DeValue};

#[test]
fn every_configuration_in_conf_is_accepted() {
    let files = files_below("conf", "toml");
    assert!(files.iter().any(|file| file.ends_with("edge.toml")), "conf/edge.toml is there");
    for file in files {
        if let Err(report) = load(&file, OpenFiles::No) {
            panic!("{report}");
        }
    }
}

#[test]
fn the_configuration_that_runs_as_it_is_names_no_missing_file() {
    let loaded = load(&root().join("conf/edge.toml"), OpenFiles::Yes).unwrap();
    assert_eq!((loaded.config.listeners.len(), loaded.config.clusters.len()), (2, 2));
    assert_eq!(loaded.warnings, [], "an example does what it says");
}

#[test]
fn every_toml_block_of_the_documents_is_accepted() {
    let blocks = documented_blocks();
    assert!(blocks.len() >= 8, "the documents show configurations: {}", blocks.len());
    for (name, text) in blocks {
        if let Err(report) = load_text(&name, &without_include(&text), OpenFiles::No) {
            panic!("{name}:\n{report}");
        }
    }
}

#[test]
fn an_unknown_key_in_any_table_is_refused_at_its_place() {
    let mut shown = documented_blocks();
    for file in files_below("conf", "toml") {
        shown.push((file.display().to_string(), fs::read_to_string(&file).unwrap()));
    }
    let mut tried = 0;
    for (name, text) in shown {
        let text = without_include(&text);
        for slip in slips(&text) {
            let report = load_text(&name, &slip.text, OpenFiles::No).expect_err(&slip.text);
            let found = report.problems.iter().any(|problem| {
                problem.severity == Severity::Error
                    && [slip.key, slip.value].contains(&(problem.line, problem.column))
                    && problem.message.contains("bogus-key")
            });
            assert!(found, "{name}: nothing at {:?} of\n{}\nbut\n{report}", slip.key, slip.text);
            let errors = report.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            assert_eq!(errors, 1, "one slip is one problem:\n{}\n{report}", slip.text);
            tried += 1;
        }
    }
    assert!(tried > 100, "there are many tables: {tried}");
}

#[test]
fn the_document_has_every_key_as_the_reference_says() {
    let document = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let about = described_keys();
    for key in KEYS {
        let row = key.markdown_row(&about[key.path]);
        assert!(document.lines().any(|line| line == row), "docs/config.md lacks the row\n{row}");
    }
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let is_key = |text: &&str| text.contains('.') || *text == "include";
    for documented in rows.map(|(path, _)| path).filter(is_key) {
        assert!(KEYS.iter().any(|key| key.path == documented), "docs/config.md has `{documented}`, which is no key");
    }
}

/// A configuration with one key more than there should be.
struct Slip {
    text: String,
    /// Line and column of the key, and of its value: in a table of names any key is allowed, but not any value.
    key: (usize, usize),
    value: (usize, usize),
}

/// A slip in every table of a configuration: with a header, in braces, by dotted keys, and those that are only implied.
fn slips(text: &str) -> Vec<Slip> {
    let document = DeTable::parse(text).unwrap();
    let mut tables = vec![Table { path: String::new(), span: 0..0, first_key: None }];
    collect_tables(document.get_ref(), "", &mut tables);
    tables.iter().map(|table| table.slip(text)).collect()
}

struct Table {
    path: String,
    /// Of the header, the braces, or the key that implies it.
    span: Range<usize>,
    first_key: Option<usize>,
}

fn collect_tables(table: &DeTable<'_>, path: &str, tables: &mut Vec<Table>) {
    for (key, value) in table {
        let path = format!("{path}.{}", key.get_ref()).trim_start_matches('.').to_owned();
        match value.get_ref() {
            DeValue::Table(inner) => collect_table(inner, path, value.span(), tables),
            DeValue::Array(items) => {
                for item in items.iter() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        collect_table(inner, path.clone(), item.span(), tables);
                    }
                }
            }
            _ => {}
        }
    }
}

fn collect_table(table: &DeTable<'_>, path: String, span: Range<usize>, tables: &mut Vec<Table>) {
    let first_key = table.keys().map(|key| key.span().start).min();
    collect_tables(table, &path, tables);
    tables.push(Table { path, span, first_key });
}

impl Table {
    fn slip(&self, text: &str) -> Slip {
        let line_start = text[..self.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let in_a_header = text[line_start..].starts_with('[');
        match &text[self.span.clone()] {
            "" => inserted(text, 0, "bogus-key = 1\n", 0),
            braces if braces.starts_with('{') => inserted(text, self.span.start + 1, " bogus-key = 1,", 1),
            header if header.starts_with('[') => {
                let line_end = text[self.span.end..].find('\n').map_or(text.len(), |end| self.span.end + end + 1);
                inserted(text, line_end, "bogus-key = 1\n", 0)
            }
            // Only implied by a longer header: it can still get its own.
            _ if in_a_header => {
                let addition = format!("\n[{}]\nbogus-key = 1\n", self.path);
                let key = addition.find("bogus").unwrap();
                inserted(text, text.len(), &addition, key)
            }
            // `health.http = { ... }`: `health` is a table, too.
            _ => {
                let dotted = text[line_start..self.first_key.unwrap()].trim_end_matches([' ', '\t']);
                let line = format!("{dotted}bogus-key = 1\n");
                inserted(text, line_start, &line, dotted.len())
            }
        }
    }
}

fn inserted(text: &str, at: usize, addition: &str, key: usize) -> Slip {
    let text = format!("{}{addition}{}", &text[..at], &text[at..]);
    let (key, value) = (at + key, at + key + "bogus-key = ".len());
    Slip { key: line_and_column(&text, key), value: line_and_column(&text, value), text }
}

/// Blocks that show `include` cannot bring the files with them.
fn without_include(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("include ")).map(|line| format!("{line}\n")).collect()
}

/// The blocks marked `toml` in docs/ and the README, each with the place where it starts.
fn documented_blocks() -> Vec<(String, String)> {
    let mut documents = files_below("docs", "md");
    documents.extend(Some(root().join("README.md")).filter(|readme| readme.exists()));
    documents.iter().flat_map(|document| blocks(document)).collect()
}

fn blocks(document: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(document).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "```toml" {
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            blocks.push((
                format!("{}:{}", document.display(), number + 1),
                block.map(|line| format!("{line}\n")).collect(),
            ));
        }
    }
    blocks
}

fn files_below(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                // Configurations are what lies in conf/ itself; below are the files that they name.
                true if extension != "toml" => folders.push(path),
                true => {}
                false if path.extension().is_some_and(|found| found == extension) => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
