//! Clients and servers that are not ours: mosquitto with its own clients, curl, and Python's WebSocket library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::harness::{Finished, HttpStub, Launch, Process, TestCa, Workspace, WsEcho, eventually, reserve_port};
use tokio::net::TcpStream;

use crate::edge::{Edge, SOON};
use crate::parts::{tcp_with, web_with};
use crate::tls_in::write_certificate;

/// A program of the system; a missing one fails the test with what to install.
fn program(path: &str, package: &str) -> PathBuf {
    assert!(Path::new(path).exists(), "{path} is missing: apt-get install {package}");
    path.into()
}

async fn ran(workspace: &Workspace, launch: Launch) -> Finished {
    let finished = Process::run(workspace, launch, Duration::from_secs(60)).await.unwrap();
    assert_eq!(finished.code(), 0, "{}\n{}", finished.stdout, finished.stderr);
    finished
}

/// A broker, on the next port when somebody was faster on the reserved one.
async fn mosquitto(workspace: &Workspace) -> (Process, std::net::SocketAddr) {
    let mosquitto = program("/usr/sbin/mosquitto", "mosquitto");
    for _ in 0..5 {
        let port = reserve_port().unwrap();
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type all\n");
        let file = workspace.write("mosquitto.conf", text).unwrap();
        let mut broker = Process::spawn(workspace, Launch::new(&mosquitto).arg("-c").arg(file)).unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let listens = eventually(SOON, "the broker", async || match TcpStream::connect(address).await {
            Ok(_) => Some(true),
            Err(_) => (!broker.runs()).then_some(false),
        });
        if listens.await.unwrap() && broker.runs() {
            return (broker, address);
        }
    }
    panic!("mosquitto found no free port");
}

#[tokio::test]
async fn mqtt_messages_arrive_with_qos_1_in_both_versions() {
    let workspace = Workspace::new().unwrap();
    let subscriber = program("/usr/bin/mosquitto_sub", "mosquitto-clients");
    let publisher = program("/usr/bin/mosquitto_pub", "mosquitto-clients");
    let (broker, address) = mosquitto(&workspace).await;
    let edge = Edge::start(&tcp_with("", "", &[address])).await;
    let port = edge.address("im").port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        let common =
            |launch: Launch| launch.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "1", "-t", "room/1"]);
        let listening = common(Launch::new(&subscriber)).args(["-C", "20", "-i", &format!("s-{version}")]);
        let mut listening = Process::spawn(&workspace, listening).unwrap();
        broker.wait_for_log(&format!("Sending SUBACK to s-{version}"), SOON).await.unwrap();
        let sent: Vec<String> = (0..20).map(|number| format!("message {number} by {version}")).collect();
        workspace.write("lines", sent.join("\n")).unwrap();
        // One publisher that sends line by line: QoS 1 waits for the broker's word on each.
        let shell = format!("exec {} \"$@\" -l < lines", publisher.display());
        ran(&workspace, common(Launch::new("/bin/sh").args(["-c", &shell, "sh"]))).await;
        assert_eq!(listening.wait(SOON).await.unwrap().code(), Some(0), "{:?}", listening.stdout_lines());
        let heard: Vec<String> =
            listening.stdout_lines().into_iter().filter(|line| line.starts_with("message ")).collect();
        assert_eq!(heard, sent, "{version}");
    }
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[address]).await, [0]);
    // After an MQTT DISCONNECT either side may be the first to close.
    let lines = edge.wait_for_lines(4).await;
    let closed = ["client-closed", "endpoint-closed"];
    assert!(lines.iter().all(|line| closed.contains(&line["outcome"].as_str().unwrap())), "{lines:#?}");
}

