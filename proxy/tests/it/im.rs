//! The reference IM server behind the edge: people log in, talk, and hear each other.

use std::net::SocketAddr;

use bench::harness::{Launch, Process, Workspace, binary, http};
use bench::im::{Door, Event, Journal, Msg, Phone, Secret, Session};
use tokio::time::timeout;

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

async fn next_push(phone: &mut Phone) -> Msg {
    loop {
        if let Event::Pushed(message) = phone.next().await {
            return message;
        }
    }
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

    let mut bob = Phone::new("bob", door.clone(), &secret, &Journal::default());
    bob.online(SOON).await.unwrap();
    assert_eq!(bob.node(), Some("one"));
    let mut alice = Phone::new("alice", door.clone(), &secret, &Journal::default());
    for number in 1..=20 {
        let seq = alice.say("dm:alice:bob", &format!("message {number}"), SOON).await.unwrap();
        assert_eq!(seq, number);
        let heard = timeout(SOON, next_push(&mut bob)).await.unwrap();
        assert_eq!((heard.seq, &heard.body[..]), (number, format!("message {number}").as_bytes()));
    }
    assert_eq!(bob.history("dm:alice:bob", SOON).await.unwrap().len(), 20);
    bob.check_alive().await.unwrap();
    assert_eq!(edge.count("warbler_tunnels", &[("cluster", "im")]).await, 2);

    // A wrong token is the server's word, and only what a route names is reached at all.
    let refused = Session::open(&door, Secret::random().token("mallory", SOON), "phone", None).await;
    assert!(refused.is_err());
    assert_eq!(http::get(edge.address("web"), "/load").await.unwrap().status, 404);

    bob.leave().await.unwrap();
    alice.leave().await.unwrap();
    edge.wait_until_empty().await;
    assert_eq!(edge.leases(&[address]).await, [0]);
}
