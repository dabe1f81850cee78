//! What an edge measures of its localities, how it steers by that, and what it falls back to.

use std::net::SocketAddr;
use std::time::Duration;

use bench::harness::{
    EchoTcp, HttpStub, Launch, Process, RawClient, Wan, Workspace, binary, eventually, http, wan::Link,
};
use bench::output;
use serde_json::Value;

use crate::edge::{CONFIG, Edge, SOON, warbler};

/// An edge in Frankfurt with a locality in the same town and one in Singapore.
fn two_places(keys: &str, frankfurt: SocketAddr, singapore: SocketAddr) -> String {
    format!(
        r#"
[edge]
workers = 1
location = [50.11, 8.68]

[listeners.web]
bind = ["127.0.0.1:0"]
protocol = "http"

[[listeners.web.routes]]
cluster = "c"

[clusters.c]
steer = ["rtt"]
{keys}

[clusters.c.localities.frankfurt]
location = [50.11, 8.68]
endpoints = [{{ address = "{frankfurt}" }}]

[clusters.c.localities.singapore]
location = [1.35, 103.82]
endpoints = [{{ address = "{singapore}" }}]
"#
    )
}

/// Figures that follow within a second or two, for tests.
const QUICK: &str = "rtt = { window = \"300ms\", dwell = 1, max-age = \"1s\" }\n\
    health.http = { path = \"/\", interval = \"100ms\", timeout = \"2s\", jitter = \"0%\" }\npanic-threshold = \"0%\"";

async fn locality(edge: &Edge, name: &str) -> Value {
    let status = edge.status().await;
    let localities = status["clusters"][0]["localities"].as_array().unwrap();
    localities.iter().find(|locality| locality["name"] == name).unwrap().clone()
}

/// Waits until the status says this of a locality.
async fn wait_until(edge: &Edge, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = eventually(SOON, what, async || Some(locality(edge, name).await).filter(&wanted)).await;
    match seen {
        Ok(locality) => locality,
        Err(_) => panic!("not {what}: {:#}", locality(edge, name).await),
    }
}

async fn goes_to(edge: &Edge) -> String {
    let answer = http::get(edge.address("web"), "/").await.unwrap();
    answer.json().unwrap()["name"].as_str().unwrap().to_owned()
}

/// Two stubs behind delays that turn the order of the distances around.
struct Turned {
    singapore: HttpStub,
    _frankfurt: HttpStub,
    far: Wan,
    near: Wan,
}

impl Turned {
    async fn new() -> Turned {
        let any = "127.0.0.1:0".parse().unwrap();
        let (frankfurt, singapore) =
            (HttpStub::start("frankfurt").await.unwrap(), HttpStub::start("singapore").await.unwrap());
        let far = Wan::start(any, frankfurt.address(), Duration::from_millis(60)).await.unwrap();
        let near = Wan::start(any, singapore.address(), Duration::from_millis(1)).await.unwrap();
        Turned { singapore, _frankfurt: frankfurt, far, near }
    }

    async fn edge(&self, keys: &str) -> Edge {
        Edge::start(&two_places(keys, self.far.address(), self.near.address())).await
    }
}

#[tokio::test]
async fn a_locality_behind_a_delay_gets_its_band_and_every_page_says_how_sure_that_is() {
    let turned = Turned::new().await;
    let edge = turned.edge(QUICK).await;
    // 120 ms are more than 80 ms farther than the nearest.
    let far = |locality: &Value| locality["rtt_band"] == 3 && locality["rtt_confidence"].as_f64() > Some(0.5);
    let far = wait_until(&edge, "frankfurt", "in the last band", far).await;
    assert!(far["rtt_ms"].as_f64() >= Some(120.0) && far["rtt_measured"] == true, "{far:#}");
    let near = wait_until(&edge, "singapore", "in the first band", |locality| locality["rtt_band"] == 0).await;
    assert_eq!(goes_to(&edge).await, "singapore");

    let probe = &far["endpoints"][0]["rtt"]["probe"];
    for figure in ["ms", "min_ms", "ewma_ms"] {
        assert!(probe[figure].as_f64() >= Some(120.0), "{figure}: {probe:#}");
    }
    assert!(probe["samples"].as_u64() >= Some(3) && probe["deviation_ms"].is_number(), "{probe:#}");
    assert!(probe["loss"] == 0.0 && probe["age_seconds"].as_f64().is_some_and(|age| age < 5.0), "{probe:#}");
    // The relay delays in user space: the handshake ends there.
    let handshake = &near["endpoints"][0]["rtt"]["handshake"];
    assert!(
        handshake["ms"].as_f64().is_some_and(|ms| ms < 60.0) && handshake["confidence"].as_f64() > Some(0.0),
        "{handshake:#}"
    );

    let measured = [("locality", "frankfurt"), ("source", "measured")];
    assert!(edge.metric("warbler_locality_rtt_seconds", &measured).await >= Some(0.12));
    assert_eq!(edge.count("warbler_locality_rtt_band", &[("locality", "frankfurt")]).await, 3);
    assert!(edge.metric("warbler_locality_rtt_confidence", &[("locality", "frankfurt")]).await > Some(0.0));
    let lost = edge.metric("warbler_endpoint_probe_loss_ratio", &[("locality", "frankfurt")]).await;
    assert_eq!(lost, Some(0.0));

    let explained = edge.get("/api/v1/explain?from=203.0.113.7").await.json().unwrap();
    let first = &explained["localities"][0];
    let asked = ["explain", "--config", CONFIG, "--from", "203.0.113.7", "--live"];
    let text = Process::run(&edge.workspace, warbler(asked), SOON).await.unwrap().stdout;
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    assert!(row("singapore").contains(" ms b0 ") && row("frankfurt").contains(" ms b3 "), "{text}");
    assert!(first["name"] == "singapore" && first["rtt_measured"] == true, "{explained:#}");
    assert!(first["rtt_band"] == 0 && first["rtt_confidence"].as_f64() > Some(0.0), "{explained:#}");
}

