//! The files that a configuration depends on: what they held when they were read, and the GeoIP databases among them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use geoip::{Database, Geo, Overrides};

use crate::config::diagnostic::{FileIx, Sources};
use crate::config::{self, Config, GeoIp};
use crate::events;

/// Content hashes by path; `None` for a file that could not be read. Contents decide, not times: editors and ConfigMap
/// mounts rewrite those at will.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileState {
    main: PathBuf,
    /// The main file and what it includes; files that come to a folder that is included are found, too.
    config: BTreeMap<PathBuf, u64>,
    include_folders: Vec<PathBuf>,
    /// Certificates, keys, databases, overrides.
    named: BTreeMap<PathBuf, Option<u64>>,
}

impl FileState {
    /// Looks at the configuration's own files, and at those that it names.
    pub fn look(main: &Path, named: impl IntoIterator<Item = PathBuf>) -> FileState {
        let reading = config::files::read(main);
        let hashed = |path: PathBuf| {
            let hash = hash_file(&path);
            (path, hash)
        };
        FileState {
            main: main.to_owned(),
            config: hash_texts(&reading.sources),
            include_folders: reading.include_folders,
            named: named.into_iter().map(hashed).collect(),
        }
    }

    /// With the texts that were really used: one that was written again since then differs from it.
    pub fn as_loaded(mut self, sources: &Sources) -> FileState {
        self.config = hash_texts(sources);
        self
    }

    /// Every file that matters, and a name inside each folder where more may appear.
    pub fn paths(&self) -> Vec<PathBuf> {
        let folders = self.include_folders.iter().map(|folder| folder.join("any"));
        let files = self.config.keys().chain(self.named.keys()).cloned();
        std::iter::once(self.main.clone()).chain(files).chain(folders).collect()
    }

    /// Whether anything is different now; remembers what it saw.
    pub fn has_changed(&mut self) -> bool {
        let now = FileState::look(&self.main, self.named.keys().cloned());
        let changed = now != *self;
        *self = now;
        changed
    }

    /// The files of a configuration that was refused are watched as well, so that mending one is noticed.
    pub fn was_refused(&mut self, named: Vec<PathBuf>) {
        let named = self.named.keys().cloned().chain(named);
        *self = FileState::look(&self.main, named.collect::<Vec<_>>());
    }

    /// Whether certificates, keys or databases differ, as against the configuration itself.
    pub fn differs_in_named_files(&self, now: &FileState) -> bool {
        now.named.iter().any(|(path, hash)| self.named.get(path).is_some_and(|before| before != hash))
    }
}

/// The files that a configuration names, besides those that it consists of. Tokens are read when they are needed.
pub fn named_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        for certificate in &tls.certificates {
            files.extend([certificate.chain.clone(), certificate.key.clone()]);
        }
        files.extend(tls.ticket_keys.clone());
    }
    files.extend(config.clusters.iter().filter_map(|cluster| cluster.tls.as_ref()?.ca.clone()));
    let tokens = config.clusters.iter().filter_map(|cluster| cluster.user_token.as_ref());
    files.extend(tokens.flat_map(|token| token.trust.files()).cloned());
    files.extend(config.geoip.databases.iter().cloned());
    files.extend(config.geoip.overrides.clone());
    files
}

fn hash_texts(sources: &Sources) -> BTreeMap<PathBuf, u64> {
    let files = (0..sources.paths().count()).map(FileIx);
    files.map(|file| (sources.path(file).to_owned(), hash(sources.text(file).as_bytes()))).collect()
}

fn hash_file(path: &Path) -> Option<u64> {
    Some(hash(&std::fs::read(path).ok()?))
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
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
        let hashed: Option<Vec<(PathBuf, u64)>> =
            paths.iter().map(|path| Some((path.clone(), hash_file(path)?))).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OpenFiles, load};

    const MAIN: &str =
        "include = [\"conf.d/*.toml\"]\n[listeners.l]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n";
    const CLUSTER: &str = "[clusters.c.localities.x]\nendpoints = [{ address = \"127.0.0.1:1\" }]\n";

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("edge.toml");
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(&main, MAIN).unwrap();
        std::fs::write(folder.path().join("conf.d/c.toml"), CLUSTER).unwrap();
        (folder, main)
    }

    #[test]
    fn a_file_that_comes_to_an_included_folder_is_a_change() {
        let (folder, main) = written();
        let mut files = FileState::look(&main, []);
        assert!(!files.has_changed());
        std::fs::write(folder.path().join("conf.d/d.toml"), CLUSTER.replace("clusters.c", "clusters.d")).unwrap();
        assert!(files.has_changed());
        assert!(!files.has_changed());
        std::fs::remove_file(folder.path().join("conf.d/d.toml")).unwrap();
        assert!(files.has_changed());
        assert!(files.paths().iter().any(|path| path.parent() == Some(&folder.path().join("conf.d"))));
    }

    #[test]
    fn a_file_written_again_while_it_was_read_is_a_change() {
        let (_folder, main) = written();
        let loaded = load(&main, OpenFiles::No).unwrap();
        std::fs::write(&main, MAIN.replace("127.0.0.1:0", "127.0.0.2:0")).unwrap();
        let mut files = FileState::look(&main, []).as_loaded(&loaded.sources);
        assert!(files.has_changed(), "the last edit must not be lost");
    }

    #[test]
    fn a_named_file_that_was_missing_is_a_change_when_it_comes() {
        let (folder, main) = written();
        let certificate = folder.path().join("im.pem");
        let mut files = FileState::look(&main, []);
        files.was_refused(vec![certificate.clone()]);
        assert!(!files.has_changed());
        std::fs::write(certificate, "pem").unwrap();
        assert!(files.has_changed());
    }
}
