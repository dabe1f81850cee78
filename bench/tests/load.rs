//! `warbler-bench load` as people and scripts meet it, against real servers.
//!
//! Needs `warbler-im` beside `warbler-bench`, as `./check` builds it.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bench::{
    harness::{Finished, HttpStub, Launch, Process, Workspace, eventually, reserve_port},
    im::{Secret, Server},
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(120);

struct Place {
    workspace: Workspace,
    server: Server,
    secret: String,
}

impl Place {
    async fn new() -> Self {
        let workspace = Workspace::new().expect("a directory");
        let file = workspace.write("jwt.secret", Secret::random().reveal()).expect("a file");
        let address = SocketAddr::from(([127, 0, 0, 1], reserve_port().expect("a port")));
        let server = Server::start(&workspace, "frankfurt-1", address, &file, &[]).await.expect("a server");
        Self { workspace, server, secret: file.display().to_string() }
    }

    fn launch(&self, arguments: &[&str]) -> Launch {
        let to = self.server.address.to_string();
        launch(&["--to", &to, "--secret-file", &self.secret]).args(arguments)
    }

    async fn load(&self, arguments: &[&str]) -> Finished {
        Process::run(&self.workspace, self.launch(arguments), LONG).await.expect("the load runs to its end")
    }

    fn json(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.workspace.path(name)).expect("a report");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn launch(arguments: &[&str]) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_warbler-bench")).arg("load").args(arguments)
}

async fn run(arguments: &[&str]) -> Finished {
    let workspace = Workspace::new().expect("a directory");
    Process::run(&workspace, launch(arguments), LONG).await.expect("the program runs to its end")
}

#[tokio::test]
async fn people_talk_at_the_rate_that_was_asked_for_and_every_promise_is_kept() {
    let place = Place::new().await;
    let arguments = [
        "--users",
        "24",
        "--group",
        "6",
        "--rate",
        "100",
        "--rate-to",
        "300",
        "--time",
        "3s",
        "--processes",
        "2",
        "--sessions",
        "2s",
        "--away",
        "300ms",
        "--back-off",
        "100ms",
        "--json",
        "a.json",
        "--html",
        "a.html",
    ];
    let done = place.load(&arguments).await;
    assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("Every promise was kept: 600 messages"), "{}", done.stdout);
    let report = place.json("a.json");
    let counts = &report["tally"]["counts"];
    assert_eq!((&counts["due"], &counts["acknowledged"], &counts["unanswered"]), (&600.into(), &600.into(), &0.into()));
    assert_eq!((&counts["broken"], &report["processes"]), (&0.into(), &2.into()));
    assert!(counts["logins"].as_u64() > Some(24), "some have gone and come back: {counts}");
    assert!(counts["pushed"].as_u64() > Some(600), "rooms have six: {counts}");
    assert_eq!(report["checked"]["verdict"]["stored"], 600);
    let page = fs::read_to_string(place.workspace.path("a.html")).unwrap();
    assert!(page.contains("<svg ") && page.contains("frankfurt"), "{page}");
    // With itself there is no difference; and what is no report is not compared.
    let path = place.workspace.path("a.json").display().to_string();
    let same = run(&["compare", &path, &path]).await;
    assert_eq!(same.code(), 0, "{}", same.stderr);
    assert!(same.stdout.contains("p99") && same.stdout.contains("too short to tell"), "{}", same.stdout);
    let other = run(&["compare", &path, &place.secret]).await;
    assert!(other.code() == 1 && other.stderr.contains("no report of `warbler-bench load`"), "{}", other.stderr);
}

