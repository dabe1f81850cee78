//! Where problems are collected, and the checks that many keys share.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use geoip::Coordinates;

use super::OpenFiles;
use crate::config::diagnostic::{Place, Problem, Severity, Sources};
use crate::config::files::structure::Refused;
use crate::config::files::{InFile, resolve};
use crate::config::raw::{Placed, RawCluster};
use crate::config::units::Period;
use crate::config::{ClusterIx, Name};

/// All that was found so far.
pub(super) struct Findings<'s> {
    pub(super) sources: &'s Sources,
    pub(super) open: OpenFiles,
    refused: &'s Refused,
    problems: Vec<Problem>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(sources: &'s Sources, refused: &'s Refused, open: OpenFiles) -> Findings<'s> {
        Findings { sources, open, refused, problems: Vec::new() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// A problem with a place outside the configuration, in a file that it names.
    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub(super) fn error(&mut self, place: &Place, message: String) -> &mut Problem {
        self.add(Severity::Error, place, message)
    }

    pub(super) fn warning(&mut self, place: &Place, message: String) -> &mut Problem {
        self.add(Severity::Warning, place, message)
    }

    /// Whether something at, above or below this key was refused before.
    pub(super) fn was_refused(&self, path: &str) -> bool {
        self.refused.touches(path)
    }

    /// As [`Findings::was_refused`] for one of the tables of names, also if its own name was mistyped.
    pub(super) fn was_refused_or_mistyped(&self, table: &str) -> bool {
        self.refused.touches(table) || self.refused.may_have_been(table)
    }

    fn add(&mut self, severity: Severity, place: &Place, message: String) -> &mut Problem {
        let at = self.problems.len();
        self.problems.push(self.sources.problem(severity, place, message));
        &mut self.problems[at]
    }
}

/// The check of one table: where it stands, and what it is called.
pub(super) struct Scope<'a, 's> {
    pub(super) findings: &'a mut Findings<'s>,
    /// The header or name of the table: where problems go that no value can be blamed for.
    pub(super) place: Place,
    /// Dotted, as in `listeners.web`.
    pub(super) path: String,
}

impl<'a, 's> Scope<'a, 's> {
    pub(super) fn new(path: impl Into<String>, place: &Place, findings: &'a mut Findings<'s>) -> Scope<'a, 's> {
        Scope { findings, place: place.clone(), path: path.into() }
    }

    /// The check of a table inside this one.
    pub(super) fn below(&mut self, key: &str, span: Option<Range<usize>>) -> Scope<'_, 's> {
        let place = self.at(span);
        Scope { path: format!("{}.{key}", self.path), place, findings: self.findings }
    }

    pub(super) fn at(&self, span: Option<Range<usize>>) -> Place {
        match span {
            Some(span) => Place { file: self.place.file, span },
            None => self.place.clone(),
        }
    }

    pub(super) fn error(&mut self, span: Option<Range<usize>>, message: impl Into<String>) -> &mut Problem {
        let place = self.at(span);
        self.findings.error(&place, message.into())
    }

    pub(super) fn warning(&mut self, span: Option<Range<usize>>, message: impl Into<String>) -> &mut Problem {
        let place = self.at(span);
        self.findings.warning(&place, message.into())
    }

    pub(super) fn was_refused(&self, key: &str) -> bool {
        self.findings.was_refused(&format!("{}.{key}", self.path))
    }

    /// Whether something in this table was refused: what seems to be missing may be there under a mistyped key.
    pub(super) fn had_refused_keys(&self) -> bool {
        self.findings.was_refused(&self.path)
    }

    /// `line 3` for a place in this file, with the file's name for another.
    pub(super) fn mention(&self, place: &Place) -> String {
        self.findings.sources.mention(place, self.place.file)
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        value: &Placed<Period>,
        range: RangeInclusive<u64>,
    ) -> Option<Duration> {
        let [least, most] = [*range.start(), *range.end()].map(|limit| Period(Duration::from_millis(limit)));
        if (least..=most).contains(value) {
            return Some(value.0);
        }
        self.error(value.span(), format!("`{key}` must be from {least} to {most}, not {}", **value));
        None
    }

