//! What each kind of probe asks, and what it takes for a good answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::harness::{
    Action, EchoTcp, HttpStub, Launch, Process, RawClient, TestCa, Workspace, WsEcho, binary, eventually,
};
use bench::im::Secret;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::edge::{Edge, SOON};
use crate::parts::{ask, endpoints};

/// A `tcp` listener to one cluster with these keys.
fn config(keys: &str, addresses: &[SocketAddr]) -> String {
    let endpoints = endpoints(addresses);
    format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\n{keys}\n[clusters.c.localities.here]\nendpoints = {endpoints}\n"
    )
}

/// Waits until an endpoint has this standing for a reason that contains this.
async fn wait_for(edge: &Edge, address: SocketAddr, standing: &str, reason: &str) -> Value {
    let is_it = |endpoint: &Value| {
        endpoint["standing"] == standing && endpoint["reason"].as_str().unwrap_or_default().contains(reason)
    };
    let seen = async || Some(edge.endpoint(address).await).filter(is_it);
    match eventually(SOON, standing, seen).await {
        Ok(endpoint) => endpoint,
        Err(_) => panic!("not {standing} for {reason}: {}", edge.endpoint(address).await),
    }
}

#[tokio::test]
async fn a_websocket_probe_upgrades_and_leaves_with_a_proper_close() {
    let server = WsEcho::start().await.unwrap();
    let keys = "health.websocket = { path = \"/ws\", host = \"im.test\", interval = \"100ms\", timeout = \"5s\" }";
    let edge = Edge::start(&config(keys, &[server.address()])).await;
    wait_for(&edge, server.address(), "up", "probe succeeded").await;
    let closes = eventually(SOON, "closes", async || Some(server.closes()).filter(|closes| closes.len() >= 3));
    assert!(closes.await.unwrap().iter().all(|code| *code == Some(1000)));
    let upgrade = &server.upgrades()[0];
    assert_eq!((upgrade.uri().path(), &upgrade.headers()["host"]), ("/ws", &HeaderValue::from_static("im.test")));
}

#[tokio::test]
async fn a_websocket_probe_fails_by_a_refusal_a_wrong_accept_and_another_subprotocol() {
    let refuses = HttpStub::start("refuses").await.unwrap();
    refuses.set_status(403);
    let lies = HttpStub::scripted("lies", |_| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
        vec![Action::Send(answer.into()), Action::Echo]
    })
    .await
    .unwrap();
    let speaks_nothing = WsEcho::start().await.unwrap();
    let keys = "health.websocket = { protocol = \"im.v1\", interval = \"100ms\", timeout = \"5s\" }";
    let addresses = [refuses.address(), lies.address(), speaks_nothing.address()];
    let edge = Edge::start(&config(keys, &addresses)).await;
    for (address, reason) in addresses.into_iter().zip(["status 403", "Sec-WebSocket-Accept", "subprotocol"]) {
        wait_for(&edge, address, "down", reason).await;
    }
}

/// A gRPC health service that answers with a status that can be set, or with a gRPC error.
struct GrpcHealth {
    address: SocketAddr,
    shared: Arc<GrpcShared>,
}

#[derive(Default)]
struct GrpcShared {
    serving: AtomicUsize,
    error: AtomicU16,
    asked: std::sync::Mutex<Vec<(String, Vec<u8>)>>,
}

impl GrpcHealth {
    async fn start(tls: Option<TlsAcceptor>) -> GrpcHealth {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(GrpcShared::default());
        shared.serving.store(1, Relaxed);
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, shared) = (tls.clone(), serving.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve_grpc(tcp, &shared).await,
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => serve_grpc(stream, &shared).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        GrpcHealth { address, shared }
    }
}

async fn serve_grpc(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &GrpcShared) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let uri = request.uri().to_string();
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let mut body = request.into_body();
        let mut message = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            message.extend_from_slice(&data);
        }
        shared.asked.lock().unwrap().push((uri, message));
        let error = shared.error.load(Relaxed);
        let head = Response::builder().header("content-type", "application/grpc");
        if error != 0 {
            // Without a message the status stands in the head.
            respond.send_response(head.header("grpc-status", error).body(()).unwrap(), true).ok()?;
            continue;
        }
        let mut answer = respond.send_response(head.body(()).unwrap(), false).ok()?;
        let status = u8::try_from(shared.serving.load(Relaxed)).unwrap();
        answer.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).ok()?;
        answer.send_trailers(HeaderMap::from_iter([("grpc-status".parse().ok()?, HeaderValue::from(0))])).ok()?;
    }
    Some(())
}

