//! `warbler-bench load` as people and scripts meet it, against real servers.
//!
//! Needs `warbler-im` beside `warbler-bench`, as `./check` builds it.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use bench::{
    harness::{Finished, HttpStub, Launch, Process, Workspace, eventually, reserve_port},
    im::{Secret, Server},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

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
        "--patience",
        "3s",
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
    load.wait_for_log("12 connected", LONG).await.unwrap();
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
    // By five processes, of which each has one connection, it is the same load. Once four fifths of it were gone.
    let arguments = ["--users", "5", "--processes", "5", "--rate", "200", "--time", "2s", "--json", &file];
    let done = run(&[&["--to", &to, "--over", "http"][..], &arguments].concat()).await;
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
    assert!(!done.stdout.contains("within 0.00 ms"), "the load's lateness is measured: {}", done.stdout);
}

#[tokio::test]
async fn parts_of_different_size_have_their_share_of_what_is_due() {
    let place = Place::new().await;
    // 20 users in one process and 4 in the other: each says as much.
    let arguments = ["--users", "24", "--group", "20", "--processes", "2", "--rate", "120", "--time", "2s"];
    let done = place.load(&[&arguments[..], &["--json", "a.json"]].concat()).await;
    assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
    let counts = place.json("a.json")["tally"]["counts"].clone();
    assert_eq!((&counts["due"], &counts["acknowledged"]), (&240.into(), &240.into()));
    // Whoever did not follow its room yet got the first ones by asking.
    assert_eq!(counts["strayed"], 0);
    assert!(counts["pushed"].as_u64() <= counts["pushes_expected"].as_u64(), "{counts}");
}

#[tokio::test]
async fn a_part_that_cannot_be_done_is_said_and_nothing_hangs() {
    let place = Place::new().await;
    let arguments = ["--users", "2", "--group", "2", "--rate", "5", "--time", "1s", "--json", "a.json"];
    assert_eq!(place.load(&arguments).await.code(), 0);
    // A child whose parent waits for it: it says what is wrong, and ends although it is not told to.
    let mut plan = place.json("a.json")["plan"].clone();
    plan["over"] = "http-tls".into();
    let orders = json!({ "plan": plan, "secret": "s", "part": { "number": 0, "of": 1 } });
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_warbler-bench"))
        .arg("load-part")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    input.write_all(format!("{orders}\ngo\n").as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it ends");
    ended.unwrap();
    let mut told = String::new();
    BufReader::new(output).read_to_string(&mut told).await.unwrap();
    assert!(told.contains("\"failed\":\"TLS needs the authority"), "{told}");
    drop(input);
    // Users who are in one room do not fit into what a process may open. Once that was found by the child alone.
    let to = place.server.address.to_string();
    let arguments = ["--to", &to, "--secret-file", &place.secret, "--users", "100", "--group", "100"];
    let few = launch(&arguments).through("sh", &["-c", "ulimit -n 250; exec \"$0\" \"$@\""]);
    let done = Process::run(&place.workspace, few, Duration::from_secs(20)).await.unwrap();
    assert!(done.code() == 1 && done.stderr.contains("would have 100 of 100 users"), "{}", done.stderr);
}

#[tokio::test]
async fn a_target_that_answers_nothing_is_no_success() {
    let workspace = Workspace::new().unwrap();
    let gone = format!("127.0.0.1:{}", reserve_port().unwrap());
    let arguments = ["--over", "http", "--to", &gone, "--time", "1s", "--patience", "1s"];
    let done = Process::run(&workspace, launch(&arguments), LONG).await.unwrap();
    assert_eq!(done.code(), 1, "{}", done.stdout);
    assert!(done.stderr.contains("none of 100 was answered"), "{}", done.stderr);
    assert!(done.stdout.contains("100 failed"), "the report is there all the same: {}", done.stdout);
    // A report that cannot be written is said at once, and not when all is done.
    let arguments = ["--over", "http", "--to", &gone, "--time", "60s", "--json", "a.json", "--html", "gone/a.html"];
    let start = Instant::now();
    let done = Process::run(&workspace, launch(&arguments), LONG).await.unwrap();
    assert!(done.code() == 1 && done.stderr.contains("cannot write gone/a.html"), "{}", done.stderr);
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn what_is_wrong_is_found_before_anything_is_sent() {
    let workspace = Workspace::new().unwrap();
    let late = workspace.write("late.csv", "1e30,203.0.113.7,request\n").unwrap().display().to_string();
    let two = workspace.write("two.csv", "0,203.0.113.7,request\n0,203.0.113.8,request\n").unwrap();
    let two = two.display().to_string();
    for (wrong, said) in [
        (&["--trace", &*late][..], "line 1: \"1e30\" is later than the 3600 s"),
        (&["--trace", &*two, "--processes", "3"], "split over 2 processes at most"),
        (&["--sources", "fd00::/64"], "of the other family"),
    ] {
        let done = run(&[&["--to", "127.0.0.1:1", "--over", "http"], wrong].concat()).await;
        assert_eq!((done.code(), &*done.stdout), (1, ""), "{wrong:?}: {}", done.stderr);
        assert!(done.stderr.contains(said), "{wrong:?}: {}", done.stderr);
    }
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
        (&["--to", "127.0.0.1:1", "--over", "http", "--rate", "1e-300"], "nothing would be due"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--path", "a b"], "is no path"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--patience", "0s"], "--patience is from"),
        (&["--to", "127.0.0.1:1", "--over", "http", "--back-off", "0s"], "--back-off is at least"),
        (&["--to", "127.0.0.1:1", "--secret-file", "x", "--users", "20", "--processes", "3"], "split over: 2"),
        (
            &[
                "--to",
                "127.0.0.1:1",
                "--secret-file",
                "x",
                "--over",
                "tcp",
                "--countries",
                "DE",
                "--geoip",
                "x",
                "--announce",
                "X-Forwarded-For",
            ],
            "over TCP there are no fields",
        ),
        (&["--to", "127.0.0.1:1", "--secret-file", "x", "--arrivals", "0.001"], "take longer to arrive"),
        (&["--to", "127.0.0.1:1", "--secret-file", "x", "--arrivals", "1e-300"], "take longer to arrive"),
        (&["--to", "127.0.0.1:1", "--secret-file", "x", "--sessions", "0s", "--away", "0s"], "--sessions is at least"),
        (&["--to", "127.0.0.1:1", "--secret-file", "x", "--body", "7"], "--body of a message is at least 8"),
    ] {
        let done = run(wrong).await;
        assert_eq!((done.code(), &*done.stdout), (2, ""), "{wrong:?}: {}", done.stderr);
        assert!(done.stderr.contains(said), "{wrong:?}: {}", done.stderr);
    }
}