#[tokio::test]
async fn a_server_that_is_killed_meanwhile_costs_time_and_no_message() {
    let mut place = Place::new().await;
    let arguments = ["--users", "12", "--rate", "50", "--time", "5s", "--back-off", "200ms", "--json", "a.json"];
    let mut load = Process::spawn(&place.workspace, place.launch(&arguments)).unwrap();
    load.wait_for_log("12 users", LONG).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    place.server.kill().unwrap();
    let Place { workspace, server, .. } = &mut place;
    server.start_again(workspace).await.unwrap();
    assert_eq!(load.wait(LONG).await.unwrap().code(), Some(0), "{}", load.stderr_text());
    let report = place.json("a.json");
    let counts = &report["tally"]["counts"];
    assert_eq!((&counts["acknowledged"], &counts["unanswered"]), (&250.into(), &0.into()));
    assert_eq!((&counts["broken"], &report["checked"]["lost"]), (&12.into(), &0.into()));
}

#[tokio::test]
async fn requests_come_at_their_rate_from_where_the_trace_says() {
    let place = Place::new().await;
    let to = place.server.address.to_string();
    let file = place.workspace.path("a.json").display().to_string();
    let done =
        run(&["--to", &to, "--over", "http", "--users", "5", "--rate", "200", "--time", "2s", "--json", &file]).await;
    assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
    let counts = place.json("a.json")["tally"]["counts"].clone();
    assert_eq!((&counts["due"], &counts["answers"]["200"]), (&400.into(), &400.into()));

    let stub = HttpStub::start("hello").await.unwrap();
    let to = stub.address().to_string();
    let trace = place.workspace.write("trace.csv", "0,203.0.113.7,request\n0.2,198.51.100.9,request\n").unwrap();
    let trace = trace.display().to_string();
    let done = run(&["--to", &to, "--over", "http", "--trace", &trace, "--json", &file]).await;
    assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
    assert_eq!((stub.requests(), &place.json("a.json")["tally"]["counts"]["answers"]["200"]), (2, &2.into()));
}

#[tokio::test]
async fn a_process_that_dies_is_told_and_the_others_end() {
    let place = Place::new().await;
    let arguments = ["--users", "24", "--rate", "50", "--time", "60s", "--processes", "2"];
    let mut load = Process::spawn(&place.workspace, place.launch(&arguments)).unwrap();
    let pid = load.pid();
    let children = eventually(LONG, "two processes of the load", async || {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let children: Vec<i32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        (children.len() == 2).then_some(children)
    });
    let children = children.await.unwrap();
    let begun = load.wait_for_log("24 connected", LONG).await;
    begun.unwrap();
    let killed = rustix::process::Pid::from_raw(children[1]).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    assert_eq!(load.wait(LONG).await.unwrap().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(30), "not at the end of the run");
    let told = load.stderr_text();
    assert!(told.contains("is gone, with its users") && told.contains("SIGKILL"), "{told}");
    let gone = eventually(LONG, "the other process has ended", async || {
        children.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)).then_some(())
    });
    gone.await.unwrap();
}

#[tokio::test]
async fn a_target_that_is_not_near_is_refused_unless_it_is_ones_own() {
    // An address for documentation (RFC 5737): nobody is there, and nothing is sent.
    let done = run(&["--to", "192.0.2.1:80", "--over", "http", "--time", "1s"]).await;
    assert_eq!(done.code(), 1);
    assert!(done.stderr.contains("--target-is-mine") && !done.stderr.contains("connections to"), "{}", done.stderr);
}

#[tokio::test]
async fn what_is_wrong_with_a_command_line_is_said() {
    for (wrong, said) in [
        (&[][..], "--to HOST:PORT is missing"),
        (&["--to", "127.0.0.1:1"], "--secret-file is missing"),
        (&["--to", "127.0.0.1:1", "--over", "http-tls"], "--authority is missing"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--time", "2000000s"], "--time is from"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--rate", "0"], "a rate above nothing"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--rate", "900000", "--time", "3000s"], "more than the"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--countries", "DE"], "--geoip"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--announce", "proxy-v2"], "nothing to tell"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--users", "2", "--processes", "3"], "more processes than users"),
    ] {
        let done = run(wrong).await;
        assert_eq!((done.code(), &*done.stdout), (2, ""), "{wrong:?}: {}", done.stderr);
        assert!(done.stderr.contains(said), "{wrong:?}: {}", done.stderr);
    }
}
