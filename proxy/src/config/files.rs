//! From a path to what all files say together: the main file and those that it includes.
//!
//! A file is read completely before anything is judged, and its text is kept, because a problem is shown by its
//! place in it. The tables that describe the process stand in one file only, and a listener or cluster has one file:
//! two halves of one thing in two files would make neither of them true.

pub mod structure;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::structure::Refused;
use super::diagnostic::{FileIx, Place, Problem, Severity, Sources};
use super::raw::{
    Placed, RawAdmin, RawCluster, RawDns, RawDrain, RawEdge, RawFile, RawGeoIp, RawListener, RawLog, RawStop,
};

/// What all files say together, not yet checked.
#[derive(Debug, Default)]
pub struct Gathered {
    pub edge: InFile<RawEdge>,
    pub admin: InFile<RawAdmin>,
    pub log: InFile<RawLog>,
    pub dns: InFile<RawDns>,
    pub geoip: InFile<RawGeoIp>,
    pub stop: InFile<RawStop>,
    pub drain: InFile<RawDrain>,
    pub listeners: BTreeMap<String, InFile<RawListener>>,
    pub clusters: BTreeMap<String, InFile<RawCluster>>,
}

/// A table and where its header or name stands. The default is what holds when no file has the table.
#[derive(Debug)]
pub struct InFile<T> {
    pub value: T,
    pub place: Place,
}

impl<T: Default> Default for InFile<T> {
    fn default() -> InFile<T> {
        InFile { value: T::default(), place: Place { file: FileIx(0), span: 0..0 } }
    }
}

/// Everything known after reading.
#[derive(Debug, Default)]
pub struct Reading {
    pub gathered: Gathered,
    pub sources: Sources,
    pub problems: Vec<Problem>,
    /// What was already reported and taken out, so that nobody complains that it is missing.
    pub refused: Refused,
    /// Where `include` looks: a file that appears there may belong to the configuration.
    pub include_folders: Vec<PathBuf>,
    /// A file could not be read or is not TOML: what the files mean together cannot be judged.
    pub incomplete: bool,
}

/// Reads a configuration from its main file.
pub fn read(main: &Path) -> Reading {
    match std::fs::read_to_string(main) {
        Ok(text) => read_text(main, text),
        Err(cause) => {
            let (file, message) = (main.to_owned(), format!("cannot be read: {cause}"));
            let problem = Problem { file, line: 0, column: 0, severity: Severity::Error, message, help: None };
            Reading { problems: vec![problem], incomplete: true, ..Reading::default() }
        }
    }
}

/// Reads a configuration whose main file is already known; what it includes is still looked up beside `main`.
pub fn read_text(main: &Path, text: String) -> Reading {
    let mut reading = Reading::default();
    let main_ix = reading.sources.add(main.to_owned(), text);
    let Some(raw) = reading.parse(main_ix) else { return reading };
    let included = reading.included(main_ix, &raw.include);
    reading.merge(main_ix, raw);
    for file in included {
        if let Some(raw) = reading.parse(file) {
            reading.refuse_nested_include(file, &raw.include);
            reading.merge(file, raw);
        }
    }
    reading
}

impl Reading {
    fn parse(&mut self, file: FileIx) -> Option<RawFile> {
        let structure = structure::parse(self.sources.text(file));
        for flaw in structure.flaws {
            let place = Place { file, span: flaw.span };
            let mut problem = self.sources.problem(Severity::Error, &place, flaw.message);
            problem.help = flaw.help;
            self.problems.push(problem);
        }
        self.refused.extend(structure.refused);
        self.incomplete |= structure.raw.is_none();
        structure.raw
    }

    /// The files that `include` names, read and added to the sources, each once, in the order of the list.
    fn included(&mut self, main: FileIx, include: &[Placed<String>]) -> Vec<FileIx> {
        let mut files = Vec::new();
        for pattern in include {
            let folder = folder_of(self.sources.path(main)).to_owned();
            self.include_folders.push(folder_of(&folder.join(pattern.as_str())).to_owned());
            match matching(&folder, pattern) {
                Ok(paths) => {
                    for path in paths {
                        files.extend(self.read_included(main, pattern, path));
                    }
                }
                Err(message) => self.error(main, pattern.span(), message),
            }
        }
        files
    }