    pub(super) fn whole<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        value: &Placed<i64>,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let fitting = Some(**value).filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok());
        if fitting.is_none() {
            let (least, most) = (range.start(), range.end());
            self.error(value.span(), format!("`{key}` must be from {least} to {most}, not {}", **value));
        }
        fitting
    }

    /// A limit on connections. `Some(None)` if there is none.
    pub(super) fn max_connections<T: TryFrom<i64>>(&mut self, value: Option<&Placed<i64>>) -> Option<Option<T>> {
        let Some(value) = value else { return Some(None) };
        if **value == 0 {
            let problem = self.error(value.span(), "`max-connections` must be from 1; 0 would refuse everyone");
            problem.help("leave it out for no limit of its own");
            return None;
        }
        self.whole("max-connections", value, 1..=i64::from(u32::MAX)).map(Some)
    }

    pub(super) fn path(&mut self, key: &str, value: &Placed<String>) -> PathBuf {
        if value.is_empty() {
            self.error(value.span(), format!("`{key}` must name a file")).help("leave it out if there is none");
        }
        resolve(self.findings.sources.path(self.place.file), value)
    }

    pub(super) fn coordinates(&mut self, value: Option<&Placed<[f64; 2]>>) -> Option<Coordinates> {
        let value = value?;
        let [latitude, longitude] = **value;
        let coordinates = coordinates(latitude, longitude);
        if coordinates.is_none() {
            let problem = self.error(value.span(), format!("[{latitude}, {longitude}] is no place on earth"));
            problem.help(match coordinates_swapped(latitude, longitude) {
                true => "latitude comes first: these look swapped",
                false => "[latitude, longitude] in degrees: -90 to 90, and -180 to 180",
            });
        }
        coordinates
    }

    /// A name that an operator chose: it will be a label of metrics and part of paths.
    pub(super) fn name(&mut self, kind: &str, name: &str, span: Option<Range<usize>>) -> Name {
        let fitting = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fitting) {
            let problem = self.error(span, format!("`{}` cannot be the name of {kind}", name.escape_debug()));
            problem.help("1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`");
        }
        Name::from(name)
    }
}

fn coordinates(latitude: f64, longitude: f64) -> Option<Coordinates> {
    let on_earth = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
    on_earth.then(|| Coordinates::new(latitude, longitude)).flatten()
}

fn coordinates_swapped(latitude: f64, longitude: f64) -> bool {
    coordinates(longitude, latitude).is_some()
}

/// The names of clusters, and who asked for them.
pub(super) struct Clusters {
    /// By name, so in the order of [`ClusterIx`].
    defined: Vec<(String, Place)>,
    used: BTreeSet<usize>,
    by_tcp: BTreeSet<usize>,
}

/// More names than these are of no help in a message.
const NAMES_IN_HELP: usize = 8;

impl Clusters {
    pub(super) fn new(clusters: &BTreeMap<String, InFile<RawCluster>>) -> Clusters {
        let defined = clusters.iter().map(|(name, cluster)| (name.clone(), cluster.place.clone())).collect();
        Clusters { defined, used: BTreeSet::new(), by_tcp: BTreeSet::new() }
    }

    pub(super) fn find(&mut self, name: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<ClusterIx> {
        if let Ok(at) = self.defined.binary_search_by(|(defined, _)| defined.as_str().cmp(name)) {
            self.used.insert(at);
            return Some(ClusterIx(at));
        }
        let this_refused = scope.findings.was_refused(&format!("clusters.{}", **name));
        let all_refused = self.defined.is_empty() && scope.findings.was_refused_or_mistyped("clusters");
        if !this_refused && !all_refused {
            let help = self.help(scope);
            scope.error(name.span(), format!("no cluster is named `{}`", **name)).help(help);
        }
        None
    }

    /// As [`Clusters::find`], for a tcp listener.
    pub(super) fn find_for_tcp(&mut self, name: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<ClusterIx> {
        let found = self.find(name, scope);
        self.by_tcp.extend(found.map(|found| found.0));
        found
    }

    /// Whether a tcp listener sends its connections to this cluster.
    pub(super) fn serves_tcp(&self, name: &str) -> bool {
        self.by_tcp.iter().any(|at| self.defined[*at].0 == name)
    }

    fn help(&self, scope: &Scope<'_, '_>) -> String {
        if self.defined.is_empty() {
            return "define it in [clusters.NAME]".to_owned();
        }
        let mut known: Vec<&(String, Place)> = self.defined.iter().collect();
        known.sort_by_key(|(_, place)| (place.file, place.span.start));
        let shown =
            known.iter().take(NAMES_IN_HELP).map(|(name, place)| format!("`{name}` ({})", scope.mention(place)));
        let more = if known.len() > NAMES_IN_HELP { ", ..." } else { "" };
        format!("defined here: {}{more}", shown.collect::<Vec<_>>().join(", "))
    }

    pub(super) fn warn_of_unused(&self, findings: &mut Findings<'_>) {
        if findings.was_refused_or_mistyped("listeners") {
            return;
        }
        for (at, (name, place)) in self.defined.iter().enumerate() {
            if !self.used.contains(&at) {
                findings.warning(place, format!("nothing uses cluster `{name}`"));
            }
        }
    }
}
