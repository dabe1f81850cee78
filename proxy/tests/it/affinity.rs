//! What clients are known by, and that they get the endpoint back that they had.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bench::harness::{EchoTcp, HttpStub, RawClient, Workspace, eventually, http, ws};
use ring::hmac;
use serde_json::Value;

use crate::edge::{Edge, SOON};
use crate::parts::{endpoints, tcp_with, wait_until_picks_know, web_with};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

async fn three_echoes() -> [EchoTcp; 3] {
    [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()]
}

async fn three_stubs() -> [HttpStub; 3] {
    let [a, b, c] = ["a", "b", "c"];
    [HttpStub::start(a).await.unwrap(), HttpStub::start(b).await.unwrap(), HttpStub::start(c).await.unwrap()]
}

/// A tunnel that is there: a byte went to the endpoint and back.
async fn tunnel(edge: &Edge, from: &str) -> RawClient {
    let mut client = RawClient::connect_from(from.parse().unwrap(), edge.address("im")).await.unwrap();
    client.send(b"x").await.unwrap();
    assert_eq!(client.read_exact(1).await.unwrap(), b"x");
    client
}

/// Which stub answers a request with these fields.
async fn answers(edge: &Edge, target: &str, fields: &[(&str, &str)]) -> String {
    let answer = http::request(edge.address("web"), "GET", target, fields, b"").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["name"].as_str().unwrap().to_owned()
}

async fn stickiness(edge: &Edge, result: &str) -> u64 {
    edge.count("warbler_stickiness_total", &[("cluster", "c"), ("result", result)]).await
}

async fn entries(edge: &Edge) -> Option<f64> {
    edge.metric("warbler_stickiness_entries", &[("cluster", "c")]).await
}

fn token(claims: &str) -> String {
    let [header, claims] = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

#[tokio::test]
async fn a_client_that_reconnects_returns_to_its_endpoint() {
    let echoes = three_echoes().await;
    let addresses = echoes.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&tcp_with("", "policy = \"round-robin\"\nstickiness = {}", &addresses)).await;
    for from in ["127.0.1.1", "127.0.1.2", "127.0.1.3"] {
        let before = echoes.each_ref().map(EchoTcp::accepted);
        for _ in 0..5 {
            drop(tunnel(&edge, from).await);
        }
        let mut new: Vec<u64> = echoes.iter().zip(before).map(|(echo, before)| echo.accepted() - before).collect();
        new.sort_unstable();
        assert_eq!(new, [0, 0, 5], "all of {from} at one endpoint");
    }
    assert_eq!((stickiness(&edge, "miss").await, stickiness(&edge, "hit").await), (3, 12));
    assert_eq!(edge.count("warbler_picks_total", &[("reason", "sticky")]).await, 12);
    assert_eq!(entries(&edge).await, Some(3.0));
    let lines = edge.wait_for_lines(15).await;
    assert_eq!(lines.iter().filter(|line| line["pick"] == "sticky").count(), 12, "{lines:#?}");
}

#[tokio::test]
async fn clusters_without_stickiness_remember_nobody() {
    let echoes = three_echoes().await;
    let addresses = echoes.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&tcp_with("", "policy = \"round-robin\"", &addresses)).await;
    for _ in 0..3 {
        drop(tunnel(&edge, "127.0.1.1").await);
    }
    assert_eq!(entries(&edge).await, None);
    assert_eq!(edge.metric("warbler_stickiness_total", &[]).await, None);
    assert_eq!(edge.count("warbler_picks_total", &[("reason", "preferred")]).await, 3);
}

#[tokio::test]
async fn the_first_source_of_the_key_counts_and_others_follow() {
    let stubs = three_stubs().await;
    let keys = "request-policy = \"round-robin\"\nstickiness = {}\n\
                hash-on = [\"header:x-user\", \"cookie:sid\", \"query:uid\", \"path:2\"]";
    let edge = Edge::start(&web_with("", keys, &stubs.each_ref().map(HttpStub::address))).await;
    let requests: [(&str, &[(&str, &str)]); 4] = [
        ("/room/x?uid=7", &[("x-user", "anna"), ("cookie", "sid=1")]),
        ("/room/x?uid=7", &[("cookie", "lang=de; sid=\"1\"")]),
        ("/room/x?uid=8", &[]),
        ("/room/42", &[]),
    ];
    for (target, fields) in requests {
        let first = answers(&edge, target, fields).await;
        for _ in 0..3 {
            assert_eq!(answers(&edge, target, fields).await, first, "{target} {fields:?}");
        }
    }
    assert_eq!(entries(&edge).await, Some(4.0));
    // The value is what counts, wherever it stands.
    let seven = answers(&edge, "/room/42", &[]).await;
    assert_eq!(answers(&edge, "/?uid=42", &[]).await, seven);
    answers(&edge, "/", &[]).await;
    assert_eq!(stickiness(&edge, "no-key").await, 1);
}

