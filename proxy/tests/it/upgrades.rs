//! An upgrade is a tunnel from its `101` on and not before, and no byte is lost on either side of it.

use std::time::Duration;

use bench::harness::{Action, HttpStub, RawClient, eventually, http};

use crate::edge::{Edge, SOON};
use crate::parts::{ask, last_answer, tells_nothing, upgrade_head, web_to, web_with};

const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// An endpoint that switches, sends `greeting` in the same segment, and then echoes.
async fn greeting_stub(greeting: &'static [u8]) -> HttpStub {
    HttpStub::scripted("ws", move |_| vec![Action::Send([SWITCHING, greeting].concat()), Action::Echo]).await.unwrap()
}

async fn answering_stub(answer: impl Into<Vec<u8>>) -> HttpStub {
    let answer = answer.into();
    HttpStub::scripted("ws", move |_| vec![Action::Send(answer.clone())]).await.unwrap()
}

async fn switched(client: &mut RawClient) -> String {
    let head = client.read_until(b"\r\n\r\n").await.unwrap();
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    head
}

#[tokio::test]
async fn bytes_with_and_behind_the_101_arrive_on_both_sides() {
    let stub = greeting_stub(b"\x82\x05hello").await;
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws?token=1", "")).await.unwrap();
    let head = switched(&mut client).await;
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert_eq!(client.read_exact(7).await.unwrap(), b"\x82\x05hello");
    client.send(b"anything at all").await.unwrap();
    assert_eq!(client.read_exact(15).await.unwrap(), b"anything at all");
    client.finish().await.unwrap();
    client.expect_eof().await.unwrap();
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((line["kind"].as_str(), line["status"].as_u64()), (Some("upgrade"), Some(101)));
    assert_eq!(line["path"], "/ws", "without the query, which may hold a token");
    assert_eq!((&line["bytes_to_client"], &line["bytes_to_endpoint"]), (&22.into(), &15.into()));
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[stub.address()]).await, [0]);
}

#[tokio::test]
async fn interim_answers_before_the_101_are_passed_over() {
    let answer = [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", SWITCHING].concat();
    let stub = HttpStub::scripted("ws", move |_| vec![Action::Send(answer.clone()), Action::Echo]).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws", "")).await.unwrap();
    switched(&mut client).await;
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn a_101_that_comes_byte_by_byte_is_one() {
    let actions = |_| SWITCHING.iter().map(|byte| Action::Send(vec![*byte])).chain([Action::Echo]).collect();
    let stub = HttpStub::scripted("ws", actions).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for byte in upgrade_head("/ws", "") {
        client.send(&[byte]).await.unwrap();
    }
    switched(&mut client).await;
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn what_a_client_sends_with_its_head_is_refused_and_reaches_nobody() {
    let stub = greeting_stub(b"").await;
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let early = [upgrade_head("/ws", ""), b"GET /admin HTTP/1.1\r\nHost: im.test\r\n\r\n".to_vec()].concat();
    let answer = last_answer(edge.address("web"), early).await;
    assert_eq!(answer.status, 400);
    assert_eq!((stub.connections(), stub.received()), (0, Vec::new()));
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("bad-request"), Some(400)));
}

#[tokio::test]
async fn what_a_client_sends_before_the_101_is_refused_and_reaches_nobody() {
    let never = |_| vec![Action::Pause(Duration::from_secs(60))];
    let stub = HttpStub::scripted("ws", never).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws", "")).await.unwrap();
    eventually(SOON, "the upgrade", async || (stub.requests() == 1).then_some(())).await.unwrap();
    client.send(b"GET /admin HTTP/1.1\r\nHost: im.test\r\n\r\n").await.unwrap();
    assert_eq!(http::read_answer(&mut client, "GET").await.unwrap().status, 400);
    client.expect_eof().await.unwrap();
    drop(client);
    assert!(!String::from_utf8(stub.received()).unwrap().contains("/admin"));
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[stub.address()]).await, [0]);
}

