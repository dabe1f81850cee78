//! Where clients go: by their place, by distance, by measured round trips, by priority; and that `explain` says the same.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bench::harness::mmdb::{self, Layout, Row};
use bench::harness::{HttpStub, Process, RawClient, Wan, Workspace, eventually, http, proxy_header};
use serde_json::Value;

use crate::edge::{CONFIG, Edge, SOON, complete, warbler};
use crate::parts::{tells_nothing, wait_until_picks_know};

const HEAD: &str = r#"
[edge]
workers = 1
location = [50.11, 8.68]
trusted-proxies = ["127.0.0.0/8"]

[geoip]
databases = ["geo.mmdb"]

[listeners.web]
bind = ["127.0.0.1:0"]
protocol = "http"
proxy-protocol = true

[[listeners.web.routes]]
cluster = "c"
"#;

const RULES: &str = r#"
[[clusters.c.rules]]
network = ["198.51.100.0/24", "2001:db8:5::/48"]
localities = "singapore"

[[clusters.c.rules]]
country = "CA"
localities = "virginia"

[[clusters.c.rules]]
continent = "EU"
localities = "frankfurt"
strict = true
"#;

const PLACES: [(&str, &str); 3] =
    [("frankfurt", "[50.11, 8.68]"), ("virginia", "[38.9, -77.4]"), ("singapore", "[1.35, 103.82]")];

/// Three localities with an endpoint each that says its name.
struct World {
    stubs: Vec<HttpStub>,
}

impl World {
    async fn new() -> World {
        let mut stubs = Vec::new();
        for (name, _) in PLACES {
            stubs.push(HttpStub::start(name).await.unwrap());
        }
        World { stubs }
    }

    fn addresses(&self) -> [SocketAddr; 3] {
        [self.stubs[0].address(), self.stubs[1].address(), self.stubs[2].address()]
    }
}

/// The configuration of three localities at these addresses; `keys` go into the cluster.
fn config(keys: &str, rules: &str, addresses: [SocketAddr; 3]) -> String {
    let localities = PLACES.iter().zip(addresses).zip(0..).map(|(((name, place), address), priority)| {
        format!(
            "[clusters.c.localities.{name}]\nlocation = {place}\npriority = {priority}\n\
             endpoints = [{{ address = \"{address}\" }}]\n"
        )
    });
    format!("{HEAD}\n[clusters.c]\n{keys}\n{rules}\n{}", localities.collect::<String>())
}

fn rows() -> Vec<Row> {
    vec![
        Row::new("203.0.113.0/26").country("DE").continent("EU").city("Berlin").at(52.5, 13.4),
        Row::new("203.0.113.64/26").country("CA").continent("NA").at(45.5, -73.6),
        Row::new("203.0.113.128/26").country("ID").continent("AS").at(-6.2, 106.8),
        Row::new("2001:db8:1::/48").country("FR").continent("EU").at(48.9, 2.4),
    ]
}

fn with_database(layout: Layout, rows: &[Row]) -> Workspace {
    let workspace = Workspace::new().unwrap();
    workspace.write("geo.mmdb", mmdb::build(layout, rows).unwrap()).unwrap();
    workspace
}

async fn answer_from(edge: &Edge, client: &str) -> http::Answer {
    let client = SocketAddr::new(client.parse::<IpAddr>().unwrap(), 4711);
    let mut connection = RawClient::connect(edge.address("web")).await.unwrap();
    connection.send(&proxy_header::v2(client, "127.0.0.1:443".parse().unwrap())).await.unwrap();
    http::request_over(connection, "im.test", "GET", "/", &[], b"").await.unwrap()
}

