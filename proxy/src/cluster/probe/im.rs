//! The `im` probe: logs in as a client does (docs/protocol.md), by the JSON twin of the protocol. `LOGIN_OK` is good,
//! then the probe says `BYE`; the code of a `LOGIN_ERR` is the reason.
//!
//! It sees what the other probes cannot: whether the server has its keys, its store and its session table in order.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Error, Message, WebSocketStream};

use super::{Answer, ProbeError, websocket};
use crate::config::ImProbe;

const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("im.v1.json");
/// How much of a code that the server made up is shown.
const SHOWN: usize = 64;

pub(super) async fn ask<S>(stream: S, probe: &ImProbe, host: &str) -> Result<Answer, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let token = token(probe).await?;
    let mut socket = websocket::upgrade(stream, &probe.path, host, Some(&SUBPROTOCOL)).await?;
    say(&mut socket, &json!({"type": "login", "token": token, "device_id": probe.device})).await?;
    logged_in(&mut socket).await?;
    let answer = Answer::now(false);
    say(&mut socket, &json!({"type": "bye"})).await?;
    websocket::leave(socket);
    Ok(answer)
}

/// Read each time, so that a new token counts at once.
async fn token(probe: &ImProbe) -> Result<String, ProbeError> {
    let unreadable = |cause| ProbeError::Token { file: probe.token_file.clone(), cause };
    let token = tokio::fs::read_to_string(&probe.token_file).await.map_err(unreadable)?;
    Ok(token.trim().to_owned())
}

async fn say<S>(socket: &mut WebSocketStream<S>, frame: &Value) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send(Message::text(frame.to_string())).await.map_err(broken)
}

/// Frames that are neither answer to a login are ignored, as the protocol wants it.
async fn logged_in<S>(socket: &mut WebSocketStream<S>) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message.map_err(broken)?;
        if let Some((code, _)) = message.as_close() {
            return Err(ProbeError::Login(format!("closed with {}", u16::from(code))));
        }
        let Some(text) = message.as_text() else { continue };
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        match frame["type"].as_str() {
            Some("login_ok") => return Ok(()),
            Some("login_err") => return Err(ProbeError::Login(refusal(&frame))),
            _ => {}
        }
    }
    Err(ProbeError::Login("connection closed".to_owned()))
}

fn refusal(frame: &Value) -> String {
    let code = frame["code"].as_str().map_or_else(|| frame["code"].to_string(), ToOwned::to_owned);
    let code: String = code.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    match frame["retry_after_ms"].as_u64().filter(|millis| *millis > 0) {
        Some(millis) => format!("{code}, again in {:?}", Duration::from_millis(millis)),
        None => code,
    }
}

fn broken(error: Error) -> ProbeError {
    match error {
        Error::Io(cause) => ProbeError::Broken(cause),
        other => ProbeError::Login(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_code_whatever_that_is() {
        let check = |frame: Value, want: &str| assert_eq!(refusal(&frame), want);
        check(json!({"code": "token_expired", "retry_after_ms": 0}), "token_expired");
        check(json!({"code": "try_later", "retry_after_ms": 1500}), "try_later, again in 1.5s");
        check(json!({"code": 77}), "77");
        check(json!({}), "null");
        check(json!({"code": "a\nb".repeat(100)}), &"ab".repeat(32));
    }
}
