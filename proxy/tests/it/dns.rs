//! Endpoints by name: new addresses get clients, addresses that leave keep theirs, and a resolver in trouble changes
//! nothing.

use bench::harness::{DnsServer, EchoTcp, RawClient, dns::Reply, eventually};

use crate::edge::{Edge, SOON};
use crate::parts::turned_away;

const NAME: &str = "im.example.test";

/// One port on two loopback addresses: a name has addresses only.
async fn two_on_one_port() -> (EchoTcp, EchoTcp) {
    for _ in 0..50 {
        let first = EchoTcp::start_on("127.0.5.1:0").await.unwrap();
        if let Ok(second) = EchoTcp::start_on(&format!("127.0.5.2:{}", first.address().port())).await {
            return (first, second);
        }
    }
    panic!("no port that is free on both addresses");
}

fn config(server: &DnsServer, port: u16) -> String {
    format!(
        "[dns]\nresolvers = [\"{}\"]\nmin-ttl = \"100ms\"\nmax-ttl = \"1s\"\ntimeout = \"300ms\"\n\
         [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
         [clusters.c]\nhealth.off = true\npolicy = \"round-robin\"\n\
         [clusters.c.localities.here]\nendpoints = [{{ address = \"{NAME}:{port}\" }}]\n",
        server.address()
    )
}

async fn works(client: &mut RawClient) {
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"ping");
}

async fn connected(edge: &Edge) -> RawClient {
    let mut client = RawClient::connect(edge.address("im")).await.unwrap();
    works(&mut client).await;
    client
}

#[tokio::test]
async fn addresses_that_come_get_clients_and_those_that_leave_keep_theirs() {
    let server = DnsServer::start().await.unwrap();
    let (first, second) = two_on_one_port().await;
    server.set_addresses(NAME, &["127.0.5.1"], 1);
    let edge = Edge::start(&config(&server, first.address().port())).await;
    eventually(SOON, "ready", async || (edge.get("/readyz").await.status == 200).then_some(())).await.unwrap();
    let mut old = connected(&edge).await;
    assert_eq!((first.accepted(), second.accepted()), (1, 0));

    server.set_addresses(NAME, &["127.0.5.2"], 1);
    let moved = async || {
        let known = edge.endpoint(second.address()).await;
        (known["standing"] == "up").then_some(())
    };
    eventually(SOON, "the new address", moved).await.unwrap();
    for _ in 0..3 {
        connected(&edge).await;
    }
    assert_eq!((first.accepted(), second.accepted()), (1, 3), "none on the address that left");
    works(&mut old).await;
    // It is remembered for as long as its tunnel lives, and not told to leave: answers rotate.
    assert_eq!(edge.endpoint(first.address()).await["connections"], 1);
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
    drop(old);
    let forgotten = async || edge.endpoint(first.address()).await.is_null().then_some(());
    eventually(SOON, "the old address forgotten", forgotten).await.unwrap();

    server.set_addresses(NAME, &["127.0.5.1", "127.0.5.2"], 1);
    let both = async || (edge.endpoint(first.address()).await["standing"] == "up").then_some(());
    eventually(SOON, "both addresses", both).await.unwrap();
    for _ in 0..4 {
        connected(&edge).await;
    }
    let (first, second) = (first.accepted(), second.accepted());
    assert!(first >= 2 && second >= 4 && first + second == 8, "each gets clients: {first}, {second}");
}

#[tokio::test]
async fn the_last_good_answer_stays_through_every_kind_of_trouble() {
    let server = DnsServer::start().await.unwrap();
    let echo = EchoTcp::start_on("127.0.5.1:0").await.unwrap();
    server.set_addresses(NAME, &["127.0.5.1"], 1);
    let edge = Edge::start(&config(&server, echo.address().port())).await;
    eventually(SOON, "ready", async || (edge.get("/readyz").await.status == 200).then_some(())).await.unwrap();
    for trouble in [Reply::Silence, Reply::NoSuchName, Reply::Failure, Reply::Addresses(Vec::new(), 1)] {
        server.set_outage(Some(trouble.clone()));
        let failures = edge.count("warbler_dns_lookups_total", &[("result", "failed")]).await;
        let failed =
            async || (edge.count("warbler_dns_lookups_total", &[("result", "failed")]).await > failures).then_some(());
        eventually(SOON, "a failed look-up", failed).await.unwrap_or_else(|error| panic!("{trouble:?}: {error}"));
        connected(&edge).await;
        assert_eq!(edge.get("/readyz").await.status, 200, "{trouble:?}");
    }
    server.set_addresses(NAME, &["127.0.5.1", "127.0.5.9"], 1);
    server.set_outage(None);
    edge.process.wait_for_log("127.0.5.9", SOON).await.unwrap();
    edge.process.wait_for_log("does not resolve", SOON).await.unwrap();
}

#[tokio::test]
async fn an_edge_starts_without_any_answer_and_says_what_it_waits_for() {
    let server = DnsServer::start().await.unwrap();
    let echo = EchoTcp::start_on("127.0.5.1:0").await.unwrap();
    let edge = Edge::start(&config(&server, echo.address().port())).await;
    let answer = edge.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains(NAME), "{}", answer.text());
    assert_eq!(edge.get("/healthz").await.status, 200);
    turned_away(edge.address("im")).await;
    server.set_addresses(NAME, &["127.0.5.1"], 1);
    eventually(SOON, "ready", async || (edge.get("/readyz").await.status == 200).then_some(())).await.unwrap();
    connected(&edge).await;
}
