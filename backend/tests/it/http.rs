//! The HTTP endpoints and the upgrade.

use backend::frame::{Frame, Login, SUBPROTOCOL};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::{DEADLINE, Im, eventually, request},
    ws::{Client, token},
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

#[tokio::test]
async fn a_fresh_server_is_alive_and_ready_and_says_how_busy_it_is() {
    let (im, _data) = start(&["--node", "im-3"]).await;
    assert_eq!(im.get("/healthz").await.json()["alive"], true);
    let ready = im.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)), "{}", ready.body);
    assert!(ready.head.contains("\r\nx-im-node: im-3"), "{}", ready.head);
    let load = im.get("/load").await.json();
    assert_eq!((&load["node"], &load["sessions"], &load["draining"]), (&"im-3".into(), &0.into(), &false.into()));
    let _client = Client::login(im.address, "alice", "phone").await;
    let load = eventually("the session and a sample are counted", async || {
        let load = im.get("/load").await.json();
        (load["sessions"] == 1 && load["mem"].as_f64()? > 0.0).then_some(load)
    })
    .await;
    assert_eq!(load["conns"], 2, "the session and this request");
}

#[tokio::test]
async fn whoami_tells_what_arrived() {
    let (im, _data) = start(&["--node", "im-3"]).await;
    let seen = request(
        im.address,
        "PUT /whoami/deep?a=1 HTTP/1.1\r\nHost: im.example\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\
         Connection: close\r\n\r\n",
    )
    .await
    .json();
    assert_eq!((&seen["node"], &seen["method"]), (&"im-3".into(), &"PUT".into()));
    assert_eq!(
        (&seen["path"], &seen["query"], &seen["version"]),
        (&"/whoami/deep".into(), &"a=1".into(), &"HTTP/1.1".into())
    );
    assert_eq!(seen["headers"]["host"], "im.example");
    assert_eq!(seen["headers"]["x-forwarded-for"], "1.2.3.4, 5.6.7.8");
    assert_eq!(seen["header_list"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn echo_gives_the_body_back() {
    let (im, _data) = start(&[]).await;
    let body = "x".repeat(300_000);
    assert_eq!(im.post("/echo", &body).await.body, body);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_allowed_differ() {
    let (im, _data) = start(&[]).await;
    assert_eq!(im.get("/nothing").await.status, 404);
    let wrong = im.post("/healthz", "").await;
    assert_eq!(wrong.status, 405);
    assert!(wrong.head.contains("\r\nallow: get, head"), "{}", wrong.head);
    assert_eq!(im.post("/admin/fault", "{}").await.status, 404, "only with --faults");
}

#[tokio::test]
async fn faults_are_set_one_by_one_and_unknown_ones_are_refused() {
    let (im, _data) = start(&["--faults"]).await;
    im.fault(r#"{"ready":false}"#).await;
    let unready = im.get("/readyz").await;
    assert_eq!((unready.status, unready.json()["reasons"].to_string()), (503, r#"["an injected fault"]"#.into()));
    im.fault(r#"{"ack_delay_ms":5}"#).await;
    let now = im.get("/admin/fault").await.json();
    assert_eq!((&now["ready"], &now["ack_delay_ms"]), (&false.into(), &5.into()));
    assert_eq!(im.post("/admin/fault", r#"{"redy":true}"#).await.status, 400);
}

#[tokio::test]
async fn an_upgrade_that_is_none_is_refused_with_the_reason() {
    let (im, _data) = start(&[]).await;
    assert_eq!(im.get("/ws").await.status, 426);
    let upgrade = |version: &str, rest: &str| {
        format!(
            "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\
             Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{rest}\r\n"
        )
    };
    let old = request(im.address, &upgrade("8", "Sec-WebSocket-Protocol: im.v1\r\n")).await;
    assert!(old.status == 426 && old.head.contains("sec-websocket-version: 13"), "{}", old.head);
    assert_eq!(request(im.address, &upgrade("13", "")).await.status, 400);
    let with_body = "Sec-WebSocket-Protocol: im.v1\r\nContent-Length: 1\r\n";
    assert_eq!(request(im.address, &(upgrade("13", with_body) + "x")).await.status, 400);
}

#[tokio::test]
async fn a_frame_behind_the_request_is_not_lost() {
    let (im, _data) = start(&[]).await;
    let mut stream = TcpStream::connect(im.address).await.unwrap();
    let login = Login { token: token("alice", 60), device_id: "phone".into(), ..Login::default() };
    let frame = Frame::Login(login).to_bytes();
    let mut bytes = format!(
        "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
    .into_bytes();
    // A masked binary message with a mask of zeros.
    bytes.extend([0x82, 0x80 | 126]);
    bytes.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(frame);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|part| part == b"im-1") {
        let count = timeout(DEADLINE, stream.read_buf(&mut answer)).await.expect("LOGIN_OK in time").unwrap();
        assert!(count > 0, "closed: {}", String::from_utf8_lossy(&answer));
        if let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") {
            // Only what is behind the head counts; the head names the node too.
            assert!(answer.starts_with(b"HTTP/1.1 101"));
            answer.drain(..end + 4);
        }
    }
}

#[tokio::test]
async fn a_full_server_refuses_and_takes_again_when_somebody_leaves() {
    let (im, _data) = start(&["--max-sessions", "1"]).await;
    let first = Client::login(im.address, "alice", "phone").await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: im.v1\r\nConnection: close\r\n\r\n";
    let full = request(im.address, upgrade).await;
    assert!(full.status == 503 && full.head.contains("retry-after: 1"), "{}", full.head);
    drop(first);
    eventually("the place is free", async || (im.get("/load").await.json()["sessions"] == 0).then_some(())).await;
    Client::login(im.address, "bob", "phone").await;
}