#[tokio::test]
async fn a_grpc_probe_goes_by_the_health_service() {
    let server = GrpcHealth::start(None).await;
    let keys = "health.grpc = { service = \"im.Chat\", interval = \"100ms\", timeout = \"5s\", fall = 2 }";
    let edge = Edge::start(&config(keys, &[server.address])).await;
    wait_for(&edge, server.address, "up", "probe succeeded").await;
    let (uri, question) = server.shared.asked.lock().unwrap()[0].clone();
    assert_eq!(uri, format!("http://{}/grpc.health.v1.Health/Check", server.address));
    assert_eq!(question, b"\0\0\0\0\x09\x0a\x07im.Chat");
    server.shared.serving.store(2, Relaxed);
    wait_for(&edge, server.address, "down", "NOT_SERVING").await;
    server.shared.serving.store(1, Relaxed);
    wait_for(&edge, server.address, "up", "probe succeeded").await;
    server.shared.error.store(12, Relaxed);
    wait_for(&edge, server.address, "down", "gRPC status 12").await;
}

#[tokio::test]
async fn a_grpc_probe_speaks_http_2_over_tls_and_says_when_there_is_no_grpc() {
    let ca = TestCa::new().unwrap();
    let issued = ca.issue(&["im.test"]).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config_tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config_tls = config_tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config_tls.alpn_protocols = vec![b"h2".to_vec()];
    let server = GrpcHealth::start(Some(TlsAcceptor::from(Arc::new(config_tls)))).await;
    let echo = EchoTcp::start().await.unwrap();
    let old = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let plain = HttpStub::scripted("plain", |_| vec![Action::Send(old.to_vec()), Action::Pause(SOON)]).await.unwrap();
    let workspace = Workspace::new().unwrap();
    workspace.write("ca.pem", ca.pem()).unwrap();
    let keys =
        "tls = { name = \"im.test\", ca = \"ca.pem\" }\nhealth.grpc = { interval = \"100ms\", timeout = \"5s\" }";
    let edge = Edge::start_in(workspace, &config(keys, &[server.address, echo.address()])).await;
    wait_for(&edge, server.address, "up", "probe succeeded").await;
    assert_eq!(server.shared.asked.lock().unwrap()[0].0, "https://im.test/grpc.health.v1.Health/Check");
    wait_for(&edge, echo.address(), "down", "TLS").await;
    let edge =
        Edge::start(&config("health.grpc = { interval = \"100ms\", timeout = \"5s\" }", &[plain.address()])).await;
    wait_for(&edge, plain.address(), "down", "not gRPC").await;
}

#[tokio::test]
async fn an_im_probe_logs_in_with_a_token_that_may_change() {
    let (workspace, secret) = (Workspace::new().unwrap(), Secret::random());
    let secret_file = workspace.write("jwt.secret", secret.reveal()).unwrap();
    let launch = Launch::new(binary("warbler-im").unwrap())
        .args(["run", "--node", "one", "--bind", "127.0.0.1:0", "--threads", "1", "--data"])
        .arg(workspace.path("messages"))
        .arg("--jwt-secret-file")
        .arg(secret_file);
    let server = Process::start(&workspace, launch).await.unwrap();
    let address = server.address("http", 0).unwrap();

    let files = Workspace::new().unwrap();
    files.write("probe.token", Secret::random().token("probe", SOON)).unwrap();
    let keys = "health.im = { token-file = \"probe.token\", interval = \"100ms\", timeout = \"5s\", fall = 2 }";
    let edge = Edge::start_in(files, &config(keys, &[address])).await;
    wait_for(&edge, address, "down", "login refused: token_signature").await;
    let good = secret.token("probe", std::time::Duration::from_secs(600));
    edge.workspace.replace("probe.token", format!("{good}\n")).unwrap();
    wait_for(&edge, address, "up", "probe succeeded").await;
    // A token that cannot be read is this edge's fault, and no vote.
    std::fs::remove_file(edge.workspace.path("probe.token")).unwrap();
    edge.process.wait_for_log("endpoints cannot be probed", SOON).await.unwrap();
    let alarms = edge.count("warbler_alarms_total", &[("kind", "cannot-probe")]).await;
    let more =
        async || (edge.count("warbler_alarms_total", &[("kind", "cannot-probe")]).await > alarms + 3).then_some(());
    eventually(SOON, "more probes", more).await.unwrap();
    assert_eq!(edge.endpoint(address).await["standing"], "up");
    let told = edge.process.stderr_lines().iter().filter(|line| line.contains("endpoints cannot be probed")).count();
    assert_eq!(told, 1, "once a minute at most");
    // The sessions of the probe do not pile up.
    let left = async || {
        let load = bench::harness::http::get(address, "/load").await.unwrap().json().unwrap();
        (load["sessions"] == 0).then_some(())
    };
    eventually(SOON, "no session", left).await.unwrap();
}

