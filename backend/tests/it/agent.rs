//! What load balancers are told: by the agent's line, and by ORCA's header.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::{ANY, DEADLINE, Im, eventually},
    ws::Client,
};

async fn start(options: &[&str]) -> (Im, TempDir) {
    let data = TempDir::new().unwrap();
    let options = [&["--agent", ANY], options].concat();
    (Im::start(data.path(), &options).await, data)
}

async fn ask(agent: SocketAddr, question: &[u8]) -> String {
    let mut stream = TcpStream::connect(agent).await.unwrap();
    stream.write_all(question).await.unwrap();
    let mut line = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut line)).await.expect("a line in time").unwrap();
    line
}

#[tokio::test]
async fn the_agent_tells_weight_limit_and_whether_to_come() {
    let (im, _data) = start(&["--max-sessions", "4", "--admin", "--faults", "--stop-deadline", "1h"]).await;
    let agent = im.address_of("agent");
    let idle = eventually("it is idle", async || {
        let line = ask(agent, b"").await;
        line.contains(" 100% ").then_some(line)
    });
    assert_eq!(idle.await, "up ready 100% maxconn:4\n");
    assert!(ask(agent, b"im\n").await.starts_with("up "), "a question may have words");
    let mut three = Vec::new();
    for user in ["alice", "bob", "carol"] {
        three.push(Client::login(im.address, user, "phone").await);
    }
    assert!(ask(agent, b"").await.contains(" 25% "), "three of four sessions are there");
    im.fault(r#"{"ready":false}"#).await;
    assert!(ask(agent, b"").await.starts_with("down#an-injected-fault ready "));
    im.fault(r#"{"ready":true}"#).await;
    assert!(ask(agent, b"").await.starts_with("up ready "));
    assert_eq!(im.post("/admin/drain?deadline=1h", "").await.status, 202);
    assert!(ask(agent, b"").await.starts_with("up drain "));
}

#[tokio::test]
async fn a_server_that_stops_says_so_to_the_last() {
    let (im, _data) = start(&["--drain-deadline", "0s", "--stop-deadline", "1h"]).await;
    // A request whose body does not end: the process waits for it.
    let mut unfinished = TcpStream::connect(im.address).await.unwrap();
    unfinished.write_all(b"POST /echo HTTP/1.1\r\nHost: im\r\nContent-Length: 2\r\n\r\nx").await.unwrap();
    let mut begun = [0; 12];
    timeout(DEADLINE, unfinished.read_exact(&mut begun)).await.expect("the beginning of an answer in time").unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    im.signal(Signal::TERM);
    eventually("it says so", async || {
        (ask(im.address_of("agent"), b"").await == "stopped#the process ends\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_carry_the_load_as_orca_has_it() {
    let (im, _data) = start(&["--max-sessions", "4"]).await;
    let _alice = Client::login(im.address, "alice", "phone").await;
    let report = eventually("the session is in the report", async || {
        let answer = im.get("/healthz").await;
        let header = answer.head.lines().find_map(|line| line.strip_prefix("endpoint-load-metrics: "))?.to_owned();
        let report: Value = serde_json::from_str(header.strip_prefix("json ").expect("Envoy's prefix")).unwrap();
        (report["application_utilization"] == 0.25).then_some(report)
    })
    .await;
    for field in ["cpu_utilization", "mem_utilization", "application_utilization", "rps_fractional", "eps"] {
        assert!(report[field].is_f64(), "{field}: {report}");
    }
    let upgrade = "GET /ws HTTP/1.1\r\nHost: im\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: im.v1\r\n\r\n";
    let mut stream = TcpStream::connect(im.address).await.unwrap();
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.expect("a head in time").unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("endpoint-load-metrics: JSON {"), "{head}");
}