/// What broke elsewhere: behind a refused upgrade some proxies keep copying bytes, and the next request on the
/// connection reaches the endpoint past all routes.
#[tokio::test]
async fn a_refused_upgrade_is_a_whole_answer_and_nothing_follows_it() {
    let bodies: [(&str, &str, &str); 3] = [
        ("content-length: 6\r\n", "no no\n", "no no\n"),
        ("transfer-encoding: chunked\r\n", "3;a=b\r\nno \r\n3\r\nno\n\r\n0\r\nx-t: 1\r\n\r\n", "no no\n"),
        ("", "no no\n", "no no\n"),
    ];
    for status in ["403 Forbidden", "426 Upgrade Required", "302 Found", "200 OK", "503 Busy"] {
        for (framing, sent, body) in bodies {
            let answer = format!("HTTP/1.1 {status}\r\nlocation: /login\r\nupgrade: websocket\r\n{framing}\r\n{sent}");
            let until_close = framing.is_empty();
            let script = move |_| {
                let mut actions = vec![Action::Send(answer.clone().into_bytes())];
                actions.extend(until_close.then_some(Action::Close));
                actions
            };
            let stub = HttpStub::scripted("ws", script).await.unwrap();
            let edge = Edge::start(&web_to(&[stub.address()])).await;
            let mut client = RawClient::connect(edge.address("web")).await.unwrap();
            client.send(&upgrade_head("/ws", "")).await.unwrap();
            let answer = http::read_answer(&mut client, "GET").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (status[..3].parse().unwrap(), body));
            assert_eq!((answer.field("location"), answer.field("connection")), (Some("/login"), Some("close")));
            // The connection may be gone already; what counts is that nobody serves this.
            client.send(b"GET /admin HTTP/1.1\r\nHost: im.test\r\n\r\n").await.ok();
            let rest = client.read_to_end().await.unwrap_or_default();
            assert_eq!(rest, b"", "{status} {framing:?}");
            // The edge waits for the client's end, for a while.
            drop(client);
            edge.wait_until_empty().await;
            assert_eq!(stub.requests(), 1, "{status} {framing:?}");
            assert!(!String::from_utf8(stub.received()).unwrap().contains("/admin"));
            assert_eq!(edge.leases(&[stub.address()]).await, [0]);
            let line = edge.wait_for_lines(1).await.remove(0);
            assert_eq!((&line["outcome"], &line["endpoint"]), (&"answered".into(), &stub.address().to_string().into()));
        }
    }
}

