//! Notices that a file changed, whichever way it is written: in place, renamed over, or by a ConfigMap's symlink swap.
//!
//! Folders are watched, never files: a watch on a file goes silent with the first rename over it. Any event only means
//! "look again"; content hashes decide. A slow poll stands behind it, for file systems that tell nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
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

pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Without inotify (no instances left, an odd kernel) only the poll remains; that is said once.
    pub fn start() -> Watch {
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Errors (a queue that ran over) mean "look again" as well. One waiting event is enough.
            if !matches!(&event, Ok(event) if event.kind.is_access()) {
                tell.try_send(()).ok();
            }
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "files are polled, not watched")).ok();
        Watch { watcher, events, folders: BTreeSet::new() }
    }

    /// Watches the folders of these files, and the ones that symbolic links in them lead to.
    pub fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut folders = BTreeSet::new();
        for file in files {
            folders.extend(
                file.parent()
                    .map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }),
            );
            let real = file.canonicalize().ok();
            folders.extend(real.as_deref().and_then(|real| real.parent()).map(PathBuf::from));
        }
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

    /// Resolves when it is time to look at the files again.
    pub async fn settled(&mut self) {
        let told = tokio::select! {
            event = self.events.recv() => event.is_some(),
            () = sleep(POLL) => false,
        };
        if !told {
            if self.events.is_closed() {
                sleep(POLL).await;
            }
            return;
        }
        let first = Instant::now();
        while first.elapsed() < LONGEST && timeout(QUIET, self.events.recv()).await.is_ok_and(|event| event.is_some()) {
        }
    }
}
