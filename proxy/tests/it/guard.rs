//! Who may ask the admin side what.

use bench::harness::{EchoTcp, Workspace, http};

use crate::edge::Edge;
use crate::ends::tcp_edge;

#[tokio::test]
async fn changes_over_tcp_need_the_token_and_the_unix_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let endpoint = EchoTcp::start().await.unwrap();
    let workspace = Workspace::new().unwrap();
    workspace.write("token", "open sesame\n").unwrap();
    let admin = "[admin]\nbind = [\"127.0.0.1:0\"]\nsocket = \"run/warbler.sock\"\ntoken-file = \"token\"\n";
    let edge = Edge::start_in(workspace, &format!("{}\n{admin}", tcp_edge("", &[endpoint.address()]))).await;
    let post = async |fields: &[(&str, &str)]| {
        http::request(edge.admin(), "POST", "/api/v1/reload", fields, b"").await.unwrap().status
    };
    assert_eq!(post(&[]).await, 403);
    assert_eq!(post(&[("authorization", "Bearer open")]).await, 403);
    assert_eq!(post(&[("authorization", "Basic open sesame")]).await, 403);
    assert_eq!(post(&[("authorization", "Bearer open sesame")]).await, 200);
    // A new token counts at once, the old one no more.
    edge.workspace.write("token", "changed").unwrap();
    assert_eq!(post(&[("authorization", "Bearer open sesame")]).await, 403);
    assert_eq!(post(&[("authorization", "Bearer changed")]).await, 200);
    // An empty or missing file opens nothing.
    edge.workspace.write("token", "").unwrap();
    assert_eq!(post(&[("authorization", "Bearer ")]).await, 403);
    let mode = std::fs::metadata(edge.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(http::request_unix(&edge.socket(), "GET", "/healthz", &[], b"").await.unwrap().status, 200);
}

#[tokio::test]
async fn without_a_token_file_nothing_changes_over_tcp() {
    let endpoint = EchoTcp::start().await.unwrap();
    let edge = Edge::start(&tcp_edge("", &[endpoint.address()])).await;
    let fields = [("authorization", "Bearer ")];
    assert_eq!(http::request(edge.admin(), "POST", "/api/v1/reload", &fields, b"").await.unwrap().status, 403);
    assert_eq!(edge.count("warbler_config_reloads_total", &[]).await, 0);
    assert_eq!(edge.ask_reload().await.status, 200);
}

#[tokio::test]
async fn a_foreign_host_name_is_not_served_over_tcp() {
    let endpoint = EchoTcp::start().await.unwrap();
    let admin = "[admin]\nbind = [\"127.0.0.1:0\"]\nsocket = \"run/warbler.sock\"\nhosts = [\"edge.internal\"]\n";
    let edge = Edge::start(&format!("{}\n{admin}", tcp_edge("", &[endpoint.address()]))).await;
    let get = async |host: &str| {
        http::request(edge.admin(), "GET", "/api/v1/status", &[("host", host)], b"").await.unwrap().status
    };
    assert_eq!(get("evil.example").await, 421);
    assert_eq!(get("localhost").await, 200);
    assert_eq!(get("edge.internal:9901").await, 200);
    assert_eq!(edge.get("/no/such/page").await.status, 404);
    assert_eq!(edge.get("/healthz").await.status, 200);
}
