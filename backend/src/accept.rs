//! Accepting connections, whatever is spoken on them, and finding out from whom they are.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    connection::{Connection, End},
    downstream::{Downstream, Origin},
    http,
    proxy_protocol::{self, Believed, HeaderError},
    server::Server,
    session,
};

/// Rest after the process could not accept, mostly because it has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// What is spoken on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP, and WebSocket after an upgrade.
    Http,
    /// Frames behind their length, from the first byte.
    Frames,
}

/// Accepts until the server leaves.
pub(crate) async fn accept(server: Arc<Server>, listener: TcpListener, speaks: Speaks) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.leaving.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => server.spawn(serve(Arc::clone(&server), stream, peer, speaks)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn serve(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, speaks: Speaks) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "the client left at once");
    }
    let stream = Downstream::new(stream);
    match speaks {
        Speaks::Http => serve_http(server, stream, peer).await,
        Speaks::Frames => serve_frames(server, stream, peer).await,
    }
}

async fn serve_http(server: Arc<Server>, mut stream: Downstream, peer: SocketAddr) {
    // Boxed, so that a connection at rest does not carry the space of its first moments.
    match Box::pin(origin(&server, &mut stream, peer, Instant::now() + http::IDLE)).await {
        Ok(from) => http::serve(server, stream, from).await,
        Err(refused) => refused.log(peer),
    }
}

async fn serve_frames(server: Arc<Server>, mut stream: Downstream, peer: SocketAddr) {
    let place = if server.draining() { Err(End::Restart) } else { server.place().ok_or(End::Full) };
    let patience = server.config.login_timeout;
    let login_by = Instant::now() + patience;
    let place = match place {
        Ok(place) => place,
        Err(end) => return part(&server, stream, peer, end).await,
    };
    match Box::pin(origin(&server, &mut stream, peer, login_by)).await {
        Ok(from) if from.unnamed => Refused::Unnamed.log(peer),
        Ok(from) => {
            // From these networks a header is there, and the client behind the proxy begins after it.
            let headed = server.believes(peer.ip()) == Believed::Yes;
            let login_by = if headed { Instant::now() + patience } else { login_by };
            let connection = Connection::tcp(stream, server.config.stall_timeout);
            // A task of its own, because this one has the space of an HTTP connection.
            server.spawn(session::run(Arc::clone(&server), connection, from, login_by, place));
        }
        Err(Refused::Silent) => part(&server, stream, peer, End::LoginTimeout).await,
        Err(Refused::Leaving) => part(&server, stream, peer, End::Restart).await,
        Err(refused) => refused.log(peer),
    }
}

/// Parts with somebody who has not said who it is.
async fn part(server: &Server, stream: Downstream, peer: SocketAddr, end: End) {
    let connection = Connection::tcp(stream, server.config.stall_timeout);
    session::refuse(server, connection, Origin::direct(peer), end).await;
}

/// Why a connection is not served.
#[derive(Debug)]
enum Refused {
    Silent,
    Leaving,
    Unnamed,
    Header(HeaderError),
}

impl Refused {
    /// Warns of what operators should look at: a proxy that is not set up as this server is, or somebody who tries.
    fn log(&self, peer: SocketAddr) {
        match self {
            Self::Silent | Self::Leaving => tracing::debug!(%peer, "a connection ends that has said nothing"),
            Self::Header(HeaderError::Broken(error)) => {
                tracing::debug!(%peer, %error, "a connection broke that has said nothing");
            }
            Self::Unnamed => {
                tracing::warn!(%peer, "refused: a PROXY header is needed from this network (--proxy-from)");
            }
            Self::Header(error) => tracing::warn!(%peer, %error, "refused"),
        }
    }
}

/// Finds out who it is, by a moment.
async fn origin(server: &Server, stream: &mut Downstream, peer: SocketAddr, by: Instant) -> Result<Origin, Refused> {
    let origin = timeout_at(by, proxy_protocol::origin(stream, peer, server.believes(peer.ip())));
    tokio::select! {
        origin = origin => origin.map_err(|_elapsed| Refused::Silent)?.map_err(Refused::Header),
        () = server.leaving.cancelled() => Err(Refused::Leaving),
    }
}
