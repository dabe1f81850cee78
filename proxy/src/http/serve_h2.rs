//! HTTP/2 on a connection: pingora's, with our own signal to leave.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use tokio::sync::watch;

use super::Connection;
use crate::stream::Stream;

/// Streams that one client may have open at once. nginx has 128, HAProxy and Envoy 100.
const MAX_STREAMS: u32 = 128;

/// pingora's proxy for one connection, with the options of its listener as they are now.
struct PerConnection {
    connection: Arc<Connection>,
    options: HttpServerOptions,
}

/// Serves an HTTP/2 connection to its end. Asked to leave, it sends GOAWAY and lets streams finish.
pub async fn serve(mut stream: Stream, connection: Arc<Connection>) {
    stream.speak_http2();
    let (leave, leaving) = watch::channel(false);
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(super::limits_between_requests(&connection));
    let app = Arc::new(PerConnection { connection: connection.clone(), options });
    let serving = app.process_new(Box::new(stream), &leaving);
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        _command = connection.registered.commanded() => leave.send_replace(true),
    };
    // A cut ends at once what a leave lets finish.
    tokio::select! {
        _ = &mut serving => {}
        _reason = connection.registered.cut() => {}
    }
}

#[async_trait]
impl HttpServerApp for PerConnection {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.connection.worker.http.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = H2Options::new();
        options.max_concurrent_streams(MAX_STREAMS);
        let snapshot = self.connection.worker.state.snapshot_for(self.connection.slot);
        if let Some(plan) = snapshot.listener_for(self.connection.slot)
            && let crate::config::Serves::Http(http) = &plan.config.serves
        {
            options.max_header_list_size(u32::try_from(http.max_head).unwrap_or(u32::MAX));
        }
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
