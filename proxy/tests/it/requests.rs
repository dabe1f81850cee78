//! Plain HTTP/1.1 requests: framed right in both directions, one connection for many, and nothing of the inside shown.

use std::time::Duration;

use bench::harness::{Action, EchoTcp, HttpStub, RawClient, eventually, http};

use crate::edge::{Edge, SOON};
use crate::parts::{ask, last_answer, seen_by_stub, tells_nothing, web_to, web_with};

fn answering(answer: impl Into<Vec<u8>>) -> impl Fn(Vec<u8>) -> Vec<Action> + Send + Sync + 'static {
    let answer = answer.into();
    move |_| vec![Action::Send(answer.clone())]
}

#[tokio::test]
async fn a_kept_connection_carries_many_requests_over_one_pooled_upstream_connection() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&format!("[edge]\nworkers = 1\n\n{}", web_to(&[stub.address()]))).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for turn in 0..20 {
        client.send(format!("GET /{turn}?q=1 HTTP/1.1\r\nHost: im.test\r\n\r\n").as_bytes()).await.unwrap();
        let answer = http::read_answer(&mut client, "GET").await.unwrap();
        assert_eq!(seen_by_stub(&answer)["path"], format!("/{turn}?q=1"));
    }
    // Another client of the same worker shares it.
    assert_eq!(ask(edge.address("web"), "GET / HTTP/1.1\r\nHost: im.test\r\n\r\n").await.status, 200);
    assert_eq!((stub.requests(), stub.connections()), (21, 1));
    drop(client);
    let lines = edge.wait_for_lines(21).await;
    assert!(lines.iter().all(|line| line["kind"] == "request" && line["outcome"] == "answered"), "{lines:#?}");
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[stub.address()]).await, [0], "an idle pooled connection holds no lease");
    let labels = [("listener", "web"), ("cluster", "c"), ("status", "2xx")];
    assert_eq!(edge.count("warbler_requests_total", &labels).await, 21);
}

#[tokio::test]
async fn as_many_upstream_connections_are_kept_as_a_crowd_of_clients_needed() {
    const CROWD: u64 = 150;
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&format!("[edge]\nworkers = 1\n\n{}", web_to(&[stub.address()]))).await;
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        clients.push(RawClient::connect(edge.address("web")).await.unwrap());
    }
    for wave in 1..=2 {
        // A body that is late holds its upstream connection.
        for client in &mut clients {
            client.send(b"POST / HTTP/1.1\r\nHost: im.test\r\nContent-Length: 2\r\n\r\na").await.unwrap();
        }
        eventually(SOON, "all are on their way", async || {
            (edge.leases(&[stub.address()]).await == [CROWD]).then_some(())
        })
        .await
        .unwrap();
        for client in &mut clients {
            client.send(b"b").await.unwrap();
            assert_eq!(http::read_answer(client, "POST").await.unwrap().status, 200);
        }
        assert_eq!(stub.connections(), CROWD, "wave {wave}");
    }
}

#[tokio::test]
async fn bodies_of_every_size_and_framing_arrive_whole() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for size in [0, 1, 16_384, 1_000_000] {
        let body = "x".repeat(size);
        let request = format!("POST /p HTTP/1.1\r\nHost: im.test\r\nContent-Length: {size}\r\n\r\n{body}");
        client.send(request.as_bytes()).await.unwrap();
        let seen = seen_by_stub(&http::read_answer(&mut client, "POST").await.unwrap());
        assert_eq!(seen["body"].as_str().unwrap().len(), size);
    }
    let chunked =
        "POST /c HTTP/1.1\r\nHost: im.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    // In pieces of one byte, borders of chunks fall everywhere.
    for byte in chunked.as_bytes() {
        client.send(&[*byte]).await.unwrap();
    }
    assert_eq!(seen_by_stub(&http::read_answer(&mut client, "POST").await.unwrap())["body"], "abcdefg");
}

#[tokio::test]
async fn ten_megabytes_pass_in_both_directions() {
    const SIZE: usize = 10 << 20;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes();
    let script = move |_| {
        let body = vec![b'd'; SIZE];
        // In two parts, because the stub takes 8 MiB at a time.
        vec![Action::Read(SIZE / 2), Action::Read(SIZE / 2), Action::Send(head.clone()), Action::Send(body)]
    };
    let stub = HttpStub::scripted("big", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let answer = http::request(edge.address("web"), "POST", "/big", &[], &vec![b'u'; SIZE]).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, SIZE));
    assert!(answer.body.iter().all(|byte| *byte == b'd'));
    let line = edge.wait_for_lines(1).await.remove(0);
    assert_eq!((&line["bytes_to_endpoint"], &line["bytes_to_client"]), (&SIZE.into(), &SIZE.into()));
}

