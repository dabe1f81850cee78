//! Which cluster a request goes to, end to end: the most specific route, wherever it stands in the file.

use bench::harness::{HttpStub, http};

use crate::edge::Edge;
use crate::parts::{ask, endpoints, tells_nothing};

const ROUTES: &str = r#"
[listeners.web]
bind = ["127.0.0.1:0"]
protocol = "http"

[[listeners.web.routes]]
host = "*.example.test"
cluster = "wild"

[[listeners.web.routes]]
host = "im.example.test"
path-prefix = "/ws"
cluster = "prefix"

[[listeners.web.routes]]
host = "im.example.test"
path-prefix = "/ws"
headers = { "x-tenant" = "a", "x-client" = "*" }
cluster = "tenant"

[[listeners.web.routes]]
host = "im.example.test"
path = "/ws/login"
cluster = "exact"
"#;

const CLUSTERS: [&str; 4] = ["wild", "prefix", "tenant", "exact"];

/// Header fields by name and value.
type Fields<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn the_most_specific_route_gets_the_request() {
    let mut config = ROUTES.to_owned();
    let mut stubs = Vec::new();
    for name in CLUSTERS {
        let stub = HttpStub::start(name).await.unwrap();
        let endpoints = endpoints(&[stub.address()]);
        config += &format!(
            "\n[clusters.{name}]\nhealth.off = true\n[clusters.{name}.localities.x]\nendpoints = {endpoints}\n"
        );
        stubs.push(stub);
    }
    let edge = Edge::start(&config).await;
    let both = [("x-tenant", "a"), ("x-client", "ios")];
    let cases: [(&str, &str, Fields<'_>, &str); 14] = [
        ("im.example.test", "/ws", &[], "prefix"),
        ("IM.Example.Test:8443", "/ws/a/b?x=/ws/login", &[], "prefix"),
        ("im.example.test.", "/ws/", &[], "prefix"),
        ("im.example.test", "/ws/login", &[], "exact"),
        ("im.example.test", "/ws/login?next=1", &both, "exact"),
        ("im.example.test", "/ws/login/", &[], "prefix"),
        ("im.example.test", "/ws", &both, "tenant"),
        ("im.example.test", "/ws", &both[..1], "prefix"),
        ("im.example.test", "/ws", &[("x-tenant", "b"), ("x-client", "ios")], "prefix"),
        ("im.example.test", "/wsx", &[], "wild"),
        ("a.b.example.test", "/", &[], "wild"),
        ("example.test", "/", &[], ""),
        ("badexample.test", "/", &[], ""),
        ("127.0.0.1", "/ws", &[], ""),
    ];
    for (host, path, fields, wanted) in cases {
        let fields = [&[("host", host)], fields].concat();
        let answer = http::request(edge.address("web"), "GET", path, &fields, b"").await.unwrap();
        if wanted.is_empty() {
            assert_eq!(answer.status, 404, "{host}{path}");
            tells_nothing(&answer, &[]);
        } else {
            assert_eq!(answer.json().unwrap()["name"], wanted, "{host}{path} {fields:?}");
        }
    }
    // A target may name the host; with another one beside it, two servers could disagree on who is meant.
    let absolute = "GET http://im.example.test/ws HTTP/1.1\r\nHost: im.example.test\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(edge.address("web"), absolute).await.json().unwrap()["name"], "prefix");
    let two = absolute.replace("Host: im.", "Host: other.");
    assert_eq!(ask(edge.address("web"), two).await.status, 400);
}
