//! Why a client was sent where it was, asked afterwards by the number of its connection.

use std::net::SocketAddr;

use bench::harness::{EchoTcp, HttpStub, Process, RawClient, eventually, http, reserve_port};
use serde_json::Value;

use crate::edge::{CONFIG, Edge, SOON, warbler};
use crate::parts::{endpoints, tcp_with, web_with};

/// What the edge tells of a connection; its status must be 200.
async fn told(edge: &Edge, connection: &Value) -> Vec<Value> {
    let answer = edge.get(&format!("/api/v1/decisions/{connection}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["decisions"].as_array().unwrap().clone()
}

/// Both of a TCP and of an HTTP cluster, each with its endpoints.
fn both(tcp: &[SocketAddr], web: &[SocketAddr]) -> String {
    format!(
        "[edge]\nworkers = 1\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
         [listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"web\"\n\
         [clusters.im]\nhealth.off = true\n[clusters.im.localities.here]\nendpoints = {}\n\
         [clusters.web]\nhealth.off = true\nrequest-policy = \"p2c\"\n[clusters.web.localities.here]\nendpoints = {}\n",
        endpoints(tcp),
        endpoints(web)
    )
}

async fn request_on(client: &mut RawClient) -> http::Answer {
    client.send(b"GET / HTTP/1.1\r\nHost: im.test\r\n\r\n").await.unwrap();
    http::read_answer(client, "GET").await.unwrap()
}

#[tokio::test]
async fn a_pick_of_the_running_plan_is_made_again_and_comes_out_as_the_access_log_says() {
    let tcp = [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()];
    let web = [HttpStub::start("a").await.unwrap(), HttpStub::start("b").await.unwrap()];
    let edge = Edge::start(&both(&tcp.each_ref().map(EchoTcp::address), &web.each_ref().map(HttpStub::address))).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.send(b"x").await.unwrap();
        client.read_exact(1).await.unwrap();
        clients.push(client);
    }
    let mut requests = RawClient::connect(edge.address("web")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(request_on(&mut requests).await.status, 200);
    }
    drop((clients, requests));
    let lines = edge.wait_for_lines(12 + 3).await;
    for line in lines.iter().filter(|line| line["kind"] == "tcp") {
        let decisions = told(&edge, &line["connection"]).await;
        let [decision] = &decisions[..] else { panic!("{decisions:#?}") };
        assert_eq!(decision["pick"]["address"], line["endpoint"]);
        assert_eq!(decision["pick"]["locality"], "here");
        assert_eq!(decision["repeated"]["result"], "same", "{decision:#}");
        assert_eq!(
            (&decision["cluster"], &decision["policy"], &decision["kind"]),
            (&line["cluster"], &"p2c".into(), &"tunnel".into())
        );
        assert_eq!((&decision["generation"], &decision["try"]), (&line["generation"], &1.into()));
        assert!(decision["considered"].as_array().unwrap().iter().any(|one| one["endpoint"] == line["endpoint"]));
        let close = decision["time_ms"].as_u64().unwrap().abs_diff(line["time_ms"].as_u64().unwrap());
        assert!(close < 5_000, "{close} ms apart");
    }
    let of_web: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "request").collect();
    let decisions = told(&edge, &of_web[0]["connection"]).await;
    let picked: Vec<&Value> = decisions.iter().map(|decision| &decision["pick"]["address"]).collect();
    assert_eq!(picked, of_web.iter().map(|line| &line["endpoint"]).collect::<Vec<_>>(), "one for each request");
    assert!(decisions.iter().all(|decision| decision["repeated"]["result"] == "same"), "{decisions:#?}");

    let now = edge.get("/api/v1/explain?from=192.0.2.1&listener=im").await.json().unwrap();
    assert!(!now["considered"].as_array().unwrap().is_empty(), "{now:#}");
    assert!(now["tie_break"].as_str().unwrap().contains("for weight 1"), "{now:#}");

    let connection = lines[0]["connection"].to_string();
    let asked = ["explain", "--config", CONFIG, "--connection", &connection];
    let finished = Process::run(&edge.workspace, warbler(asked), SOON).await.unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    for words in ["by p2c", "for weight 1", "it comes out the same", lines[0]["endpoint"].as_str().unwrap()] {
        assert!(finished.stdout.contains(words), "{words} is not in:\n{}", finished.stdout);
    }
    let finished = Process::run(&edge.workspace, warbler(asked).arg("--json"), SOON).await.unwrap();
    let page: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(page["decisions"][0]["pick"]["address"], lines[0]["endpoint"]);

    // What an edit broke just now is no matter for what was decided before.
    let file = edge.workspace.path(CONFIG);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "[geoip]\ndatabases = [\"gone.mmdb\"]\n").unwrap();
    let finished = Process::run(&edge.workspace, warbler(asked), SOON).await.unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
}

