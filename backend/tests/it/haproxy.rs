//! The agent's line, as Debian's HAProxy understands it.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::{Child, Command},
};

use crate::{
    process::{Im, eventually, request},
    ws::Client,
};

const HAPROXY: &str = "/usr/sbin/haproxy";

/// HAProxy in front of servers, by their address and their agent's.
struct HaProxy {
    _child: Child,
    address: SocketAddr,
    control: PathBuf,
}

impl HaProxy {
    async fn start(directory: &Path, servers: &[(&str, SocketAddr, SocketAddr)]) -> Self {
        let (address, control) = (free(), directory.join("control"));
        let servers = servers.iter().map(|(name, server, agent)| {
            format!("  server {name} {server} weight 100 agent-check agent-port {} agent-inter 100ms\n", agent.port())
        });
        let configuration = format!(
            "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1m\n  \
             timeout server 1m\nlisten im\n  bind {address}\n  balance roundrobin\n{}",
            control.display(),
            servers.collect::<String>()
        );
        let file = directory.join("haproxy.cfg");
        std::fs::write(&file, configuration).unwrap();
        let mut haproxy = Command::new(HAPROXY);
        let child = haproxy.arg("-db").arg("-f").arg(file).stdin(Stdio::null()).kill_on_drop(true).spawn();
        let proxy = Self { _child: child.unwrap(), address, control };
        eventually("HAProxy runs", async || UnixStream::connect(&proxy.control).await.ok()).await;
        proxy
    }

    /// What it knows of a server, by the names of its columns.
    async fn server(&self, name: &str) -> HashMap<String, String> {
        let mut control = UnixStream::connect(&self.control).await.unwrap();
        control.write_all(b"show stat\n").await.unwrap();
        let mut table = String::new();
        control.read_to_string(&mut table).await.unwrap();
        let mut lines = table.lines().map(|line| line.trim_start_matches("# ").split(',').map(str::to_owned));
        let columns: Vec<_> = lines.next().unwrap().collect();
        let mut rows = lines.map(|row| columns.iter().cloned().zip(row).collect::<HashMap<_, _>>());
        rows.find(|row| row.get("svname").is_some_and(|server| server == name)).expect("the server is in the table")
    }

    async fn wait_for(&self, server: &str, column: &str, want: &str) {
        eventually(&format!("{server} has {column} {want}"), async || {
            self.server(server).await[column].starts_with(want).then_some(())
        })
        .await;
    }

    /// Which server answers.
    async fn node(&self) -> String {
        let answer = request(self.address, "GET /whoami HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n").await;
        answer.json()["node"].as_str().unwrap().to_owned()
    }
}

/// An address that nobody has.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn server(data: &Path, name: &str, address: SocketAddr, agent: SocketAddr) -> Im {
    let (address, agent) = (address.to_string(), agent.to_string());
    let options = ["--node", name, "--bind", &address, "--agent", &agent, "--admin", "--max-sessions", "4"];
    let mut im = Im::start(data, &options).await;
    // The second one: the first is the port that every server of these tests has.
    im.address = address.parse().unwrap();
    im
}

#[tokio::test]
async fn haproxy_takes_a_server_out_when_it_drains_and_gives_it_back() {
    if !Path::new(HAPROXY).exists() {
        println!("NOT TESTED: HAProxy, which is not here");
        return;
    }
    let (data, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a_at, a_agent, b_at, b_agent) = (free(), free(), free(), free());
    let a = server(data.path(), "a", a_at, a_agent).await;
    let _b = server(data.path(), "b", b_at, b_agent).await;
    let proxy = HaProxy::start(directory.path(), &[("a", a_at, a_agent), ("b", b_at, b_agent)]).await;
    proxy.wait_for("a", "slim", "4").await;
    proxy.wait_for("b", "status", "no check").await;

    let mut sessions = Vec::new();
    for user in ["alice", "bob", "carol"] {
        sessions.push(Client::login(a_at, user, "phone").await);
    }
    proxy.wait_for("a", "weight", "25").await;
    sessions.clear();

    assert_eq!(a.post("/admin/drain?deadline=1h", "").await.status, 202);
    proxy.wait_for("a", "status", "DRAIN").await;
    for _ in 0..10 {
        assert_eq!(proxy.node().await, "b");
    }

    a.kill_9().await;
    let _a = server(data.path(), "a", a_at, a_agent).await;
    eventually("a gets clients again", async || (proxy.node().await == "a").then_some(())).await;
}
