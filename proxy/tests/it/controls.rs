//! Shifting traffic by hand while the edge runs: what moves, what stays, what is refused, and that it can be taken back.

use std::net::SocketAddr;

use bench::harness::http::Answer;
use bench::harness::{EchoTcp, Finished, HttpStub, Process, Workspace, eventually, http};
use serde_json::{Value, json};

use crate::edge::{CONFIG, Edge, SOON, warbler};
use crate::ends::{BINARY, RawEndpoint, echo_client, echoes, read_frame, server_frame};
use crate::parts::{endpoints, turned_away, wait_until_picks_know};

/// A `web` and an `im` listener to a cluster `c` of two localities, `near` before `far`; more keys for the cluster and
/// for `near`.
fn config(keys: &str, near_keys: &str, near: &[SocketAddr], far: &[SocketAddr]) -> String {
    format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"c\"\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\nhealth.off = true\nsteer = [\"rules\", \"priority\"]\n{keys}\n\
         [clusters.c.localities.near]\n{near_keys}\nendpoints = {}\n\
         [clusters.c.localities.far]\npriority = 1\nendpoints = {}\n\
         [drain]\nrate = \"50/s\"\nclose-wait = \"1s\"\n",
        endpoints(near),
        endpoints(far)
    )
}

fn locality(name: &str) -> String {
    format!("/api/v1/clusters/c/localities/{name}")
}

fn endpoint(address: SocketAddr) -> String {
    format!("/api/v1/clusters/c/endpoints/{address}")
}

async fn ask(edge: &Edge, method: &str, path: &str, body: &Value) -> Answer {
    http::request_unix(&edge.socket(), method, path, &[], body.to_string().as_bytes()).await.unwrap()
}

async fn set(edge: &Edge, path: &str, body: Value) -> Value {
    let answer = ask(edge, "POST", path, &body).await;
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
    answer.json().unwrap()
}

async fn reset(edge: &Edge, path: &str) -> u64 {
    let answer = http::request_unix(&edge.socket(), "DELETE", path, &[], b"").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["reset"].as_u64().unwrap()
}

async fn refused(edge: &Edge, path: &str, body: Value, status: u16) -> String {
    let answer = ask(edge, "POST", path, &body).await;
    assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
    answer.json().unwrap()["error"].as_str().unwrap().to_owned()
}

/// Waits until picks know that this share is in force.
async fn wait_for_share(edge: &Edge, name: &str, percent: u32) {
    let wanted = f64::from(percent) / 100.0;
    let labels = [("cluster", "c"), ("locality", name)];
    let known = async || {
        let ratio = edge.metric("warbler_locality_share_ratio", &labels).await?;
        ((ratio - wanted).abs() < 1e-9).then_some(())
    };
    eventually(SOON, "the share in force", known).await.unwrap();
}

/// Waits until picks know that the endpoint has this weight.
async fn wait_for_weight(edge: &Edge, address: SocketAddr, weight: u32) {
    let known = async || (edge.endpoint(address).await["weight"] == weight).then_some(());
    eventually(SOON, "the weight in force", known).await.unwrap();
}

/// How many of `requests` each stub gets.
async fn spread<const N: usize>(edge: &Edge, requests: u64, stubs: [&HttpStub; N]) -> [u64; N] {
    let before = stubs.map(HttpStub::requests);
    for _ in 0..requests {
        assert_eq!(http::get(edge.address("web"), "/").await.unwrap().status, 200);
    }
    let mut after = stubs.map(HttpStub::requests);
    after.iter_mut().zip(before).for_each(|(after, before)| *after -= before);
    assert_eq!(after.iter().sum::<u64>(), requests);
    after
}

/// Whether `hits` of `draws` is what a chance of `percent` gives: within five standard deviations of a binomial.
#[track_caller]
fn is_about(hits: u64, draws: u64, percent: u64) {
    let mean = draws * percent / 100;
    let variance = draws * percent * (100 - percent) / 10_000;
    assert!(hits.abs_diff(mean).pow(2) <= 25 * variance, "{hits} of {draws}, and about {mean} were expected");
}

async fn overrides(edge: &Edge) -> Vec<Value> {
    edge.get("/api/v1/overrides").await.json().unwrap()["overrides"].as_array().unwrap().clone()
}

