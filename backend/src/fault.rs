//! Faults on request, for tests: a store that is slow or refuses, pushes that are lost, a server that is not ready.
//!
//! Set over `POST /admin/fault`, which exists only with `--faults`. They are injected around the real parts and not
//! inside them: [`Faulty`] is a store in front of the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use prometheus::core::Collector;
use serde::{Deserialize, Serialize};

use crate::{
    group::Group,
    store::{
        Advance, Advancing, Appending, Cursor, Cut, Founded, GroupChange, GroupError, GroupOf, NewGroup, NewMessage,
        News, Page, Part, Position, Store, StoreError,
    },
};

/// What goes wrong at the moment. All harmless by default.
#[derive(Debug)]
pub struct Faults {
    ack_delay_ms: AtomicU64,
    refuse_commit: AtomicBool,
    drop_push: AtomicBool,
    ready: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            ack_delay_ms: AtomicU64::new(0),
            refuse_commit: AtomicBool::new(false),
            drop_push: AtomicBool::new(false),
            ready: AtomicBool::new(true),
        }
    }
}

/// A change to the faults, and their state; a field that is not there stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Acknowledgements come so many milliseconds after the commit.
    pub ack_delay_ms: Option<u64>,
    /// Every commit fails.
    pub refuse_commit: Option<bool>,
    /// Nothing is pushed by this process.
    pub drop_push: Option<bool>,
    /// `false`: `/readyz` answers 503.
    pub ready: Option<bool>,
}

impl Faults {
    pub fn set(&self, wanted: &Wanted) {
        if let Some(delay) = wanted.ack_delay_ms {
            self.ack_delay_ms.store(delay, Relaxed);
        }
        for (fault, wanted) in [
            (&self.refuse_commit, wanted.refuse_commit),
            (&self.drop_push, wanted.drop_push),
            (&self.ready, wanted.ready),
        ] {
            if let Some(wanted) = wanted {
                fault.store(wanted, Relaxed);
            }
        }
    }

    #[must_use]
    pub fn now(&self) -> Wanted {
        Wanted {
            ack_delay_ms: Some(self.ack_delay_ms.load(Relaxed)),
            refuse_commit: Some(self.refuse_commit.load(Relaxed)),
            drop_push: Some(self.drop_push.load(Relaxed)),
            ready: Some(self.ready()),
        }
    }

    pub(crate) fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub(crate) fn drops_pushes(&self) -> bool {
        self.drop_push.load(Relaxed)
    }
}

/// A store with faults in front of it.
#[derive(Debug)]
pub struct Faulty<S: ?Sized> {
    faults: Arc<Faults>,
    store: Arc<S>,
}

impl<S: Store + ?Sized> Faulty<S> {
    pub fn new(store: Arc<S>, faults: Arc<Faults>) -> Self {
        Self { faults, store }
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for Faulty<S> {
    fn append(&self, message: NewMessage) -> Appending {
        if self.faults.refuse_commit.load(Relaxed) {
            return Box::pin(async { Err(StoreError::Injected) });
        }
        let appending = self.store.append(message);
        let delay = Duration::from_millis(self.faults.ack_delay_ms.load(Relaxed));
        if delay.is_zero() {
            return appending;
        }
        Box::pin(async move {
            let stored = appending.await;
            tokio::time::sleep(delay).await;
            stored
        })
    }

    fn advance(&self, advance: Advance) -> Advancing {
        if self.faults.refuse_commit.load(Relaxed) {
            return Box::pin(async { Err(StoreError::Injected) });
        }
        self.store.advance(advance)
    }

    async fn page(&self, conv: &str, user: &str, cut: Cut) -> Result<Page, StoreError> {
        self.store.page(conv, user, cut).await
    }

    async fn cursor(&self, conv: &str, user: &str) -> Result<Cursor, StoreError> {
        self.store.cursor(conv, user).await
    }

    async fn taking_part(&self, user: &str, after: &str, limit: u32) -> Result<Vec<Part>, StoreError> {
        self.store.taking_part(user, after, limit).await
    }

    async fn create_group(&self, wanted: NewGroup) -> Result<Founded, GroupError> {
        if self.faults.refuse_commit.load(Relaxed) {
            return Err(StoreError::Injected.into());
        }
        self.store.create_group(wanted).await
    }

    async fn change_group(&self, wanted: GroupChange) -> Result<(), GroupError> {
        if self.faults.refuse_commit.load(Relaxed) {
            return Err(StoreError::Injected.into());
        }
        self.store.change_group(wanted).await
    }

    async fn group(&self, conv: &str) -> Result<Option<Group>, StoreError> {
        self.store.group(conv).await
    }

    async fn groups(&self, user: &str) -> Result<Vec<GroupOf>, StoreError> {
        self.store.groups(user).await
    }

    async fn cursors(&self, conv: &str) -> Result<Vec<(String, Cursor)>, StoreError> {
        self.store.cursors(conv).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        self.store.newest().await
    }

    async fn feed(&self, after: Position) -> Result<News, StoreError> {
        self.store.feed(after).await
    }

    async fn changed(&self) {
        self.store.changed().await;
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        if self.faults.refuse_commit.load(Relaxed) {
            return Err(StoreError::Injected);
        }
        self.store.check_writable().await
    }

    async fn bytes(&self) -> Result<u64, StoreError> {
        self.store.bytes().await
    }

    fn metrics(&self) -> Vec<Box<dyn Collector>> {
        self.store.metrics()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
