//! Short drills with the real programs: that they run to their end, that their limits are kept, and what they write.
//!
//! Need `warbler` and `warbler-im` beside `warbler-bench`, as `./check` builds them.

use std::{fs, time::Duration};

use bench::harness::{Finished, Launch, Process, Workspace};
use serde_json::Value;

async fn run(workspace: &Workspace, arguments: &[&str]) -> Finished {
    let launch = Launch::new(env!("CARGO_BIN_EXE_warbler-bench")).arg("drill").args(arguments);
    Process::run(workspace, launch, Duration::from_secs(120)).await.expect("the drill runs to its end")
}

/// Runs a drill and looks at its verdict in everything that it writes. How long messages took is not looked at: beside
/// other tests a machine may stand still for longer than any limit.
async fn check(drill: &str) -> Value {
    let workspace = Workspace::new().expect("a directory");
    let done = run(&workspace, &[drill, "--save", "drill.json", "--svg", "drill.svg"]).await;
    assert!(matches!(done.code(), 0 | 4), "{}{}", done.stdout, done.stderr);
    let verdict = if done.code() == 0 { "All limits were kept." } else { "NOT ALL LIMITS WERE KEPT." };
    assert!(done.stdout.contains(verdict), "{}", done.stdout);
    let read = |name| fs::read_to_string(workspace.path(name)).expect("a file that was written");
    assert!(read("drill.svg").contains(&format!("{drill}: 24 people, 0 messages lost, ")));
    let saved: Value = serde_json::from_str(&read("drill.json")).expect("JSON");
    let outcome = saved["drills"][0].clone();
    assert_eq!((&outcome["drill"], &outcome["messages"]["lost"]), (&drill.into(), &0.into()));
    for limit in outcome["limits"].as_array().expect("limits") {
        let of_time = limit["limit"].as_str().is_some_and(|text| text.starts_with("99 of 100 messages"));
        assert!(of_time || limit["kept"] == true, "{}", done.stdout);
    }
    assert!(outcome["messages"]["verdict"]["acknowledged"].as_u64() > Some(100), "{}", outcome["messages"]);
    assert!(outcome["latency_ms"]["before"]["p99"].as_f64() > Some(0.0), "{}", outcome["latency_ms"]);
    outcome
}

#[tokio::test]
async fn a_killed_server_costs_nobody_a_message() {
    let outcome = check("backend-killed").await;
    assert!(outcome["broken"].as_u64() > Some(0) && outcome["seconds_until_all_back"].is_number(), "{outcome:#}");
}

#[tokio::test]
async fn a_killed_edge_costs_nobody_a_message() {
    let outcome = check("edge-killed").await;
    assert!(outcome["broken"].as_u64() >= Some(24) && outcome["seconds_until_all_back"].is_number(), "{outcome:#}");
}

#[tokio::test]
async fn a_drained_server_costs_nobody_a_session() {
    let outcome = check("drain").await;
    assert!(outcome["broken"] == 0 && outcome["seconds_until_all_back"].is_number(), "{outcome:#}");
}

#[tokio::test]
async fn a_configuration_that_keeps_changing_costs_nobody_a_session() {
    let outcome = check("config-churn").await;
    assert_eq!((&outcome["broken"], &outcome["seconds_until_all_back"]), (&0.into(), &Value::Null));
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing() {
    assert_eq!(check("bad-config").await["broken"], 0);
}

#[tokio::test]
async fn a_destroyed_store_is_restored_to_the_point_of_its_backup() {
    let outcome = check("restore").await;
    assert!(outcome["seconds_until_all_back"].is_number(), "{outcome:#}");
}

#[tokio::test]
async fn drills_are_listed_and_a_wrong_name_is_answered_with_the_list() {
    let workspace = Workspace::new().unwrap();
    let listed = run(&workspace, &["list"]).await;
    assert_eq!(listed.code(), 0);
    assert!(listed.stdout.lines().any(|line| line.starts_with("reconnect-storm ")), "{}", listed.stdout);
    let wrong = run(&workspace, &["earthquake"]).await;
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr.contains("reconnect-storm"), "{}", wrong.stderr);
}