#[tokio::test]
async fn answers_keep_their_framing() {
    let cases: [(&str, &str, &str, u16, &str); 5] = [
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            "chunked",
            200,
            "abc",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", "1234", 200, ""),
        ("GET", "HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n", "", 204, ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n", "", 304, ""),
        ("GET", "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope", "4", 404, "nope"),
    ];
    for (method, sent, framing, status, body) in cases {
        let stub = HttpStub::scripted("framing", answering(sent)).await.unwrap();
        let edge = Edge::start(&web_to(&[stub.address()])).await;
        let mut client = RawClient::connect(edge.address("web")).await.unwrap();
        // Twice, because a wrong end of the first answer shows in the second.
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: im.test\r\n\r\n").as_bytes()).await.unwrap();
            let answer = http::read_answer(&mut client, method).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{sent:?}");
            let said = answer.field("content-length").or(answer.field("transfer-encoding")).unwrap_or_default();
            assert_eq!(said, framing, "{sent:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let script = |_| {
        vec![
            Action::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Action::Read(4),
            Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        ]
    };
    let stub = HttpStub::scripted("continue", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client
        .send(b"POST / HTTP/1.1\r\nHost: im.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    assert!(client.read_until(b"\r\n\r\n").await.unwrap().starts_with(b"HTTP/1.1 100 "));
    client.send(b"body").await.unwrap();
    assert_eq!(http::read_answer(&mut client, "POST").await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_and_its_connection_ends() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let answer = last_answer(edge.address("web"), "GET /old HTTP/1.0\r\nHost: im.test\r\n\r\n").await;
    assert_eq!(seen_by_stub(&answer)["path"], "/old");
}

/// Pipelining is off: what follows a request at once is never served by mistake, and never lost in silence.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order_or_the_connection_ends() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    let two =
        "POST /1 HTTP/1.1\r\nHost: im.test\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: im.test\r\n\r\n";
    client.send(two.as_bytes()).await.unwrap();
    let first = seen_by_stub(&http::read_answer(&mut client, "POST").await.unwrap());
    assert_eq!((&first["path"], &first["body"]), (&"/1".into(), &"abc".into()));
    // Either a second answer to the second request, or the end.
    if let Ok(second) = http::read_answer(&mut client, "GET").await {
        assert_eq!(seen_by_stub(&second)["path"], "/2");
    }
    for head in stub.heads() {
        assert!(head.starts_with("POST /1 ") || head.starts_with("GET /2 "), "{head}");
    }
}

#[tokio::test]
async fn heads_that_are_none_get_400_and_reach_nobody() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    for bad in [
        "\x16\x03\x01\x02\0\x01\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : im.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: im.test\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ] {
        let answer = last_answer(edge.address("web"), bad).await;
        assert_eq!(answer.status, 400, "{bad:?}");
        tells_nothing(&answer, &[stub.address()]);
    }
    assert_eq!(stub.requests(), 0, "{:?}", stub.heads());
}

#[tokio::test]
async fn connect_is_refused_with_405() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let connect = "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n";
    assert_eq!(last_answer(edge.address("web"), connect).await.status, 405);
    assert_eq!(stub.connections(), 0);
}

#[tokio::test]
async fn a_head_larger_than_the_limit_gets_431() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with("max-head = \"2KiB\"", "", &[stub.address()])).await;
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1500));
    assert_eq!(ask(edge.address("web"), fits).await.status, 200);
    let many = "X: y\r\n".repeat(500);
    for fields in [format!("X: {}\r\n", "x".repeat(3000)), format!("X: {}", "x".repeat(200_000)), many] {
        let answer = last_answer(edge.address("web"), format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        assert_eq!(answer.status, 431, "{} bytes", fields.len());
    }
    assert_eq!(stub.requests(), 1);
}

#[tokio::test]
async fn a_head_that_takes_too_long_gets_408_and_a_silent_client_just_ends() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with("timeouts.request-head = \"300ms\"", "", &[stub.address()])).await;
    assert_eq!(last_answer(edge.address("web"), "GET / HTTP/1.1\r\nHost:").await.status, 408);
    RawClient::connect(edge.address("web")).await.unwrap().expect_eof().await.unwrap();
    let lines = edge.wait_for_lines(2).await;
    assert!(lines.iter().all(|line| line["outcome"] == "too-slow" && line["kind"] == "connection"), "{lines:#?}");
}

