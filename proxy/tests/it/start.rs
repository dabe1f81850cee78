//! What a start says when it cannot be, and what the process leaves behind.

use std::time::Duration;

use bench::harness::{Process, Workspace};

use crate::edge::{CONFIG, Edge, complete, run, warbler};

const WITHIN: Duration = Duration::from_secs(30);

const ONE_LISTENER: &str = r#"
[listeners.im]
bind = ["127.0.0.1:0"]
protocol = "tcp"
cluster = "im"

[clusters.im.localities.here]
endpoints = [{ address = "127.0.0.1:9" }]
"#;

async fn refused(config: &str) -> String {
    let workspace = Workspace::new().unwrap();
    workspace.write(CONFIG, complete(config)).unwrap();
    let finished = Process::run(&workspace, run(), WITHIN).await.unwrap();
    assert_eq!(finished.code(), 3, "{}", finished.stderr);
    assert_eq!(finished.stdout, "", "no ready line");
    assert!(!workspace.path("run/warbler.sock").exists(), "no socket is left behind");
    finished.stderr
}

#[tokio::test]
async fn a_wrong_configuration_exits_with_3_and_every_problem_with_its_place() {
    let report = refused(&ONE_LISTENER.replace("cluster = \"im\"", "cluster = \"in\"\nbakclog = 3")).await;
    assert!(report.contains("edge.toml:5:11: error: no cluster is named `in`"), "{report}");
    assert!(report.contains("edge.toml:6:1: error"), "{report}");
    assert!(report.contains("2 problems; nothing was started"), "{report}");
}

#[tokio::test]
async fn a_missing_configuration_exits_with_3_and_names_the_file() {
    let workspace = Workspace::new().unwrap();
    let finished = Process::run(&workspace, run(), WITHIN).await.unwrap();
    assert_eq!(finished.code(), 3, "{}", finished.stderr);
    assert!(finished.stderr.contains(CONFIG), "{}", finished.stderr);
}

#[tokio::test]
async fn an_address_in_use_exits_with_3_and_names_listener_and_address() {
    for workers in [1, 2] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let config = ONE_LISTENER.replace("127.0.0.1:0", &address.to_string());
        let report = refused(&format!("{config}\n[edge]\nworkers = {workers}\n")).await;
        assert!(report.contains(&format!("listener `im` cannot listen on {address}")), "{report}");
    }
}

#[tokio::test]
async fn an_address_of_another_edge_is_in_use_too() {
    let first = Edge::start(ONE_LISTENER).await;
    let address = first.address("im");
    let report = refused(&ONE_LISTENER.replace("127.0.0.1:0", &address.to_string())).await;
    assert!(report.contains(&format!("cannot listen on {address}")), "{report}");
}

#[tokio::test]
async fn an_admin_address_in_use_exits_with_3() {
    let first = Edge::start(ONE_LISTENER).await;
    let admin = first.admin();
    let report = refused(&format!("{ONE_LISTENER}\n[admin]\nbind = [\"{admin}\"]\n")).await;
    assert!(report.contains(&format!("admin cannot listen on {admin}")), "{report}");
}

#[tokio::test]
async fn a_missing_certificate_exits_with_3_and_names_its_file() {
    let tls = "cluster = \"im\"\ntls.certificates = [{ chain = \"tls/no.pem\", key = \"tls/no.key\" }]";
    let report = refused(&ONE_LISTENER.replace("cluster = \"im\"", tls)).await;
    assert!(report.contains("tls/no.pem") && report.contains("tls/no.key"), "{report}");
}

#[tokio::test]
async fn a_wrong_command_line_exits_with_2() {
    let workspace = Workspace::new().unwrap();
    for arguments in [["run", "--confg"], ["fly", "away"]] {
        let finished = Process::run(&workspace, warbler(arguments), WITHIN).await.unwrap();
        assert_eq!(finished.code(), 2, "{}", finished.stderr);
        assert!(finished.stderr.contains("Usage"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn a_socket_of_an_edge_that_died_is_replaced_and_that_of_a_living_one_is_not() {
    let mut first = Edge::start(ONE_LISTENER).await;
    let report = refused_in(&first.workspace, ONE_LISTENER).await;
    assert!(report.contains("another process answers on it"), "{report}");
    first.process.kill().unwrap();
    assert!(first.socket().exists(), "a killed process leaves its socket");
    let second = Process::start(&first.workspace, run()).await.unwrap();
    assert!(second.ready()["pid"].is_u64());
    assert_eq!(first.ask_reload().await.status, 200);
}

async fn refused_in(workspace: &Workspace, config: &str) -> String {
    workspace.write("second.toml", complete(config)).unwrap();
    let launch = warbler(["run", "--config", "second.toml"]);
    let finished = Process::run(workspace, launch, WITHIN).await.unwrap();
    assert_eq!(finished.code(), 3, "{}", finished.stderr);
    finished.stderr
}
