//! What a hostile, careless or unlucky peer can do, and an unlucky operator: each of these once got through.

use std::time::{Duration, Instant};

use bench::harness::{
    DnsServer, EchoTcp, HttpStub, Process, RawClient, Signal, TestCa, Workspace, eventually, http, http_stub::Action,
    tls,
};

use crate::edge::{CONFIG, Edge, SOON, complete, run};
use crate::ends::{RawEndpoint, tcp_edge};
use crate::parts::{ask, last_answer, tcp_with, wait_until_picks_know, web_to, web_with};
use crate::tls_in::write_certificate;

/// A tunnel of HTTP/2 would carry requests past all routes.
#[tokio::test]
async fn an_upgrade_that_hides_http2_among_others_never_becomes_a_tunnel_of_it() {
    let script = |_head: Vec<u8>| {
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        vec![Action::Send(agreed.to_vec()), Action::Echo]
    };
    let stub = HttpStub::scripted("h2c", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    for asked in ["h2c, websocket", "websocket, h2c", "websocket, HTTP/2.0"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: im.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {asked}\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        assert_eq!(last_answer(edge.address("web"), request).await.status, 502, "{asked}");
    }
    for head in stub.heads() {
        let head = head.to_lowercase();
        assert!(
            head.contains("upgrade: websocket\r\n") && !head.contains("h2c") && !head.contains("http2-settings"),
            "{head}"
        );
    }
}

/// What an endpoint says before it closes (a kick, an error) is for the client, whatever the client still sends.
#[tokio::test]
async fn the_last_words_of_an_endpoint_reach_a_client_that_keeps_writing() {
    let endpoint = RawEndpoint::bind().await;
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let mut words = vec![b'x'; 20_000];
    words.extend(b"FINAL-GOODBYE");
    for _ in 0..10 {
        let (client, mut upstream) = endpoint.tunnel(edge.address("im")).await;
        let (stream, _) = client.into_parts();
        let (mut reading, mut writing) = stream.into_split();
        let chatter = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while writing.write_all(&[b'c'; 500]).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        upstream.read_exact(500).await.unwrap();
        upstream.send(&words).await.unwrap();
        // Ends its side first: it has said all, and closes with bytes of the client unread.
        upstream.finish().await.unwrap();
        tokio::time::timeout(SOON, upstream.read_exact(500)).await.unwrap().unwrap();
        drop(upstream);
        let mut got = Vec::new();
        // After its end a reset may follow, for what the client still sent.
        tokio::time::timeout(SOON, tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut got)).await.unwrap().ok();
        assert_eq!((got.len(), got.ends_with(b"FINAL-GOODBYE")), (words.len(), true));
        chatter.abort();
    }
}

#[tokio::test]
async fn a_file_where_the_admin_socket_should_be_is_left_alone() {
    let workspace = Workspace::new().unwrap();
    let text = complete(&tcp_edge("", &["127.0.0.1:9".parse().unwrap()]));
    workspace.write(CONFIG, text.replace("run/warbler.sock", "precious.txt")).unwrap();
    workspace.write("precious.txt", "years of work").unwrap();
    let finished = Process::run(&workspace, run(), SOON).await.unwrap();
    assert_eq!(finished.code(), 3, "{}", finished.stderr);
    assert!(finished.stderr.contains("precious.txt") && finished.stderr.contains("no socket"), "{}", finished.stderr);
    assert_eq!(std::fs::read_to_string(workspace.path("precious.txt")).unwrap(), "years of work");
}

#[tokio::test]
async fn a_client_that_agrees_on_http2_and_then_says_nothing_is_closed() {
    let ca = TestCa::new().unwrap();
    let workspace = Workspace::new().unwrap();
    write_certificate(&workspace, &ca, "im", &["im.test"]);
    let keys = "tls.certificates = [{ chain = \"im.pem\", key = \"im.key\" }]\ntimeouts.request-head = \"1s\"";
    let edge = Edge::start_in(workspace, &web_with(keys, "", &["127.0.0.1:9".parse().unwrap()])).await;
    let stream = tls::connect(edge.address("web"), "im.test", ca.client(&["h2"]).unwrap()).await.unwrap();
    RawClient::over(stream).with_patience(SOON).expect_eof().await.unwrap();
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["kind"], &lines[0]["outcome"]), (&"connection".into(), &"too-slow".into()));
}

