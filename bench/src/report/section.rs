//! The marked part of a Markdown file, found before a run and replaced after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

const NEW_FILE: &str = "# Performance\n\nWhat was measured, on which machine, and how to repeat it.\n\n";

/// The two lines around a section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

#[derive(Debug)]
pub(crate) struct Section {
    file: PathBuf,
    span: Span,
    before: String,
    after: String,
}

impl Section {
    /// Finds the section. A file that does not exist is made by [`write`](Self::write).
    pub(crate) fn open(file: &Path, span: Span) -> Result<Self> {
        let Span { begin, end } = span;
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{NEW_FILE}{begin}\n{end}\n"),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
        let Some((before, after)) = parts else {
            bail!(
                "{} has no section to write into: put these two lines where it belongs:\n{begin}\n{end}",
                file.display()
            );
        };
        Ok(Self { file: file.to_owned(), span, before: before.to_owned(), after: after.to_owned() })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn write(&self, section: &str) -> Result<()> {
        let Span { begin, end } = self.span;
        let text = format!("{}{begin}\n\n{section}\n{end}{}", self.before, self.after);
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Workspace;

    const SPAN: Span = Span { begin: "<!-- begin -->", end: "<!-- end -->" };

    #[test]
    fn only_the_marked_section_of_a_file_is_replaced() {
        let workspace = Workspace::new().unwrap();
        let file = workspace.path("performance.md");
        Section::open(&file, SPAN).unwrap().write("first").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("above\n{text}below\n")).unwrap();
        Section::open(&file, SPAN).unwrap().write("second").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("above\n# Performance") && text.ends_with("below\n"), "{text}");
        assert!(text.contains("second") && !text.contains("first"), "{text}");
    }

    #[test]
    fn a_file_without_the_section_is_left_alone() {
        let workspace = Workspace::new().unwrap();
        let file = workspace.write("notes.md", "mine").unwrap();
        assert!(Section::open(&file, SPAN).unwrap_err().to_string().contains("no section"));
    }
}
