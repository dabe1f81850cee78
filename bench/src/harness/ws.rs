//! A WebSocket client through a library that the edge does not use for its tunnels (tokio-websockets).

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_websockets::{ClientBuilder, Error, upgrade};

pub use tokio_websockets::{CloseCode, Message, WebSocketStream};

/// How long the upgrade may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects and upgrades; `Host` is the address.
///
/// # Errors
/// When there is no connection, or no valid `101` in 10 s. [`refusal`] tells the status of a refused upgrade.
pub async fn connect(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<WebSocketStream<TcpStream>> {
    let stream =
        timeout(PATIENCE, TcpStream::connect(address)).await.with_context(|| format!("{address} did not answer"))?;
    let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("the connection is gone already")?;
    connect_over(stream, &address.to_string(), path, fields).await
}

/// Upgrades a connection that is open already: one with a PROXY header before it, or TLS. `fields` with one name given
/// twice send the last value.
///
/// # Errors
/// When there is no valid `101` in 10 s.
pub async fn connect_over<S>(stream: S, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder =
        ClientBuilder::new().uri(&format!("ws://{host}{path}")).with_context(|| format!("no address: {host}{path}"))?;
    for (name, value) in fields {
        let name: HeaderName = name.parse().with_context(|| format!("no field name: {name:?}"))?;
        let value = HeaderValue::from_str(value).with_context(|| format!("no field value: {value:?}"))?;
        builder = builder.add_header(name, value)?;
    }
    let upgraded = timeout(PATIENCE, builder.connect_on(stream))
        .await
        .with_context(|| format!("no answer to the upgrade of {path}"))?;
    let (socket, _answer) = upgraded.with_context(|| format!("no WebSocket at {host}{path}"))?;
    Ok(socket)
}

/// The status with which an upgrade was refused, when that is why there is no WebSocket.
#[must_use]
pub fn refusal(error: &anyhow::Error) -> Option<StatusCode> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Error>() {
        Some(Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status))) => StatusCode::from_u16(*status).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::HttpStub;

    #[tokio::test]
    async fn a_refused_upgrade_tells_its_status() {
        let stub = HttpStub::start("no websocket").await.unwrap();
        stub.set_status(403);
        let error = connect(stub.address(), "/ws", &[]).await.unwrap_err();
        assert_eq!(refusal(&error), Some(StatusCode::FORBIDDEN), "{error:#}");
    }

    #[tokio::test]
    async fn a_field_that_is_none_is_refused_before_anything_is_sent() {
        let stub = HttpStub::start("unused").await.unwrap();
        assert!(connect(stub.address(), "/ws", &[("bad name", "x")]).await.is_err());
        assert_eq!(stub.requests(), 0);
    }
}
