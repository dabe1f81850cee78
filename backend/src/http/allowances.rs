//! How much each user may change over the HTTP API: what one session may ask for, at every process.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hashlink::LruCache;
use tokio::time::Instant;

use crate::allowance::Allowance;

/// Users that are remembered: more than change groups at the same time. Who is forgotten begins anew.
const USERS: usize = 10_000;

pub(crate) struct Allowances {
    rate: Option<NonZeroU32>,
    by_user: Mutex<LruCache<String, Allowance>>,
}

impl Allowances {
    pub(crate) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, by_user: Mutex::new(LruCache::new(USERS)) }
    }

    /// Takes as much as this many requests of a session, or says when that may come.
    pub(super) fn take(&self, user: &str, requests: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowance) = by_user.get_mut(user) {
            return allowance.take(requests, now);
        }
        let mut allowance = Allowance::new(self.rate, now);
        let taken = allowance.take(requests, now);
        by_user.insert(user.to_owned(), allowance);
        taken
    }
}
