//! Copies of a whole store, taken while servers write to it, and stores made of such copies.
//!
//! What is the same for every engine is here: a backup is a new directory with the engine's files and a manifest that
//! says what they hold and what their bytes are. It comes into being under another name, is synced, and gets its own name
//! in one step, so that a directory with that name is whole. How files are copied at one moment, and what is in them, the
//! engine knows ([`Engine`]).
//!
//! Always true: nothing that is there is overwritten; what is restored has passed every check as a copy, before it gets
//! its name.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::directory;
use crate::clock::now;

/// The name of the manifest in a backup.
const MANIFEST: &str = "manifest.json";
/// Which form of manifest this program writes and reads.
const FORMAT: u32 = 1;

/// What an engine knows of copying its data. Blocking: for a process of its own, or a thread that may wait.
pub trait Engine {
    /// The engine's name in manifests.
    const NAME: &'static str;
    /// Files that every copy has.
    const FILES: &'static [&'static str];

    /// Writes a copy of the data in `data` into the empty directory `to`, as it is at one moment between the call and the
    /// return, while others go on writing. What `data` holds stays, in whichever of its files. Whether the copy is durable is not its business.
    ///
    /// # Errors
    /// When there is no data, or it cannot be read or copied.
    fn copy(&self, data: &Path, to: &Path) -> Result<(), BackupError>;

    /// Checks that the files in a directory are whole, down to what they refer to, and says what they hold. Touches
    /// nothing.
    ///
    /// # Errors
    /// When they are not, or are of a later version.
    fn inspect(&self, directory: &Path) -> Result<Contents, BackupError>;

    /// Keeps servers from opening `data` until what it returns is dropped.
    ///
    /// # Errors
    /// When a server runs on it, [`BackupError::InUse`], or a store is there, [`BackupError::StoreExists`].
    fn reserve(&self, data: &Path) -> Result<File, BackupError>;
}

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Version of the engine's tables.
    pub schema: usize,
    pub conversations: u64,
    pub messages: u64,
    /// When the newest message was stored, Unix time in milliseconds; 0 without messages.
    pub newest: u64,
}

/// What stands in a backup's `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub engine: String,
    /// When the copy was begun, Unix time in milliseconds: everything acknowledged before is in it.
    pub began: u64,
    /// When it was taken: nothing acknowledged after is in it.
    pub ended: u64,
    #[serde(flatten)]
    pub contents: Contents,
    pub files: Vec<Stored>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub name: String,
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// Why there is no backup, or no store made of it. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    #[error("{} is there already: a backup goes into a new directory", .0.display())]
    Exists(PathBuf),
    #[error("a server runs on {}: stop it, and all others of this directory, and try again", .0.display())]
    InUse(PathBuf),
    #[error(
        "a store is in {} already: stop all servers of it and move it away first, or restore into another directory",
        .0.display()
    )]
    StoreExists(PathBuf),
    #[error("{} is no whole backup, for it has no {MANIFEST}", .0.display())]
    NoManifest(PathBuf),
    #[error("{} is damaged", .0.display())]
    Manifest(PathBuf, #[source] serde_json::Error),
    #[error("the backup is a `{engine}` of format {format}, this program restores `{known}` of format {FORMAT}")]
    OtherKind { engine: String, format: u32, known: &'static str },
    #[error("the backup has schema version {found}, this program knows those up to {known}")]
    Schema { found: i64, known: usize },
    #[error("{} is damaged: {what}", file.display())]
    Damaged { file: PathBuf, what: String },
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the database cannot be copied")]
    Copy(#[source] rusqlite::Error),
    #[error("{} cannot be read as a database", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        cause: rusqlite::Error,
    },
}

/// Takes a backup of the store in `data` into the new directory `to`. Servers may run and write.
///
/// # Errors
/// [`BackupError`]; there is no directory `to` then.
pub fn back_up<E: Engine>(engine: &E, data: &Path, to: &Path) -> Result<Manifest, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let partial = Partial::directory(to)?;
    let began = now();
    engine.copy(data, &partial.path)?;
    let ended = now();
    let contents = engine.inspect(&partial.path)?;
    let files =
        names(&partial.path)?.into_iter().map(|name| describe(&partial.path, name)).collect::<Result<_, _>>()?;
    let manifest = Manifest { format: FORMAT, engine: E::NAME.into(), began, ended, contents, files };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys");
    text.push(b'\n');
    let file = partial.path.join(MANIFEST);
    File::create_new(&file).and_then(|mut created| created.write_all(&text)).map_err(failed("write", &file))?;
    for name in names(&partial.path)? {
        sync(&partial.path.join(name))?;
    }
    sync(&partial.path)?;
    partial.becomes(to)?;
    Ok(manifest)
}

/// Checks that every byte of a backup is as it was written, that the engine finds it whole, and that it holds what its
/// manifest says: that [`restore`] would make a store of it.
///
/// # Errors
/// [`BackupError`] says what is wrong with it.
pub fn verify<E: Engine>(engine: &E, from: &Path) -> Result<Manifest, BackupError> {
    let manifest = with_whole_files::<E>(from)?;
    check_contents(&manifest, engine.inspect(from)?, from)?;
    Ok(manifest)
}

/// The manifest of a backup whose files have the bytes that it says.
fn with_whole_files<E: Engine>(from: &Path) -> Result<Manifest, BackupError> {
    let manifest = manifest::<E>(from)?;
    for wanted in &manifest.files {
        let found = describe(from, wanted.name.clone())?;
        if found != *wanted {
            return Err(damaged(from, wanted, &found));
        }
    }
    Ok(manifest)
}