#[tokio::test]
async fn an_http2_connection_without_a_request_has_its_event() {
    let edge = Edge::start(&web_with("http-versions = [\"2\"]", "", &["127.0.0.1:9".parse().unwrap()])).await;
    let mut client = RawClient::connect(edge.address("web")).await.unwrap();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.read_exact(9).await.unwrap();
    drop(client);
    let lines = edge.wait_for_lines(1).await;
    assert_eq!((&lines[0]["kind"], &lines[0]["outcome"]), (&"connection".into(), &"client-closed".into()));
}

#[tokio::test]
async fn a_listener_for_http2_alone_serves_no_http1() {
    let stub = HttpStub::start("a").await.unwrap();
    let edge = Edge::start(&web_with("http-versions = [\"2\"]", "", &[stub.address()])).await;
    assert_eq!(last_answer(edge.address("web"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 505);
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn connections_of_a_listener_that_was_renamed_are_served_until_they_have_left() {
    let stub = HttpStub::start("a").await.unwrap();
    let config = format!("{}\n[drain]\nrate = \"1/m\"\n", web_to(&[stub.address()]));
    let edge = Edge::start(&config).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(RawClient::connect(edge.address("web")).await.unwrap());
    }
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for client in &mut kept {
        client.send(request).await.unwrap();
        assert_eq!(http::read_answer(client, "GET").await.unwrap().status, 200);
    }
    let renamed = config.replace("listeners.web", "listeners.im");
    edge.reload(&renamed).await;
    // And once more, so that the new name's listener is no newcomer either.
    edge.reload(&renamed.replace("1/m", "2/m")).await;
    for client in &mut kept {
        client.send(request).await.unwrap();
        assert_eq!(http::read_answer(client, "GET").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_bind_is_widened_and_narrowed_by_a_reload() {
    for workers in [1, 2] {
        let echo = EchoTcp::start().await.unwrap();
        let config = |bind: &str| {
            let text = tcp_edge("", &[echo.address()]).replace("127.0.0.1:0", bind);
            format!("{text}\n[edge]\nname = \"bind\"\nworkers = {workers}\n")
        };
        let port = bench::harness::reserve_port().unwrap();
        let edge = Edge::start(&config(&format!("127.0.0.1:{port}"))).await;
        for (bind, reached) in [(format!("0.0.0.0:{port}"), "127.0.0.2"), (format!("127.0.0.1:{port}"), "127.0.0.1")] {
            edge.reload(&config(&bind)).await;
            let address = format!("{reached}:{port}").parse().unwrap();
            crate::ends::echo_client(address).await;
        }
        assert!(RawClient::connect(format!("127.0.0.2:{port}").parse().unwrap()).await.is_err());
    }
}

#[tokio::test]
async fn health_counts_while_the_edge_stops() {
    let (mut dying, living) = (EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap());
    let keys = "health.off = false\nhealth.tcp = { interval = \"100ms\", fast-interval = \"100ms\", fall = 2 }";
    let text = tcp_with("", "", &[dying.address(), living.address()]).replace("health.off = true", keys);
    let text = text.replace("health.off = false\n", "");
    let mut edge = Edge::start(&format!("{text}\n[stop]\ngrace = \"20s\"\ndeadline = \"30s\"\n")).await;
    edge.wait_for_standing(dying.address(), "up").await;
    edge.process.signal(Signal::TERM).unwrap();
    let unready = async || (edge.get("/readyz").await.status == 503).then_some(());
    eventually(SOON, "the stop has begun", unready).await.unwrap();
    dying.stop().await;
    edge.wait_for_standing(dying.address(), "down").await;
    wait_until_picks_know(&edge, "im", dying.address(), "down").await;
    let before = edge.count("warbler_connect_failures_total", &[("cluster", "c")]).await;
    for _ in 0..20 {
        crate::ends::echo_client(edge.address("im")).await;
    }
    assert_eq!(edge.count("warbler_connect_failures_total", &[("cluster", "c")]).await, before);
    edge.process.signal(Signal::INT).unwrap();
    edge.process.wait(SOON).await.unwrap();
}

#[tokio::test]
async fn a_refusal_with_a_large_body_is_passed_on_in_large_pieces() {
    let body = vec![b'r'; 200_000];
    let answer =
        [format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat();
    // One byte behind the head in the first segment: what was read too far must not set the pace.
    let head = answer.iter().position(|byte| *byte == b'r').unwrap();
    let head = answer[head..].windows(3).position(|three| three == b"rrr").unwrap() + head + 1;
    let script = move |_head: Vec<u8>| {
        vec![
            Action::Send(answer[..head].to_vec()),
            Action::Pause(Duration::from_millis(50)),
            Action::Send(answer[head..].to_vec()),
        ]
    };
    let stub = HttpStub::scripted("refuses", script).await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    let began = Instant::now();
    let refused = last_answer(edge.address("web"), crate::parts::upgrade_head("/ws", "")).await;
    assert_eq!((refused.status, refused.text().len()), (403, 200_000), "after {:?}", began.elapsed());
}

#[tokio::test]
async fn paths_that_another_server_may_read_differently_are_refused() {
    let stub = HttpStub::start("a").await.unwrap();
    let edge = Edge::start(&web_to(&[stub.address()])).await;
    for path in ["/public/..%2fadmin", "/public/..;/admin", "/public/%2e%2e/admin", "/public/..%5Cadmin"] {
        let answer = ask(edge.address("web"), format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn a_name_that_suddenly_loses_most_of_its_addresses_is_not_believed_at_once() {
    let (edge, _server) = edge_whose_name_loses_two_of_three("max-loss = \"50%\"").await;
    let alarmed = async || {
        let alarms = edge.metric("warbler_alarms_total", &[("kind", "dns-answer-shrank")]).await;
        alarms.filter(|alarms| *alarms >= 1.0).map(|_| ())
    };
    eventually(SOON, "an alarm", alarmed).await.unwrap();
    assert_eq!(addresses(&edge).await, 3, "the last good answer stays for now");
    eventually(SOON, "believed when it comes again and again", async || (addresses(&edge).await == 1).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn how_much_a_name_may_lose_is_a_setting() {
    let (edge, _server) = edge_whose_name_loses_two_of_three("max-loss = \"70%\"").await;
    eventually(SOON, "believed at once", async || (addresses(&edge).await == 1).then_some(())).await.unwrap();
    assert_eq!(edge.count("warbler_alarms_total", &[("kind", "dns-answer-shrank")]).await, 0);
}

async fn addresses(edge: &Edge) -> usize {
    edge.status().await["clusters"][0]["localities"][0]["endpoints"].as_array().unwrap().len()
}

async fn edge_whose_name_loses_two_of_three(dns: &str) -> (Edge, DnsServer) {
    let server = DnsServer::start().await.unwrap();
    server.set_addresses("im.example.test", &["127.0.7.1", "127.0.7.2", "127.0.7.3"], 1);
    let config = format!(
        "[dns]\nresolvers = [\"{}\"]\nmin-ttl = \"1s\"\nmax-ttl = \"1s\"\n{dns}\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n[clusters.c]\nhealth.off = true\n\
         [clusters.c.localities.here]\nendpoints = [{{ address = \"im.example.test:9\" }}]\n",
        server.address()
    );
    let edge = Edge::start(&config).await;
    eventually(SOON, "three addresses", async || (addresses(&edge).await == 3).then_some(())).await.unwrap();
    server.set_addresses("im.example.test", &["127.0.7.1"], 1);
    (edge, server)
}
