//! `warbler diff`: what differs, how many clients would go elsewhere, and whether that is too much.

use bench::harness::{Finished, Process, Workspace};
use serde_json::{Value, json};

use crate::edge::{SOON, warbler};

const OLD: &str = r#"
[listeners.im]
bind = ["127.0.0.1:0"]
protocol = "tcp"
cluster = "im"
[clusters.im]
steer = ["rules", "priority"]
[[clusters.im.rules]]
country = "DE"
localities = "fra"
[clusters.im.localities.fra]
endpoints = [{ address = "10.1.0.4:5222" }, { address = "10.1.0.5:5222" }]
[clusters.im.localities.sgp]
priority = 1
endpoints = [{ address = "10.2.0.4:5222" }]
"#;

/// A hundred clients: ninety from Germany, ten from Singapore.
fn trace() -> String {
    let country = |nth: u32| if nth.is_multiple_of(10) { "SG" } else { "DE" };
    (0..100)
        .map(|nth| format!("{{\"time_ms\":{},\"seconds\":30,\"country\":\"{}\"}}\n", nth * 500, country(nth)))
        .collect()
}

fn workspace(new: &str) -> Workspace {
    let workspace = Workspace::new().unwrap();
    workspace.write("old.toml", OLD).unwrap();
    workspace.write("new.toml", new).unwrap();
    workspace.write("trace.ndjson", trace()).unwrap();
    workspace
}

async fn diff(workspace: &Workspace, arguments: &[&str]) -> Finished {
    Process::run(workspace, warbler(["diff", "old.toml", "new.toml"]).args(arguments), SOON).await.unwrap()
}