/// A refusal whose body never ends held the client's connection, and its place in the registry, for ever.
#[tokio::test]
async fn a_refused_upgrade_whose_body_stalls_ends_at_the_response_timeout() {
    let stub = answering_stub("HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\nonly this").await;
    let edge = Edge::start(&web_with("", "response-timeout = \"300ms\"", &[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws", "")).await.unwrap();
    let all = client.read_to_end().await.unwrap();
    assert!(all.starts_with(b"HTTP/1.1 403 ") && all.ends_with(b"only this"), "{}", all.escape_ascii());
    edge.wait_until_empty().await;
    assert_eq!(edge.wait_for_lines(1).await[0]["outcome"], "bad-answer");
}

#[tokio::test]
async fn a_101_to_anything_but_the_protocol_asked_for_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 one\r\n\r\n",
    ] {
        let stub = answering_stub(answer).await;
        let edge = Edge::start(&web_to(&[stub.address()])).await;
        let refused = last_answer(edge.address("web"), upgrade_head("/ws", "")).await;
        assert_eq!(refused.status, 502, "{answer:?}");
        tells_nothing(&refused, &[stub.address()]);
        let line = edge.wait_for_lines(1).await.remove(0);
        assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("bad-answer"), Some(502)), "{answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_closes_is_a_502_and_one_that_is_silent_a_504() {
    let closing = HttpStub::scripted("closing", |_| vec![Action::Close]).await.unwrap();
    let silent = HttpStub::scripted("silent", |_| vec![]).await.unwrap();
    for (stub, status) in [(closing, 502), (silent, 504)] {
        let edge = Edge::start(&web_with("", "response-timeout = \"300ms\"", &[stub.address()])).await;
        let refused = last_answer(edge.address("web"), upgrade_head("/ws", "")).await;
        assert_eq!(refused.status, status);
        tells_nothing(&refused, &[stub.address()]);
        edge.wait_until_empty().await;
        assert_eq!(edge.leases(&[stub.address()]).await, [0]);
    }
}

#[tokio::test]
async fn an_upgrade_may_follow_plain_requests_on_a_kept_connection() {
    let script = |head: Vec<u8>| {
        if head.starts_with(b"GET /ws ") {
            return vec![Action::Send([SWITCHING, b"hi"].concat()), Action::Echo];
        }
        vec![Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain".to_vec())]
    };
    let stub = HttpStub::scripted("both", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for _ in 0..2 {
        client.send(b"GET /page HTTP/1.1\r\nHost: im.test\r\n\r\n").await.unwrap();
        assert_eq!(http::read_answer(&mut client, "GET").await.unwrap().text(), "plain");
    }
    client.send(&upgrade_head("/ws", "")).await.unwrap();
    switched(&mut client).await;
    assert_eq!(client.read_exact(2).await.unwrap(), b"hi");
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn an_upgrade_without_a_route_gets_a_404_that_names_nothing() {
    let stub = greeting_stub(b"").await;
    let config = web_to(&[stub.address()]).replace(
        "[[listeners.web.routes]]",
        "[[listeners.web.routes]]\nhost = \"inside.example\"\npath-prefix = \"/ws\"",
    );
    let edge = Edge::start(&config).await;
    let answer = last_answer(edge.address("web"), upgrade_head("/ws", "")).await;
    assert_eq!(answer.status, 404);
    tells_nothing(&answer, &[stub.address()]);
    assert!(!answer.text().contains("inside.example"));
    assert_eq!(stub.connections(), 0);
    assert_eq!(edge.wait_for_lines(1).await[0]["outcome"], "no-route");
}

#[tokio::test]
async fn an_upgrade_that_could_be_read_in_two_ways_is_a_bad_request() {
    let stub = greeting_stub(b"").await;
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    for fields in [
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Host: other.test\r\n",
        "X-Folded: a\r\n b\r\n",
        "X-Space : a\r\n",
        "X-Nul: a\0b\r\n",
    ] {
        let answer = last_answer(edge.address("web"), upgrade_head("/ws", fields)).await;
        assert_eq!(answer.status, 400, "{fields:?}");
    }
    for path in ["/ws/../admin", "/ws/%2e%2E/admin", "/./ws", "/ws/..\\admin"] {
        let answer = last_answer(edge.address("web"), upgrade_head(path, "")).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    let no_host = upgrade_head("/ws", "").split_off(0);
    let no_host = String::from_utf8(no_host).unwrap().replace("Host: im.test\r\n", "");
    assert_eq!(last_answer(edge.address("web"), no_host).await.status, 400);
    assert_eq!(stub.connections(), 0);
}

#[tokio::test]
async fn an_upgrade_named_over_several_lines_is_one_upgrade() {
    let stub = greeting_stub(b"hi").await;
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let head = "GET /ws HTTP/1.1\r\nHost: im.test\r\nConnection: keep-alive\r\nConnection: x-mine, uPgRaDe\r\n\
                Upgrade: foo/1\r\nX-Mine: 1\r\nUpgrade: websocket\r\n\r\n";
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(head.as_bytes()).await.unwrap();
    switched(&mut client).await;
    let seen = stub.heads().remove(0).to_lowercase();
    assert_eq!(seen.matches("\r\nupgrade: ").count(), 1, "{seen}");
    assert!(seen.contains("\r\nupgrade: foo/1, websocket\r\n"), "{seen}");
    assert_eq!(seen.matches("\r\nconnection: ").count(), 1, "{seen}");
    assert!(!seen.contains("x-mine"), "{seen}");
}

#[tokio::test]
async fn what_belongs_to_one_hop_stays_on_it() {
    let stub = greeting_stub(b"").await;
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let fields = "Connection: close, X-Secret, Host, X-Forwarded-For\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                  Trailer: x\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: x\r\nContent-Length: 0\r\n\
                  X-Stays: yes\r\nCookie: a=b\r\nX-Forwarded-For: 203.0.113.66\r\n";
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(&upgrade_head("/ws?a=%20b", fields)).await.unwrap();
    switched(&mut client).await;
    let seen = stub.heads().remove(0).to_lowercase();
    assert!(seen.starts_with("get /ws?a=%20b http/1.1\r\n"), "{seen}");
    let gone = ["x-secret", "keep-alive", "\r\nte:", "trailer", "proxy-", "content-length", "203.0.113.66", "close"];
    for name in gone {
        assert!(!seen.contains(name), "{name} in {seen}");
    }
    for kept in [
        "\r\nhost: im.test\r\n",
        "\r\nx-stays: yes\r\n",
        "\r\ncookie: a=b\r\n",
        "\r\nsec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
        "\r\nx-forwarded-for: 127.0.0.1\r\n",
        "\r\nx-forwarded-proto: http\r\n",
        "\r\nx-forwarded-host: im.test\r\n",
    ] {
        assert!(seen.contains(kept), "{kept:?} is not in {seen}");
    }
}

#[tokio::test]
async fn an_upgrade_to_another_protocol_is_an_opaque_tunnel() {
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Foo/2\r\n\r\n";
    let script = |_| vec![Action::Send(switching.to_vec()), Action::Echo];
    let stub = HttpStub::scripted("foo", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    let head = b"POST /x HTTP/1.1\r\nHost: im.test\r\nConnection: upgrade\r\nUpgrade: foo/2\r\n\r\n";
    client.send(head).await.unwrap();
    switched(&mut client).await;
    // As a WebSocket this would be a frame of an impossible length.
    let bytes: Vec<u8> = (0..=255).cycle().skip(0xff).take(100_000).collect();
    client.send(&bytes).await.unwrap();
    assert_eq!(client.read_exact(bytes.len()).await.unwrap(), bytes);
    client.finish().await.unwrap();
    client.expect_eof().await.unwrap();
    assert!(stub.heads()[0].starts_with("POST /x "), "{:?}", stub.heads());
}

#[tokio::test]
async fn an_upgrade_to_http2_is_served_as_the_plain_request_that_it_also_is() {
    let stub = HttpStub::start("plain").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let head = "GET /page HTTP/1.1\r\nHost: im.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let seen = crate::parts::seen_by_stub(&ask(edge.address("web"), head).await);
    assert_eq!(seen["path"], "/page");
    assert_eq!((&seen["headers"]["upgrade"], &seen["headers"]["http2-settings"]), (&().into(), &().into()));
}

#[tokio::test]
async fn an_upgrade_is_tried_on_another_endpoint_when_one_cannot_be_reached() {
    let mut gone = HttpStub::start("gone").await.unwrap();
    gone.stop().await;
    let stub = greeting_stub(b"hi").await;
    let edge = Edge::start(&web_with("", "policy = \"round-robin\"", &[gone.address(), stub.address()])).await;
    for _ in 0..4 {
        let mut client = RawClient::connect(edge.address("web")).await.unwrap();
        client.send(&upgrade_head("/ws", "")).await.unwrap();
        switched(&mut client).await;
        assert_eq!(client.read_exact(2).await.unwrap(), b"hi");
    }
    assert_eq!(stub.connections(), 4);
    let lines = edge.wait_for_lines(4).await;
    assert!(lines.iter().any(|line| line["tries"] == 2), "{lines:#?}");
    let nobody = Edge::start(&web_to(&[gone.address()])).await;
    let refused = last_answer(nobody.address("web"), upgrade_head("/ws", "")).await;
    assert_eq!(refused.status, 502);
    tells_nothing(&refused, &[gone.address()]);
}
