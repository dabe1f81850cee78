//! Reloads under open tunnels: what triggers them, what they may not touch, and what a wrong one does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bench::harness::ws::{self, Message};
use bench::harness::{EchoTcp, Process, RawClient, Signal, Workspace, WsEcho, eventually};
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinHandle;

use crate::edge::{CONFIG, Edge, SOON, complete, warbler};
use crate::ends::{RawEndpoint, cluster, echo_client, echoes, tcp_edge};

/// A listener and a cluster for TCP, another pair for WebSocket, and something that the tunnels have nothing to do with.
fn config(raw: &EchoTcp, web: &WsEcho, number: usize) -> String {
    format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\ntimeouts.idle = \"{}s\"\n\n\
         [listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"web\"\n\
         [[listeners.web.routes]]\npath-prefix = \"/{number}\"\ncluster = \"other\"\n\n{}\n{}\n{}",
        900 + number,
        cluster("im", &format!("connect-timeout = \"{}ms\"", 1000 + number), &[raw.address()]),
        cluster("web", "", &[web.address()]),
        cluster("other", "health.off = true", &[([127, 0, 0, 1], 1000 + u16::try_from(number).unwrap()).into()]),
    )
}

/// A tunnel with traffic both ways until it is told to stop; then says how many messages went round.
struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Traffic {
    fn new(work: impl AsyncTalk) -> Traffic {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            let mut talk = work;
            while !stopped.load(Relaxed) {
                talk.round(counted.load(Relaxed)).await;
                counted.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Traffic { stop, rounds, task }
    }

    async fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.task.await.expect("a tunnel broke");
        self.rounds.load(Relaxed)
    }
}

/// One message there and back.
trait AsyncTalk: Send + 'static {
    fn round(&mut self, number: u64) -> impl Future<Output = ()> + Send;
}

impl AsyncTalk for RawClient {
    async fn round(&mut self, number: u64) {
        echoes(self, &number.to_be_bytes()).await;
    }
}

