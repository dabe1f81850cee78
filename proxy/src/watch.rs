//! Notices that a file changed, whichever way it is written: in place, renamed over, or by a ConfigMap's symlink swap.
//!
//! Folders are watched, never files: a watch on a file goes silent with the first rename over it. Any event only means
//! "look again"; content hashes decide. A slow poll stands behind it, for file systems that tell nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Quiet time after which a burst of writes is over.
const QUIET: Duration = Duration::from_millis(200);
/// A folder that never rests is looked at all the same.
const LONGEST: Duration = Duration::from_secs(2);
/// How often to look without having been told.
const POLL: Duration = Duration::from_secs(10);

/// What is watched.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Starts to watch, nothing yet. The receiver hears when it is time to look at the files again.
    ///
    /// Without inotify (no instances left, an odd kernel) only the poll remains; that is said once.
    pub fn start() -> (Watch, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Errors (a queue that ran over) mean "look again" as well. One waiting event is enough.
            if !matches!(&event, Ok(event) if event.kind.is_access()) {
                tell.try_send(()).ok();
            }
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "files are polled, not watched")).ok();
        let (settled, hear) = mpsc::channel(1);
        // A task of its own: a burst is waited for to its end, whatever else the control thread has to do.
        tokio::spawn(settle(told, settled));
        (Watch { watcher, folders: BTreeSet::new() }, hear)
    }

    /// Watches the folders of these files, and the ones that symbolic links in them lead to.
    pub fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders = files.iter().flat_map(|file| folders_of(file)).collect();
        for gone in self.folders.difference(&folders) {
            // A folder that was deleted is no longer watched anyway.
            watcher.unwatch(gone).ok();
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "folder is polled, not watched");
            }
        }
        self.folders = folders;
    }
}

fn folders_of(file: &Path) -> Vec<PathBuf> {
    let named = file.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let real = file.canonicalize().ok();
    let real = real.as_deref().and_then(Path::parent);
    [named, real].into_iter().flatten().map(Path::to_owned).collect()
}

/// Turns bursts of events, and the poll, into single signals.
async fn settle(mut told: mpsc::Receiver<()>, settled: mpsc::Sender<()>) {
    let mut watching = true;
    loop {
        tokio::select! {
            event = told.recv(), if watching => match event {
                Some(()) => burst_ends(&mut told).await,
                None => watching = false,
            },
            () = sleep(POLL) => {}
        }
        if settled.send(()).await.is_err() {
            return;
        }
    }
}

async fn burst_ends(told: &mut mpsc::Receiver<()>) {
    let first = Instant::now();
    while first.elapsed() < LONGEST && timeout(QUIET, told.recv()).await.is_ok_and(|event| event.is_some()) {}
}