/// An endpoint in a network of its own, so far away.
struct Far {
    _endpoint: Process,
    _link: Link,
    address: SocketAddr,
}

impl Far {
    async fn new(workspace: &Workspace, name: &str, delay: Duration) -> Far {
        let link = Link::start(&format!("rtt-{}-{name}", std::process::id())).unwrap();
        let launch = Launch::new(binary("warbler-bench").unwrap()).args(["serve", "--kind", "http"]);
        let launch = launch.args(["--bind", &format!("{}:0", link.far())]);
        let endpoint = Process::start(workspace, link.inside(launch)).await.unwrap();
        let address = endpoint.address("listen", 0).unwrap();
        link.ways().change_both(|way| way.delay = delay);
        Far { _endpoint: endpoint, _link: link, address }
    }
}

#[tokio::test]
async fn over_real_networks_the_handshakes_round_trip_is_enough_to_steer_by() {
    if !rustix::process::getuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        return output::talk("NOT TESTED: a network of its own needs root and /dev/net/tun");
    }
    let workspace = Workspace::new().unwrap();
    let frankfurt = Far::new(&workspace, "frankfurt", Duration::from_millis(60)).await;
    let singapore = Far::new(&workspace, "singapore", Duration::from_millis(1)).await;
    let keys = QUICK.replace("rtt = { ", "rtt = { from = \"handshake\", ");
    let edge = Edge::start(&two_places(&keys, frankfurt.address, singapore.address)).await;
    let far = wait_until(&edge, "frankfurt", "in the last band", |locality| locality["rtt_band"] == 3).await;
    assert!(far["rtt_ms"].as_f64() >= Some(120.0) && far["rtt_measured"] == true, "{far:#}");
    let handshake = &far["endpoints"][0]["rtt"]["handshake"];
    assert!(handshake["min_ms"].as_f64() >= Some(120.0), "{handshake:#}");
    wait_until(&edge, "singapore", "in the first band", |locality| locality["rtt_band"] == 0).await;
}

#[tokio::test]
async fn probes_that_fail_are_loss_and_a_figure_without_news_gives_way_to_the_prior() {
    let mut turned = Turned::new().await;
    let edge = turned.edge(QUICK).await;
    wait_until(&edge, "singapore", "measured", |locality| locality["rtt_measured"] == true).await;
    wait_until(&edge, "frankfurt", "in the last band", |locality| locality["rtt_band"] == 3).await;
    turned.singapore.stop().await;
    // 10 260 km are 166 ms by the prior, 46 ms farther than what is measured of Frankfurt.
    let by_prior = |locality: &Value| locality["rtt_measured"] == false && locality["rtt_band"] == 2;
    let lost = wait_until(&edge, "singapore", "known by its distance alone", by_prior).await;
    assert!((lost["rtt_ms"].as_f64().unwrap() - 166.0).abs() < 2.0, "{lost:#}");
    let endpoint = &lost["endpoints"][0];
    assert_eq!(endpoint["rtt_ms"]["probe"], Value::Null);
    let probe = &endpoint["rtt"]["probe"];
    assert!(probe["loss"].as_f64() > Some(0.0) && probe["confidence"] == 0.0, "{probe:#}");
    assert!(
        probe["age_seconds"].as_f64() > Some(1.0) && probe["ms"].as_f64().is_some_and(|ms| ms < 100.0),
        "still shown: {probe:#}"
    );
    assert!(edge.metric("warbler_locality_rtt_seconds", &[("source", "prior")]).await > Some(0.16));
    assert_eq!(locality(&edge, "frankfurt").await["rtt_band"], 0);
    assert_eq!(goes_to(&edge).await, "frankfurt");

    turned.singapore.restart().await.unwrap();
    let back = |locality: &Value| locality["rtt_measured"] == true && locality["rtt_band"] == 0;
    wait_until(&edge, "singapore", "measured again", back).await;
}

#[tokio::test]
async fn without_probes_live_tunnels_measure_the_handshake_when_they_begin_and_when_they_end() {
    let server = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&format!(
        r#"
[listeners.im]
bind = ["127.0.0.1:0"]
protocol = "tcp"
cluster = "c"

[clusters.c]
steer = ["rtt"]
rtt.from = "handshake"
health.off = true

[clusters.c.localities.here]
endpoints = [{{ address = "{}" }}]
"#,
        server.address()
    ))
    .await;
    let samples = async |least: u64| {
        let seen = async || {
            let figure = edge.endpoint(server.address()).await["rtt"]["handshake"].clone();
            (figure["samples"].as_u64() >= Some(least)).then_some(figure)
        };
        eventually(SOON, "a sample", seen).await.unwrap()
    };
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    let begun = samples(1).await;
    assert!(begun["ms"].as_f64() > Some(0.0) && begun["ms"].as_f64() < Some(1000.0), "{begun:#}");
    wait_until(&edge, "here", "measured", |locality| locality["rtt_measured"] == true).await;
    for _ in 0..3 {
        client.send(b"ping").await.unwrap();
        assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
    }
    // A socket is asked ten times a second at most.
    let rested = async || (samples(1).await["age_seconds"].as_f64() > Some(0.1)).then_some(());
    eventually(SOON, "the next time to ask", rested).await.unwrap();
    drop(client);
    let ended = samples(2).await;
    assert_eq!((&ended["samples"], &ended["loss"]), (&2.into(), &0.0.into()), "{ended:#}");
}
