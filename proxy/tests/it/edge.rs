//! One running edge, and what a test asks of it.
//!
//! A configuration is given as its listeners and clusters; workers, admin, log and access log are added unless the text
//! has them. A panic anywhere in the edge fails the test that sees its end.

use std::path::PathBuf;
use std::time::Duration;

use bench::harness::{Launch, Process, Workspace, eventually, http, http::Answer};
use serde_json::Value;
use std::net::SocketAddr;

/// How long a fact may take to become true on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The configuration file, in the workspace.
pub(crate) const CONFIG: &str = "edge.toml";
const ACCESS: &str = "access.log";

/// A started `warbler`. Dropping it kills it.
pub(crate) struct Edge {
    // Before the workspace, so that the process is gone when its folder goes.
    pub(crate) process: Process,
    pub(crate) workspace: Workspace,
}

/// The command that runs an edge on a workspace's configuration.
pub(crate) fn run() -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_warbler")).args(["run", "--config", CONFIG])
}

/// `warbler` with other arguments.
pub(crate) fn warbler<const N: usize>(arguments: [&str; N]) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_warbler")).args(arguments)
}

/// The text with what every edge of a test needs, unless the text says it itself: two workers, port 0 and a socket for
/// admin, a file for the access log.
pub(crate) fn complete(config: &str) -> String {
    let tables = [
        ("[edge]", "workers = 2"),
        ("[admin]", "bind = [\"127.0.0.1:0\"]\nsocket = \"run/warbler.sock\""),
        ("[log]", "level = \"info\"\naccess = \"access.log\""),
    ];
    let missing = tables.into_iter().filter(|(table, _)| !config.contains(table));
    let added: String = missing.map(|(table, keys)| format!("{table}\n{keys}\n\n")).collect();
    // Top-level keys such as `include` must stay above the first table.
    format!("{config}\n{added}")
}

impl Edge {
    pub(crate) async fn start(config: &str) -> Edge {
        Edge::start_in(Workspace::new().unwrap(), config).await
    }

    /// Starts with files that are there already, such as certificates.
    pub(crate) async fn start_in(workspace: Workspace, config: &str) -> Edge {
        Edge::launch(workspace, config, run()).await
    }

    /// Starts with another command, such as one that lowers a limit first.
    pub(crate) async fn launch(workspace: Workspace, config: &str, launch: Launch) -> Edge {
        workspace.write(CONFIG, complete(config)).unwrap();
        let process = Process::start(&workspace, launch).await.unwrap();
        Edge { process, workspace }
    }

