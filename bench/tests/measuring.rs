//! `compare` and `growth` over real proxies, each row as small as it can be: whether it works, not what it says.
//!
//! Needs two cores and what is measured; says so where something is missing.

use std::{fs, path::Path, time::Duration};

use bench::{
    harness::{Finished, Launch, Process, Workspace},
    output,
};
use serde_json::Value;

const PEERS: [(&str, &str); 2] = [("nginx", "/usr/sbin/nginx"), ("HAProxy", "/usr/sbin/haproxy")];
const SMALL: &str = "--messages 200 --requests 200 --active 20 --new-connections 40";

async fn run(workspace: &Workspace, arguments: &str) -> Finished {
    let launch = Launch::new(env!("CARGO_BIN_EXE_warbler-bench")).args(arguments.split_whitespace());
    let done = Process::run(workspace, launch, Duration::from_secs(200)).await.expect("the program runs to its end");
    assert_eq!(done.code(), 0, "{}", done.stderr);
    done
}

/// The proxies that can be measured here; none where a measurement is not possible at all.
fn proxies() -> Vec<&'static str> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        output::talk("NOT TESTED: a measurement needs two cores");
        return Vec::new();
    }
    let mut found: Vec<&str> =
        PEERS.iter().filter(|(_, path)| Path::new(path).exists()).map(|(name, _)| *name).collect();
    if Path::new(env!("CARGO_BIN_EXE_warbler-bench")).with_file_name("warbler").exists() {
        found.push("warbler");
    }
    for name in ["warbler", "nginx", "HAProxy"].iter().filter(|name| !found.contains(name)) {
        output::talk(format!("NOT TESTED: {name}, which is not here"));
    }
    found
}

/// Compares these rows, and looks for every proxy and every row in everything that is written.
async fn check(measures: &str, rows: &[&str], sizes: &str) {
    let proxies = proxies();
    if proxies.is_empty() {
        return;
    }
    let workspace = Workspace::new().expect("a directory");
    let files = "--save raw.json --svg compare.svg --write performance.md";
    let done = run(&workspace, &format!("compare --rounds 1 --only {measures} {SMALL} {sizes} {files}")).await;
    let read = |name| fs::read_to_string(workspace.path(name)).expect("a file that was written");
    let raw: Value = serde_json::from_str(&read("raw.json")).expect("JSON");
    let samples = raw["samples"].as_array().expect("samples");
    let (written, picture) = (read("performance.md"), read("performance/compare.svg"));
    assert_eq!(picture, read("compare.svg"));
    assert!(written.contains("](performance/compare.svg)") && written.contains("compare: end"), "{written}");
    for row in rows {
        for proxy in &proxies {
            let found = samples.iter().any(|sample| sample["row"] == *row && sample["peer"] == *proxy);
            assert!(found, "no {row} of {proxy}\n{}", done.stderr);
        }
        for text in [&done.stdout, &written] {
            assert!(text.contains(&format!("| `{row}` |")), "{row}: {text}");
        }
        assert!(picture.contains(&format!(">{row} ")), "{row}: {picture}");
        assert!(done.stderr.contains(&format!(" round 1/1 {row} ")), "{}", done.stderr);
    }
}

#[tokio::test]
async fn every_row_about_idle_tunnels_is_measured() {
    let rows = ["idle/tcp", "idle/websocket", "idle/tls", "idle/websocket-tls"];
    check("idle", &rows, "--connections 50").await;
}

#[tokio::test]
async fn every_row_about_memory_given_back_is_measured() {
    check("given-back", &["given-back/tcp", "given-back/tls"], "--mass 50 --rest 50ms").await;
}

#[tokio::test]
async fn every_row_about_tunnels_is_measured() {
    let rows = [
        "message/tcp",
        "message/websocket",
        "message/tls",
        "message/websocket-tls",
        "connect/tcp",
        "connect/websocket",
        "connect/websocket-tls",
        "handshake-full/tls",
        "handshake-resumed/tls",
        "bulk/tcp",
        "bulk/tls",
    ];
    check("message,connect,handshake-full,handshake-resumed,bulk", &rows, "--bulk 4").await;
}

#[tokio::test]
async fn every_row_about_requests_and_latency_is_measured() {
    let rows = [
        "request/http1",
        "request/http1-tls",
        "request/http2",
        "latency/tcp",
        "latency/websocket",
        "latency/tls",
        "latency/websocket-tls",
        "latency/http1",
        "latency/http1-tls",
        "latency/http2",
    ];
    check("request,latency", &rows, "--rate 1000 --seconds 0.3").await;
}

#[tokio::test]
async fn growth_is_measured_with_reloads_going_on() {
    if !proxies().contains(&"warbler") {
        return;
    }
    let workspace = Workspace::new().unwrap();
    let sizes = "--messages 20000 --requests 6000 --new-connections 4000 --connections 200 --mass 1500 --rest 500ms \
                 --bulk 1024 --rate 2000 --seconds 1";
    let done =
        run(&workspace, &format!("growth --rounds 1 --only reloads {sizes} --save raw.json --write growth.md")).await;
    let read = |name| fs::read_to_string(workspace.path(name)).unwrap();
    assert!(read("growth.md").contains(done.stdout.trim()), "{}", done.stdout);
    for line in [
        "idle/tcp` warbler: memory",
        "message/tcp` warbler: CPU",
        "connect/tcp` warbler: CPU",
        "handshake-full/tls` warbler: CPU",
        "request/http1` warbler: CPU",
        "latency/tcp` warbler: p50",
        "latency/tcp` warbler: p99 of quiet windows",
        "latency/tcp` warbler: p99",
        "bulk/tcp` warbler: bytes by CPU second",
        "given-back/tcp` warbler: given back",
    ] {
        assert!(done.stdout.contains(&format!("| `{line} | **")), "{line}: {}", done.stdout);
    }
    let raw: Value = serde_json::from_str(&read("raw.json")).unwrap();
    assert_eq!(raw["samples"].as_array().unwrap().len(), 20);
}