/// The locality that a client from there gets, or the status that it gets instead.
async fn goes_to(edge: &Edge, client: &str) -> String {
    let answer = answer_from(edge, client).await;
    if answer.status != 200 {
        tells_nothing(&answer, &[]);
        return answer.status.to_string();
    }
    answer.json().unwrap()["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rules_by_network_country_and_continent_hold_with_every_layout_of_database() {
    let world = World::new().await;
    let text = config("health.off = true\nsteer = [\"rules\", \"priority\"]", RULES, world.addresses());
    for layout in [Layout::GeoIp2City, Layout::Flat, Layout::IpInfo] {
        let edge = Edge::start_in(with_database(layout, &rows()), &text).await;
        for (client, wanted) in [
            ("198.51.100.9", "singapore"),
            ("2001:db8:5::9", "singapore"),
            ("203.0.113.70", "virginia"),
            ("::ffff:203.0.113.70", "virginia"),
            ("203.0.113.7", "frankfurt"),
            ("2001:db8:1::7", "frankfurt"),
            // Nobody's rule, so priority decides.
            ("203.0.113.130", "frankfurt"),
            ("192.0.2.1", "frankfurt"),
        ] {
            assert_eq!(goes_to(&edge, client).await, wanted, "{client} with {layout:?}");
        }
    }
}

#[tokio::test]
async fn the_nearest_locality_gets_the_client_and_then_the_next_one() {
    let mut world = World::new().await;
    let keys = "steer = [\"distance\"]\nhealth.tcp = { interval = \"100ms\", jitter = \"0%\", fall = 2, rise = 1 }\n\
                panic-threshold = \"0%\"";
    let text = config(keys, "", world.addresses());
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    for (client, wanted) in [("203.0.113.7", "frankfurt"), ("203.0.113.70", "virginia"), ("203.0.113.130", "singapore")]
    {
        assert_eq!(goes_to(&edge, client).await, wanted, "{client}");
    }
    world.stubs[1].stop().await;
    wait_until_picks_know(&edge, "web", world.addresses()[1], "down").await;
    assert_eq!(goes_to(&edge, "203.0.113.70").await, "frankfurt", "from Montreal that is the next one");
    world.stubs[1].restart().await.unwrap();
    wait_until_picks_know(&edge, "web", world.addresses()[1], "up").await;
    assert_eq!(goes_to(&edge, "203.0.113.70").await, "virginia");
}

#[tokio::test]
async fn priority_orders_localities_and_a_reload_changes_the_order() {
    let world = World::new().await;
    let text = config("health.off = true\nsteer = [\"priority\"]", "", world.addresses());
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    assert_eq!(goes_to(&edge, "203.0.113.130").await, "frankfurt");
    edge.reload(&text.replace("priority = 0", "priority = 9")).await;
    assert_eq!(goes_to(&edge, "203.0.113.130").await, "virginia");
    assert_eq!(edge.count("warbler_picks_total", &[("locality", "virginia"), ("reason", "preferred")]).await, 1);
}

#[tokio::test]
async fn a_strict_rule_refuses_rather_than_leaves() {
    let mut world = World::new().await;
    let keys = "health.tcp = { interval = \"100ms\", jitter = \"0%\", fall = 2, rise = 1 }";
    let text = config(keys, RULES, world.addresses());
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    assert_eq!(goes_to(&edge, "203.0.113.7").await, "frankfurt");
    world.stubs[0].stop().await;
    wait_until_picks_know(&edge, "web", world.addresses()[0], "down").await;
    // In panic the endpoints of the rule are tried although they are down; no other ones are.
    assert_eq!(goes_to(&edge, "203.0.113.7").await, "502");
    edge.reload(&text.replace("[clusters.c]\n", "[clusters.c]\npanic-threshold = \"0%\"\n")).await;
    let refused = [("cluster", "c"), ("reason", "strict-refused")];
    let before = edge.count("warbler_pick_failures_total", &refused).await;
    assert_eq!(goes_to(&edge, "203.0.113.7").await, "503");
    assert_eq!(edge.count("warbler_pick_failures_total", &refused).await, before + 1);
    let line = edge.wait_for_lines(3).await.pop().unwrap();
    assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("no-endpoint"), Some(503)));
    // The others are as well as ever.
    assert_eq!(goes_to(&edge, "203.0.113.70").await, "virginia");
    assert!(["virginia", "singapore"].contains(&goes_to(&edge, "192.0.2.1").await.as_str()));
    world.stubs[0].restart().await.unwrap();
    let back = async || (goes_to(&edge, "203.0.113.7").await == "frankfurt").then_some(());
    eventually(SOON, "the way back", back).await.unwrap();
}