#[tokio::test]
async fn two_edges_send_a_client_to_the_same_endpoint_by_its_key() {
    let stubs = three_stubs().await;
    // Without a bound: an answer is here before its lease has gone back, and with one lease of three endpoints the bound
    // of 1.25 sends the next key of the same endpoint on.
    let keys = "request-policy = \"maglev\"\nmaglev.balance-factor = 0\nhash-on = [\"header:x-user\", \"address\"]";
    let config = web_with("", keys, &stubs.each_ref().map(HttpStub::address));
    let edges = [Edge::start(&config).await, Edge::start(&config).await];
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..12 {
        let user = format!("user-{user}");
        let one = answers(&edges[0], "/", &[("x-user", &user)]).await;
        assert_eq!(answers(&edges[1], "/", &[("x-user", &user)]).await, one, "{user}");
        seen.insert(one);
    }
    assert!(seen.len() > 1, "the key decides, and users differ: {seen:?}");
    assert_eq!(entries(&edges[0]).await, None, "nobody has to be remembered for it");
}

#[tokio::test]
async fn the_user_of_a_good_token_is_known_and_a_bad_one_is_nobody() {
    let stubs = three_stubs().await;
    let keys = "request-policy = \"round-robin\"\nstickiness = {}\nhash-on = [\"user\"]\n\
                user-token = { from = [\"authorization\", \"query:token\"], verify.hs256-secret-file = \"secret\" }";
    let workspace = Workspace::new().unwrap();
    workspace.write("secret", SECRET).unwrap();
    let edge = Edge::start_in(workspace, &web_with("", keys, &stubs.each_ref().map(HttpStub::address))).await;
    let good = token(&format!(r#"{{"sub":"anna","exp":{}}}"#, in_an_hour()));
    let first = answers(&edge, "/", &[("authorization", &format!("Bearer {good}"))]).await;
    for _ in 0..3 {
        assert_eq!(answers(&edge, &format!("/ws?token={good}"), &[]).await, first);
    }
    assert_eq!(stickiness(&edge, "hit").await, 3);
    let failures = async |reason: &str| edge.count("warbler_user_token_failures_total", &[("reason", reason)]).await;
    for (bad, reason) in [
        (token(r#"{"sub":"anna","exp":1000}"#), "expired"),
        (good.replacen('.', ".x", 1), "signature"),
        (format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), good.split('.').nth(1).unwrap()), "algorithm"),
        ("nonsense".to_owned(), "malformed"),
    ] {
        answers(&edge, &format!("/?token={bad}"), &[]).await;
        assert_eq!(failures(reason).await, 1, "{reason}");
    }
    assert_eq!(stickiness(&edge, "no-key").await, 4);

    let page = format!("/api/v1/explain?from=192.0.2.1&path=%2Fws%3Ftoken%3D{good}");
    let answer = edge.get(&page).await;
    assert!(!answer.text().contains(&good), "{}", answer.text());
    let explained: Value = answer.json().unwrap();
    let known_by = &explained["known_by"];
    assert_eq!((known_by["source"].as_str(), known_by["user"].as_str()), (Some("user"), Some("anna")), "{explained}");
    assert_eq!(explained["remembered"]["applies"], true, "{explained}");
    assert_eq!(explained["pick"]["reason"], "sticky", "{explained}");

    // Another secret: after it is read again, the old tokens are nobody's.
    edge.workspace.replace("secret", b"another secret of thirty-two bytes").unwrap();
    let generation = edge.generation().await;
    let read_again = async || {
        edge.ask_reload().await;
        (edge.generation().await > generation).then_some(())
    };
    eventually(SOON, "the new secret", read_again).await.unwrap();
    answers(&edge, &format!("/?token={good}"), &[]).await;
    assert_eq!(failures("signature").await, 2);
    assert!(!edge.process.stderr_text().contains(&good));
}

#[tokio::test]
async fn a_websocket_client_is_known_by_the_token_among_its_protocols() {
    let echoes = [bench::harness::WsEcho::start().await.unwrap(), bench::harness::WsEcho::start().await.unwrap()];
    let keys = "policy = \"round-robin\"\nstickiness = {}\nhash-on = [\"user\"]\n\
                user-token = { from = [\"websocket-protocol\"], claim = \"uid\", decode-only = true }";
    let edge = Edge::start(&web_with("", keys, &echoes.each_ref().map(|echo| echo.address()))).await;
    let protocols = format!("im.v2, {}", token(r#"{"uid":4711}"#));
    for _ in 0..4 {
        ws::connect(edge.address("web"), "/ws", &[("sec-websocket-protocol", &protocols)]).await.ok();
    }
    let mut upgrades = echoes.each_ref().map(|echo| echo.upgrades().len());
    upgrades.sort_unstable();
    assert_eq!(upgrades, [0, 4]);
}

fn probed(keys: &str, addresses: &[SocketAddr]) -> String {
    format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\nstickiness = {{}}\npanic-threshold = \"0%\"\n\
         health.tcp = {{ interval = \"100ms\", jitter = \"0%\", rise = 1, fall = 1 }}\n{keys}\n\
         [clusters.c.localities.here]\nendpoints = {}\n",
        endpoints(addresses)
    )
}

#[tokio::test]
async fn a_client_whose_endpoint_is_down_goes_elsewhere_and_stays_there() {
    let mut echoes = [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()];
    let addresses = echoes.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&probed("", &addresses)).await;
    drop(tunnel(&edge, "127.0.1.1").await);
    let had = edge.wait_for_lines(1).await[0]["endpoint"].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (down, other) = if had == addresses[0] { (0, 1) } else { (1, 0) };
    echoes[down].stop().await;
    edge.wait_for_standing(addresses[down], "down").await;
    wait_until_picks_know(&edge, "im", addresses[down], "down").await;
    drop(tunnel(&edge, "127.0.1.1").await);
    assert_eq!(stickiness(&edge, "unavailable").await, 1);
    echoes[down].restart().await.unwrap();
    edge.wait_for_standing(addresses[down], "up").await;
    wait_until_picks_know(&edge, "im", addresses[down], "up").await;
    drop(tunnel(&edge, "127.0.1.1").await);
    let lines = edge.wait_for_lines(3).await;
    let went: Vec<&str> = lines.iter().map(|line| line["endpoint"].as_str().unwrap()).collect();
    let [down, other] = [addresses[down], addresses[other]].map(|address| address.to_string());
    assert_eq!(went, [down, other.clone(), other]);
    assert_eq!(lines[2]["pick"], "sticky");
}

#[tokio::test]
async fn a_reload_keeps_who_was_where_and_a_removed_endpoint_gets_nobody_back() {
    let echoes = three_echoes().await;
    let addresses = echoes.each_ref().map(EchoTcp::address);
    let config =
        |keys: &str, addresses: &[SocketAddr]| tcp_with("", &format!("policy = \"round-robin\"\n{keys}"), addresses);
    let edge = Edge::start(&config("stickiness = {}", &addresses)).await;
    drop(tunnel(&edge, "127.0.1.1").await);
    let had = edge.wait_for_lines(1).await[0]["endpoint"].as_str().unwrap().to_owned();
    edge.reload(&config("stickiness = { max-entries = 1000, ttl = \"1h\" }", &addresses)).await;
    drop(tunnel(&edge, "127.0.1.1").await);
    assert_eq!(edge.wait_for_lines(2).await[1]["endpoint"], had.as_str());
    let rest: Vec<SocketAddr> = addresses.into_iter().filter(|address| address.to_string() != had).collect();
    edge.reload(&config("stickiness = { max-entries = 1000, ttl = \"1h\" }", &rest)).await;
    drop(tunnel(&edge, "127.0.1.1").await);
    assert_ne!(edge.wait_for_lines(3).await[2]["endpoint"], had.as_str());
    assert_eq!(stickiness(&edge, "unavailable").await, 1);
    edge.reload(&config("", &rest)).await;
    assert_eq!(entries(&edge).await, None);
}

#[tokio::test]
async fn a_full_endpoint_takes_nobody_back() {
    let echoes = [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()];
    let [a, b] = echoes.each_ref().map(EchoTcp::address);
    let config = tcp_with("", "stickiness = {}", &[a, b]).replace("\" }", "\", max-connections = 1 }");
    let edge = Edge::start(&config).await;
    let first = tunnel(&edge, "127.0.1.1").await;
    let second = tunnel(&edge, "127.0.1.1").await;
    assert_eq!(edge.leases(&[a, b]).await, [1, 1]);
    assert_eq!(stickiness(&edge, "unavailable").await, 1);
    drop((first, second));
}

#[tokio::test]
async fn no_more_clients_are_remembered_than_asked_for() {
    let stubs = three_stubs().await;
    let keys = "request-policy = \"round-robin\"\nstickiness = { max-entries = 2 }\nhash-on = [\"query:uid\"]";
    let edge = Edge::start(&web_with("", keys, &stubs.each_ref().map(HttpStub::address))).await;
    for user in 0..5 {
        answers(&edge, &format!("/?uid={user}"), &[]).await;
        // A client is remembered from the end of its request on, and that is when its line is written.
        edge.wait_for_lines(user + 1).await;
    }
    assert_eq!(entries(&edge).await, Some(2.0));
    assert_eq!(stickiness(&edge, "evicted").await, 3);
    // The last ones are known, the first is not.
    answers(&edge, "/?uid=4", &[]).await;
    answers(&edge, "/?uid=3", &[]).await;
    assert_eq!((stickiness(&edge, "hit").await, stickiness(&edge, "miss").await), (2, 5));
    answers(&edge, "/?uid=0", &[]).await;
    assert_eq!(stickiness(&edge, "miss").await, 6);
}