#[tokio::test]
async fn a_degraded_endpoint_gets_clients_only_when_nobody_better_is_there() {
    let degraded = Arc::new(AtomicU16::new(1));
    let state = degraded.clone();
    let tired = HttpStub::scripted("tired", move |head| {
        let field = if state.load(Relaxed) == 1 { "X-Envoy-Degraded: true\r\n" } else { "" };
        match head.starts_with(b"GET /healthz ") {
            true => vec![Action::Send(format!("HTTP/1.1 200 OK\r\n{field}content-length: 0\r\n\r\n").into_bytes())],
            false => vec![Action::Echo],
        }
    })
    .await
    .unwrap();
    let fresh = HttpStub::start("fresh").await.unwrap();
    let keys = "policy = \"round-robin\"\nhealth.http = { interval = \"100ms\", timeout = \"5s\" }";
    let edge = Edge::start(&config(keys, &[tired.address(), fresh.address()])).await;
    let wait_until = async |wanted: bool| {
        let is_it = async || (edge.endpoint(tired.address()).await["degraded"] == wanted).then_some(());
        eventually(SOON, "degraded or not", is_it).await.unwrap();
    };
    wait_until(true).await;
    assert_eq!(edge.endpoint(tired.address()).await["standing"], "up");
    // A change counts for picks a moment after it is known.
    let spared = async || {
        let mut clients = Vec::new();
        let before = edge.endpoint(tired.address()).await["picks"].clone();
        for _ in 0..4 {
            clients.push(RawClient::connect(edge.address("im")).await.unwrap());
        }
        let picked = async || edge.leases(&[tired.address(), fresh.address()]).await.iter().sum::<u64>();
        eventually(SOON, "four tunnels", async || (picked().await >= 4).then_some(())).await.ok()?;
        (edge.endpoint(tired.address()).await["picks"] == before).then_some(())
    };
    eventually(SOON, "clients at the other one only", spared).await.unwrap();
    degraded.store(0, Relaxed);
    wait_until(false).await;
    assert_eq!(edge.count("warbler_endpoint_degraded_changes_total", &[("degraded", "yes")]).await, 1);
}

/// An endpoint is busy with the clients of other edges, and says so in its answers to probes.
#[tokio::test]
async fn prequal_leaves_out_an_endpoint_that_reports_more_than_others_have() {
    let said = Arc::new(Mutex::new("50"));
    let says = said.clone();
    let busy = HttpStub::scripted("busy", move |head| {
        let load = match head.starts_with(b"GET /healthz ") {
            true => format!("X-Load: {}\r\n", says.lock().unwrap()),
            false => String::new(),
        };
        vec![Action::Send(format!("HTTP/1.1 200 OK\r\n{load}content-length: 0\r\n\r\n").into_bytes())]
    });
    // Slower than what a server is taken for that has not answered yet.
    let idle = HttpStub::scripted("idle", |head| {
        let pause = Duration::from_millis(if head.starts_with(b"GET /work ") { 50 } else { 0 });
        vec![Action::Pause(pause), Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]
    });
    let (busy, idle) = (busy.await.unwrap(), idle.await.unwrap());
    let edge = Edge::start(&format!(
        "[log]\nlevel = \"debug\"\naccess = \"access.log\"\n[listeners.web]\nbind = [\"127.0.0.1:0\"]\n\
         protocol = \"http\"\n[[listeners.web.routes]]\ncluster = \"c\"\n[clusters.c]\nrequest-policy = \"prequal\"\n\
         prequal.report-age = \"1h\"\n[clusters.c.health.http]\nload-header = \"X-Load\"\ninterval = \"100ms\"\n\
         timeout = \"5s\"\n[clusters.c.localities.here]\nendpoints = {}\n",
        endpoints(&[busy.address(), idle.address()])
    ))
    .await;
    let wait_until = async |wanted: Value| {
        let is_it = async || (edge.endpoint(busy.address()).await["in_flight_reported"] == wanted).then_some(());
        eventually(SOON, "the report", is_it).await.unwrap();
    };
    wait_until(json!(50)).await;
    assert_eq!(edge.endpoint(idle.address()).await["in_flight_reported"], Value::Null);
    let request = "GET /work HTTP/1.1\r\nHost: im.test\r\n\r\n";
    for _ in 0..20 {
        assert_eq!(ask(edge.address("web"), request).await.status, 200);
    }
    assert_eq!(edge.endpoint(busy.address()).await["picks"], 0);
    assert_eq!(edge.endpoint(idle.address()).await["picks"], 20);
    // What is no number is ignored, and said once.
    *said.lock().unwrap() = "many";
    wait_until(Value::Null).await;
    let before = busy.requests();
    let more = async || (busy.requests() > before + 3).then_some(());
    eventually(SOON, "more probes", more).await.unwrap();
    *said.lock().unwrap() = "0";
    wait_until(json!(0)).await;
    let told = |line: &&String| line.contains("endpoint reports a load that is no whole number");
    assert_eq!(edge.process.stderr_lines().iter().filter(told).count(), 1);
    // As idle as the other, it gets requests.
    let picked = async || {
        ask(edge.address("web"), request).await;
        (edge.endpoint(busy.address()).await["picks"] != 0).then_some(())
    };
    eventually(SOON, "requests at both", picked).await.unwrap();
}
