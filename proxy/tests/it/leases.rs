//! Policies under reloads: counts stay true, so what they balance stays even.

use bench::harness::EchoTcp;

use crate::edge::Edge;
use crate::ends::{echo_client, tcp_edge};

async fn three() -> [EchoTcp; 3] {
    [EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap(), EchoTcp::start().await.unwrap()]
}

fn config(policy: &str, endpoints: &[EchoTcp; 3], number: usize) -> String {
    let addresses = endpoints.each_ref().map(EchoTcp::address);
    let extra = format!("max-connections = {}", 1000 + number);
    tcp_edge(&extra, &addresses).replace("health.off = true", &format!("health.off = true\npolicy = \"{policy}\""))
}

#[tokio::test]
async fn least_connections_is_still_even_after_reloads_with_tunnels_open() {
    let endpoints = three().await;
    let addresses = endpoints.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&config("least-connections", &endpoints, 0)).await;
    let mut clients = Vec::new();
    for number in 1..=30 {
        clients.push(echo_client(edge.address("im")).await);
        edge.reload(&config("least-connections", &endpoints, number)).await;
    }
    assert_eq!(edge.leases(&addresses).await, [10, 10, 10]);
    // Those of one endpoint leave: it gets the next ones.
    let gone = edge.endpoint(addresses[0]).await["connections"].as_u64().unwrap();
    clients.truncate(15);
    edge.wait_for_count("warbler_tunnels", &[("cluster", "im")], 15).await;
    for number in 31..=45 {
        edge.reload(&config("least-connections", &endpoints, number)).await;
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!((gone, edge.leases(&addresses).await), (10, vec![10, 10, 10]));
    assert_eq!(endpoints.each_ref().map(EchoTcp::open), [10, 10, 10]);
    assert_eq!(edge.count("warbler_endpoint_connections", &[("cluster", "im")]).await, 30);
    drop(clients);
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&addresses).await, [0, 0, 0]);
}

#[tokio::test]
async fn two_choices_stay_even_after_reloads_with_tunnels_open() {
    let endpoints = three().await;
    let addresses = endpoints.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&config("p2c", &endpoints, 0)).await;
    let mut clients = Vec::new();
    for number in 1..=10 {
        for _ in 0..9 {
            clients.push(echo_client(edge.address("im")).await);
        }
        edge.reload(&config("p2c", &endpoints, number)).await;
    }
    let leases = edge.leases(&addresses).await;
    assert_eq!(leases.iter().sum::<u64>(), 90);
    // With true counts, two choices of three differ by a few; with lost ones they would walk at random.
    assert!(leases.iter().all(|lease| (25..=35).contains(lease)), "{leases:?}");
    drop(clients);
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&addresses).await, [0, 0, 0]);
}

/// The address is the identity: another weight, place or policy does not move a tunnel nor forget it.
#[tokio::test]
async fn an_endpoint_that_changes_its_place_and_weight_keeps_its_tunnels_and_counts() {
    let endpoints = three().await;
    let addresses = endpoints.each_ref().map(EchoTcp::address);
    let edge = Edge::start(&config("least-connections", &endpoints, 0)).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        clients.push(echo_client(edge.address("im")).await);
    }
    let moved = format!(
        "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n[clusters.im]\n\
         health.off = true\npolicy = \"least-connections\"\n\n[clusters.im.localities.there]\nendpoints = [\
         {{ address = \"{}\", weight = 4 }}, {{ address = \"{}\" }}, {{ address = \"{}\" }}]\n",
        addresses[0], addresses[1], addresses[2]
    );
    edge.reload(&moved).await;
    assert_eq!(edge.leases(&addresses).await, [3, 3, 3]);
    // Four times the weight: the next nine are all its own.
    for _ in 0..9 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&addresses).await, [12, 3, 3]);
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
}