#[tokio::test]
async fn measured_round_trips_order_localities_and_follow_the_network() {
    let world = World::new().await;
    let any = "127.0.0.1:0".parse().unwrap();
    let [frankfurt, virginia, singapore] = world.addresses();
    let near = Wan::start(any, virginia, Duration::from_millis(1)).await.unwrap();
    let far = Wan::start(any, frankfurt, Duration::from_millis(60)).await.unwrap();
    let farther = Wan::start(any, singapore, Duration::from_millis(150)).await.unwrap();
    let keys =
        "steer = [\"rtt\"]\nhealth.http = { path = \"/\", interval = \"100ms\", timeout = \"2s\", jitter = \"0%\" }";
    let text = config(keys, "", [far.address(), near.address(), farther.address()]);
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    let measured = async || {
        let mut figures = Vec::new();
        for relay in [&near, &far, &farther] {
            let rtt = edge.endpoint(relay.address()).await["rtt_ms"].clone();
            figures.push((rtt["probe"].as_f64()?, rtt["handshake"].as_f64()?));
        }
        Some(figures)
    };
    let figures = eventually(SOON, "both figures of each endpoint", measured).await.unwrap();
    // The relays delay in user space: whole probes feel it, handshakes do not.
    assert!(figures[1].0 >= 120.0 && figures[2].0 >= 300.0, "{figures:?}");
    assert!(figures[1].1 < 60.0, "{figures:?}");
    let first = async || (goes_to(&edge, "203.0.113.7").await == "virginia").then_some(());
    eventually(SOON, "the nearest by round trip", first).await.unwrap();
    let labels = [("locality", "singapore"), ("figure", "probe")];
    assert!(edge.metric("warbler_endpoint_rtt_seconds", &labels).await.unwrap() >= 0.3);
}

#[tokio::test]
async fn a_database_is_swapped_while_clients_come_and_a_damaged_one_is_refused() {
    let world = World::new().await;
    let text = config("health.off = true\nsteer = [\"rules\", \"priority\"]", RULES, world.addresses());
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    assert_eq!(goes_to(&edge, "203.0.113.7").await, "frankfurt");
    let moved = [Row::new("203.0.113.0/26").country("CA").continent("NA")];
    edge.workspace.replace("geo.mmdb", mmdb::build(Layout::Flat, &moved).unwrap()).unwrap();
    let there = async || (goes_to(&edge, "203.0.113.7").await == "virginia").then_some(());
    eventually(SOON, "the new place", there).await.unwrap();
    let generation = edge.generation().await;

    let damaged = mmdb::build(Layout::GeoIp2City, &rows()).unwrap();
    for damaged in [&damaged[..damaged.len() / 2], b"not a database", b""] {
        edge.workspace.replace("geo.mmdb", damaged).unwrap();
        edge.wait_for_count("warbler_config_last_reload_successful", &[], 0).await;
        let answer = edge.ask_reload().await;
        assert_eq!(answer.status, 422);
        assert!(answer.text().contains("geo.mmdb"), "{}", answer.text());
        assert_eq!(goes_to(&edge, "203.0.113.7").await, "virginia");
    }
    assert_eq!(edge.generation().await, generation);
    let last = edge.status().await["last_reload"].clone();
    assert!(last["ok"] == false && last["report"].as_str().unwrap().contains("geo.mmdb"), "{last}");
    edge.workspace.replace("geo.mmdb", mmdb::build(Layout::IpInfo, &rows()).unwrap()).unwrap();
    let back = async || (goes_to(&edge, "203.0.113.7").await == "frankfurt").then_some(());
    eventually(SOON, "the mended database", back).await.unwrap();
    assert_eq!(edge.count("warbler_config_last_reload_successful", &[]).await, 1);
}