/// Edits, each of which has to be possible.
fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(OLD.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[tokio::test]
async fn each_key_that_counts_for_something_else_is_a_line_with_its_effect() {
    let new = edited(&[
        ("\"10.1.0.4:5222\" }", "\"10.1.0.4:5222\", weight = 2 }"),
        (
            "[clusters.im]",
            "[edge]\nworkers = 3\n[drain]\nclose-wait = \"5s\"\n[clusters.im]\npanic-threshold = \"40%\"",
        ),
        (", { address = \"10.1.0.5:5222\" }", ""),
    ]);
    let workspace = workspace(&new);
    let finished = diff(&workspace, &[]).await;
    assert_eq!((finished.code(), &*finished.stderr), (0, ""));
    assert_eq!(
        finished.stdout,
        "clusters.im.localities.fra.endpoints[10.1.0.4:5222].weight  1  →  2  (live)\n\
         clusters.im.localities.fra.endpoints[10.1.0.5:5222]  removed: { address = \"10.1.0.5:5222\" }  (live)\n\
         clusters.im.panic-threshold  \"50%\"  →  \"40%\"  (live)\n\
         edge.workers  (the number of CPUs)  →  3  (start)\n\
         4 changes: 3 live, 1 start\n"
    );
    let json: Value = serde_json::from_str(&diff(&workspace, &["--json"]).await.stdout).unwrap();
    let weight = json!({
        "path": "clusters.im.localities.fra.endpoints[10.1.0.4:5222].weight",
        "kind": "changed",
        "old": 1,
        "new": 2,
        "effect": "live",
    });
    assert_eq!(json["changes"][0], weight);
    assert_eq!((&json["moves"], &json["kept"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn the_files_that_are_included_count_as_one_configuration() {
    let (listener, cluster) = OLD.split_once("[clusters.im]\n").unwrap();
    let workspace = workspace(&format!("include = [\"more/*.toml\"]\n{listener}"));
    workspace.write("more/im.toml", format!("[clusters.im]\n{cluster}")).unwrap();
    let finished = diff(&workspace, &[]).await;
    assert_eq!((finished.code(), &*finished.stdout), (0, "no change\n"), "{}", finished.stderr);
}

#[tokio::test]
async fn clients_that_would_go_elsewhere_are_counted_and_limited() {
    let workspace = workspace(&edited(&[("localities = \"fra\"", "localities = \"sgp\"")]));
    let with =
        async |limit: &str| diff(&workspace, &["--clients", "trace.ndjson", "--max-move", limit, "--json"]).await;
    let finished = with("95%").await;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    let moves = &answer["moves"];
    assert_eq!((&moves["moved"], &moves["clients"], &answer["kept"]), (&json!(90), &json!(100), &json!(true)));
    assert_eq!(moves["localities"], json!([{ "from": "im/fra", "to": "im/sgp", "clients": 90 }]));
    assert_eq!(with("90%").await.code(), 0, "as many as are allowed");
    assert_eq!(with("89.9%").await.code(), 4);
    let finished = diff(&workspace, &["--clients", "trace.ndjson", "--max-move", "5%"]).await;
    assert_eq!(finished.code(), 4);
    assert!(finished.stdout.contains("90 of 100 clients (90.00 %) have to go elsewhere"), "{}", finished.stdout);
    assert!(finished.stdout.contains("more than 5 % would move"), "{}", finished.stdout);
}

#[tokio::test]
async fn without_a_change_nobody_moves_and_a_server_that_goes_moves_its_clients() {
    let same = workspace(OLD);
    let finished = diff(&same, &["--clients", "trace.ndjson", "--max-move", "0%"]).await;
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert!(finished.stdout.contains("0 of 100 clients"), "{}", finished.stdout);

    let replaced = workspace(&edited(&[("10.1.0.5:5222", "10.1.0.6:5222")]));
    let finished = diff(&replaced, &["--clients", "trace.ndjson", "--max-move", "20%", "--json"]).await;
    assert_eq!(finished.code(), 4, "{}", finished.stdout);
    let moved = serde_json::from_str::<Value>(&finished.stdout).unwrap()["moves"]["moved"].as_u64().unwrap();
    // All clients go to Frankfurt, about half of them to the server that is replaced.
    assert!(moved.abs_diff(50) <= 5, "{moved}");
}

#[tokio::test]
async fn a_wrong_configuration_is_named_with_its_problems() {
    let workspace = workspace("listners = 1\n");
    let finished = diff(&workspace, &[]).await;
    assert_eq!((finished.code(), &*finished.stdout), (3, ""));
    assert!(finished.stderr.contains("new.toml:1:1: error: unknown key `listners`"), "{}", finished.stderr);
    assert!(finished.stderr.contains("NEW, new.toml, is wrong"), "{}", finished.stderr);
    let missing = warbler(["diff", "gone.toml", "old.toml"]);
    let finished = Process::run(&workspace, missing, SOON).await.unwrap();
    assert_eq!(finished.code(), 3);
    assert!(finished.stderr.contains("OLD, gone.toml, is wrong"), "{}", finished.stderr);
    assert_eq!(diff(&workspace, &["--max-move", "5%"]).await.code(), 2, "a limit needs clients");
    assert_eq!(diff(&workspace, &["--clients", "trace.ndjson", "--max-move", "5"]).await.code(), 2);
}

/// It was judged by the cluster's policy for tunnels alone: clients that a rule or `request-policy` sends by key, and who
/// lost their endpoint, were taken for chance.
#[tokio::test]
async fn whoever_a_rule_or_the_policy_for_requests_sends_by_key_moves_with_the_key() {
    let moved = async |old: &str, new: &str, trace: String| -> Value {
        let workspace = workspace(new);
        workspace.write("old.toml", old).unwrap();
        workspace.write("trace.ndjson", trace).unwrap();
        let finished = diff(&workspace, &["--clients", "trace.ndjson", "--json"]).await;
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        serde_json::from_str::<Value>(&finished.stdout).unwrap()["moves"].clone()
    };
    // The same endpoints in the same locality with the same weights, and another table: nearly half of the keys change.
    let by_rule = edited(&[("localities = \"fra\"", "localities = \"fra\"\npolicy = \"maglev\"")]);
    let ring = by_rule.replace("\"maglev\"", "\"ring-hash\"");
    let moves = moved(&by_rule, &ring, trace().replace("SG", "DE")).await;
    assert_eq!(moves["moved"], moves["other_endpoint"], "{moves}");
    assert!(moves["moved"].as_u64() > Some(20), "{moves}");

    let requests = trace().replace("\"seconds\"", "\"kind\":\"request\",\"seconds\"");
    let by_requests = edited(&[("[clusters.im]", "[clusters.im]\nrequest-policy = \"maglev\"")]);
    let ring = by_requests.replace("\"maglev\"", "\"ring-hash\"");
    let moves = moved(&by_requests, &ring, requests.clone()).await;
    assert_eq!(moves["moved"], moves["other_endpoint"], "{moves}");
    assert!(moves["moved"].as_u64() > Some(20), "{moves}");

    // And a policy by load for requests, beside one by key for tunnels, makes chance of it again.
    let by_load = edited(&[("[clusters.im]", "[clusters.im]\npolicy = \"maglev\"\nrequest-policy = \"p2c\"")]);
    let moves = moved(&by_load, &by_load.replace("\"p2c\"", "\"random\""), requests).await;
    assert_eq!(moves["moved"], 0, "{moves}");
}
