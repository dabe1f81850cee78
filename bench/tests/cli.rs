//! The binary `warbler-bench` as people and scripts meet it.

use std::{fs, path::Path, time::Duration};

use bench::{
    harness::{EchoTcp, Finished, Launch, Process, RawClient, Signal, Workspace},
    output,
};

const SOON: Duration = Duration::from_secs(20);

fn launch(arguments: &[&str]) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_warbler-bench")).args(arguments)
}

async fn run(workspace: &Workspace, arguments: &[&str]) -> Finished {
    Process::run(workspace, launch(arguments), Duration::from_secs(120)).await.expect("the program runs to its end")
}

#[tokio::test]
async fn a_wrong_command_line_is_told_from_a_failure() {
    let workspace = Workspace::new().unwrap();
    assert_eq!(run(&workspace, &["--version"]).await.code(), 0);
    for wrong in [
        &["serve"][..],
        &["serve", "--kind", "smtp"],
        &["wan", "--to", "127.0.0.1:1", "--delay", "40"],
        &["nonsense"],
        &[],
    ] {
        let done = run(&workspace, wrong).await;
        assert_eq!(done.code(), 2, "{wrong:?}: {}", done.stderr);
        assert_eq!(done.stdout, "");
    }
    let done = run(&workspace, &["serve", "--kind", "http", "--bind", "192.0.2.1:0"]).await;
    assert_eq!(done.code(), 1);
    assert!(done.stderr.contains("cannot listen on 192.0.2.1:0"), "{}", done.stderr);
}

#[tokio::test]
async fn a_relay_and_an_endpoint_say_where_they_are_and_stop_when_asked() {
    let workspace = Workspace::new().unwrap();
    let mut endpoint = Process::start(&workspace, launch(&["serve", "--kind", "tcp-echo"])).await.unwrap();
    let to = endpoint.address("listen", 0).unwrap().to_string();
    let mut relay = Process::start(&workspace, launch(&["wan", "--to", &to, "--delay", "10ms"])).await.unwrap();
    let mut client = RawClient::connect(relay.address("listen", 0).unwrap()).await.unwrap();
    let start = std::time::Instant::now();
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
    assert!(start.elapsed() >= Duration::from_millis(20));
    for process in [&mut endpoint, &mut relay] {
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(0));
        assert_eq!(process.stdout_lines().len(), 1, "one line of data: {:?}", process.stdout_lines());
    }
}

#[tokio::test]
async fn a_comparison_of_nothing_fails_and_says_so() {
    let workspace = Workspace::new().unwrap();
    let nowhere = ["compare", "--warbler", "/nowhere/a", "--nginx", "/nowhere/b", "--haproxy", "/nowhere/c"];
    let done = run(&workspace, &nowhere).await;
    assert_eq!((done.code(), done.stdout.as_str()), (1, ""));
    for name in ["warbler", "nginx", "HAProxy"] {
        assert!(done.stderr.contains(&format!("LEFT OUT: {name}")), "{}", done.stderr);
    }
}

#[tokio::test]
async fn a_file_that_cannot_take_the_report_is_refused_before_anything_is_measured() {
    let workspace = Workspace::new().unwrap();
    let file = workspace.write("notes.md", "mine\n").unwrap();
    let done = run(&workspace, &["compare", "--write", file.to_str().unwrap()]).await;
    assert_eq!(done.code(), 1);
    assert!(done.stderr.contains("has no section to write into") && !done.stderr.contains("round"), "{}", done.stderr);
    assert_eq!(fs::read_to_string(file).unwrap(), "mine\n");
}

/// Needs a peer and two cores; says so where one of them is missing.
#[tokio::test]
async fn a_small_comparison_measures_the_peers_that_are_there() {
    let peers = ["/usr/sbin/nginx", "/usr/sbin/haproxy"];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 || !peers.iter().any(|peer| Path::new(peer).exists()) {
        output::talk(format!("NOT TESTED: no comparison with {cores} cores and without {peers:?}"));
        return;
    }
    let workspace = Workspace::new().unwrap();
    let small = [
        "compare",
        "--rounds",
        "1",
        "--connections",
        "50",
        "--messages",
        "2000",
        "--requests",
        "2000",
        "--active",
        "20",
    ];
    let files = ["--warbler", "/nowhere", "--save", "raw.json", "--write", "performance.md"];
    let done = run(&workspace, &[&small[..], &files].concat()).await;
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert!(done.stdout.contains("| user memory per idle TCP tunnel |"), "{}", done.stdout);
    let written = fs::read_to_string(workspace.path("performance.md")).unwrap();
    assert!(written.contains("# Performance") && written.contains(done.stdout.trim()), "{written}");
    let raw: serde_json::Value = serde_json::from_slice(&fs::read(workspace.path("raw.json")).unwrap()).unwrap();
    let samples = raw["samples"].as_array().unwrap();
    assert!(samples.len() >= 4 && samples.iter().all(|sample| sample["value"].as_f64().unwrap() > 0.0), "{samples:?}");
}

#[tokio::test]
async fn a_relay_to_a_place_that_comes_later_works_then() {
    let workspace = Workspace::new().unwrap();
    let mut place = EchoTcp::start().await.unwrap();
    place.stop().await;
    let to = place.address().to_string();
    let relay = Process::start(&workspace, launch(&["wan", "--to", &to, "--delay", "1ms"])).await.unwrap();
    let way = relay.address("listen", 0).unwrap();
    assert!(RawClient::connect(way).await.unwrap().read_exact(1).await.is_err());
    place.restart().await.unwrap();
    let mut client = RawClient::connect(way).await.unwrap();
    client.send(b"x").await.unwrap();
    assert_eq!(client.read_exact(1).await.unwrap(), b"x");
}