async fn explained(workspace: &Workspace, client: &str, live: bool) -> Value {
    let arguments = ["explain", "--config", CONFIG, "--from", client, "--json"];
    let launch = warbler(arguments).args(live.then_some("--live"));
    let finished = Process::run(workspace, launch, SOON).await.unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

#[tokio::test]
async fn explain_says_where_traffic_really_goes() {
    let mut world = World::new().await;
    let keys = "health.tcp = { interval = \"100ms\", jitter = \"0%\", fall = 2, rise = 1 }\npanic-threshold = \"0%\"\n\
                steer = [\"rules\", \"distance\"]";
    let text = config(keys, RULES, world.addresses());
    let edge = Edge::start_in(with_database(Layout::GeoIp2City, &rows()), &text).await;
    let clients = ["198.51.100.9", "203.0.113.70", "203.0.113.7", "203.0.113.130", "2001:db8:1::7"];
    for client in clients {
        let gone = goes_to(&edge, client).await;
        for live in [false, true] {
            let answer = explained(&edge.workspace, client, live).await;
            assert_eq!(answer["pick"]["locality"], gone.as_str(), "{client} live {live}: {answer:#}");
        }
    }
    let answer = explained(&edge.workspace, "203.0.113.7", true).await;
    assert_eq!((&answer["place"]["country"], &answer["place"]["city"]), (&"DE".into(), &"Berlin".into()));
    assert_eq!((&answer["class"]["rule"], &answer["class"]["strict"]), (&3.into(), &true.into()));

    // Without the running edge every endpoint counts as up; with it, what it knows.
    world.stubs[0].stop().await;
    wait_until_picks_know(&edge, "web", world.addresses()[0], "down").await;
    assert_eq!(goes_to(&edge, "203.0.113.7").await, "503");
    let live = explained(&edge.workspace, "203.0.113.7", true).await;
    assert_eq!(live["pick"], Value::Null);
    assert!(live["refused"].as_str().is_some_and(|why| !why.is_empty()), "{live:#}");
    let standings: Vec<&str> =
        live["endpoints"].as_array().unwrap().iter().map(|one| one["standing"].as_str().unwrap()).collect();
    assert_eq!(standings.iter().filter(|standing| **standing == "down").count(), 1, "{live:#}");
    let offline = explained(&edge.workspace, "203.0.113.7", false).await;
    assert_eq!(offline["pick"]["locality"], "frankfurt");
    // The page is the same as the command.
    let page = edge.get("/api/v1/explain?from=203.0.113.70").await.json().unwrap();
    assert_eq!(page["pick"]["locality"], "virginia");
}

#[tokio::test]
async fn explain_for_people_names_every_candidate_and_says_what_it_was_not_told() {
    let world = World::new().await;
    let workspace = with_database(Layout::GeoIp2City, &rows());
    let text = config("health.off = true", RULES, world.addresses());
    workspace.write(CONFIG, complete(&text)).unwrap();
    let launch = warbler(["explain", "--config", CONFIG, "--from", "203.0.113.7"]);
    let finished = Process::run(&workspace, launch, SOON).await.unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    for word in ["203.0.113.7", "DE", "EU", "frankfurt", "virginia", "singapore", "strict", "pick"] {
        assert!(finished.stdout.contains(word), "{word} is not in:\n{}", finished.stdout);
    }
    for (arguments, code) in [(["--from", "nobody"], 1), (["--form", "203.0.113.7"], 2)] {
        let launch = warbler(["explain", "--config", CONFIG]).args(arguments);
        let finished = Process::run(&workspace, launch, SOON).await.unwrap();
        assert_eq!(finished.code(), code, "{}", finished.stderr);
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty());
    }
}

/// A pool set for one network operator, and a map of the world for everybody else.
const POOLS_AND_MAP: &str = r#"
[[clusters.c.rules]]
asn = 64500
localities = ["singapore", "virginia"]
order = "as-written"
fallback = "none"
request-policy = "round-robin"

[clusters.c.map]
default = "auto"
EU = "virginia"
"EU/DE" = "frankfurt"
"DE/BY" = "singapore"
CA = "refuse"
"#;

/// A city database beside one of autonomous systems, as they are sold.
fn with_two_databases(layout: Layout) -> Workspace {
    let cities = [
        Row::new("203.0.113.0/25").country("DE").continent("EU").subdivision("BY").at(48.1, 11.6),
        Row::new("203.0.113.128/26").country("DE").continent("EU").subdivision("BE").at(52.5, 13.4),
        Row::new("203.0.113.192/26").country("FR").continent("EU").subdivision("BY"),
        Row::new("198.51.100.0/24").country("CA").continent("NA"),
        Row::new("192.0.2.0/24").country("ID").continent("AS"),
    ];
    let systems = [Row::new("203.0.113.0/26").asn(64_500), Row::new("203.0.113.64/26").asn(64_501)];
    let workspace = with_database(layout, &cities);
    workspace.write("asn.mmdb", mmdb::build(Layout::GeoIp2Asn, &systems).unwrap()).unwrap();
    workspace
}

fn pools_and_map(keys: &str, world: &World) -> String {
    config(keys, POOLS_AND_MAP, world.addresses()).replace("\"geo.mmdb\"]", "\"geo.mmdb\", \"asn.mmdb\"]")
}

