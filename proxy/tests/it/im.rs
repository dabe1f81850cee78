//! The reference IM server behind the edge: people log in, talk, and hear each other.

use std::net::SocketAddr;

use bench::harness::{Launch, Process, Workspace, binary, http};
use bench::im::{Door, Journal, Phone, Secret, Session};

use crate::edge::{Edge, SOON};
use crate::parts::endpoints;

async fn server(workspace: &Workspace, secret: &Secret) -> (Process, SocketAddr) {
    let secret = workspace.write("jwt.secret", secret.reveal()).unwrap();
    let launch = Launch::new(binary("warbler-im").unwrap())
        .args(["run", "--node", "one", "--bind", "127.0.0.1:0", "--threads", "1", "--data"])
        .arg(workspace.path("messages"))
        .arg("--jwt-secret-file")
        .arg(secret);
    let process = Process::start(workspace, launch).await.unwrap();
    let address = process.address("http", 0).unwrap();
    (process, address)
}

#[tokio::test]
async fn people_log_in_send_and_hear_each_other_through_the_edge() {
    let (workspace, secret) = (Workspace::new().unwrap(), Secret::random());
    let (_server, address) = server(&workspace, &secret).await;
    let endpoints = endpoints(&[address]);
    let edge = Edge::start(&format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
         [[listeners.web.routes]]\npath-prefix = \"/ws\"\ncluster = \"im\"\n\
         [clusters.im]\nhealth.http = {{ path = \"/readyz\", interval = \"200ms\" }}\n\
         [clusters.im.localities.here]\nendpoints = {endpoints}\n"
    ))
    .await;
    edge.wait_for_standing(address, "up").await;
    let door = Door::new(edge.address("web"));

    let mut bob = Session::open(&door, secret.token("bob", SOON), "phone").await.unwrap();
    assert_eq!(bob.node(), "one");
    let mut alice = Phone::new("alice", door.clone(), &secret, &Journal::default());
    for number in 1..=20 {
        let seq = alice.say("dm:alice:bob", &format!("message {number}"), SOON).await.unwrap();
        assert_eq!(seq, number);
        let heard = bob.next_push(SOON).await.unwrap().unwrap();
        assert_eq!((heard.seq, &heard.body[..]), (number, format!("message {number}").as_bytes()));
    }
    assert_eq!(bob.history("dm:alice:bob", 0).await.unwrap().len(), 20);
    bob.ping().await.unwrap();
    assert_eq!(edge.count("warbler_tunnels", &[("cluster", "im")]).await, 2);

    // A wrong token is the server's word, and only what a route names is reached at all.
    let refused = Session::open(&door, Secret::random().token("mallory", SOON), "phone").await;
    assert!(refused.is_err());
    assert_eq!(http::get(edge.address("web"), "/load").await.unwrap().status, 404);

    bob.leave().await.unwrap();
    alice.leave().await.unwrap();
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[address]).await, [0]);
}
