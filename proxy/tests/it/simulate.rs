//! `warbler simulate`: clients that came, or that are made up, go where arithmetic says they go.

use bench::harness::{EchoTcp, Finished, Process, RawClient, Workspace};
use serde_json::{Value, json};

use crate::edge::{CONFIG, Edge, SOON, warbler};
use crate::parts::tcp_with;

/// A tcp listener `im` to a cluster `im`; `keys` go into the cluster, each locality is a name, its keys and its endpoints.
fn config(keys: &str, localities: &[(&str, &str, &str)]) -> String {
    let head = "[edge]\nlocation = [50.11, 8.68]\n[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
    let place = |(name, keys, endpoints): &(&str, &str, &str)| {
        format!("[clusters.im.localities.{name}]\n{keys}\nendpoints = [{endpoints}]\n")
    };
    format!("{head}[clusters.im]\n{keys}\n{}", localities.iter().map(place).collect::<String>())
}

fn endpoint(last: u8, keys: &str) -> String {
    format!("{{ address = \"10.1.0.{last}:5222\"{keys} }}")
}

/// So many clients, one a second for a minute each, one line a client.
fn trace(clients: u64) -> String {
    let line =
        |nth: u64| format!("{{\"time_ms\":{},\"seconds\":60,\"client\":\"192.0.2.1:{}\"}}\n", nth * 1000, nth % 60_000);
    (0..clients).map(line).collect()
}

async fn simulate(workspace: &Workspace, arguments: &[&str]) -> Finished {
    Process::run(workspace, warbler(["simulate", "--config", CONFIG]).args(arguments), SOON).await.unwrap()
}

