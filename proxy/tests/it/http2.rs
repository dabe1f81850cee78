//! HTTP/2 towards clients and endpoints: streams side by side, trailers, and a goodbye that lets streams finish.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bench::harness::{Action, HttpStub, RawClient, Signal, TestCa, Workspace, eventually, tls};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::edge::{Edge, SOON};
use crate::parts::{last_answer, web_to, web_with};

const BOTH: &str = "http-versions = [\"1.1\", \"2\"]";

type Client = SendRequest<Full<Bytes>>;

/// A client of one HTTP/2 connection, and the task that ends with it.
async fn client(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (Client, JoinHandle<hyper::Result<()>>) {
    let (client, connection) = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn plain_client(address: SocketAddr) -> (Client, JoinHandle<hyper::Result<()>>) {
    client(TcpStream::connect(address).await.unwrap()).await
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://im.test{path}")).body(Full::default()).unwrap()
}

async fn body_of(response: Response<Incoming>) -> serde_json::Value {
    let body = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
    serde_json::from_slice(&body.to_bytes()).unwrap()
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_each_with_its_own() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with(BOTH, "", &[stub.address()])).await;
    let (client, _connection) = plain_client(edge.address("web")).await;
    let ask = async |turn: usize| {
        let request = Request::post(format!("http://im.test/{turn}"));
        let body = format!("body {turn}").repeat(turn);
        let request = request.body(Full::from(body.clone())).unwrap();
        let response = timeout(SOON, client.clone().send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!format!("{:?}", response.headers()).to_lowercase().contains("pingora"));
        let seen = body_of(response).await;
        assert_eq!((&seen["path"], &seen["body"]), (&format!("/{turn}").into(), &body.into()));
        assert_eq!((&seen["headers"]["host"], &seen["version"]), (&"im.test".into(), &"1.1".into()));
    };
    join_all((0..100).map(ask)).await;
    let lines = edge.wait_for_lines(100).await;
    assert!(lines.iter().all(|line| line["version"] == "2" && line["outcome"] == "answered"));
    assert!(lines.iter().all(|line| line["connection"] == lines[0]["connection"]));
    assert_eq!(edge.leases(&[stub.address()]).await, [0]);
}

#[tokio::test]
async fn alpn_gives_http2_where_both_sides_have_it() {
    let ca = TestCa::new().unwrap();
    let stub = HttpStub::start("one").await.unwrap();
    for (versions, offered, wanted) in [
        (BOTH, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (BOTH, &["http/1.1"], Some(b"http/1.1")),
        ("http-versions = [\"1.1\"]", &["h2", "http/1.1"], Some(b"http/1.1")),
        (BOTH, &[], None),
    ] {
        let workspace = Workspace::new().unwrap();
        crate::tls_in::write_certificate(&workspace, &ca, "im", &["im.test"]);
        let keys = format!("{versions}\ntls.certificates = [{{ chain = \"im.pem\", key = \"im.key\" }}]");
        let edge = Edge::start_in(workspace, &web_with(&keys, "", &[stub.address()])).await;
        let config = ca.client(offered).unwrap();
        let stream = tls::connect(edge.address("web"), "im.test", config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), wanted, "{versions} {offered:?}");
        if wanted == Some(b"h2") {
            let (mut client, _connection) = client(stream).await;
            let seen = body_of(client.send_request(get("/tls")).await.unwrap()).await;
            assert_eq!((&seen["path"], &seen["headers"]["x-forwarded-proto"]), (&"/tls".into(), &"https".into()));
        }
    }
}

#[tokio::test]
async fn prior_knowledge_is_a_bad_request_where_http2_is_not_offered() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with("http-versions = [\"1.1\"]", "", &[stub.address()])).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(last_answer(edge.address("web"), preface).await.status, 400);
}

