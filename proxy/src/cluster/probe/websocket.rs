//! The `websocket` probe: a real upgrade (RFC 6455 section 4.1). A `101` with the right `Sec-WebSocket-Accept` is good;
//! then the probe leaves as a client should, with Close 1000.
//!
//! It is done by a WebSocket library and not by the edge's own upgrade, so that a mistake of ours is not its own judge.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_websockets::upgrade::Error as UpgradeError;
use tokio_websockets::{ClientBuilder, CloseCode, Error, Limits, Message, WebSocketStream};

use super::{Answer, ProbeError};
use crate::config::WebsocketProbe;

/// How long an endpoint may take to answer a Close.
const GOODBYE: Duration = Duration::from_secs(1);
/// The largest message that a probe reads.
const MOST: usize = 64 * 1024;

pub(super) async fn ask<S>(stream: S, probe: &WebsocketProbe, host: &str) -> Result<Answer, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = upgrade(stream, &probe.path, host, probe.protocol.as_ref()).await?;
    let answer = Answer::now(false);
    leave(socket);
    Ok(answer)
}

/// Upgrades, and checks that the endpoint speaks the subprotocol that was asked for.
pub(super) async fn upgrade<S>(
    stream: S,
    path: &str,
    host: &str,
    protocol: Option<&HeaderValue>,
) -> Result<WebSocketStream<S>, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Limits::default().max_payload_len(Some(MOST));
    let mut builder = ClientBuilder::new().limits(limits).uri(&format!("ws://{host}{path}")).map_err(|cause| {
        // Both were checked with the configuration.
        ProbeError::Upgrade(cause.to_string())
    })?;
    let user_agent = HeaderValue::from_static("warbler-probe");
    let fields: [(HeaderName, Option<&HeaderValue>); 2] =
        [(header::USER_AGENT, Some(&user_agent)), (header::SEC_WEBSOCKET_PROTOCOL, protocol)];
    for (name, value) in fields {
        if let Some(value) = value {
            builder = builder.add_header(name, value.clone()).map_err(failed)?;
        }
    }
    let (socket, answer) = builder.connect_on(stream).await.map_err(failed)?;
    let given = answer.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    if given != protocol {
        return Err(ProbeError::Subprotocol(shown(given)));
    }
    Ok(socket)
}

fn failed(error: Error) -> ProbeError {
    match error {
        Error::Upgrade(UpgradeError::DidNotSwitchProtocols(status)) => ProbeError::Status(status),
        Error::Io(cause) => ProbeError::Broken(cause),
        other => ProbeError::Upgrade(other.to_string()),
    }
}

fn shown(value: Option<&HeaderValue>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.as_bytes().escape_ascii().to_string())
}

/// Says goodbye, and waits a little for the answer. By itself, so that a slow goodbye does not make a slow answer.
pub(super) fn leave<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let goodbye = async move {
        socket.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")).await?;
        while socket.next().await.transpose()?.is_some() {}
        Ok::<(), Error>(())
    };
    // The probe has its answer; how the endpoint takes the goodbye says nothing more.
    tokio::spawn(async move { timeout(GOODBYE, goodbye).await.is_ok() });
}