async fn simulated(workspace: &Workspace, arguments: &[&str]) -> Value {
    let finished = simulate(workspace, &[arguments, &["--json"]].concat()).await;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

fn in_workspace(config: &str, clients: u64) -> Workspace {
    let workspace = Workspace::new().unwrap();
    workspace.write(CONFIG, config).unwrap();
    workspace.write("trace.ndjson", trace(clients)).unwrap();
    workspace
}

/// Arrivals of each locality of the only cluster of a run.
fn arrivals(report: &Value, run: usize) -> Vec<u64> {
    let localities = report["runs"][run]["clusters"][0]["localities"].as_array().unwrap();
    localities.iter().map(|locality| locality["arrivals"].as_u64().unwrap()).collect()
}

const CLIENTS: [&str; 2] = ["--clients", "trace.ndjson"];

/// Three localities that are tied, and one behind them.
fn tied_and_behind() -> String {
    let (one, two, three) = (endpoint(1, ""), endpoint(2, ""), endpoint(3, ""));
    let places = [("a", "priority = 0", &*one), ("b", "priority = 0", &two), ("z", "priority = 1", &three)];
    config("steer = [\"priority\"]", &places)
}

#[tokio::test]
async fn weights_of_three_to_one_get_three_to_one() {
    let both = format!("{}, {}", endpoint(1, ", weight = 3"), endpoint(2, ""));
    let workspace = in_workspace(&config("", &[("a", "", &both)]), 4_000);
    let report = simulated(&workspace, &CLIENTS).await;
    let endpoints = &report["runs"][0]["clusters"][0]["localities"][0]["endpoints"];
    let share = endpoints[0]["share"].as_f64().unwrap();
    assert!((share - 0.75).abs() < 0.02, "{endpoints}");
    // One a second for sixty seconds are sixty at once, and one more while one comes as another leaves.
    assert_eq!(report["runs"][0]["clusters"][0]["localities"][0]["peak"], 60);
    assert_eq!((&report["clients"], &report["seconds"]), (&json!(4_000), &json!(3999.0)));
}

#[tokio::test]
async fn half_of_a_tier_that_fails_sends_thirty_percent_to_the_next_one() {
    let workspace = in_workspace(&tied_and_behind(), 5_000);
    assert_eq!(arrivals(&simulated(&workspace, &CLIENTS).await, 0)[2], 0, "nobody goes to the next one before");
    let report = simulated(&workspace, &[&CLIENTS[..], &["--fail", "b"]].concat()).await;
    let arrivals = arrivals(&report, 0);
    assert_eq!((arrivals[1], arrivals.iter().sum::<u64>()), (0, 5_000));
    // Five standard deviations of 5 000 draws of 30 %.
    assert!(arrivals[2].abs_diff(1_500) < 163, "{arrivals:?}");
    let picks = &report["runs"][0]["clusters"][0]["picks"];
    assert_eq!(picks["spill"], arrivals[2]);
}

#[tokio::test]
async fn everybody_of_a_failed_locality_goes_to_the_second_and_those_inside_come_again() {
    let workspace = in_workspace(&tied_and_behind(), 900);
    let report = simulated(&workspace, &[&CLIENTS[..], &["--fail", "im/a", "--fail", "10.1.0.2:5222"]].concat()).await;
    assert_eq!(arrivals(&report, 0), [0, 0, 900]);

    let report =
        simulated(&workspace, &[&CLIENTS[..], &["--fail", "a@300s..600s", "--fail", "b@300s..10m"]].concat()).await;
    let cluster = &report["runs"][0]["clusters"][0];
    // The sixty that are connected at second 300, less the one that leaves in it.
    let again = cluster["reconnects"].as_u64().unwrap();
    assert!((59..=61).contains(&again), "{again}");
    assert_eq!(arrivals(&report, 0)[2], 300 + again);
    let curve = |nth: usize| -> Vec<u64> {
        let points = cluster["localities"][nth]["connections"].as_array().unwrap();
        points.iter().map(|point| point.as_u64().unwrap()).collect()
    };
    let behind = curve(2);
    let at = |second: usize| second * behind.len() / 900;
    assert_eq!((behind[at(200)], behind[at(400)], behind[at(800)]), (0, 60, 0), "{behind:?}");
}

#[tokio::test]
async fn a_full_endpoint_passes_clients_on_and_what_nobody_takes_is_counted() {
    let (one, two) = (endpoint(1, ", max-connections = 30"), endpoint(2, ", max-connections = 20"));
    let text = config("steer = [\"priority\"]", &[("a", "", &one), ("z", "priority = 1", &two)]);
    let workspace = in_workspace(&text, 600);
    let report = simulated(&workspace, &CLIENTS).await;
    let cluster = &report["runs"][0]["clusters"][0];
    let refused = cluster["refused"]["all-full"].as_u64().unwrap();
    // Fifty fit, for a minute each: of sixty that come in a minute ten are refused.
    assert!(refused.abs_diff(100) <= 10, "{refused}");
    for (nth, capacity) in [(0, 30), (1, 20)] {
        let locality = &cluster["localities"][nth];
        assert_eq!((&locality["peak"], &locality["capacity"]), (&json!(capacity), &json!(capacity)));
        assert!(locality["full_seconds"].as_f64().unwrap() > 60.0, "{locality}");
    }
    let finished = simulate(&workspace, &CLIENTS).await;
    assert!(finished.stdout.contains(&format!("{refused} refused (all-full)")), "{}", finished.stdout);
}

#[tokio::test]
async fn an_endpoint_that_returns_starts_slowly_and_a_locality_that_gets_full_sends_clients_on() {
    let both = format!("{}, {}", endpoint(1, ""), endpoint(2, ""));
    let second_of_two = async |keys: &str| {
        let workspace = in_workspace(&config(&format!("policy = \"round-robin\"\n{keys}"), &[("a", "", &both)]), 500);
        let report = simulated(&workspace, &[&CLIENTS[..], &["--fail", "10.1.0.2:5222@0s..100s"]].concat()).await;
        let endpoints = &report["runs"][0]["clusters"][0]["localities"][0]["endpoints"];
        endpoints[1]["arrivals"].as_u64().unwrap()
    };
    let at_once = second_of_two("").await;
    assert!((199..=201).contains(&at_once), "{at_once} of 400 after its return");
    let slowly = second_of_two("slow-start.window = \"400s\"").await;
    // Its weight grows from a tenth to the whole, so its share from an eleventh to a half: about 0.33 on average.
    assert!((110..=150).contains(&slowly), "{slowly} of 400 after its return");

    let (near, far) = (endpoint(1, ", max-connections = 70"), endpoint(2, ", max-connections = 1000"));
    let behind = async |keys: &str| {
        let keys = format!("steer = [\"priority\"]\n{keys}");
        let places = [("near", "", &*near), ("far", "priority = 1", &far)];
        arrivals(&simulated(&in_workspace(&config(&keys, &places), 600), &CLIENTS).await, 0)
    };
    // By name: far comes before near.
    assert_eq!(behind("").await, [0, 600]);
    let [far, near] = behind("spill.above = \"70%\"").await[..] else { panic!("two localities") };
    assert!(far > 30 && near > 400, "{far} went on from a locality of 70 for 60");
}

#[tokio::test]
async fn load_repeats_clients_and_equal_seeds_repeat_runs() {
    let workspace = in_workspace(&tied_and_behind(), 4_000);
    let run = async |load: &str, seed: &str| {
        simulated(&workspace, &[&CLIENTS[..], &["--load", load, "--seed", seed]].concat()).await
    };
    let (report, again, other) = (run("1.5x", "7").await, run("1.5x", "7").await, run("1.5x", "8").await);
    assert_eq!(report, again);
    assert_ne!(arrivals(&report, 0), arrivals(&other, 0));
    assert!(report["clients"].as_u64().unwrap().abs_diff(6_000) < 160, "{}", report["clients"]);
    let half = run("0.5x", "7").await;
    assert!(half["clients"].as_u64().unwrap().abs_diff(2_000) < 160, "{}", half["clients"]);
}

#[tokio::test]
async fn clients_that_are_made_up_go_to_what_is_near_and_the_round_trip_is_predicted() {
    let (near, far) = (endpoint(1, ""), endpoint(2, ""));
    let places = [("frankfurt", "location = [50.11, 8.68]", &*near), ("virginia", "location = [38.9, -77.4]", &*far)];
    let workspace = in_workspace(&config("", &places), 1);
    let crowd = ["--generate", "20000", "--countries", "DE=70,38.9/-77.4=30", "--rate", "100/s", "--lifetime", "1m"];
    let report = simulated(&workspace, &crowd).await;
    let arrivals = arrivals(&report, 0);
    // Five standard deviations of 20 000 draws of 30 %.
    assert!(arrivals[1].abs_diff(6_000) < 325, "{arrivals:?}");
    let cluster = &report["runs"][0]["clusters"][0];
    // To the edge in Frankfurt and on: Frankfurt stands beside it, and Virginia is 6 500 km away, there and back again.
    let prior = |km: f64| km / 100.0 * 1.6 + 2.0;
    let median = |nth: usize| cluster["localities"][nth]["rtt_ms"]["p50"].as_f64().unwrap();
    assert!((median(0) - (prior(144.0) + prior(0.0))).abs() < 2.0, "{}", median(0));
    assert!((median(1) - 2.0 * prior(6_530.0)).abs() < 4.0, "{}", median(1));
    assert_eq!(cluster["rtt_unknown"], 0);
}

#[tokio::test]
async fn clients_that_are_made_up_can_be_written_down_and_come_again_from_the_file() {
    let (near, far) = (endpoint(1, ""), endpoint(2, ""));
    let places = [("frankfurt", "location = [50.11, 8.68]", &*near), ("virginia", "location = [38.9, -77.4]", &*far)];
    let workspace = in_workspace(&config("", &places), 1);
    let crowd = ["--generate", "3000", "--countries", "DE=70,38.9/-77.4=30", "--lifetime", "1m"];
    let made_up = simulated(&workspace, &[&crowd[..], &["--trace-out", "crowd.ndjson"]].concat()).await;
    let read = simulated(&workspace, &["--clients", "crowd.ndjson"]).await;
    assert_eq!(read["lines"], json!({ "clients": 3000, "skipped": 0, "broken": 0 }));
    assert_eq!(arrivals(&read, 0), arrivals(&made_up, 0));
    let round_trips = |report: &Value| report["runs"][0]["clusters"][0]["rtt_ms"].clone();
    assert_eq!(round_trips(&read), round_trips(&made_up), "they stand where they stood");
    let lines = std::fs::read_to_string(workspace.path("crowd.ndjson")).unwrap();
    assert!(lines.contains("\"country\":\"DE\"") && lines.contains("\"location\":[38.9,-77.4]"), "{lines:.300}");
    let finished = simulate(&workspace, &[&crowd[..], &["--trace-out", "no/where"]].concat()).await;
    assert_eq!(finished.code(), 1);
    assert!(finished.stderr.contains("no/where cannot be written"), "{}", finished.stderr);
}

#[tokio::test]
async fn who_moves_between_two_configurations_is_a_table() {
    let workspace = in_workspace(&tied_and_behind(), 1_000);
    let moved = tied_and_behind().replace("priority = 1", "priority = 9").replace("priority = 0", "priority = 10");
    workspace.write("new.toml", moved).unwrap();
    let report = simulated(&workspace, &[&CLIENTS[..], &["--against", "new.toml"]].concat()).await;
    assert_eq!(arrivals(&report, 1), [0, 0, 1_000]);
    let moves = &report["moves"];
    assert_eq!((&moves["clients"], &moves["moved"], &moves["share"]), (&json!(1_000), &json!(1_000), &json!(1.0)));
    let rows = moves["localities"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["clients"].as_u64().unwrap()).sum::<u64>(), 1_000);
    assert!(rows.iter().all(|row| row["to"] == "im/z"), "{rows:?}");
    let same = simulated(&workspace, &[&CLIENTS[..], &["--against", CONFIG]].concat()).await;
    assert_eq!((&same["moves"]["moved"], &same["moves"]["other_endpoint"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn the_access_log_of_an_edge_is_a_trace() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_with("", "", &[endpoint.address()])).await;
    for _ in 0..3 {
        let mut client = RawClient::connect(edge.address("im")).await.unwrap();
        client.send(b"hello").await.unwrap();
        client.read_exact(5).await.unwrap();
    }
    let lines = edge.wait_for_lines(3).await;
    // A line that is about no client stands in many logs.
    let log = lines.iter().map(|line| format!("{line}\n")).collect::<String>() + "{\"event\":\"ready\"}\n";
    edge.workspace.write("copied.log", log).unwrap();
    let report = simulated(&edge.workspace, &["--clients", "copied.log"]).await;
    assert_eq!(report["lines"], json!({ "clients": 3, "skipped": 1, "broken": 0 }));
    assert_eq!(arrivals(&report, 0), [3]);
    let endpoints = &report["runs"][0]["clusters"][0]["localities"][0]["endpoints"];
    assert_eq!(endpoints[0]["address"], endpoint.address().to_string());
}

#[tokio::test]
async fn routes_decide_where_a_request_of_a_trace_goes() {
    let text = "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
        [[listeners.web.routes]]\npath-prefix = \"/ws\"\ncluster = \"im\"\n\
        [[listeners.web.routes]]\nhost = \"api.test\"\ncluster = \"api\"\n\
        [clusters.im.localities.here]\nendpoints = [{ address = \"10.1.0.1:1\" }]\n\
        [clusters.api.localities.here]\nendpoints = [{ address = \"10.1.0.2:1\" }]\n";
    let workspace = in_workspace(text, 0);
    let trace = "{\"time_ms\":1,\"seconds\":1,\"kind\":\"upgrade\",\"listener\":\"web\",\"host\":\"im.test\",\"path\":\"/ws/a\"}\n\
        {\"time_ms\":2,\"seconds\":1,\"kind\":\"request\",\"listener\":\"web\",\"host\":\"api.test\",\"path\":\"/x\"}\n\
        {\"time_ms\":3,\"seconds\":1,\"kind\":\"request\",\"listener\":\"web\",\"host\":\"other.test\",\"path\":\"/x\"}\n\
        {\"time_ms\":4,\"seconds\":1,\"kind\":\"request\",\"listener\":\"gone\",\"cluster\":\"api\"}\n";
    workspace.write("trace.ndjson", trace).unwrap();
    let report = simulated(&workspace, &CLIENTS).await;
    let run = &report["runs"][0];
    let clients = |nth: usize| (run["clusters"][nth]["name"].clone(), run["clusters"][nth]["clients"].clone());
    assert_eq!(clients(0), (json!("api"), json!(2)));
    assert_eq!(clients(1), (json!("im"), json!(1)));
    assert_eq!(run["unrouted"], 1);
}

#[tokio::test]
async fn the_picture_is_xml_with_a_curve_and_a_name_for_each_locality() {
    let workspace = in_workspace(&tied_and_behind(), 300);
    let finished = simulate(&workspace, &[&CLIENTS[..], &["--svg", "picture.svg"]].concat()).await;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let svg = std::fs::read_to_string(workspace.path("picture.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""), "{svg}");
    assert_eq!(svg.matches("<polygon").count(), 3);
    for name in [">a<", ">b<", ">z<", ">10.1.0.3:5222<", ">connections<", ">time since the first client<"] {
        assert!(svg.contains(name), "{name} is not in {svg}");
    }
    well_formed(&svg);
}

/// Every element is closed in its order, and no text has a bare `&`.
fn well_formed(xml: &str) {
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').unwrap();
        for entity in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{text}");
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
            (Some(name), _) => assert_eq!(open.pop(), Some(name), "in its order"),
            (_, None) => open.push(tag.split(' ').next().unwrap()),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test]
async fn mistakes_are_told_and_have_their_exit_codes() {
    let workspace = in_workspace(&tied_and_behind(), 10);
    let check = async |arguments: &[&str], code: i32, said: &str| {
        let finished = simulate(&workspace, arguments).await;
        assert_eq!(finished.code(), code, "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{arguments:?}: {}", finished.stderr);
    };
    check(&[], 2, "--clients").await;
    check(&[&CLIENTS[..], &["--fail", "@"]].concat(), 2, "names no locality").await;
    check(&[&CLIENTS[..], &["--load", "0"]].concat(), 2, "must be 0.001x to 1000x").await;
    check(&[&CLIENTS[..], &["--fail", "q"]].concat(), 2, "`q`; there are: im/a, im/b, im/z").await;
    let ages = ["--generate", "100000", "--rate", "0.001/s"];
    check(&ages, 2, "days, and at most 400 are simulated: generate fewer of them or raise --rate").await;
    let never = ["--generate", "10", "--rate", "0.00000000000000000001/s"];
    check(&never, 2, "must be at least 0.05/h").await;
    check(&[&CLIENTS[..], &["--rate", "10/s"]].concat(), 2, "cannot be used with").await;
    check(&["--clients", "gone"], 1, "gone cannot be opened").await;
    workspace.write("wrong.toml", "nonsense = 1\n").unwrap();
    check(&[&CLIENTS[..], &["--against", "wrong.toml"]].concat(), 3, "wrong.toml:1:1: error: unknown key").await;

    let some = trace(3) + "{\"time_ms\":5000}\n";
    workspace.write("some.ndjson", some).unwrap();
    check(&["--clients", "some.ndjson"], 0, "some.ndjson:4: error: `seconds` is missing").await;
    workspace.write("many.ndjson", "?\n".repeat(30)).unwrap();
    check(&["--clients", "many.ndjson"], 1, "more than 10 lines are broken, the last one read is line 11").await;
    workspace.write("none.ndjson", "").unwrap();
    check(&["--clients", "none.ndjson"], 1, "there are no clients").await;
}

/// One line in seconds among milliseconds made a run of 1.7 thousand million ticks, which nobody waits for.
#[tokio::test]
async fn a_time_that_cannot_be_one_of_this_trace_is_told_with_its_line() {
    let workspace = in_workspace(&tied_and_behind(), 0);
    let line = |time_ms: u64| format!("{{\"time_ms\":{time_ms},\"seconds\":1}}\n");
    let odd = [1_764_028_800_000, 1_764_028_801_000, 1_764_028_802, 1_764_028_803_000].map(line).concat();
    workspace.write("trace.ndjson", odd).unwrap();
    let said = "trace.ndjson:3 is 20396 days before the latest, trace.ndjson:4: a trace spans 400 days at most, and \
                `time_ms` is in milliseconds since 1970";
    let finished = simulate(&workspace, &CLIENTS).await;
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
}

#[tokio::test]
async fn seconds_in_which_nothing_can_happen_are_jumped_over() {
    let workspace = in_workspace(&tied_and_behind(), 0);
    let year = 365 * 86_400_000_u64;
    let line = |time_ms: u64| format!("{{\"time_ms\":{time_ms},\"seconds\":60}}\n");
    workspace.write("trace.ndjson", [0, 1_000, year / 2, year].map(line).concat()).unwrap();
    let fails = ["--fail", "a@100d..200d", "--fail", "b@100d..200d"];
    let report = simulated(&workspace, &[&CLIENTS[..], &fails].concat()).await;
    let (before, during) = (arrivals(&report, 0)[..2].iter().sum::<u64>(), arrivals(&report, 0)[2]);
    assert_eq!((before, during), (3, 1), "only the client of the half year comes while both are down");
    let connections = report["runs"][0]["clusters"][0]["localities"][2]["connections"].as_array().unwrap();
    assert!((400..=402).contains(&connections.len()), "{} points of the curve", connections.len());
}

/// The blocks of a page in one language, without the fences.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn every_command_of_the_page_runs() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulate.md");
    let page = std::fs::read_to_string(page).unwrap();
    let workspace = Workspace::new().unwrap();
    let [edge, new] = blocks(&page, "toml")[..] else { panic!("two configurations are shown") };
    workspace.write("edge.toml", edge).unwrap();
    workspace.write("new.toml", new).unwrap();
    workspace.write("trace.ndjson", blocks(&page, "json")[0]).unwrap();
    let mut ran = 0;
    for command in blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
        let words = command.split(' ').map(|word| word.trim_matches('"')).skip(1);
        let launch = words.fold(warbler([]), |launch, word| launch.arg(word));
        let finished = Process::run(&workspace, launch, SOON).await.unwrap();
        assert_eq!(finished.code(), 0, "{command}: {}", finished.stderr);
        ran += 1;
        if command.ends_with("new.toml") && command.starts_with("warbler diff") {
            let shown = blocks(&page, "text")[0];
            assert!(shown.starts_with(&finished.stdout), "{shown}\nis not\n{}", finished.stdout);
        }
    }
    assert_eq!(ran, 7);
    assert!(workspace.path("edge.svg").exists());
}