impl AsyncTalk for ws::WebSocketStream<tokio::net::TcpStream> {
    async fn round(&mut self, number: u64) {
        self.send(Message::text(number.to_string())).await.unwrap();
        assert_eq!(self.next().await.unwrap().unwrap().as_text(), Some(&*number.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_with_traffic_both_ways_stay_open_over_200_reloads_that_change_other_things() {
    let (raw, web) = (EchoTcp::start().await.unwrap(), WsEcho::start().await.unwrap());
    let mut edge = Edge::start(&config(&raw, &web, 0)).await;
    let mut traffic = Vec::new();
    for _ in 0..3 {
        traffic.push(Traffic::new(echo_client(edge.address("im")).await));
        traffic.push(Traffic::new(ws::connect(edge.address("web"), "/ws", &[]).await.unwrap()));
    }
    for number in 1..=200 {
        assert_eq!(edge.reload(&config(&raw, &web, number)).await, 1 + number as u64);
    }
    // Two by the file alone, two by SIGHUP.
    for number in 201..=202 {
        edge.workspace.replace(CONFIG, complete(&config(&raw, &web, number))).unwrap();
        edge.wait_for_count("warbler_config_generation", &[], 1 + number as u64).await;
    }
    for number in 203..=204 {
        edge.workspace.write(CONFIG, complete(&config(&raw, &web, number))).unwrap();
        edge.process.signal(Signal::HUP).unwrap();
        edge.wait_for_count("warbler_config_generation", &[], 1 + number as u64).await;
    }
    let before: Vec<u64> = traffic.iter().map(|traffic| traffic.rounds.load(Relaxed)).collect();
    let goes_on =
        async || traffic.iter().zip(&before).all(|(now, before)| now.rounds.load(Relaxed) > *before).then_some(());
    eventually(SOON, "traffic on every tunnel after the last reload", goes_on).await.unwrap();
    let mut rounds = 0;
    for traffic in traffic {
        rounds += traffic.finish().await;
    }
    assert!(rounds >= 200, "traffic flowed meanwhile: {rounds}");
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
    let lines = edge.wait_for_lines(6).await;
    assert!(lines.iter().all(|line| line["generation"] == 1 && line["outcome"] == "client-closed"), "{lines:#?}");
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing_and_is_reported_everywhere() {
    let endpoint = EchoTcp::start().await.unwrap();
    let good = tcp_edge("", &[endpoint.address()]);
    let edge = Edge::start(&good).await;
    let mut client = echo_client(edge.address("im")).await;
    let mark = edge.process.log_mark();
    let broken = good.replace("cluster = \"im\"", "cluster = \"in\"\nbogus = 1").replace("health.off", "health.of");
    let report = edge.reload_refused(&broken).await;
    assert!(report.contains("edge.toml:4:11: error: no cluster is named `in`"), "{report}");
    assert!(report.contains("bogus") && report.contains("unknown key `of`"), "every problem at once: {report}");
    assert!(report.contains("the running config was kept"), "{report}");

    let logged = edge.process.wait_for_log_since(mark, "configuration refused", SOON).await.unwrap();
    assert!(logged.contains("\"ERROR\"") && logged.contains("no cluster is named"), "{logged}");
    assert_eq!(edge.count("warbler_config_last_reload_successful", &[]).await, 0);
    assert!(edge.count("warbler_config_reloads_total", &[("result", "refused")]).await >= 1);
    assert_eq!(edge.count("warbler_config_reloads_total", &[("result", "published")]).await, 0);
    let status = edge.status().await;
    assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&1.into(), &false.into()));
    assert!(status["last_reload"]["report"].as_str().unwrap().contains("no cluster is named `in`"), "{status}");
    assert_eq!(edge.get("/readyz").await.status, 200);
    echoes(&mut client, b"still here").await;
    drop(echo_client(edge.address("im")).await);

    // Mended by an edit, without being asked.
    edge.workspace.replace(CONFIG, complete(&good.replace("protocol", "max-connections = 9\nprotocol"))).unwrap();
    edge.wait_for_count("warbler_config_generation", &[], 2).await;
    edge.wait_for_count("warbler_config_last_reload_successful", &[], 1).await;
    let last = edge.status().await["last_reload"].clone();
    assert_eq!((&last["ok"], &last["trigger"], &last["report"]), (&true.into(), &"file".into(), &().into()));
    echoes(&mut client, b"still here").await;
}

#[tokio::test]
async fn going_back_to_what_runs_mends_a_broken_configuration_too() {
    let endpoint = EchoTcp::start().await.unwrap();
    let good = tcp_edge("", &[endpoint.address()]);
    let edge = Edge::start(&good).await;
    edge.reload_refused("[listeners").await;
    assert_eq!(edge.count("warbler_config_last_reload_successful", &[]).await, 0);
    edge.workspace.replace(CONFIG, complete(&good)).unwrap();
    edge.wait_for_count("warbler_config_last_reload_successful", &[], 1).await;
    assert_eq!(edge.generation().await, 1);
    assert_eq!(edge.status().await["last_reload"]["ok"], true);
}

#[tokio::test]
async fn a_reload_that_cannot_bind_changes_nothing() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let other = RawEndpoint::bind().await;
    let taken = other.address();
    let second = format!("[listeners.more]\nbind = [\"{taken}\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n");
    let report = edge.reload_refused(&(second + &tcp_edge("max-connections = 1", &[endpoint.address()]))).await;
    assert!(report.contains(&format!("listener `more` cannot listen on {taken}")), "{report}");
    let _both = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    assert_eq!(edge.generation().await, 1);
}

/// A configuration that differs from another only in a number.
fn numbered(endpoint: &EchoTcp, number: u64) -> String {
    tcp_edge(&format!("max-connections = {}", 100 + number), &[endpoint.address()])
}

#[tokio::test]
async fn every_trigger_leads_to_a_reload() {
    let endpoint = EchoTcp::start().await.unwrap();
    let admin = "[admin]\nbind = [\"127.0.0.1:0\"]\nsocket = \"run/warbler.sock\"\ntoken-file = \"token\"\n";
    let workspace = Workspace::new().unwrap();
    workspace.write("token", "open sesame\n").unwrap();
    let numbered = |number| complete(&format!("{}\n{admin}", numbered(&endpoint, number)));
    let mut edge = Edge::start_in(workspace, &numbered(0)).await;
    let published = async |edge: &Edge, generation: u64, trigger: &str| {
        edge.wait_for_count("warbler_config_generation", &[], generation).await;
        // A change that is asked for may be noticed by the watch first; then the question finds nothing new.
        let said = format!("\"generation\":{generation},\"trigger\":\"");
        edge.process.wait_for_log(&said, SOON).await.unwrap_or_else(|error| panic!("{trigger}: {error:#}"));
    };

    edge.workspace.replace(CONFIG, numbered(1)).unwrap();
    published(&edge, 2, "an editor's rename").await;
    edge.workspace.write(CONFIG, numbered(2)).unwrap();
    published(&edge, 3, "a write in place").await;

    edge.workspace.write(CONFIG, numbered(3)).unwrap();
    edge.process.signal(Signal::HUP).unwrap();
    published(&edge, 4, "SIGHUP").await;

    edge.workspace.write(CONFIG, numbered(4)).unwrap();
    let finished = Process::run(&edge.workspace, warbler(["reload", "--config", CONFIG]), SOON).await.unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    published(&edge, 5, "warbler reload").await;

    edge.workspace.write(CONFIG, numbered(5)).unwrap();
    assert_eq!(edge.ask_reload().await.status, 200);
    published(&edge, 6, "the Unix socket").await;

    edge.workspace.write(CONFIG, numbered(6)).unwrap();
    let allowed = [("authorization", "Bearer open sesame")];
    let answer = bench::harness::http::request(edge.admin(), "POST", "/api/v1/reload", &allowed, b"").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    published(&edge, 7, "the token").await;
}

#[tokio::test]
async fn warbler_reload_shows_the_report_of_a_refused_configuration() {
    let endpoint = EchoTcp::start().await.unwrap();
    let good = tcp_edge("", &[endpoint.address()]);
    let edge = Edge::start(&good).await;
    edge.workspace.write(CONFIG, complete(&good.replace("cluster = \"im\"", "cluster = \"in\""))).unwrap();
    let finished = Process::run(&edge.workspace, warbler(["reload", "--config", CONFIG]), SOON).await.unwrap();
    assert_eq!(finished.code(), 3, "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains("edge.toml:4:11: error: no cluster is named `in`"), "{}", finished.stderr);
}

/// As the kubelet does it: `..data` is a link to a folder with a time stamp, and is renamed over.
#[tokio::test]
async fn the_swap_of_a_configmap_is_a_reload() {
    let endpoint = EchoTcp::start().await.unwrap();
    let workspace = Workspace::new().unwrap();
    // The log and the socket stand beside the volume, which is replaced as a whole.
    let volume = |number| {
        let text = complete(&numbered(&endpoint, number));
        text.replace("run/warbler.sock", "../run/warbler.sock").replace("access.log", "../access.log")
    };
    workspace.write("etc/..1/edge.toml", volume(1)).unwrap();
    std::os::unix::fs::symlink("..1", workspace.path("etc/..data")).unwrap();
    std::os::unix::fs::symlink("..data/edge.toml", workspace.path("etc/edge.toml")).unwrap();
    let launch = warbler(["run", "--config", "etc/edge.toml"]);
    let process = Process::start(&workspace, launch).await.unwrap();
    let edge = Edge { process, workspace };
    let mut client = echo_client(edge.address("im")).await;
    for number in 2..=4 {
        edge.workspace.write(format!("etc/..{number}/edge.toml"), volume(number)).unwrap();
        std::os::unix::fs::symlink(format!("..{number}"), edge.workspace.path("etc/..data_tmp")).unwrap();
        std::fs::rename(edge.workspace.path("etc/..data_tmp"), edge.workspace.path("etc/..data")).unwrap();
        std::fs::remove_dir_all(edge.workspace.path(format!("etc/..{}", number - 1))).unwrap();
        edge.wait_for_count("warbler_config_generation", &[], number).await;
        echoes(&mut client, b"still here").await;
    }
    assert_eq!(edge.count("warbler_config_reloads_total", &[("result", "refused")]).await, 0);
}

#[tokio::test]
async fn saving_the_same_text_is_no_reload() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let text = std::fs::read(edge.workspace.path(CONFIG)).unwrap();
    edge.workspace.replace(CONFIG, &text).unwrap();
    edge.workspace.write("unrelated.txt", "x").unwrap();
    // Asked for, it is read, and says that nothing changed.
    let answer = edge.ask_reload().await;
    assert_eq!((answer.status, &answer.json().unwrap()["generation"]), (200, &1.into()));
    assert_eq!(edge.count("warbler_config_reloads_total", &[("result", "published")]).await, 0);
    assert_eq!(edge.count("warbler_config_last_reload_successful", &[]).await, 1);
}

#[tokio::test]
async fn a_key_that_counts_at_the_start_only_is_accepted_and_said() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let config = format!("{}\n[edge]\nworkers = 1\n", tcp_edge("", &[endpoint.address()]));
    edge.workspace.replace(CONFIG, complete(&config)).unwrap();
    let answer = edge.ask_reload().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(edge.status().await["last_reload"]["at_next_start"], serde_json::json!(["edge.workers"]));
    edge.process.wait_for_log("take effect at the next start only", SOON).await.unwrap();
}
