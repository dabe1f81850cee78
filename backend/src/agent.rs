//! `agent-check`: a load balancer asks how much this server can take, and gets one line in HAProxy's words.
//!
//! HAProxy's manual, section 5.2, `agent-check`, has the words; what a line does not name stays as it was, so each line
//! names everything: operation (`up`, `down`, `stopped`), administration (`ready`, `drain`), weight, and limit. A
//! question is a connection; nothing has to be said on it. Not for clients: let only load balancers reach the address.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{load::Utilisation, server::Server};

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rest after the process could not accept.
const REST: Duration = Duration::from_millis(100);
/// Longest text that is read, and not looked at, of those who send one (`agent-send`), in bytes.
const LONGEST_QUESTION: u64 = 1024;

/// Answers to the end of the process: after the last session has left, that the server stops.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    // Who does not wait for the answer asks again.
                    let _answered = timeout(PATIENCE, answer(stream, &server)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept agent checks");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    stream.write_all(line(server).await.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing a socket with unread bytes sends a reset, which may overtake the line.
    tokio::io::copy(&mut stream.take(LONGEST_QUESTION), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn line(server: &Server) -> String {
    if server.leaving.is_cancelled() {
        return "stopped#the process ends\n".into();
    }
    let operation = match server.unready().await {
        Some(reason) => format!("down#{}", word(&reason)),
        None => "up".into(),
    };
    let administration = if server.draining() { "drain" } else { "ready" };
    let weight = weight(server.load.utilisation(server));
    format!("{operation} {administration} {weight}% maxconn:{}\n", server.config.max_sessions)
}

/// What is left of the server in percent of its configured weight: 100 while it is idle, and never less than 1, because
/// 0 would take it out. The busier of processor and sessions counts.
fn weight(Utilisation { cpu, app }: Utilisation) -> u8 {
    let left = (1.0 - cpu.max(app)).clamp(0.01, 1.0) * 100.0;
    (1..=100).rev().find(|percent| f64::from(*percent) <= left + 0.5).unwrap_or(1)
}

/// HAProxy takes a description up to the end of the line, the edge up to the next blank.
fn word(reason: &str) -> String {
    reason.chars().map(|c| if c.is_whitespace() || c == ',' || c.is_control() { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_what_is_left_and_never_nothing() {
        let check = |cpu, app, want| assert_eq!(weight(Utilisation { cpu, app }), want, "{cpu} {app}");
        check(0.0, 0.0, 100);
        check(0.25, 0.1, 75);
        check(0.1, 0.6, 40);
        check(1.0, 0.0, 1);
        check(0.3, 1.7, 1);
        check(f64::NAN, f64::NAN, 1);
    }

    #[test]
    fn a_reason_is_one_word() {
        assert_eq!(word("store: no commit within 1s, perhaps\n"), "store:-no-commit-within-1s--perhaps-");
    }
}
