//! Directories whose names survive a power cut: a name stands in the directory above, and that is what has to be synced.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Makes a directory, and those above it that are not there.
pub(super) fn make(path: &Path) -> io::Result<()> {
    let new: Vec<_> = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    fs::create_dir_all(path)?;
    new.into_iter().try_for_each(|made| sync(above(made)))
}

/// Where the name of a file or directory stands.
pub(super) fn above(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes what is in a file, or the names in a directory, durable.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
