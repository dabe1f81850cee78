//! From the upgrade to `LOGIN_OK`, and how sessions end by themselves.

use std::time::Duration;

use backend::frame::{Bye, Frame, KickReason, LoginCode, Ping};
use futures_util::{SinkExt as _, StreamExt as _};
use tempfile::TempDir;
use tokio_websockets::Message;

use crate::{
    process::{Im, SECRET},
    ws::{Client, signed, token},
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), options).await, data)
}

#[tokio::test]
async fn a_good_token_opens_a_session_that_says_where_it_is() {
    let (im, _data) = start(&["--node", "im-7", "--heartbeat", "20s"]).await;
    assert_eq!(im.ready["node"], "im-7");
    let mut client = Client::connect(im.address).await;
    let ok = client.log_in("alice", "phone").await;
    assert_eq!((ok.node.as_str(), ok.heartbeat_s, ok.resumed), ("im-7", 20, false));
    assert!(ok.server_time > 1_600_000_000_000 && !ok.session_id.is_empty());
    client.say(&Frame::Ping(Ping { t: 42 })).await;
    assert!(matches!(client.hear().await, Frame::Pong(pong) if pong.t == 42 && pong.server_time >= ok.server_time));
    client.say(&Frame::Bye(Bye {})).await;
    assert_eq!(client.closed().await, 1000);
}

#[tokio::test]
async fn each_bad_login_has_its_own_code() {
    let (im, _data) = start(&[]).await;
    let claims = r#"{"sub":"alice","exp":4000000000}"#;
    for (token, device, want) in [
        (token("alice", -3600), "phone", LoginCode::TokenExpired),
        (signed(r#"{"alg":"none"}"#, claims, SECRET), "phone", LoginCode::TokenAlgorithm),
        (signed(r#"{"alg":"RS256"}"#, claims, SECRET), "phone", LoginCode::TokenAlgorithm),
        (signed(r#"{"alg":"HS256"}"#, claims, "another"), "phone", LoginCode::TokenSignature),
        (String::from("hello"), "phone", LoginCode::TokenMalformed),
        (token("a:b", 60), "phone", LoginCode::UserInvalid),
        (token("alice", 60), "", LoginCode::DeviceInvalid),
    ] {
        let mut client = Client::connect(im.address).await;
        client.say_login(token, device).await;
        assert!(matches!(client.hear().await, Frame::LoginErr(error) if error.code == i32::from(want)), "{want:?}");
        assert_eq!(client.closed().await, 4001, "{want:?}");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_log_in_is_closed() {
    let (im, _data) = start(&["--login-timeout", "300ms"]).await;
    assert_eq!(Client::connect(im.address).await.closed().await, 4003);
    let mut pinging = Client::connect(im.address).await;
    pinging.websocket.send(Message::ping("x")).await.unwrap();
    assert_eq!(pinging.closed().await, 4003, "a WebSocket ping is no login");
}

#[tokio::test]
async fn login_is_the_first_frame_and_the_only_one_of_its_kind() {
    let (im, _data) = start(&[]).await;
    let mut early = Client::connect(im.address).await;
    early.say(&Frame::Ping(Ping { t: 1 })).await;
    assert_eq!(early.closed().await, 1008);
    let mut twice = Client::login(im.address, "alice", "phone").await;
    twice.say_login(token("alice", 60), "phone").await;
    assert_eq!(twice.closed().await, 1008);
}

#[tokio::test]
async fn a_device_that_logs_in_again_ends_its_first_session_and_no_other() {
    let (im, _data) = start(&[]).await;
    let mut first = Client::login(im.address, "alice", "phone").await;
    let mut laptop = Client::login(im.address, "alice", "laptop").await;
    let mut second = Client::login(im.address, "alice", "phone").await;
    assert!(matches!(first.hear().await, Frame::Kick(kick) if kick.reason == i32::from(KickReason::SameDevice)));
    assert_eq!(first.closed().await, 4002);
    // The second phone and the laptop go on: a message of one reaches the other.
    laptop.send("dm:alice:bob", 1, b"here").await;
    assert_eq!(&second.hear_msg().await.body[..], b"here");
}

#[tokio::test]
async fn a_session_ends_when_its_token_does() {
    let (im, _data) = start(&[]).await;
    let mut client = Client::connect(im.address).await;
    // The 30 seconds of leeway are nearly over.
    client.say_login(token("alice", -29), "phone").await;
    assert!(matches!(client.hear().await, Frame::LoginOk(_)));
    assert_eq!(client.closed().await, 4006);
}

#[tokio::test]
async fn silence_for_three_heartbeats_ends_a_session_and_a_websocket_ping_is_no_silence() {
    let (im, _data) = start(&["--heartbeat", "1s"]).await;
    let mut silent = Client::login(im.address, "alice", "phone").await;
    let mut pinging = Client::login(im.address, "bob", "phone").await;
    let mut every = tokio::time::interval(Duration::from_millis(300));
    let code = loop {
        tokio::select! {
            code = silent.closed() => break code,
            _ = every.tick() => pinging.websocket.send(Message::ping("x")).await.unwrap(),
            pong = pinging.websocket.next() => assert!(pong.unwrap().unwrap().is_pong()),
        }
    };
    assert_eq!(code, 4004);
    pinging.send("dm:alice:bob", 1, b"still here").await;
}
