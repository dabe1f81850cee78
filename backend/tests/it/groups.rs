//! Groups: over the HTTP API, and in the sessions of their members.

use backend::frame::{
    Frame, GroupEvent, History, KIND_GROUP, KIND_SERVER, MAX_MEMBERS, Msg, Read, RefusalCode, Send, Sync,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{Answer, Im, eventually},
    ws::{Client, send, token},
};

async fn start() -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    (Im::start(data.path(), &["--faults"]).await, data)
}

/// Makes a group of a user with others, and gives its conversation and its path in the API.
async fn create(im: &Im, user: &str, others: &[&str]) -> (String, String) {
    let made = im.api(user, "POST", "groups", "", &json!({ "name": "Trip", "members": others }).to_string()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let conv = made.json()["conv"].as_str().unwrap().to_owned();
    let path = format!("groups/{}", conv.strip_prefix("group:").unwrap());
    (conv, path)
}

async fn put(im: &Im, actor: &str, path: &str, user: &str, body: &str) {
    let done = im.api(actor, "PUT", &format!("{path}/members/{user}"), "", body).await;
    assert_eq!(done.status, 204, "{}", done.body);
}

async fn remove(im: &Im, actor: &str, path: &str, user: &str) {
    let done = im.api(actor, "DELETE", &format!("{path}/members/{user}"), "", "").await;
    assert_eq!(done.status, 204, "{}", done.body);
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{}", answer.body);
    assert!(!answer.json()["error"].as_str().unwrap().is_empty());
}

fn roles(group: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    group["members"].as_array().unwrap().iter().map(|member| (text(&member["user"]), text(&member["role"]))).collect()
}

fn event(msg: &Msg) -> GroupEvent {
    assert_eq!(msg.kind, KIND_GROUP);
    serde_json::from_slice(&msg.body).unwrap()
}

#[tokio::test]
async fn a_group_is_pushed_to_all_members_and_nobody_else() {
    let (im, _data) = start().await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut tablet = Client::login(im.address, "alice", "tablet").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut mallory = Client::login(im.address, "mallory", "phone").await;
    let (conv, _) = create(&im, "alice", &["bob", "carol"]).await;
    for client in [&mut alice, &mut tablet, &mut bob] {
        let msg = client.hear_msg().await;
        assert_eq!((&msg.conv, msg.seq, msg.sender.as_str()), (&conv, 1, "alice"));
        let users = ["alice", "bob", "carol"].map(str::to_owned).to_vec();
        assert_eq!(event(&msg), GroupEvent::Created { name: "Trip".into(), users });
    }
    alice.send(&conv, 1, b"where to?").await;
    assert_eq!(tablet.hear_msg().await.seq, 2);
    assert_eq!(bob.hear_msg().await.seq, 2);
    // The receipt of one member goes to the others.
    bob.read(&conv, 2).await;
    for client in [&mut alice, &mut tablet] {
        let receipt = client.hear_receipt().await;
        assert_eq!((receipt.user.as_str(), receipt.read_seq), ("bob", 2));
    }
    // Who comes later finds it in the list and asks.
    let mut carol = Client::login(im.address, "carol", "phone").await;
    let list = carol.unread("").await.convs;
    assert_eq!((list.len(), &list[0].conv, list[0].n), (1, &conv, 2));
    assert_eq!(carol.history(&conv).await.len(), 2);
    bob.send("dm:bob:mallory", 1, b"later").await;
    assert_eq!(mallory.hear_msg().await.conv, "dm:bob:mallory", "nothing came before it");
}

#[tokio::test]
async fn who_is_not_a_member_may_nothing() {
    let (im, _data) = start().await;
    let (conv, path) = create(&im, "alice", &["bob"]).await;
    let mut mallory = Client::login(im.address, "mallory", "phone").await;
    for conv in [conv.as_str(), "group:unknown"] {
        mallory.say(&send(conv, 1, b"x")).await;
        let answer = mallory.hear().await;
        assert!(matches!(&answer, Frame::SendErr(e) if e.code == i32::from(RefusalCode::NotAMember)), "{answer:?}");
        for request in [
            Frame::Sync(Sync { conv: conv.into(), ..Sync::default() }),
            Frame::History(History { conv: conv.into(), ..History::default() }),
        ] {
            mallory.say(&request).await;
            let answer = mallory.hear().await;
            assert!(matches!(&answer, Frame::SyncErr(e) if e.code == i32::from(RefusalCode::NotAMember)), "{answer:?}");
        }
        mallory.say(&Frame::Read(Read { conv: conv.into(), seq: 1 })).await;
        let answer = mallory.hear().await;
        assert!(matches!(&answer, Frame::Refused(e) if e.code == i32::from(RefusalCode::NotAMember)), "{answer:?}");
    }
    // The same answer for a group that is there and one that is not.
    for path in [path.as_str(), "groups/unknown", "groups/a.b"] {
        refused(&im.api("mallory", "GET", path, "", "").await, 404, "no_such_group");
        refused(&im.api("mallory", "PATCH", path, "", r#"{"name":"x"}"#).await, 404, "no_such_group");
        refused(&im.api("mallory", "PUT", &format!("{path}/members/mallory"), "", "{}").await, 404, "no_such_group");
        refused(&im.api("mallory", "DELETE", &format!("{path}/members/bob"), "", "").await, 404, "no_such_group");
    }
    remove(&im, "mallory", &path, "mallory").await; // is not in it already
    assert_eq!(im.api("alice", "GET", &path, "", "").await.json()["members"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn live_sessions_see_who_comes_and_goes_and_the_removed_one_is_out_at_once() {
    let (im, _data) = start().await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let mut carol = Client::login(im.address, "carol", "phone").await;
    let (conv, path) = create(&im, "alice", &["bob"]).await;
    alice.send(&conv, 1, b"before carol").await;
    put(&im, "alice", &path, "carol", "{}").await;
    assert_eq!(event(&carol.hear_msg().await), GroupEvent::Added { user: "carol".into() });
    let list = carol.unread("").await.convs;
    assert_eq!((list[0].read_seq, list[0].n), (2, 1), "what was before is read");
    assert_eq!(carol.history(&conv).await.len(), 3, "but may be looked at");
    carol.send(&conv, 1, b"hello").await;
    remove(&im, "alice", &path, "carol").await;
    for client in [&mut bob, &mut alice, &mut carol] {
        loop {
            let msg = client.hear_msg().await;
            if msg.seq == 5 {
                assert_eq!(event(&msg), GroupEvent::Removed { user: "carol".into() });
                break;
            }
        }
    }
    carol.say(&send(&conv, 2, b"still here?")).await;
    let answer = carol.hear().await;
    assert!(matches!(&answer, Frame::SendErr(e) if e.code == i32::from(RefusalCode::NotAMember)), "{answer:?}");
    assert_eq!(carol.unread("").await.convs, []);
    alice.send(&conv, 2, b"among us").await;
    assert_eq!(bob.hear_msg().await.seq, 6);
    remove(&im, "bob", &path, "bob").await;
    assert_eq!(event(&bob.hear_msg().await), GroupEvent::Left { owner: None });
    alice.send("dm:alice:carol", 1, b"sorry").await;
    assert_eq!(carol.hear_msg().await.conv, "dm:alice:carol", "nothing of the group came before it");
}

#[tokio::test]
async fn a_change_at_one_process_counts_at_the_other() {
    let data = TempDir::new().unwrap();
    let (one, two) = tokio::join!(Im::start(data.path(), &[]), Im::start(data.path(), &[]));
    let mut alice = Client::login(one.address, "alice", "phone").await;
    let mut bob = Client::login(two.address, "bob", "phone").await;
    let mut carol = Client::login(two.address, "carol", "phone").await;
    let (conv, path) = create(&one, "alice", &["bob", "carol"]).await;
    for client in [&mut bob, &mut carol] {
        assert_eq!(client.hear_msg().await.seq, 1);
    }
    remove(&one, "alice", &path, "bob").await;
    assert_eq!(bob.hear_msg().await.seq, 2);
    alice.send(&conv, 1, b"without bob").await;
    assert_eq!((carol.hear_msg().await.seq, carol.hear_msg().await.seq), (2, 3));
    alice.send("dm:alice:bob", 1, b"later").await;
    assert_eq!(bob.hear_msg().await.conv, "dm:alice:bob", "nothing came before it");
}

/// Pushes that are dropped by a fault tell of changes, too: the members must not be those from before.
#[tokio::test]
async fn a_change_that_was_not_pushed_counts_all_the_same() {
    let (im, _data) = start().await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let (conv, path) = create(&im, "alice", &["bob"]).await;
    assert_eq!((alice.hear_msg().await.seq, bob.hear_msg().await.seq), (1, 1));
    im.fault(r#"{"drop_push":true}"#).await;
    remove(&im, "alice", &path, "bob").await;
    eventually("the push is lost", async || (im.get("/load").await.json()["pushes_dropped"] == 1).then_some(())).await;
    im.fault(r#"{"drop_push":false}"#).await;
    alice.send(&conv, 1, b"without bob").await;
    alice.send("dm:alice:bob", 1, b"later").await;
    assert_eq!(bob.hear_msg().await.conv, "dm:alice:bob", "nothing came before it");
}

#[tokio::test]
async fn a_group_is_listed_shown_renamed_and_given_away() {
    let (im, _data) = start().await;
    let (conv, path) = create(&im, "alice", &["bob", "alice", "bob", "grü/x"]).await;
    put(&im, "alice", &path, "bob", r#"{"role":"admin"}"#).await;
    let renamed = im.api("bob", "PATCH", &path, "", r#"{"name":" Tour  "}"#).await;
    assert_eq!(renamed.status, 204, "{}", renamed.body);
    let group = im.api("bob", "GET", &path, "", "").await.json();
    assert_eq!(
        (&group["name"], &group["role"], &group["conv"]),
        (&"Tour".into(), &"admin".into(), &conv.clone().into())
    );
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(u, r)| (u.to_string(), r.to_string())).collect::<Vec<_>>();
    assert_eq!(roles(&group), pairs(&[("alice", "owner"), ("bob", "admin"), ("grü/x", "member")]));
    assert!(group["created"].as_u64() > Some(1_600_000_000_000) && group["members"][1]["joined"] == group["created"]);
    assert_eq!((&group["members"][0]["read_seq"], &group["members"][1]["read_seq"]), (&2.into(), &0.into()));
    let list = im.api("grü/x", "GET", "groups", "", "").await.json();
    assert_eq!(list["groups"], json!([{ "conv": conv, "name": "Tour", "role": "member", "members": 3 }]));
}

#[tokio::test]
async fn who_may_what_is_the_same_over_http() {
    let (im, _data) = start().await;
    let (_, path) = create(&im, "alice", &["bob", "carol"]).await;
    refused(&im.api("bob", "PUT", &format!("{path}/members/dave"), "", "{}").await, 403, "not_allowed");
    refused(&im.api("bob", "PATCH", &path, "", r#"{"name":"x"}"#).await, 403, "not_allowed");
    refused(&im.api("bob", "DELETE", &format!("{path}/members/carol"), "", "").await, 403, "not_allowed");
    put(&im, "alice", &path, "bob", r#"{"role":"owner"}"#).await;
    refused(&im.api("alice", "DELETE", &format!("{path}/members/bob"), "", "").await, 403, "not_allowed");
    remove(&im, "alice", &path, "carol").await;
    remove(&im, "bob", &path, "bob").await;
    let group = im.api("alice", "GET", &path, "", "").await.json();
    assert_eq!(roles(&group), [("alice".to_owned(), "owner".to_owned())]);
}

#[tokio::test]
async fn a_creation_with_a_key_may_be_repeated() {
    let (im, _data) = start().await;
    let body = r#"{"name":"Trip"}"#;
    let key = "Idempotency-Key: 6f1c0b5e\r\n";
    let first = im.api("alice", "POST", "groups", key, body).await;
    let again = im.api("alice", "POST", "groups", key, body).await;
    assert_eq!((first.status, again.status), (201, 200), "{}", again.body);
    assert_eq!(first.json(), again.json());
    let groups = im.api("alice", "GET", "groups", "", "").await.json();
    let only = json!([{ "conv": first.json()["conv"], "name": "Trip", "role": "owner", "members": 1 }]);
    assert_eq!(groups["groups"], only);
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(65));
    refused(&im.api("alice", "POST", "groups", &long, body).await, 400, "key_invalid");
}

/// It was answered like a group that is not there, so a client that had lost the first answer made another one.
#[tokio::test]
async fn a_creation_repeated_by_one_who_has_left_is_known_all_the_same() {
    let (im, _data) = start().await;
    let key = "Idempotency-Key: 6f1c0b5e\r\n";
    let body = r#"{"name":"Trip","members":["bob"]}"#;
    let first = im.api("alice", "POST", "groups", key, body).await.json();
    let path = format!("groups/{}", first["conv"].as_str().unwrap().strip_prefix("group:").unwrap());
    remove(&im, "alice", &path, "alice").await;
    let again = im.api("alice", "POST", "groups", key, body).await;
    assert_eq!((again.status, again.json()), (200, json!({ "conv": first["conv"] })));
}

/// In a path these are dot segments, which an edge refuses and some clients take out.
#[tokio::test]
async fn users_whose_names_are_dots_come_and_go_by_the_query() {
    let (im, _data) = start().await;
    let (_, path) = create(&im, "alice", &["..", "x/..", "bob"]).await;
    for user in ["..", "x%2F..", "."] {
        let member = format!("{path}/members?user={user}");
        assert_eq!(im.api("alice", "PUT", &member, "", "{}").await.status, 204, "{user}");
        assert_eq!(im.api("alice", "DELETE", &member, "", "").await.status, 204, "{user}");
    }
    let group = im.api("alice", "GET", &path, "", "").await.json();
    assert_eq!(roles(&group).len(), 2, "{group}");
    refused(&im.api("alice", "DELETE", &format!("{path}/members"), "", "").await, 400, "user_invalid");
    refused(&im.api("alice", "DELETE", &format!("{path}/members?user=a%20b"), "", "").await, 400, "user_invalid");
}

#[tokio::test]
async fn who_changes_too_much_is_told_when_to_go_on() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &["--request-rate", "2"]).await;
    let (_, path) = create(&im, "alice", &["bob", "carol", "dave"]).await;
    let rename = async || im.api("alice", "PATCH", &path, "", r#"{"name":"x"}"#).await;
    let late = eventually("it is too much", async || Some(rename().await).filter(|answer| answer.status != 204)).await;
    refused(&late, 429, "too_fast");
    assert!(late.head.contains("\r\nretry-after: 1"), "{}", late.head);
    create(&im, "bob", &["alice"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(rename().await.status, 204, "a wait as long as told is enough");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_with_a_code() {
    let (im, _data) = start().await;
    let (_, path) = create(&im, "alice", &[]).await;
    let post = async |body: &str| im.api("alice", "POST", "groups", "", body).await;
    refused(&post("{").await, 400, "body_invalid");
    refused(&post(r#"{"name":"a","mebmers":[]}"#).await, 400, "body_invalid");
    refused(&post(r#"{"name":" "}"#).await, 400, "name_invalid");
    refused(&post(r#"{"name":"a","members":["b c"]}"#).await, 400, "user_invalid");
    refused(&post(&json!({ "name": "x".repeat(70_000) }).to_string()).await, 413, "body_too_long");
    let crowd: Vec<_> = (0..MAX_MEMBERS).map(|user| format!("u{user}")).collect();
    refused(&post(&json!({ "name": "a", "members": crowd }).to_string()).await, 409, "too_many_members");
    refused(&im.api("alice", "PUT", &format!("{path}/members/b%20c"), "", "{}").await, 400, "user_invalid");
    refused(&im.api("alice", "PUT", &format!("{path}/members/b"), "", r#"{"role":"king"}"#).await, 400, "body_invalid");
    refused(&im.api("alice", "GET", &format!("{path}/nothing"), "", "").await, 404, "no_such_path");
    assert_eq!(im.api("alice", "GET", "groupsx", "", "").await.status, 404);
    let wrong = im.api("alice", "DELETE", &path, "", "").await;
    assert!(wrong.status == 405 && wrong.head.contains("\r\nallow: get, patch"), "{}", wrong.head);
    im.fault(r#"{"refuse_commit":true}"#).await;
    let failed = post(r#"{"name":"a"}"#).await;
    refused(&failed, 503, "not_stored");
    assert!(failed.head.contains("\r\nretry-after: 1"), "{}", failed.head);
}

#[tokio::test]
async fn a_request_needs_a_good_token() {
    let (im, _data) = start().await;
    let nobody = im.get("/api/v1/groups").await;
    refused(&nobody, 401, "token_missing");
    assert!(nobody.head.contains("\r\nwww-authenticate: bearer"), "{}", nobody.head);
    let old = token("alice", -3600);
    let old = crate::process::request(
        im.address,
        &format!("GET /api/v1/groups HTTP/1.1\r\nHost: im\r\nConnection: close\r\nAuthorization: Bearer {old}\r\n\r\n"),
    )
    .await;
    refused(&old, 401, "token_expired");
}

#[tokio::test]
async fn nobody_forges_what_happens_to_a_group() {
    let (im, _data) = start().await;
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let Frame::Send(forged) = send("room:a", 1, br#"{"event":"removed","user":"bob"}"#) else { unreachable!() };
    for kind in [KIND_SERVER, u32::MAX] {
        alice.say(&Frame::Send(Send { kind, ..forged.clone() })).await;
        let answer = alice.hear().await;
        assert!(matches!(&answer, Frame::SendErr(e) if e.code == i32::from(RefusalCode::KindInvalid)), "{answer:?}");
    }
    alice.say(&Frame::Send(Send { kind: KIND_SERVER - 1, ..forged })).await;
    assert!(matches!(alice.hear().await, Frame::SendAck(_)));
}

#[tokio::test]
async fn everybody_signs_in_only_where_that_is_wanted() {
    let (im, _data) = start().await;
    refused(&im.post("/api/v1/demo-login", r#"{"user":"alice"}"#).await, 403, "demo_login_off");
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &["--demo-login"]).await;
    let given = im.post("/api/v1/demo-login", r#"{"user":"alice"}"#).await;
    assert_eq!((given.status, given.json()["user"].as_str()), (200, Some("alice")), "{}", given.body);
    let mut alice = Client::connect(im.address).await;
    alice.say_login(given.json()["token"].as_str().unwrap().to_owned(), "phone").await;
    assert!(matches!(alice.hear().await, Frame::LoginOk(_)));
    refused(&im.post("/api/v1/demo-login", r#"{"user":"a:b"}"#).await, 400, "user_invalid");
    assert_eq!(im.get("/api/v1/demo-login").await.status, 405);
}