async fn explained(edge: &Edge) -> Value {
    edge.get("/api/v1/explain?from=192.0.2.1&listener=web").await.json().unwrap()
}

async fn cli(edge: &Edge, arguments: &[&str]) -> Finished {
    let launch = warbler([arguments[0], "--config", CONFIG]).args(&arguments[1..]).env("USER", "ada");
    Process::run(&edge.workspace, launch, SOON).await.unwrap()
}

#[tokio::test]
async fn a_share_of_ninety_percent_shifts_a_tenth_of_the_new_clients_and_can_be_taken_back() {
    let (near, far) = (HttpStub::start("near").await.unwrap(), HttpStub::start("far").await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    assert_eq!(spread(&edge, 20, [&near, &far]).await, [20, 0]);

    let body = json!({"share": 90, "reason": "new rack", "by": "ada"});
    let page = set(&edge, &locality("near"), body).await;
    let wanted = json!({
        "target": "c/near", "cluster": "c", "locality": "near", "endpoint": null, "configured": true,
        "kind": "share", "value": 90, "file": 100, "by": "ada", "reason": "new rack",
        "since_seconds": 0, "seconds_left": null,
    });
    assert_eq!(page["overrides"], json!([wanted]));
    wait_for_share(&edge, "near", 90).await;
    let [_, shifted] = spread(&edge, 800, [&near, &far]).await;
    is_about(shifted, 800, 10);

    let status = edge.status().await;
    let shown = &status["clusters"][0]["localities"];
    let near_shown = shown.as_array().unwrap().iter().find(|one| one["name"] == "near").unwrap();
    assert_eq!((&near_shown["share"], &near_shown["configured_share"]), (&json!(90), &json!(100)));
    assert_eq!(near_shown["overrides"][0]["reason"], "new rack");
    let why = &explained(&edge).await["localities"][0];
    assert_eq!((&why["share_percent"], &why["share_by"]), (&json!(90), &json!("by the operator: new rack")));
    assert_eq!(edge.count("warbler_overrides", &[("kind", "share")]).await, 1);

    assert_eq!(reset(&edge, &locality("near")).await, 1);
    wait_for_share(&edge, "near", 100).await;
    assert_eq!(spread(&edge, 20, [&near, &far]).await, [20, 0]);
    assert_eq!(overrides(&edge).await, [] as [Value; 0]);
    assert_eq!(edge.count("warbler_overrides", &[]).await, 0);
    assert_eq!(edge.count("warbler_override_changes_total", &[("kind", "share")]).await, 2);
    let told = edge.process.stderr_lines();
    let told: Vec<_> = told.iter().filter(|line| line.contains("changed by hand")).collect();
    assert!(told.len() == 2 && told[0].contains("c/near") && told[0].contains("new rack"), "{told:?}");
}

#[tokio::test]
async fn a_disabled_locality_gets_nobody_and_keeps_its_tunnels() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    let mut stays = echo_client(edge.address("im")).await;
    set(&edge, &locality("near"), json!({"share": 0, "reason": "power"})).await;
    wait_for_share(&edge, "near", 0).await;
    for _ in 0..10 {
        echo_client(edge.address("im")).await;
    }
    assert_eq!((near.accepted(), far.accepted()), (1, 10));
    echoes(&mut stays, b"still here").await;
    let why = explained(&edge).await;
    let near_why = why["localities"].as_array().unwrap().iter().find(|one| one["name"] == "near").unwrap();
    assert_eq!(near_why["share_by"], "by the operator: power");
    let shut = why["endpoints"].as_array().unwrap().iter().find(|one| one["locality"] == "near").unwrap();
    assert_eq!(shut["eligibility"], "locality-disabled");
    let text = cli(&edge, &["explain", "--from", "192.0.2.1", "--listener", "im", "--live"]).await.stdout;
    assert!(text.contains("disabled by the operator: power"), "{text}");
    reset(&edge, &locality("near")).await;
    wait_for_share(&edge, "near", 100).await;
    echo_client(edge.address("im")).await;
    assert_eq!(near.accepted(), 2);
}

