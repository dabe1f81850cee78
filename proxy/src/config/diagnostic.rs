//! What is wrong with a configuration, and where: the form in which operators read it.
//!
//! A [`Problem`] carries its place as `file:line:column`, which terminals and editors make clickable, and the way out
//! as `help`. Only the value that is wrong is ever quoted, never a line or a whole file: files may hold
//! things that do not belong into logs.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One thing that an operator should change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// In characters, from 1; 0 if the file as a whole is meant.
    pub column: usize,
    pub severity: Severity,
    pub message: String,
    /// The way out, where one is known.
    pub help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is used, but probably does not do what was meant.
    Warning,
}

impl Problem {
    pub fn help(&mut self, help: impl Into<String>) {
        self.help = Some(help.into());
    }
}

/// `conf/edge.toml:14:11: error: no cluster is named ...`, with the help on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n   help: {help}"),
            None => Ok(()),
        }
    }
}

/// Why a configuration was refused: every problem of every file, errors and warnings, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub problems: Vec<Problem>,
}

impl Report {
    /// The problems, and a last line that counts them and says what follows: `2 problems; the running config was kept`.
    pub fn render(&self, consequence: &str) -> String {
        format!("{self}\n{}; {consequence}", counted(self.problems.len(), "problem"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.problems.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// `1 problem`, `2 problems`.
pub fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Which of the files that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileIx(pub usize);

/// A stretch of text in one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: FileIx,
    /// In bytes.
    pub span: Range<usize>,
}

/// The files of one configuration with their text, the main file first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    text: String,
}

impl Sources {
    pub fn add(&mut self, path: PathBuf, text: String) -> FileIx {
        self.files.push(Source { path, text });
        FileIx(self.files.len() - 1)
    }

    pub fn path(&self, file: FileIx) -> &Path {
        &self.files[file.0].path
    }

    pub fn text(&self, file: FileIx) -> &str {
        &self.files[file.0].text
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    /// The line of a place, from 1.
    pub fn line(&self, place: &Place) -> usize {
        line_and_column(self.text(place.file), place.span.start).0
    }

    pub fn problem(&self, severity: Severity, place: &Place, message: String) -> Problem {
        let (line, column) = line_and_column(self.text(place.file), place.span.start);
        Problem { file: self.path(place.file).to_owned(), line, column, severity, message, help: None }
    }

    /// `line 3`, or `conf/im.toml:3` if that is another file than the one the reader is looking at.
    pub fn mention(&self, place: &Place, seen_from: FileIx) -> String {
        let line = self.line(place);
        match place.file == seen_from {
            true => format!("line {line}"),
            false => format!("{}:{line}", self.path(place.file).display()),
        }
    }
}

/// Line and column, both from 1, of a byte offset; the column counts characters, as editors do.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The candidate that someone who wrote `written` probably meant.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, help: Option<&str>) -> Problem {
        let (file, message) = ("conf/edge.toml".into(), "no cluster is named `im-eu`".into());
        Problem { file, line, column: line, severity: Severity::Error, message, help: help.map(str::to_owned) }
    }

    #[test]
    fn a_report_names_each_place_and_ends_with_the_consequence() {
        let report = Report { problems: vec![problem(14, Some("did you mean `im-europe`?")), problem(0, None)] };
        assert_eq!(
            report.render("the running config was kept"),
            "conf/edge.toml:14:14: error: no cluster is named `im-eu`\n   help: did you mean `im-europe`?\n\
             conf/edge.toml: error: no cluster is named `im-eu`\n\
             2 problems; the running config was kept"
        );
    }

    #[test]
    fn the_json_form_has_the_six_documented_fields() {
        let json = serde_json::to_string(&problem(14, None)).unwrap();
        assert_eq!(
            json,
            r#"{"file":"conf/edge.toml","line":14,"column":14,"severity":"error","message":"no cluster is named `im-eu`","help":null}"#
        );
    }

    #[test]
    fn columns_count_characters_and_survive_any_offset() {
        let text = "a = 1\nkey = \"äö\" # x\n";
        let check = |offset, want| assert_eq!(line_and_column(text, offset), want, "at {offset}");
        check(0, (1, 1));
        check(6, (2, 1));
        check(text.find('#').unwrap(), (2, 12));
        check(text.find('ö').unwrap() + 1, (2, 9));
        check(text.len(), (3, 1));
        check(9999, (3, 1));
    }

    #[test]
    fn only_a_near_miss_is_suggested() {
        assert_eq!(nearest("listners", ["listeners", "clusters"]), Some("listeners"));
        assert_eq!(nearest("im-eu", ["im-europe", "im-asia", "im-us"]), Some("im-us"));
        assert_eq!(nearest("zebra", ["listeners", "clusters"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
