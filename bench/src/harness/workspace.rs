//! A fresh directory for one test or run.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A fresh temporary directory: removed when dropped, kept (and its path said on stderr) when the thread is panicking
/// or when [`keep`](Self::keep) was called. A test that fails by returning an error should call `keep` first.
#[derive(Debug)]
pub struct Workspace {
    directory: Option<TempDir>,
    path: PathBuf,
    kept: AtomicBool,
    named: AtomicU64,
}

impl Workspace {
    /// Makes the directory under the system's temporary directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("warbler-").tempdir().context("cannot make a temporary directory")?;
        let path = directory.path().to_owned();
        Ok(Self { directory: Some(directory), path, kept: AtomicBool::new(false), named: AtomicU64::new(0) })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the directory, whether it exists or not.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in place, truncating what was there; makes missing folders. Returns its path.
    ///
    /// # Errors
    /// When the file or a folder cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        make_parent(&path)
            .and_then(|()| fs::write(&path, contents))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Replaces a file the way editors do: a new file beside it, then a rename, so that no reader sees half.
    ///
    /// # Errors
    /// When the file or a folder cannot be written.
    pub fn replace(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        let fresh = path.with_added_extension(format!("new{}", self.next_number()));
        make_parent(&path)
            .and_then(|()| fs::write(&fresh, contents))
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot replace {}", path.display()))?;
        Ok(path)
    }

    /// Keeps the directory when this is dropped.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// A number that was not given out before, for file names.
    pub(super) fn next_number(&self) -> u64 {
        self.named.fetch_add(1, Ordering::Relaxed)
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) && !std::thread::panicking() {
            return;
        }
        if let Some(directory) = self.directory.take() {
            #[expect(clippy::print_stderr, reason = "whoever looks into the failure needs the path")]
            {
                eprintln!("kept: {}", directory.keep().display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_owner_unless_it_is_kept() {
        let gone = Workspace::new().unwrap();
        let path = gone.write("a/b.txt", "x").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        drop(gone);
        assert!(!path.exists());

        let kept = Workspace::new().unwrap();
        let path = kept.root().to_owned();
        kept.keep();
        drop(kept);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_replaced_file_is_another_file_of_the_same_name() {
        use std::os::unix::fs::MetadataExt;
        let workspace = Workspace::new().unwrap();
        let path = workspace.write("edge.toml", "old").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        workspace.replace("edge.toml", "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(fs::read_dir(workspace.root()).unwrap().count(), 1);
    }
}
