//! The wall clock, as the protocol tells time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds; 0 on a clock before 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