#[tokio::test]
async fn a_kept_connection_without_a_further_request_ends_after_its_time() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_with("timeouts.keep-alive = \"400ms\"", "", &[stub.address()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    for _ in 0..2 {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(http::read_answer(&mut client, "GET").await.unwrap().status, 200);
    }
    let answered = tokio::time::Instant::now();
    client.expect_eof().await.unwrap();
    assert!(answered.elapsed() > Duration::from_millis(300), "{:?}", answered.elapsed());
}

#[tokio::test]
async fn an_asked_for_close_is_kept() {
    let stub = HttpStub::start("one").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let answer = last_answer(edge.address("web"), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn endpoints_that_fail_are_told_apart_by_status_and_named_by_none() {
    let closing = HttpStub::scripted("closing", |_| vec![Action::Close]).await.unwrap();
    let garbage = HttpStub::scripted("garbage", answering("SSH-2.0-OpenSSH\r\n\r\n")).await.unwrap();
    let silent = HttpStub::scripted("silent", |_| vec![]).await.unwrap();
    let mut gone = HttpStub::start("gone").await.unwrap();
    gone.stop().await;
    let cases = [
        (&closing, 502, "bad-answer"),
        (&garbage, 502, "bad-answer"),
        (&silent, 504, "bad-answer"),
        (&gone, 502, "connect-failed"),
    ];
    for (stub, status, outcome) in cases {
        let edge = Edge::start(&web_with("", "response-timeout = \"300ms\"", &[stub.address()])).await;
        let answer = ask(edge.address("web"), "GET /private HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status, status);
        tells_nothing(&answer, &[stub.address()]);
        let line = edge.wait_for_lines(1).await.remove(0);
        assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some(outcome), Some(status.into())));
        edge.wait_until_empty().await;
        assert_eq!(edge.leases(&[stub.address()]).await, [0]);
    }
}

#[tokio::test]
async fn a_request_is_tried_on_another_endpoint_when_one_cannot_be_reached_three_at_most() {
    let stub = HttpStub::start("one").await.unwrap();
    let mut gone = Vec::new();
    for _ in 0..4 {
        let mut stub = EchoTcp::start().await.unwrap();
        stub.stop().await;
        gone.push(stub.address());
    }
    let config = |endpoints: &[_]| web_with("", "request-policy = \"round-robin\"", endpoints);
    let edge = Edge::start(&config(&[gone[0], gone[1], stub.address()])).await;
    for _ in 0..6 {
        let answer = http::request(edge.address("web"), "POST", "/", &[], b"body").await.unwrap();
        assert_eq!(seen_by_stub(&answer)["body"], "body");
    }
    let lines = edge.wait_for_lines(6).await;
    assert!(lines.iter().any(|line| line["tries"] == 3), "{lines:#?}");
    assert!(lines.iter().all(|line| line["outcome"] == "answered"), "{lines:#?}");
    assert_eq!(edge.leases(&[gone[0], gone[1], stub.address()]).await, [0, 0, 0]);

    let edge = Edge::start(&config(&gone)).await;
    assert_eq!(ask(edge.address("web"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 502);
    assert_eq!(edge.wait_for_lines(1).await[0]["tries"], 3);
    assert_eq!(edge.count("warbler_connect_failures_total", &[("cluster", "c")]).await, 3);
}

#[tokio::test]
async fn without_any_endpoint_that_may_be_picked_the_answer_is_503() {
    let stub = HttpStub::scripted("slow", |_| vec![Action::Pause(Duration::from_secs(60))]).await.unwrap();
    let config = web_to(&[stub.address()]).replace("\" }]", "\", max-connections = 1 }]");
    let edge = Edge::start(&config).await;
    let mut first = RawClient::connect(edge.address("web")).await.unwrap();
    first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually(SOON, "the first request", async || (stub.requests() == 1).then_some(())).await.unwrap();
    let second = ask(edge.address("web"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((second.status, second.field("cache-control")), (503, Some("no-store")));
    tells_nothing(&second, &[stub.address()]);
    assert_eq!(edge.leases(&[stub.address()]).await, [1]);
    // The first client gives up; its lease comes back.
    drop(first);
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[stub.address()]).await, [0]);
    let lines = edge.wait_for_lines(2).await;
    assert_eq!(lines[0]["outcome"], "no-endpoint", "{lines:#?}");
    assert_eq!(lines[0]["status"], 503);
    assert_eq!(lines[1]["outcome"], "client-reset", "{lines:#?}");
    let failures = [("cluster", "c"), ("reason", "all-full")];
    assert_eq!(edge.count("warbler_pick_failures_total", &failures).await, 1);
}