#[tokio::test]
async fn curl_is_served_in_http1_and_http2_plain_and_over_tls() {
    const BOTH: &str = "http-versions = [\"1.1\", \"2\"]";
    let curl = program("/usr/bin/curl", "curl");
    let ca = TestCa::new().unwrap();
    let workspace = Workspace::new().unwrap();
    write_certificate(&workspace, &ca, "im", &["im.test"]);
    workspace.write("ca.pem", ca.pem()).unwrap();
    workspace.write("upload", vec![b'u'; 3 << 20]).unwrap();
    let stub = HttpStub::start("one").await.unwrap();
    let plain = web_with(BOTH, "", &[stub.address()]);
    let (listener, cluster) = plain.split_at(plain.find("[clusters").unwrap());
    let secure = listener
        .replace("listeners.web", "listeners.secure")
        .replace(BOTH, &format!("{BOTH}\ntls.certificates = [{{ chain = \"im.pem\", key = \"im.key\" }}]"));
    let edge = Edge::start_in(workspace, &format!("{listener}{secure}{cluster}")).await;
    let (web, secure) = (edge.address("web"), edge.address("secure"));
    let resolve = format!("im.test:{}:127.0.0.1", secure.port());
    let (plain_url, secure_url) = (format!("http://{web}/"), format!("https://im.test:{}/", secure.port()));
    let said = "\n%{http_version} %{http_code} %{num_connects}";
    let cases: [(&[&str], &str, &str); 5] = [
        (&["--http1.1"], &plain_url, "1.1 200 1"),
        (&["--http1.0"], &plain_url, "1.1 200 1"),
        (&["--http2-prior-knowledge"], &plain_url, "2 200 1"),
        (&["--http1.1"], &secure_url, "1.1 200 1"),
        (&["--http2"], &secure_url, "2 200 1"),
    ];
    for (options, url, wanted) in cases {
        let base = ["-sS", "--max-time", "50", "--cacert", "ca.pem", "--resolve", &resolve, "-w", said];
        let get = ran(&edge.workspace, Launch::new(&curl).args(base).args(options).arg(url)).await;
        assert!(get.stdout.ends_with(&format!("\n{wanted}\n")), "{options:?} {url}: {}", get.stdout);
        let post = Launch::new(&curl).args(base).args(options).args(["-o", "answer", "--data-binary", "@upload", url]);
        let post = ran(&edge.workspace, post).await;
        assert_eq!(post.stdout.trim(), wanted, "{options:?} {url}");
        let answer = std::fs::read(edge.workspace.path("answer")).unwrap();
        let seen: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(seen["body"].as_str().map(str::len), Some(3 << 20), "{options:?} {url}");
    }
    // Two addresses in one call share the connection.
    let twice = Launch::new(&curl).args(["-sS", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} "]);
    let twice = ran(&edge.workspace, twice.args([&plain_url, &plain_url])).await;
    assert_eq!(twice.stdout.trim(), "1 0");
}

/// Text, binary, a ping of its own, a large message, and an orderly close; then what it saw.
const WEBSOCKET_CLIENT: &str = r#"
import asyncio, sys, websockets

async def main(url):
    async with websockets.connect(url, max_size=None) as ws:
        await ws.send("gr\u00fc\u00df dich")
        print((await ws.recv()) == "gr\u00fc\u00df dich")
        large = bytes(range(256)) * 4096
        await ws.send(large)
        print((await ws.recv()) == large)
        await ws.send(["in ", "several ", "frames"])
        print((await ws.recv()) == "in several frames")
        await asyncio.wait_for(await ws.ping(b"are you there"), 10)
        print(True)
    print(ws.close_code)

asyncio.run(main(sys.argv[1]))
"#;

#[tokio::test]
async fn the_websocket_library_of_python_works_through_the_edge() {
    let python = program("/usr/bin/python3", "python3");
    program("/usr/lib/python3/dist-packages/websockets", "python3-websockets");
    let echo = WsEcho::start().await.unwrap();
    let edge = Edge::start(&web_with("", "", &[echo.address()])).await;
    edge.workspace.write("client.py", WEBSOCKET_CLIENT).unwrap();
    let url = format!("ws://{}/ws?user=1", edge.address("web"));
    let client = ran(&edge.workspace, Launch::new(python).args(["client.py", &url])).await;
    assert_eq!(client.stdout, "True\nTrue\nTrue\nTrue\n1000\n");
    edge.wait_until_empty().await;
    let closed = eventually(SOON, "the end at the endpoint", async || echo.closes().first().copied()).await.unwrap();
    assert_eq!(closed, Some(1000));
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((line["kind"].as_str(), line["status"].as_u64()), (Some("upgrade"), Some(101)));
}