#[tokio::test]
async fn weights_by_hand_move_new_clients_in_proportion() {
    let stubs = [HttpStub::start("a").await.unwrap(), HttpStub::start("b").await.unwrap()];
    let [a, b] = [&stubs[0], &stubs[1]];
    // One tier of two localities, and the weights alone decide.
    let keys = "request-policy = \"round-robin\"";
    let text = config(keys, "priority = 1", &[a.address()], &[b.address()]);
    let edge = Edge::start(&format!("[edge]\nworkers = 1\n{text}")).await;
    assert_eq!(spread(&edge, 40, [a, b]).await, [20, 20]);
    set(&edge, &endpoint(a.address()), json!({"weight": 3})).await;
    wait_for_weight(&edge, a.address(), 3).await;
    assert_eq!(spread(&edge, 40, [a, b]).await, [30, 10]);
    // Half of three against one.
    set(&edge, &locality("near"), json!({"weight_percent": 50})).await;
    wait_for_weight(&edge, b.address(), 2).await;
    assert_eq!(spread(&edge, 40, [a, b]).await, [24, 16]);
    let shown = edge.endpoint(a.address()).await;
    assert_eq!((&shown["weight"], &shown["configured_weight"]), (&json!(3), &json!(1)));
    assert_eq!(shown["overrides"][0]["file"], 1);
    assert_eq!(edge.endpoint(b.address()).await["configured_weight"], 1);
    let answer = http::request_unix(&edge.socket(), "DELETE", "/api/v1/overrides", &[], b"").await.unwrap();
    assert_eq!(answer.json().unwrap(), json!({"reset": 2}));
    wait_for_weight(&edge, a.address(), 1).await;
    assert_eq!(spread(&edge, 40, [a, b]).await, [20, 20]);
}

#[tokio::test]
async fn a_drained_endpoint_is_left_by_its_tunnels_and_ready_brings_it_back() {
    let (goes, stays) = (RawEndpoint::bind().await, EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[goes.address()], &[stays.address()])).await;
    let (mut client, mut upstream) = goes.websocket(edge.address("web")).await;
    // The client has the 101 a moment before the tunnel is one that can be asked.
    upstream.send(&server_frame(BINARY, b"hello")).await.unwrap();
    assert_eq!(read_frame(&mut client).await.payload, b"hello");
    set(&edge, &endpoint(goes.address()), json!({"state": "drain", "reason": "kernel"})).await;
    assert_eq!(read_frame(&mut client).await.close_code(), Some(1012));
    let shown = edge.endpoint(goes.address()).await;
    assert_eq!(
        (&shown["standing"], &shown["source"], &shown["reason"]),
        (&json!("draining"), &json!("operator"), &json!("kernel"))
    );
    wait_until_picks_know(&edge, "im", goes.address(), "draining").await;
    let mut newcomer = echo_client(edge.address("im")).await;
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[("reason", "endpoint-draining")]).await, 1);
    set(&edge, &endpoint(goes.address()), json!({"state": "ready"})).await;
    wait_until_picks_know(&edge, "im", goes.address(), "up").await;
    let (mut back, _upstream) = goes.tunnel(edge.address("im")).await;
    echoes(&mut newcomer, b"nobody asked me").await;
    assert_eq!(overrides(&edge).await, [] as [Value; 0]);
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 1);
    back.send(b"x").await.unwrap();
}

/// The pace is slow here, so that most have not been asked when the order is withdrawn.
#[tokio::test]
async fn ready_stops_asking_those_who_were_not_asked_yet() {
    let (server, other) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let text = config("", "", &[server.address()], &[other.address()]).replace("50/s", "5/s");
    let edge = Edge::start(&text).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(echo_client(edge.address("im")).await);
    }
    set(&edge, &endpoint(server.address()), json!({"state": "drain"})).await;
    let asked = async || Some(edge.count("warbler_asked_to_leave_total", &[]).await).filter(|asked| *asked > 0);
    eventually(SOON, "the first one asked", asked).await.unwrap();
    set(&edge, &endpoint(server.address()), json!({"state": "ready"})).await;
    wait_until_picks_know(&edge, "im", server.address(), "up").await;
    let settled = async || {
        let asked = edge.count("warbler_asked_to_leave_total", &[]).await;
        (server.open() == 20 - asked).then_some(asked)
    };
    let asked = eventually(SOON, "who was asked is gone", settled).await.unwrap();
    assert!(asked <= 10, "{asked} were asked");
    // Drained again, the rest is asked as well.
    set(&edge, &endpoint(server.address()), json!({"state": "drain"})).await;
    eventually(SOON, "all of them gone", async || (server.open() == 0).then_some(())).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_in_maintenance_gets_nobody_and_keeps_its_tunnels() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    let mut stays = echo_client(edge.address("im")).await;
    set(&edge, &endpoint(near.address()), json!({"state": "maintenance"})).await;
    wait_until_picks_know(&edge, "im", near.address(), "maintenance").await;
    echo_client(edge.address("im")).await;
    echoes(&mut stays, b"still here").await;
    assert_eq!((near.open(), near.accepted()), (1, 1));
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
    // Told to leave after all.
    set(&edge, &endpoint(near.address()), json!({"state": "drain"})).await;
    eventually(SOON, "the tunnel gone", async || (near.open() == 0).then_some(())).await.unwrap();
}

