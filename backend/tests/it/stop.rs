//! Starting wrongly, and stopping.

use std::{process::Stdio, time::Duration};

use backend::frame::{Frame, LoginCode};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    process::{DEADLINE, Im, command, eventually, request},
    ws::{Client, send, token},
};

async fn exit_code(options: &[&str], secret: Option<&str>) -> (i32, String) {
    let data = TempDir::new().unwrap();
    let mut command = command(&data.path().join("data"), options);
    match secret {
        Some(secret) => command.env("WARBLER_IM_JWT_SECRET", secret),
        None => command.env_remove("WARBLER_IM_JWT_SECRET"),
    };
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = timeout(DEADLINE, output).await.expect("it ends by itself").unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_wrong_start_has_an_exit_code_and_a_reason() {
    let (code, said) = exit_code(&["--heartbeat", "5"], Some("x")).await;
    assert!(code == 2 && said.contains("--heartbeat"), "{code}: {said}");
    let (code, said) = exit_code(&["--node", "a b"], Some("x")).await;
    assert!(code == 2 && said.contains("--node"), "{code}: {said}");
    let (code, said) = exit_code(&[], None).await;
    assert!(code == 3 && said.contains("--jwt-secret-file"), "{code}: {said}");
    let (code, said) = exit_code(&["--jwt-secret-file", "/no/such/file"], None).await;
    assert!(code == 3 && said.contains("/no/such/file"), "{code}: {said}");
    let (code, said) = exit_code(&["--jwt-public-key-file", "/dev/null"], None).await;
    assert!(code == 3 && said.contains("PUBLIC KEY"), "{code}: {said}");
    // A public key checks tokens, it cannot sign them.
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAb9qbj0+bYsKqsD5CNAsb4tSooIxzG6QWGzRod5Un8F4=\n-----END PUBLIC KEY-----\n").unwrap();
    let (code, said) = exit_code(&["--demo-login", "--jwt-public-key-file", key.to_str().unwrap()], None).await;
    assert!(code == 3 && said.contains("--demo-login signs tokens"), "{code}: {said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = exit_code(&["--bind", &address], Some("x")).await;
    assert!(code == 1 && said.contains(&address), "{code}: {said}");
}

#[tokio::test]
async fn a_secret_comes_from_a_file_without_its_newline() {
    let data = TempDir::new().unwrap();
    let file = data.path().join("secret");
    std::fs::write(&file, format!("{}\n", crate::process::SECRET)).unwrap();
    let mut command = command(data.path(), &["--jwt-secret-file", file.to_str().unwrap()]);
    command.env("WARBLER_IM_JWT_SECRET", "some other secret that no token has");
    let im = Im::of(command).await;
    Client::login(im.address, "alice", "phone").await;
}

#[tokio::test]
async fn sigterm_gives_the_last_answers_says_1012_and_exits_with_0() {
    let data = TempDir::new().unwrap();
    let mut im = Im::start(data.path(), &["--faults", "--drain-deadline", "0s"]).await;
    let mut busy = Client::login(im.address, "alice", "phone").await;
    let mut idle = Client::login(im.address, "bob", "phone").await;
    let mut not_logged_in = Client::connect(im.address).await;
    im.fault(r#"{"ack_delay_ms":500}"#).await;
    busy.say(&send("dm:alice:carol", 1, b"x")).await;
    // The message is stored, its acknowledgement is still on the way.
    let mut carol = Client::login(im.address, "carol", "phone").await;
    eventually("the message is stored", async || {
        (carol.sync("dm:alice:carol", 0, 0).await.last_seq == 1).then_some(())
    })
    .await;
    drop(carol);
    im.signal(Signal::TERM);
    assert!(matches!(busy.hear().await, Frame::SendAck(ack) if ack.seq == 1));
    assert_eq!(busy.closed().await, 1012);
    assert_eq!(idle.closed().await, 1012);
    assert_eq!(not_logged_in.closed().await, 1012);
    assert_eq!(im.ended().await.code(), Some(0));
}

#[tokio::test]
async fn readyz_fails_before_sessions_leave() {
    let data = TempDir::new().unwrap();
    // A grace that only the second signal ends.
    let mut im = Im::start(data.path(), &["--stop-grace", "1h"]).await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut waiting = Client::connect(im.address).await;
    im.signal(Signal::TERM);
    let unready = eventually("readyz fails", async || {
        let answer = im.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(unready.json()["reasons"][0], "draining");
    assert_eq!(im.get("/healthz").await.status, 200);
    assert_eq!(im.get("/load").await.json()["draining"], true);
    assert_eq!(alice.send("dm:alice:bob", 1, b"still served").await.seq, 1);
    waiting.say_login(token("bob", 60), "phone").await;
    assert!(matches!(waiting.hear().await, Frame::LoginErr(error)
        if error.code == i32::from(LoginCode::TryLater) && error.retry_after_ms > 0));
    let upgrade = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: im.v1\r\nConnection: close\r\n\r\n";
    assert_eq!(request(im.address, upgrade).await.status, 503);
    im.signal(Signal::TERM);
    assert_eq!(im.ended().await.code(), Some(1), "a session was cut");
}

#[tokio::test]
async fn sigint_stops_at_once() {
    let data = TempDir::new().unwrap();
    let mut im = Im::start(data.path(), &["--stop-grace", "1h"]).await;
    im.signal(Signal::INT);
    assert_eq!(im.ended().await.code(), Some(0), "nobody was there");
}

#[tokio::test]
async fn a_session_that_does_not_leave_is_cut_at_the_deadline() {
    let data = TempDir::new().unwrap();
    let mut im = Im::start(data.path(), &["--drain-deadline", "0s", "--stop-deadline", "300ms"]).await;
    // It does not read, so it never agrees to the close.
    let _deaf = Client::login(im.address, "alice", "phone").await;
    im.signal(Signal::TERM);
    let ended = timeout(Duration::from_secs(10), im.ended()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
}