/// Makes a store in `data` of a backup, and leaves the backup as it is. No server may run on `data`; one that is started
/// meanwhile waits.
///
/// # Errors
/// [`BackupError`]; above all when there is a store in `data` already. Nothing has been changed then.
pub fn restore<E: Engine>(engine: &E, from: &Path, data: &Path) -> Result<Manifest, BackupError> {
    let manifest = with_whole_files::<E>(from)?;
    directory::make(data).map_err(failed("make", data))?;
    let _reserved = engine.reserve(data)?;
    let partial = Partial::directory(&data.join("restore"))?;
    for Stored { name, .. } in &manifest.files {
        let copy = partial.path.join(name);
        fs::copy(from.join(name), &copy).map_err(failed("copy to", &copy))?;
    }
    check_contents(&manifest, engine.inspect(&partial.path)?, from)?;
    for Stored { name, .. } in &manifest.files {
        let copy = partial.path.join(name);
        sync(&copy)?;
        rename(&copy, &data.join(name))?;
    }
    sync(data)?;
    Ok(manifest)
}

fn check_contents(manifest: &Manifest, found: Contents, from: &Path) -> Result<(), BackupError> {
    if found == manifest.contents {
        return Ok(());
    }
    let what = format!("it holds {found:?}, and {:?} by its manifest", manifest.contents);
    Err(BackupError::Damaged { file: from.to_owned(), what })
}

fn manifest<E: Engine>(from: &Path) -> Result<Manifest, BackupError> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Kind {
        format: u32,
        engine: String,
    }
    let file = from.join(MANIFEST);
    let text = match fs::read(&file) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(BackupError::NoManifest(from.to_owned())),
        text => text.map_err(failed("read", &file))?,
    };
    let broken = |cause| BackupError::Manifest(file.clone(), cause);
    let Kind { format, engine } = serde_json::from_slice(&text).map_err(broken)?;
    if format != FORMAT || engine != E::NAME {
        return Err(BackupError::OtherKind { engine, format, known: E::NAME });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(broken)?;
    // A name is a file of the backup itself, wherever the manifest comes from.
    if let Some(elsewhere) =
        manifest.files.iter().find(|file| Path::new(&file.name).file_name() != Some(file.name.as_ref()))
    {
        let what = format!("it names the file `{}`", elsewhere.name);
        return Err(BackupError::Damaged { file, what });
    }
    if let Some(missing) = E::FILES.iter().find(|needed| manifest.files.iter().all(|file| file.name != **needed)) {
        let what = format!("it does not name the file `{missing}`");
        return Err(BackupError::Damaged { file, what });
    }
    Ok(manifest)
}

fn damaged(from: &Path, wanted: &Stored, found: &Stored) -> BackupError {
    let what = if found.bytes == wanted.bytes {
        format!("its SHA-256 is {}, and {} by the manifest", found.sha256, wanted.sha256)
    } else {
        format!("it has {} bytes, and {} by the manifest", found.bytes, wanted.bytes)
    };
    BackupError::Damaged { file: from.join(&wanted.name), what }
}

/// The files of a directory, by name.
fn names(directory: &Path) -> Result<Vec<String>, BackupError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(failed("read", directory))?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn describe(directory: &Path, name: String) -> Result<Stored, BackupError> {
    let path = directory.join(&name);
    let mut file = File::open(&path).map_err(failed("open", &path))?;
    let (mut hash, mut bytes, mut buffer) = (digest::Context::new(&digest::SHA256), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(failed("read", &path))? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                bytes += u64::try_from(count).unwrap_or(u64::MAX);
            }
        }
    }
    Ok(Stored { name, bytes, sha256: hex(hash.finish().as_ref()) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory that is not yet what it is to become; it goes away unless it does. What a killed process leaves has
/// `.partial-` in its name, and may be deleted.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn directory(becomes: &Path) -> Result<Self, BackupError> {
        // Not the process's id: in a container that is the same every time.
        let mut random = [0; 8];
        let no_random = |_no_entropy| failed("find a name beside", becomes)(io::Error::other("no random numbers"));
        SystemRandom::new().fill(&mut random).map_err(no_random)?;
        let mut name = becomes.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", hex(&random)));
        let path = becomes.with_file_name(name);
        fs::create_dir(&path).map_err(failed("make", &path))?;
        Ok(Self { path })
    }

    fn becomes(self, path: &Path) -> Result<(), BackupError> {
        rename(&self.path, path)?;
        sync(directory::above(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is not there any more when it has become what it should, and what is left of it otherwise harms nobody.
        let _gone = fs::remove_dir_all(&self.path);
    }
}

/// Gives a name that nothing has yet.
fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(io::Error::from)
        .map_err(failed("give its name to", to))
}

fn sync(path: &Path) -> Result<(), BackupError> {
    directory::sync(path).map_err(failed("sync", path))
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |cause| BackupError::File { what, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leftover of a process with the same id blocked it once.
    #[test]
    fn what_an_earlier_process_left_is_in_nobodys_way() {
        let directory = tempfile::TempDir::new().unwrap();
        let backup = directory.path().join("b");
        let left = Partial::directory(&backup).unwrap();
        let new = Partial::directory(&backup).unwrap();
        assert_ne!(left.path, new.path);
        assert!(new.path.file_name().unwrap().to_str().unwrap().starts_with("b.partial-"));
    }
}