/// The files say one thing, the operator another: his counts until he takes it back, whatever is reloaded.
#[tokio::test]
async fn what_is_set_by_hand_survives_reloads_and_wins_over_the_files() {
    let (near, far) = (HttpStub::start("near").await.unwrap(), HttpStub::start("far").await.unwrap());
    let (one, other) = ([near.address()], [far.address()]);
    let edge = Edge::start(&config("", "share = \"50%\"", &one, &other)).await;
    wait_for_share(&edge, "near", 50).await;
    assert_eq!(explained(&edge).await["localities"][0]["share_by"], "by the files");
    set(&edge, &locality("near"), json!({"share": 0})).await;
    set(&edge, &endpoint(far.address()), json!({"weight": 7})).await;
    wait_for_share(&edge, "near", 0).await;
    edge.reload(&config("", "share = \"70%\"", &one, &other)).await;
    wait_for_share(&edge, "near", 0).await;
    assert_eq!(spread(&edge, 20, [&near, &far]).await, [0, 20]);
    let listed = overrides(&edge).await;
    let what: Vec<_> = listed.iter().map(|set| (&set["target"], &set["value"], &set["file"])).collect();
    let far_target = json!(format!("c/{}", far.address()));
    assert_eq!(what, [(&json!("c/near"), &json!(0), &json!(70)), (&far_target, &json!(7), &json!(1))]);
    reset(&edge, &locality("near")).await;
    wait_for_share(&edge, "near", 70).await;

    // Also when the files forget the endpoint for a while: what is in maintenance must not come back by an edit.
    set(&edge, &endpoint(near.address()), json!({"state": "maintenance"})).await;
    edge.reload(&config("", "", &other, &other).replace("[clusters.c.localities.far]", "[clusters.d.localities.far]"))
        .await;
    let gone = overrides(&edge).await.into_iter().find(|set| set["kind"] == "state").unwrap();
    assert_eq!((&gone["configured"], &gone["file"]), (&json!(false), &Value::Null));
    edge.reload(&config("", "", &one, &other)).await;
    wait_until_picks_know(&edge, "web", near.address(), "maintenance").await;
    assert_eq!(spread(&edge, 20, [&near, &far]).await, [0, 20]);
}

#[tokio::test]
async fn what_is_set_for_a_time_ends_by_itself() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    let page = set(&edge, &endpoint(near.address()), json!({"state": "maintenance", "for_seconds": 2})).await;
    let left = page["overrides"][0]["seconds_left"].as_f64().unwrap();
    assert!(left > 1.0 && left <= 2.0, "{left}");
    set(&edge, &locality("far"), json!({"share": 50, "for_seconds": 1000})).await;
    wait_until_picks_know(&edge, "im", near.address(), "maintenance").await;
    wait_until_picks_know(&edge, "im", near.address(), "up").await;
    edge.process.wait_for_log("its time is over", SOON).await.unwrap();
    let ended = async || (overrides(&edge).await.len() == 1).then_some(());
    eventually(SOON, "the end of it", ended).await.unwrap();
    assert_eq!(edge.count("warbler_override_changes_total", &[("kind", "state")]).await, 2);
    echo_client(edge.address("im")).await;
    assert_eq!((near.accepted(), far.accepted()), (1, 0));
}