    /// The first address of a listener as it was at the start.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.addresses(listener)[0]
    }

    pub(crate) fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let listed = self.process.addresses()["listeners"][listener].as_array();
        listed.unwrap().iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.process.address("admin", 0).unwrap()
    }

    /// The path of the admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.workspace.path(self.process.addresses()["socket"].as_str().unwrap())
    }

    /// `GET` on the admin address.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        http::get(self.admin(), path).await.unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        self.get("/api/v1/status").await.json().unwrap()
    }

    /// The value of a metric that has (at least) these labels; several such series are added up. `None` when there is
    /// no such series.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        sum_of(&self.get("/metrics").await.text(), name, labels)
    }

    /// As [`metric`](Self::metric), with 0 for a series that does not exist yet.
    pub(crate) async fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let value = self.metric(name, labels).await.unwrap_or(0.0);
        format!("{value:.0}").parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub(crate) async fn wait_for_count(&self, name: &str, labels: &[(&str, &str)], wanted: u64) {
        let mut last = None;
        let seen = eventually(SOON, "the count", async || {
            last = Some(self.count(name, labels).await);
            (last == Some(wanted)).then_some(())
        });
        if seen.await.is_err() {
            panic!("{name}{labels:?} is {last:?} and not {wanted}");
        }
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.count("warbler_config_generation", &[]).await
    }

    /// Writes a configuration that differs from the running one, and has it published over the admin socket. Returns
    /// the generation.
    pub(crate) async fn reload(&self, config: &str) -> u64 {
        let before = self.generation().await;
        self.workspace.replace(CONFIG, complete(config)).unwrap();
        let answer = self.ask_reload().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let now = self.generation().await;
        assert!(now > before, "nothing was published: {}", answer.text());
        now
    }

    /// Writes a configuration that is wrong and asks for it over the admin socket. Returns the report.
    pub(crate) async fn reload_refused(&self, config: &str) -> String {
        self.workspace.replace(CONFIG, complete(config)).unwrap();
        let answer = self.ask_reload().await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        answer.json().unwrap()["report"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn ask_reload(&self) -> Answer {
        http::request_unix(&self.socket(), "POST", "/api/v1/reload", &[], b"").await.unwrap()
    }

    /// The complete lines of the access log.
    pub(crate) fn access_lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.workspace.path(ACCESS)).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until there are this many access-log lines; fails when there are more.
    pub(crate) async fn wait_for_lines(&self, wanted: usize) -> Vec<Value> {
        let enough = async || Some(self.access_lines()).filter(|lines| lines.len() >= wanted);
        let seen = eventually(SOON, "access-log lines", enough).await;
        let lines = seen.unwrap_or_else(|_| panic!("not {wanted} lines: {:#?}", self.access_lines()));
        assert_eq!(lines.len(), wanted, "{lines:#?}");
        lines
    }

    /// Connections on each of these endpoints, from the status.
    pub(crate) async fn leases(&self, endpoints: &[SocketAddr]) -> Vec<u64> {
        let status = self.status().await;
        endpoints.iter().map(|address| endpoint_of(&status, *address)["connections"].as_u64().unwrap()).collect()
    }

    /// What the status says of an endpoint, configured or leaving.
    pub(crate) async fn endpoint(&self, address: SocketAddr) -> Value {
        endpoint_of(&self.status().await, address)
    }

    /// Waits until an endpoint has this standing.
    pub(crate) async fn wait_for_standing(&self, address: SocketAddr, standing: &str) -> Value {
        let seen = async || Some(self.endpoint(address).await).filter(|endpoint| endpoint["standing"] == standing);
        let seen = eventually(SOON, standing, seen).await;
        match seen {
            Ok(endpoint) => endpoint,
            Err(_) => panic!("not {standing}: {}", self.endpoint(address).await),
        }
    }

    /// Waits until nobody is connected any more.
    pub(crate) async fn wait_until_empty(&self) {
        let empty = async || (self.status().await["connections"] == 0).then_some(());
        if eventually(SOON, "no connection", empty).await.is_err() {
            panic!("connections remain: {:#}", self.status().await);
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let text = self.process.stderr_text();
            assert!(!text.contains("panicked at"), "the edge panicked:\n{text}");
        }
    }
}

fn endpoint_of(status: &Value, address: SocketAddr) -> Value {
    let address = address.to_string();
    let lists = status["clusters"].as_array().unwrap().iter().flat_map(|cluster| {
        let localities = cluster["localities"].as_array().unwrap().iter();
        localities.map(|locality| &locality["endpoints"]).chain([&cluster["leaving"]])
    });
    let mut all = lists.flat_map(|list| list.as_array().unwrap());
    all.find(|endpoint| endpoint["address"] == address.as_str()).cloned().unwrap_or(Value::Null)
}

fn sum_of(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        let labelled = series.is_empty() || series.starts_with('{');
        (labelled && wanted.iter().all(|label| series.contains(label.as_str()))).then(|| value.parse::<f64>().unwrap())
    });
    values.reduce(|sum, value| sum + value)
}

#[test]
fn a_metric_is_found_by_name_and_labels() {
    let page = "# HELP a_total x\na_total{b=\"1\",c=\"2\"} 3\na_total{b=\"2\",c=\"2\"} 4\na_total_more 9\nd 5\n";
    assert_eq!(sum_of(page, "a_total", &[("b", "1")]), Some(3.0));
    assert_eq!(sum_of(page, "a_total", &[("c", "2")]), Some(7.0));
    assert_eq!(sum_of(page, "a_total", &[("c", "3")]), None);
    assert_eq!(sum_of(page, "d", &[]), Some(5.0));
}
