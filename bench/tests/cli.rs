//! The binary `warbler-bench` as people and scripts meet it.

use std::{fs, time::Duration};

use bench::harness::{EchoTcp, Finished, Launch, Process, RawClient, Signal, Workspace};

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
async fn a_relay_obeys_while_it_runs_and_help_says_how() {
    let workspace = Workspace::new().unwrap();
    let help = run(&workspace, &["wan", "--help"]).await;
    assert!(help.stdout.contains("silent on|off [WAY]") && help.stdout.contains("--control"), "{}", help.stdout);
    let place = EchoTcp::start().await.unwrap();
    let to = place.address().to_string();
    let arguments = ["wan", "--to", &to, "--control", "127.0.0.1:0", "--delay", "10ms", "--loss", "0%"];
    let relay = Process::start(&workspace, launch(&arguments)).await.unwrap();
    let mut client = RawClient::connect(relay.address("listen", 0).unwrap()).await.unwrap();
    let mut control = RawClient::connect(relay.address("control", 0).unwrap()).await.unwrap();
    client.send(b"ping").await.unwrap();
    client.read_exact(4).await.unwrap();
    control.send(b"silent on\nshow\n").await.unwrap();
    assert_eq!(control.read_until(b"\n").await.unwrap(), b"ok\n");
    let shown = String::from_utf8(control.read_until(b"\n").await.unwrap()).unwrap();
    assert!(shown.starts_with("out: delay 10ms, ") && shown.ends_with("rate none, silent\n"), "{shown}");
    client.send(b"ping").await.unwrap();
    client.expect_silence(Duration::from_millis(200)).await.unwrap();
    control.send(b"silent off\n").await.unwrap();
    client.read_exact(4).await.unwrap();
    control.send(b"cut\n").await.unwrap();
    assert!(client.read_exact(1).await.is_err());
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

#[tokio::test]
async fn a_row_that_does_not_exist_is_answered_with_those_that_do() {
    let workspace = Workspace::new().unwrap();
    let done = run(&workspace, &["compare", "--only", "message/tcp,mesage"]).await;
    assert_eq!(done.code(), 2, "{}", done.stderr);
    assert!(
        done.stderr.contains("there is no \"mesage\"") && done.stderr.contains("idle/websocket-tls"),
        "{}",
        done.stderr
    );
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