#[tokio::test]
async fn the_last_one_is_taken_out_only_by_force() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let strict = "[[clusters.c.rules]]\nnetwork = \"198.51.100.0/24\"\nlocalities = \"far\"\nstrict = true\n";
    let edge = Edge::start(&config(strict, "", &[near.address()], &[far.address()])).await;
    let error = refused(&edge, &locality("far"), json!({"share": 0}), 409).await;
    let wanted = "c/far is all that strict rule 1 of cluster `c` has in service: every client that it matches would be \
                  refused; to do it all the same, send \"force\": true (--force)";
    assert_eq!(error, wanted);
    set(&edge, &locality("near"), json!({"share": 0})).await;
    // Right after it, before picks know: what is set counts.
    let error = refused(&edge, &endpoint(far.address()), json!({"state": "drain"}), 409).await;
    assert!(error.contains("all that cluster `c` has in service: every new client would be refused"), "{error}");
    assert_eq!(overrides(&edge).await.len(), 1);
    set(&edge, &endpoint(far.address()), json!({"state": "maintenance", "force": true})).await;
    wait_until_picks_know(&edge, "im", far.address(), "maintenance").await;
    turned_away(edge.address("im")).await;
    // What is out of service already may be taken out in another way.
    set(&edge, &endpoint(far.address()), json!({"state": "drain"})).await;
}

#[tokio::test]
async fn the_last_one_that_is_up_is_taken_out_only_by_force() {
    let (near, mut far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let text = config("", "", &[near.address()], &[far.address()]);
    let probed = "health.tcp = { interval = \"100ms\", rise = 1, fall = 1 }";
    let edge = Edge::start(&text.replace("health.off = true", probed)).await;
    far.stop().await;
    edge.wait_for_standing(far.address(), "down").await;
    let error = refused(&edge, &endpoint(near.address()), json!({"state": "drain"}), 409).await;
    assert!(error.contains("would be sent to one of 1 that are down or in doubt, or refused"), "{error}");
    set(&edge, &endpoint(far.address()), json!({"state": "drain"})).await;
}

#[tokio::test]
async fn changes_by_hand_need_the_token_or_the_unix_socket() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let workspace = Workspace::new().unwrap();
    workspace.write("token", "open sesame\n").unwrap();
    let admin = "[admin]\nbind = [\"127.0.0.1:0\"]\nsocket = \"run/warbler.sock\"\ntoken-file = \"token\"\n";
    let text = format!("{}\n{admin}", config("", "", &[near.address()], &[far.address()]));
    let edge = Edge::start_in(workspace, &text).await;
    let over_tcp = async |method: &str, path: &str, fields: &[(&str, &str)]| {
        http::request(edge.admin(), method, path, fields, br#"{"share": 50}"#).await.unwrap().status
    };
    let token = [("authorization", "Bearer open sesame")];
    for (method, path) in
        [("POST", locality("near")), ("DELETE", locality("near")), ("DELETE", "/api/v1/overrides".into())]
    {
        assert_eq!(over_tcp(method, &path, &[]).await, 403, "{method} {path}");
        assert_eq!(over_tcp(method, &path, &[("authorization", "Bearer open")]).await, 403, "{method} {path}");
    }
    assert_eq!(overrides(&edge).await, [] as [Value; 0]);
    assert_eq!(over_tcp("POST", &locality("near"), &token).await, 200);
    assert_eq!(overrides(&edge).await.len(), 1);
    assert_eq!(over_tcp("DELETE", &locality("near"), &token).await, 200);
    assert_eq!(overrides(&edge).await, [] as [Value; 0]);
}

#[tokio::test]
async fn what_does_not_exist_comes_with_what_does() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    let share = || json!({"share": 50});
    let error = refused(&edge, "/api/v1/clusters/im/localities/near", share(), 404).await;
    assert_eq!(error, "no cluster is named `im`; there are: c");
    let error = refused(&edge, &locality("nera"), share(), 404).await;
    assert_eq!(error, "cluster `c` has no locality `nera`; there are: far, near");
    let error = refused(&edge, "/api/v1/clusters/c/endpoints/192.0.2.1:1", json!({"weight": 2}), 404).await;
    let wanted = format!("cluster `c` has no endpoint `192.0.2.1:1`; there are: {}, {}", far.address(), near.address());
    assert_eq!(error, wanted);
    let error = refused(&edge, "/api/v1/clusters/c/endpoints/near", json!({"weight": 2}), 400).await;
    assert!(error.contains("`near` is not the address of an endpoint"), "{error}");
    let error = refused(&edge, &locality("near"), json!({"share": 101}), 400).await;
    assert_eq!(error, "`share` must be from 0 to 100 percent, not 101");
    assert_eq!(ask(&edge, "DELETE", &locality("nera"), &Value::Null).await.status, 404);
    assert_eq!(overrides(&edge).await, [] as [Value; 0]);
}

