//! The files that a configuration depends on: what they held when they were read, and the GeoIP databases among them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use geoip::{Database, Geo, Overrides};

use crate::config::{Config, GeoIp};
use crate::events;

/// Content hashes by path; `None` for a file that could not be read. Contents decide, not times: editors and ConfigMap
/// mounts rewrite those at will.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileState {
    config: BTreeMap<PathBuf, Option<u64>>,
    named: BTreeMap<PathBuf, Option<u64>>,
}

impl FileState {
    pub fn of(config: &Config) -> FileState {
        let hashed = |path: PathBuf| {
            let hash = hash(&path);
            (path, hash)
        };
        FileState {
            config: config.files.iter().cloned().map(hashed).collect(),
            named: named_files(config).into_iter().map(hashed).collect(),
        }
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.config.keys().chain(self.named.keys()).cloned().collect()
    }

    /// Whether any file holds something else now; remembers what it saw.
    pub fn has_changed(&mut self) -> bool {
        let before = self.clone();
        for (path, seen) in self.config.iter_mut().chain(self.named.iter_mut()) {
            *seen = hash(path);
        }
        *self != before
    }

    /// Files of a refused configuration are watched too, so that mending one is noticed.
    pub fn look_again(&mut self, files: &[PathBuf]) {
        for path in files {
            self.config.entry(path.clone()).or_insert(hash(path));
        }
        self.has_changed();
    }

    /// Whether certificates, keys, databases or tokens differ, as against the configuration itself.
    pub fn differs_in_named_files(&self, now: &FileState) -> bool {
        self.named != now.named
    }
}

fn named_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        for certificate in &tls.certificates {
            files.extend([certificate.chain.clone(), certificate.key.clone()]);
        }
    }
    files.extend(config.clusters.iter().filter_map(|cluster| cluster.tls.as_ref()?.ca.clone()));
    files.extend(config.geoip.databases.iter().cloned());
    files.extend(config.geoip.overrides.clone());
    files
}

fn hash(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

/// The GeoIP data of the running configuration; kept as it is while its files hold the same.
#[derive(Default)]
pub struct GeoFiles {
    loaded: Option<Loaded>,
}

struct Loaded {
    contents: Vec<(PathBuf, u64)>,
    geo: Arc<Geo>,
}

impl GeoFiles {
    /// # Errors
    /// When a file is missing or damaged; what was loaded before is untouched.
    pub fn load(&mut self, config: &GeoIp) -> Result<Arc<Geo>, String> {
        let paths: Vec<PathBuf> = config.databases.iter().chain(&config.overrides).cloned().collect();
        let hashed: Option<Vec<(PathBuf, u64)>> = paths.iter().map(|path| Some((path.clone(), hash(path)?))).collect();
        if let (Some(loaded), Some(now)) = (&self.loaded, &hashed)
            && loaded.contents == *now
        {
            return Ok(loaded.geo.clone());
        }
        let geo = Arc::new(open(config)?);
        if !paths.is_empty() {
            events::geoip_swapped(&paths);
        }
        self.loaded = hashed.map(|contents| Loaded { contents, geo: geo.clone() });
        Ok(geo)
    }
}

fn open(config: &GeoIp) -> Result<Geo, String> {
    let mut databases = Vec::new();
    for path in &config.databases {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        databases.push(Database::from_bytes(name, bytes).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    let overrides = match &config.overrides {
        None => Overrides::empty(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Overrides::parse(&text).map_err(|problems| {
                let lines: Vec<String> =
                    problems.iter().map(|problem| format!("{}: {}", path.display(), problem.message)).collect();
                lines.join("\n")
            })?
        }
    };
    Ok(Geo::new(databases, overrides))
}
