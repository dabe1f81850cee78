//! Where operators, Prometheus and the command line ask.
//!
//! Over TCP everything is read-only, save with the bearer token from `admin.token-file`; the Unix socket, which only its
//! owner can open, may change things. The `Host` of a TCP request is checked, so that no web page can reach in through
//! a name of its own (DNS rebinding).

pub mod controls;
pub mod decisions;
pub mod explain;
pub mod guard;
pub mod ready;
pub mod status;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Path as InPath, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::config;
use crate::control::ReloadRequest;
use crate::metrics::scrape::Scraper;
use crate::state::State;
use guard::Door;

/// The admin side with its addresses taken, before it serves.
pub struct Bound {
    tcp: Vec<TcpListener>,
    unix: Option<(UnixListener, PathBuf)>,
}

/// An admin address that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin cannot listen on {address}: {cause}")]
    Tcp { address: SocketAddr, cause: io::Error },
    #[error("admin socket {} cannot be opened: {cause}", path.display())]
    Unix { path: PathBuf, cause: io::Error },
}

#[derive(Clone)]
pub struct Context {
    pub state: Arc<State>,
    scraper: Arc<Scraper>,
    reload: mpsc::Sender<ReloadRequest>,
}

impl Bound {
    /// # Errors
    /// The first address that cannot be bound.
    pub fn bind(config: &config::Admin) -> Result<Bound, AdminError> {
        let bind = |address: &SocketAddr| {
            let bound =
                TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            bound.map_err(|cause| AdminError::Tcp { address: *address, cause })
        };
        let tcp = config.bind.iter().map(bind).collect::<Result<_, _>>()?;
        let unix = config.socket.as_deref().map(open_unix).transpose()?;
        Ok(Bound { tcp, unix })
    }

    /// Bound TCP addresses, and the path of the Unix socket.
    pub fn addresses(&self) -> (Vec<SocketAddr>, Option<PathBuf>) {
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        (tcp, self.unix.as_ref().map(|(_, path)| path.clone()))
    }

    /// Serves on the current runtime until the process ends.
    ///
    /// # Errors
    /// When a listener cannot join the runtime.
    pub fn serve(self, state: &Arc<State>, reload: &mpsc::Sender<ReloadRequest>) -> io::Result<()> {
        let context = Context { state: state.clone(), scraper: Arc::default(), reload: reload.clone() };
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = router(context.clone(), Door::Tcp);
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        if let Some((listener, _path)) = self.unix {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let router = router(context, Door::Unix);
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        Ok(())
    }
}

/// Opens the socket for its owner alone. A leftover of a process that died is replaced; a living one is not.
fn open_unix(path: &Path) -> Result<(UnixListener, PathBuf), AdminError> {
    let failed = |cause| AdminError::Unix { path: path.to_owned(), cause };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket stands there",
            )));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // Closed to others from its first moment, whatever the folder is like.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, path.to_owned()))
}

fn router(context: Context, door: Door) -> Router {
    let guarded = guard::Guarded { state: context.state.clone(), door };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::readyz))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/explain", get(explain_client))
        .route("/api/v1/decisions/{connection}", get(past_decisions))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/overrides", get(controls::list).delete(controls::reset_all))
        .route(
            "/api/v1/clusters/{cluster}/localities/{locality}",
            post(controls::set_on_locality).delete(controls::reset_locality),
        )
        .route(
            "/api/v1/clusters/{cluster}/endpoints/{address}",
            post(controls::set_on_endpoint).delete(controls::reset_endpoint),
        )
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no such page") })
        .layer(middleware::from_fn_with_state(guarded, guard::check))
        .with_state(context)
}

async fn metrics(Shared(context): Shared<Context>) -> Response {
    match context.scraper.page(&context.state) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn explain_client(Shared(context): Shared<Context>, Query(question): Query<explain::Question>) -> Response {
    let snapshot = context.state.snapshot.load_full();
    match explain::answer(&snapshot, &question, context.state.clock.now()) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(StatusCode::BAD_REQUEST, error),
    }
}

async fn past_decisions(Shared(context): Shared<Context>, InPath(connection): InPath<String>) -> Response {
    let Ok(connection) = connection.parse() else {
        return refusal(StatusCode::BAD_REQUEST, format!("`{connection}` is not the number of a connection"));
    };
    match decisions::tell(&context.state, connection) {
        Ok(told) => Json(told).into_response(),
        Err(not_kept) => refusal(StatusCode::NOT_FOUND, not_kept),
    }
}

/// Reads the files again and says what came of it, once it has.
async fn reload(Shared(context): Shared<Context>) -> Response {
    let (answer, answered) = oneshot::channel();
    if context.reload.send(answer).await.is_err() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    match answered.await {
        Ok(Ok(generation)) => {
            let last = context.state.last_reload();
            let page = json!({"generation": generation, "changes": last.changes, "at_next_start": last.at_next_start});
            Json(page).into_response()
        }
        Ok(Err(report)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": "refused", "report": report}))).into_response()
        }
        Err(_closed) => refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

/// An error as JSON.
pub fn refusal(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(json!({"error": error.to_string()}))).into_response()
}