    fn read_included(&mut self, main: FileIx, pattern: &Placed<String>, path: PathBuf) -> Option<FileIx> {
        if self.sources.paths().any(|known| is_same_file(known, &path)) {
            return None;
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(self.sources.add(path, text)),
            Err(cause) => {
                self.incomplete = true;
                self.error(main, pattern.span(), format!("cannot read {}: {cause}", path.display()));
                None
            }
        }
    }

    fn refuse_nested_include(&mut self, file: FileIx, include: &[Placed<String>]) {
        if let Some(first) = include.first() {
            let main = self.sources.path(FileIx(0)).display();
            let message = format!("an included file cannot include others; name them in {main}");
            self.error(file, first.span(), message);
        }
    }

    fn merge(&mut self, file: FileIx, raw: RawFile) {
        let RawFile { include: _, edge, admin, log, dns, geoip, stop, drain, listeners, clusters } = raw;
        let Reading { gathered, sources, problems, .. } = self;
        let mut twice = Twice { sources, problems, file };
        twice.table("edge", &mut gathered.edge, edge);
        twice.table("admin", &mut gathered.admin, admin);
        twice.table("log", &mut gathered.log, log);
        twice.table("dns", &mut gathered.dns, dns);
        twice.table("geoip", &mut gathered.geoip, geoip);
        twice.table("stop", &mut gathered.stop, stop);
        twice.table("drain", &mut gathered.drain, drain);
        twice.named("listener", &mut gathered.listeners, listeners);
        twice.named("cluster", &mut gathered.clusters, clusters);
    }

    fn error(&mut self, file: FileIx, span: Option<Range<usize>>, message: String) {
        let place = Place { file, span: span.unwrap_or_default() };
        self.problems.push(self.sources.problem(Severity::Error, &place, message));
    }
}

/// Puts one file's tables to the others, and says what is there already.
struct Twice<'a> {
    sources: &'a Sources,
    problems: &'a mut Vec<Problem>,
    file: FileIx,
}

impl Twice<'_> {
    fn table<T>(&mut self, name: &str, slot: &mut InFile<T>, new: Option<Placed<T>>) {
        let Some(new) = new else { return };
        let place = Place { file: self.file, span: new.span().unwrap_or_default() };
        // An empty span is the default's: no file had the table before.
        if slot.place.span.is_empty() {
            *slot = InFile { value: new.into_inner(), place };
        } else {
            self.report(format!("`[{name}]` stands in two files"), &slot.place, &place);
        }
    }

    fn named<T>(&mut self, kind: &str, known: &mut BTreeMap<String, InFile<T>>, new: BTreeMap<Placed<String>, T>) {
        for (name, value) in new {
            let place = Place { file: self.file, span: name.span().unwrap_or_default() };
            match known.get(&*name) {
                Some(first) => self.report(format!("{kind} `{}` is defined in two files", *name), &first.place, &place),
                None => _ = known.insert(name.into_inner(), InFile { value, place }),
            }
        }
    }

    fn report(&mut self, message: String, first: &Place, second: &Place) {
        let first = self.sources.mention(first, self.file);
        self.problems.push(self.sources.problem(Severity::Error, second, format!("{message}, first at {first}")));
    }
}