#[tokio::test]
async fn a_map_sends_clients_by_the_narrowest_area_and_rules_come_before_it() {
    let world = World::new().await;
    let text = pools_and_map("health.off = true\nsteer = [\"rules\", \"priority\"]", &world);
    for layout in [Layout::GeoIp2City, Layout::Flat, Layout::IpInfo] {
        let edge = Edge::start_in(with_two_databases(layout), &text).await;
        for (client, wanted, rule, map, by) in [
            ("203.0.113.7", "singapore", Some(1), None, "AS64500"),
            ("203.0.113.70", "singapore", None, Some("DE/BY"), "subdivision DE-BY"),
            ("203.0.113.130", "frankfurt", None, Some("EU/DE"), "country DE"),
            ("203.0.113.200", "virginia", None, Some("EU"), "continent EU"),
            ("198.51.100.7", "503", None, Some("CA"), "country CA"),
            // As if there were no map: by priority.
            ("192.0.2.7", "frankfurt", None, Some("default"), "everybody"),
            ("100.64.0.1", "frankfurt", None, Some("default"), "everybody"),
        ] {
            assert_eq!(goes_to(&edge, client).await, wanted, "{client} with {layout:?}");
            let page = edge.get(&format!("/api/v1/explain?from={client}")).await.json().unwrap();
            let matched = &page["class"]["matched"];
            assert_eq!((matched["rule"].as_u64(), matched["map"].as_str()), (rule, map), "{client}: {page:#}");
            assert_eq!(matched["by"], by, "{client}: {page:#}");
            assert_eq!(page["pick"]["locality"].as_str().unwrap_or("503"), wanted, "{client}: {page:#}");
        }
    }
}

#[tokio::test]
async fn localities_as_written_are_used_one_after_the_other_and_nothing_follows_them() {
    let mut world = World::new().await;
    let keys = "health.tcp = { interval = \"100ms\", jitter = \"0%\", fall = 2, rise = 1 }\npanic-threshold = \"0%\"\n\
                steer = [\"rules\", \"distance\"]";
    let text = pools_and_map(keys, &world);
    let edge = Edge::start_in(with_two_databases(Layout::GeoIp2City), &text).await;
    let client = "203.0.113.7";
    assert_eq!(goes_to(&edge, client).await, "singapore", "farther than virginia, and written before it");
    world.stubs[2].stop().await;
    wait_until_picks_know(&edge, "web", world.addresses()[2], "down").await;
    assert_eq!(goes_to(&edge, client).await, "virginia");
    world.stubs[1].stop().await;
    wait_until_picks_know(&edge, "web", world.addresses()[1], "down").await;
    assert_eq!(goes_to(&edge, client).await, "503");
    assert_eq!(goes_to(&edge, "203.0.113.200").await, "frankfurt", "the map has all others behind what it names");
    world.stubs[2].restart().await.unwrap();
    wait_until_picks_know(&edge, "web", world.addresses()[2], "up").await;
    assert_eq!(goes_to(&edge, client).await, "singapore");
}

#[tokio::test]
async fn explain_tells_the_rule_what_matched_and_what_follows() {
    let world = World::new().await;
    let workspace = with_two_databases(Layout::GeoIp2City);
    workspace.write(CONFIG, complete(&pools_and_map("health.off = true", &world))).unwrap();
    for (client, wanted) in [
        ("203.0.113.7", "rule      rule 1 by AS64500: singapore, then virginia, and nothing else (strict)"),
        ("203.0.113.7", "AS64500  country DE  subdivision BY  continent EU"),
        ("203.0.113.7", "request by round-robin"),
        ("203.0.113.70", "request by p2c"),
        ("203.0.113.70", "rule      map DE/BY by subdivision DE-BY: singapore, then all others"),
        ("198.51.100.7", "rule      map CA by country CA: refused (strict)"),
        ("192.0.2.7", "rule      map default by everybody: steered as if it were not there"),
    ] {
        let launch = warbler(["explain", "--config", CONFIG, "--from", client]);
        let finished = Process::run(&workspace, launch, SOON).await.unwrap();
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        assert!(finished.stdout.contains(wanted), "`{wanted}` is not in:\n{}", finished.stdout);
    }
}