#[tokio::test]
async fn the_command_line_sets_lists_and_takes_back() {
    let (near, far) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let edge = Edge::start(&config("", "", &[near.address()], &[far.address()])).await;
    let (near_name, far_name) = (format!("c/{}", near.address()), format!("c/{}", far.address()));
    let done = async |arguments: &[&str]| {
        let finished = cli(&edge, arguments).await;
        assert_eq!((finished.code(), &*finished.stderr), (0, ""), "{arguments:?}: {}", finished.stdout);
        finished.stdout
    };
    assert_eq!(done(&["overrides"]).await, "nothing is set by hand\n");
    let drained = done(&["drain", &near_name, "--reason", "new kernel", "--for", "30m"]).await;
    assert!(
        drained.contains(&near_name) && drained.contains("drain") && drained.contains("ada: new kernel"),
        "{drained}"
    );
    edge.wait_for_standing(near.address(), "draining").await;
    done(&["shift", &far_name, "--weight", "5"]).await;
    done(&["shift", "c/near", "--share", "90%", "--weight", "150%"]).await;
    let page: Value = serde_json::from_str(&done(&["overrides", "--json"]).await).unwrap();
    let set = page["overrides"].as_array().unwrap().iter();
    let set: Vec<_> = set.map(|set| (set["kind"].as_str().unwrap(), set["value"].clone(), set["by"].clone())).collect();
    assert_eq!(set.len(), 4);
    for (kind, value) in
        [("share", json!(90)), ("weight-percent", json!(150)), ("weight", json!(5)), ("state", json!("drain"))]
    {
        assert!(set.contains(&(kind, value, json!("ada"))), "{kind}: {set:?}");
    }
    done(&["ready", &near_name]).await;
    edge.wait_for_standing(near.address(), "up").await;
    done(&["maintenance", &near_name]).await;
    edge.wait_for_standing(near.address(), "maintenance").await;
    assert_eq!(done(&["reset", &near_name]).await, "1 override taken back\n");
    assert_eq!(done(&["reset", "--all"]).await, "3 overrides taken back\n");
    assert_eq!(done(&["reset", "--all"]).await, "nothing was set by hand\n");

    let fails = async |arguments: &[&str], code: i32, said: &str| {
        let finished = cli(&edge, arguments).await;
        assert_eq!(finished.code(), code, "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        assert!(finished.stderr.contains(said), "{arguments:?}: {}", finished.stderr);
    };
    fails(&["drain", "c/near"], 2, "warbler shift c/near --share 0%").await;
    fails(&["drain", "near"], 2, "im/frankfurt").await;
    fails(&["shift", "c/near"], 2, "Usage").await;
    fails(&["shift", "c/near", "--share", "101%"], 2, "from 0 to 100").await;
    fails(&["shift", "c/near", "--weight", "1001%"], 2, "from 1 to 1000 percent").await;
    fails(&["shift", "c/near", "--weight", "5"], 2, "percentage").await;
    fails(&["shift", &far_name, "--share", "50%"], 2, "no share").await;
    fails(&["shift", "c/nera", "--share", "50%"], 2, "there are: far, near").await;
    done(&["shift", "c/near", "--share", "0%"]).await;
    fails(&["shift", "c/far", "--share", "0%"], 1, "--force").await;
    edge.workspace.write(CONFIG, "[listeners\n").unwrap();
    fails(&["reset", "--all"], 3, "--socket").await;
    let socket = edge.socket();
    let launch = warbler(["reset", "--all", "--socket"]).arg(socket);
    let finished = Process::run(&edge.workspace, launch, SOON).await.unwrap();
    assert_eq!((finished.code(), &*finished.stdout), (0, "1 override taken back\n"), "{}", finished.stderr);
}
