//! What the log says of a connection: one line when its session begins and one when that ends, or one when there was none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{connection::End, delivery::Link, downstream::Origin};

/// A session that has begun.
pub(super) struct Record {
    begun: Instant,
    link: Arc<Link>,
    transport: &'static str,
    from: Origin,
}

impl Record {
    pub(super) fn begins(link: Arc<Link>, transport: &'static str, from: Origin) -> Self {
        tracing::info!(
            user = link.user(),
            device = link.device(),
            session = link.session_id(),
            transport,
            address = %from.address,
            proxy = from.proxy.map(tracing::field::display),
            "session begins"
        );
        Self { begun: Instant::now(), link, transport, from }
    }

    pub(super) fn ends(self, end: End) {
        let Self { begun, link, transport, from } = self;
        tracing::info!(
            user = link.user(),
            device = link.device(),
            session = link.session_id(),
            transport,
            address = %from.address,
            proxy = from.proxy.map(tracing::field::display),
            code = code(end),
            reason = end.reason(),
            seconds = rounded(begun.elapsed()),
            "session ends"
        );
    }
}

/// The connection ended before there was a session on it.
pub(super) fn no_session(transport: &'static str, from: Origin, end: End) {
    tracing::info!(
        transport,
        address = %from.address,
        proxy = from.proxy.map(tracing::field::display),
        code = code(end),
        reason = end.reason(),
        "no session"
    );
}

fn code(end: End) -> Option<u16> {
    end.code().map(|(code, _)| code)
}

/// Milliseconds are precise enough.
fn rounded(time: Duration) -> f64 {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}