#[tokio::test]
async fn each_try_is_told_with_the_endpoints_that_had_failed() {
    let living = EchoTcp::start().await.unwrap();
    let dead = SocketAddr::from(([127, 0, 0, 1], reserve_port().unwrap()));
    let edge = Edge::start(&tcp_with("", "policy = \"round-robin\"", &[dead, living.address()])).await;
    let tried_twice = async || {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.send(b"x").await.unwrap();
        client.read_exact(1).await.unwrap();
        drop(client);
        edge.access_lines().into_iter().find(|line| line["tries"] == 2)
    };
    let line = eventually(SOON, "a client that had two tries", tried_twice).await.unwrap();
    let decisions = told(&edge, &line["connection"]).await;
    let [first, second] = &decisions[..] else { panic!("{decisions:#?}") };
    let dead = Value::from(dead.to_string());
    assert_eq!((&first["pick"]["address"], &first["try"]), (&dead, &1.into()));
    assert_eq!((&second["pick"]["address"], &second["try"]), (&line["endpoint"], &2.into()));
    assert_eq!(second["tried"], Value::from(vec![dead]));
    assert!(second["tie_break"].as_str().unwrap().starts_with("it was the turn of "), "{second:#}");
    // Whose turn it was is not kept.
    assert_eq!(second["repeated"]["result"], "not-possible");
}

#[tokio::test]
async fn a_pick_by_the_clients_key_is_made_again_with_that_key() {
    let endpoints = [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()];
    let edge = Edge::start(&tcp_with(
        "",
        "policy = \"maglev\"\nmaglev = { balance-factor = 0 }",
        &endpoints.each_ref().map(EchoTcp::address),
    ))
    .await;
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(b"x").await.unwrap();
    client.read_exact(1).await.unwrap();
    drop(client);
    let line = edge.wait_for_lines(1).await.remove(0);
    let decisions = told(&edge, &line["connection"]).await;
    assert_eq!((&decisions[0]["has_key"], &decisions[0]["pick"]["address"]), (&true.into(), &line["endpoint"]));
    let leads = format!("the client's key leads to {} in the table", line["endpoint"].as_str().unwrap());
    assert_eq!(decisions[0]["tie_break"], leads);
    assert_eq!(decisions[0]["repeated"]["result"], "same", "{decisions:#?}");
}

#[tokio::test]
async fn a_pick_of_an_earlier_plan_is_told_from_the_record() {
    let (a, b) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&tcp_with("", "", &[a.address()])).await;
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    client.send(b"x").await.unwrap();
    client.read_exact(1).await.unwrap();
    drop(client);
    let line = edge.wait_for_lines(1).await.remove(0);
    edge.reload(&tcp_with("", "", &[b.address(), a.address()])).await;
    let decisions = told(&edge, &line["connection"]).await;
    assert_eq!(decisions[0]["pick"]["address"], a.address().to_string());
    // By its position it would be the other one now.
    assert_eq!(decisions[0]["considered"][0]["endpoint"], a.address().to_string());
    assert_eq!((&decisions[0]["cluster"], &decisions[0]["policy"]), (&"c".into(), &Value::Null));
    assert_eq!((&decisions[0]["generation"], &decisions[0]["repeated"]["result"]), (&1.into(), &"not-possible".into()));
}

#[tokio::test]
async fn after_4096_further_picks_a_connection_is_not_kept() {
    let stub = HttpStub::start("a").await.unwrap();
    let edge = Edge::start(&format!("[edge]\nworkers = 1\n{}", web_with("", "", &[stub.address()]))).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    assert_eq!(request_on(&mut client).await.status, 200);
    drop(client);
    let line = edge.wait_for_lines(1).await.remove(0);
    let old = line["connection"].to_string();
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for _ in 0..4095 {
        assert_eq!(request_on(&mut client).await.status, 200);
    }
    assert_eq!(told(&edge, &line["connection"]).await.len(), 1, "the oldest place is still its own");
    assert_eq!(request_on(&mut client).await.status, 200);
    for connection in [old.as_str(), "987654321"] {
        assert_eq!(edge.get(&format!("/api/v1/decisions/{connection}")).await.status, 404);
        let asked = warbler(["explain", "--config", CONFIG, "--connection", connection]);
        let finished = Process::run(&edge.workspace, asked, SOON).await.unwrap();
        assert_eq!((finished.code(), finished.stdout.as_str()), (1, ""));
        assert!(finished.stderr.contains("not kept: each worker keeps its last 4096 picks"), "{}", finished.stderr);
    }
    assert_eq!(edge.get("/api/v1/decisions/x").await.status, 400);
    assert_eq!(edge.access_lines().len(), 1 + 4096);
}