#[tokio::test]
async fn both_versions_share_one_plain_port() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with(BOTH, "", &[stub.address()])).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(crate::parts::ask(edge.address("web"), request).await.status, 200);
    let (mut client, _connection) = plain_client(edge.address("web")).await;
    assert_eq!(client.send_request(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn refusals_over_http2_are_those_of_http1() {
    let stub = HttpStub::start("one").await.unwrap();
    let config = web_with(BOTH, "", &[stub.address()])
        .replace("cluster = \"c\"\n\n", "path-prefix = \"/in\"\ncluster = \"c\"\n\n");
    let edge = Edge::start(&config).await;
    let (mut client, _connection) = plain_client(edge.address("web")).await;
    for (path, status) in [("/out", 404), ("/in/../out", 400), ("/in/%2e%2e/out", 400), ("/in", 200)] {
        let response = client.send_request(get(path)).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert!(!format!("{:?}", response.headers()).to_lowercase().contains("pingora"));
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(stub.requests(), 1);
}

/// An endpoint that speaks HTTP/2 alone and echoes bodies, with trailers behind them, as gRPC does.
async fn grpc_like() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(echo_with_trailers);
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn echo_with_trailers(
    request: Request<Incoming>,
) -> Result<Response<StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>>>, hyper::Error> {
    let te = request.headers().get("te").cloned().unwrap_or(HeaderValue::from_static("none"));
    let body = request.into_body().collect().await?.to_bytes();
    let trailers = HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), HeaderValue::from_static("0")),
        ("x-seen-te".parse().unwrap(), te),
    ]);
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

#[tokio::test]
async fn trailers_pass_from_an_http2_endpoint_to_an_http2_client() {
    let endpoint = grpc_like().await;
    let edge = Edge::start(&web_with(BOTH, "http = \"2\"", &[endpoint])).await;
    let (client, _connection) = plain_client(edge.address("web")).await;
    let call = async |size: usize| {
        let request = Request::post("http://im.test/im.Chat/Send").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(Full::from(vec![7; size])).unwrap();
        let response = timeout(SOON, client.clone().send_request(request)).await.unwrap().unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"application/grpc".parse().unwrap())
        );
        let answer = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
        let trailers = answer.trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-seen-te"]),
            (&"0".parse().unwrap(), &"trailers".parse().unwrap())
        );
        assert_eq!(answer.to_bytes().len(), size);
    };
    join_all([5, 100_000, 1_000_000].map(call)).await;
    assert_eq!(edge.wait_for_lines(3).await[0]["status"], 200);
}

#[tokio::test]
async fn a_leaving_connection_says_goaway_and_its_streams_finish() {
    let slow = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    let script = move |_| vec![Action::Pause(Duration::from_millis(800)), Action::Send(slow.clone())];
    let stub = HttpStub::scripted("slow", script).await.unwrap();
    let config = format!("[stop]\ngrace = \"0s\"\ndeadline = \"20s\"\n\n{}", web_with(BOTH, "", &[stub.address()]));
    let mut edge = Edge::start(&config).await;
    let (mut busy, busy_connection) = plain_client(edge.address("web")).await;
    let (_idle, idle_connection) = plain_client(edge.address("web")).await;
    let answer = tokio::spawn(async move { busy.send_request(get("/slow")).await });
    eventually(SOON, "the request", async || (stub.requests() == 1).then_some(())).await.unwrap();
    edge.process.signal(Signal::TERM).unwrap();
    let answer = timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    timeout(SOON, busy_connection).await.unwrap().unwrap().unwrap();
    timeout(SOON, idle_connection).await.unwrap().unwrap().unwrap();
    assert_eq!(edge.process.wait(SOON).await.unwrap().code(), Some(0), "everybody had left");
}

#[tokio::test]
async fn a_preface_in_pieces_is_one() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with(BOTH, "", &[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.send(&[*byte]).await.unwrap();
    }
    // Empty SETTINGS; the server's own come back: 3 bytes of length, then type 4.
    client.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let frame = client.read_exact(9).await.unwrap();
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[tokio::test]
async fn a_request_line_that_only_begins_like_the_preface_is_a_request() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let answer = crate::parts::ask(edge.address("web"), "PRINT /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(crate::parts::seen_by_stub(&answer)["method"], "PRINT");
}