/// The folder that relative paths of a file start from.
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A path as a file writes it, made to work from where the process runs.
pub fn resolve(file: &Path, written: &str) -> PathBuf {
    // `a.pem` of a main file in the current folder stays `a.pem`, as everybody would write it.
    match file.parent() {
        Some(folder) => folder.join(written),
        None => PathBuf::from(written),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The files that an entry of `include` means, sorted by name. A plain path is itself, whether it exists or not.
fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = folder.strip_prefix(".").unwrap_or(folder).join(pattern);
    let (Some(name), Some(parent)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return Err(format!("`{pattern}` does not name a file"));
    };
    if parent.to_string_lossy().contains(['*', '?']) {
        return Err(format!("`{pattern}`: only the last part of a path may contain `*` or `?`"));
    }
    if !name.contains(['*', '?']) {
        return Ok(vec![path]);
    }
    let entries = std::fs::read_dir(folder_of(&path)).map_err(|cause| format!("cannot list {pattern}: {cause}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| format!("cannot list {pattern}: {cause}"))?;
        let matches = entry.file_name().to_str().is_some_and(|entry| glob(name, entry));
        if matches && entry.path().is_file() {
            found.push(parent.join(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// `*` is any text, `?` any character. A name with a leading dot needs a pattern with one: editors leave such files.
fn glob(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // One row of the table "does the pattern up to here match the name up to there".
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for wanted in pattern {
        let mut next = vec![wanted == '*' && row[0]; name.len() + 1];
        for (at, found) in name.iter().enumerate() {
            next[at + 1] = match wanted {
                '*' => row[at + 1] || next[at],
                '?' => row[at],
                wanted => row[at] && wanted == *found,
            };
        }
        row = next;
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_whole_names_and_no_hidden_files() {
        let check = |pattern, name, want| assert_eq!(glob(pattern, name), want, "{pattern} and {name}");
        check("*.toml", "im.toml", true);
        check("*.toml", ".toml", false);
        check("*.toml", ".im.toml.swp", false);
        check("*.toml", "im.toml~", false);
        check("?m-*.toml", "im-eu.toml", true);
        check("*-*-*", "a-b", false);
        check("*", "", true);
        check("im", "im", true);
        check("im", "ima", false);
    }

    #[test]
    fn paths_start_at_the_folder_of_the_file_that_names_them() {
        let check = |file: &str, written, want: &str| assert_eq!(resolve(Path::new(file), written), Path::new(want));
        check("conf/edge.toml", "tls/im.pem", "conf/tls/im.pem");
        check("edge.toml", "tls/im.pem", "tls/im.pem");
        check("conf/edge.toml", "/etc/im.pem", "/etc/im.pem");
    }

    /// A folder with these files, read from its `main.toml`: every problem, with the folder cut off the paths.
    fn check(files: &[(&str, &str)], want: &[&str]) -> Reading {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::create_dir_all(folder_of(&folder.path().join(name))).unwrap();
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let reading = read(&folder.path().join("main.toml"));
        let prefix = format!("{}/", folder.path().display());
        let said: Vec<String> =
            reading.problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect();
        assert_eq!(said, want);
        reading
    }

    const LISTENER: &str = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\n";

    #[test]
    fn an_include_brings_files_by_name_and_by_pattern_each_once() {
        let files = [
            ("main.toml", "include = [\"b.toml\", \"*.toml\", \"sub/*.toml\", \"none/?.toml\", \"b.toml\"]\n"),
            ("b.toml", LISTENER),
            ("a.toml", "[clusters.im]\n"),
            ("sub/c.toml", "[stop]\n"),
            ("sub/.d.toml", "nonsense"),
            ("none/long.toml", "nonsense"),
        ];
        let reading = check(&files, &[]);
        let names: Vec<_> = reading.sources.paths().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["main.toml", "b.toml", "a.toml", "c.toml"]);
        assert!(reading.gathered.listeners.contains_key("im") && reading.gathered.clusters.contains_key("im"));
    }

    #[test]
    fn what_stands_in_two_files_is_refused_with_both_places() {
        let files = [
            ("main.toml", &*format!("include = [\"other.toml\"]\n\n[stop]\n{LISTENER}")),
            ("other.toml", &*format!("{LISTENER}[clusters.im]\n[stop]\n[drain]\n")),
        ];
        let want = [
            "other.toml:5:1: error: `[stop]` stands in two files, first at main.toml:3",
            "other.toml:1:12: error: listener `im` is defined in two files, first at main.toml:4",
        ];
        check(&files, &want);
    }

    #[test]
    fn an_include_that_cannot_be_followed_is_refused_at_its_place() {
        let files = [
            ("main.toml", "include = [\"sub/other.toml\", \"gone.toml\", \"*/a.toml\", \"nodir/*.toml\", \"..\"]\n"),
            ("sub/other.toml", "include = [\"more.toml\"]\n"),
        ];
        let want = [
            "main.toml:1:30: error: cannot read gone.toml: No such file or directory (os error 2)",
            "main.toml:1:43: error: `*/a.toml`: only the last part of a path may contain `*` or `?`",
            "main.toml:1:55: error: cannot list nodir/*.toml: No such file or directory (os error 2)",
            "main.toml:1:71: error: `..` does not name a file",
            "sub/other.toml:1:12: error: an included file cannot include others; name them in main.toml",
        ];
        let reading = check(&files, &want);
        assert!(reading.incomplete, "what is in the missing file is not known, so nothing can be said of the whole");
    }
}
