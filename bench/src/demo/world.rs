//! The programs of the demo and how they stand to each other.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    edge::Edge,
    harness::{
        Wan, Workspace,
        mmdb::{self, Layout, Row},
        reserve_port,
    },
    im::{Secret, Server},
};

/// The configuration of the edge, with addresses that [`World::start`] replaces.
const CONFIGURATION: &str = include_str!("../../../conf/demo.toml");
const DATABASE_LINE: &str = "# databases = [\"demo.mmdb\"]";

/// The place that the edge stands in: no delay.
pub(super) const FRANKFURT: Place = Place { name: "frankfurt", one_way: Duration::ZERO };
pub(super) const VIRGINIA: Place = Place { name: "virginia", one_way: Duration::from_millis(20) };
pub(super) const SINGAPORE: Place = Place { name: "singapore", one_way: Duration::from_millis(60) };

/// Where servers stand, and how long bytes take to it, one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) one_way: Duration,
}

/// Each node with its place and its address in the configuration as it stands in the repository.
const NODES: [(&str, Place, &str); 6] = [
    ("frankfurt-1", FRANKFURT, "127.0.0.1:7301"),
    ("frankfurt-2", FRANKFURT, "127.0.0.1:7302"),
    ("virginia-1", VIRGINIA, "127.0.0.1:7303"),
    ("virginia-2", VIRGINIA, "127.0.0.1:7304"),
    ("singapore-1", SINGAPORE, "127.0.0.1:7305"),
    ("singapore-2", SINGAPORE, "127.0.0.1:7306"),
];
/// What the edge binds itself in that configuration.
const OWN_ADDRESSES: [&str; 4] = ["127.0.0.1:9902", "127.0.0.1:7300", "127.0.0.1:7310", "127.0.0.1:7320"];

/// Everything that runs.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) nodes: Vec<Node>,
    pub(super) edge: Edge,
    /// The edge's address for WebSocket and HTTP.
    pub(super) im: SocketAddr,
    /// The edge's address for opaque bytes.
    pub(super) opaque: SocketAddr,
    /// The edge's address for browsers.
    pub(super) chat: SocketAddr,
    pub(super) secret: Secret,
    /// The configuration as the edge runs it.
    pub(super) configuration: String,
}

/// One IM server.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// Where the edge finds it: itself, or the relay before it.
    pub(super) endpoint: SocketAddr,
    pub(super) server: Server,
    _relay: Option<Wan>,
}

impl<'a> World<'a> {
    /// Starts the nodes, the relays, and the edge.
    pub(super) async fn start(workspace: &'a Workspace) -> Result<Self> {
        let secret = Secret::random();
        let secret_file = workspace.write("jwt.secret", secret.reveal())?;
        let mut nodes = Vec::new();
        let mut configuration = CONFIGURATION.to_owned();
        for (name, place, written) in NODES {
            let node = Node::start(workspace, name, place, &secret_file).await?;
            replace_once(&mut configuration, &format!("\"{written}\""), &format!("\"{}\"", node.endpoint))?;
            nodes.push(node);
        }
        for written in OWN_ADDRESSES {
            replace_once(&mut configuration, &format!("\"{written}\""), "\"127.0.0.1:0\"")?;
        }
        replace_once(&mut configuration, DATABASE_LINE, DATABASE_LINE.trim_start_matches("# "))?;
        workspace.write("demo.mmdb", mmdb::build(Layout::GeoIp2City, &networks())?)?;
        let file = workspace.write("demo.toml", &configuration)?;
        let edge = Edge::start(workspace, file).await?;
        let (im, opaque, chat) = (edge.listener("im")?, edge.listener("opaque")?, edge.listener("chat")?);
        Ok(Self { workspace, nodes, edge, im, opaque, chat, secret, configuration })
    }

    /// Where the chat page is, for a browser on this machine.
    pub(super) fn page(&self) -> String {
        format!("http://{}/chat/", self.chat)
    }

    /// The node of this name.
    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node is named {name}"))
    }

    /// Kills a node, as a crash would.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        self.node_mut(name)?.server.kill()
    }

    /// Starts a killed node again, where it was.
    pub(super) async fn restart(&mut self, name: &str) -> Result<()> {
        let workspace = self.workspace;
        self.node_mut(name)?.server.start_again(workspace).await
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == name).with_context(|| format!("no node is named {name}"))
    }
}

impl Node {
    async fn start(workspace: &Workspace, name: &'static str, place: Place, secret: &Path) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], reserve_port()?));
        let server = Server::start(workspace, name, address, secret, &["--demo-login"]).await?;
        let relay = if place.one_way.is_zero() {
            None
        } else {
            Some(Wan::start(SocketAddr::from(([127, 0, 0, 1], 0)), address, place.one_way).await?)
        };
        let endpoint = relay.as_ref().map_or(address, Wan::address);
        Ok(Self { name, place, endpoint, server, _relay: relay })
    }
}

/// Networks for documentation and tests (RFC 5737, RFC 3849), put where the demo needs them. 198.18.0.0/15 (RFC 2544)
/// is left out: its clients have no place.
fn networks() -> [Row; 5] {
    [
        Row::new("203.0.113.0/25").country("DE").continent("EU").city("Berlin").at(52.52, 13.40),
        Row::new("203.0.113.128/25").country("SE").continent("EU").city("Stockholm").at(59.33, 18.07),
        Row::new("198.51.100.0/24").country("ID").continent("AS").city("Jakarta").at(-6.21, 106.85),
        Row::new("192.0.2.0/24").country("CA").continent("NA").city("Toronto").at(43.65, -79.38),
        Row::new("2001:db8:100::/48").country("JP").continent("AS").city("Tokyo").at(35.68, 139.69),
    ]
}

/// Replaces the only occurrence of something, or says that the text is not what it was.
pub(super) fn replace_once(text: &mut String, from: &str, to: &str) -> Result<()> {
    ensure!(
        text.matches(from).count() == 1,
        "conf/demo.toml has {} times {from}, the demo needs it once",
        text.matches(from).count()
    );
    *text = text.replacen(from, to, 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_in_the_repository_has_all_that_the_demo_replaces() {
        let mut configuration = CONFIGURATION.to_owned();
        for written in NODES.iter().map(|node| node.2).chain(OWN_ADDRESSES) {
            replace_once(&mut configuration, &format!("\"{written}\""), "").unwrap();
        }
        replace_once(&mut configuration, DATABASE_LINE, "").unwrap();
        assert!(replace_once(&mut configuration, "127.0.0.1:7301", "").is_err());
    }
}
