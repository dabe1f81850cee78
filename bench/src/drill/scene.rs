//! The place of a drill while it runs: servers, relays, the edge and the crowd, and what was done to them when.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::time::sleep;

use super::{
    crowd::Crowd,
    outcome::Judged,
    stage::{ACCESS_LOG, Endpoint, Home, LISTENER, NAME, Stage},
};
use crate::{
    edge::Edge,
    harness::{
        DnsServer, Signal, Wan, Workspace, eventually,
        mmdb::{self, Layout, Row},
        raise_open_files, reserve_port,
    },
    im::{Diary, Door, Happening, Journal, Phone, Promise, Secret, SendAck, Server, Session},
    output,
};

/// How long the edge may take for what it does by itself, and a newcomer to get in.
const SOON: Duration = Duration::from_secs(20);
const CONFIGURATION: &str = "edge.toml";
pub(super) const DATABASE: &str = "places.mmdb";

/// Everything that runs for a drill. Dropping it ends all of it.
pub(super) struct Scene<'a> {
    // The crowd goes first, so that nobody sees the programs end.
    pub(super) crowd: Crowd,
    pub(super) edge: Edge,
    pub(super) nodes: Vec<Node>,
    pub(super) dns: Option<DnsServer>,
    pub(super) marks: Vec<Mark>,
    /// Limits of this drill's own.
    pub(super) claims: Vec<Judged>,
    /// From the first blow until the last of those it hit was back.
    pub(super) back: Option<Duration>,
    /// Connections a second that the edge may let through to each server, and since when, counted from 1970.
    pub(super) cap: Option<(f64, Duration)>,
    /// The configuration that the edge was last told.
    configuration: String,
    newcomers: usize,
    secret: Secret,
    pub(super) workspace: &'a Workspace,
}

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) server: Server,
    pub(super) locality: &'static str,
    pub(super) provider: &'static str,
    /// Where the edge finds it: itself, or the relay before it.
    pub(super) endpoint: SocketAddr,
    pub(super) wan: Option<Wan>,
}

/// Which part of a drill it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    Before,
    During,
    After,
}

/// A moment at which something was done.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) at: Instant,
    /// What begins there.
    pub(super) phase: Phase,
    pub(super) text: String,
}

impl<'a> Scene<'a> {
    /// Starts everything and lets the crowd arrive.
    pub(super) async fn start(stage: &Stage, workspace: &'a Workspace) -> Result<Self> {
        raise_open_files(stage.open_files())?;
        let secret = Secret::random();
        let secret_file = workspace.write("jwt.secret", secret.reveal())?;
        let nodes = start_nodes(stage, workspace, &secret_file).await?;
        let dns = if stage.by_name { Some(start_dns(&nodes).await?) } else { None };
        workspace.write(DATABASE, database(stage.cast.homes.iter().map(Home::row))?)?;
        let mut configuration = stage.configuration(&endpoints(stage, &nodes));
        if stage.fixed_port {
            let fixed = LISTENER.replace(":0", &format!(":{}", reserve_port()?));
            configuration = configuration.replace(LISTENER, &fixed);
        }
        if let Some(dns) = &dns {
            configuration += &format!(
                "\n[dns]\nresolvers = [\"{}\"]\nmin-ttl = \"200ms\"\nmax-ttl = \"1s\"\ntimeout = \"500ms\"\n",
                dns.address()
            );
        }
        let edge = Edge::start(workspace, workspace.write(CONFIGURATION, &configuration)?).await?;
        edge.ready().await?;
        for node in &nodes {
            edge.wait_for("warbler_endpoint_up", &[("endpoint", &*node.endpoint.to_string())], |up| up > 0.5).await?;
        }
        output::talk(format!("  {} servers and an edge run, {} people come", nodes.len(), stage.cast.clients));
        let crowd = Crowd::arrive(stage.cast.clone(), edge.listener("im")?, &secret).await?;
        let mut scene = Self {
            crowd,
            edge,
            nodes,
            dns,
            marks: Vec::new(),
            claims: Vec::new(),
            back: None,
            cap: None,
            configuration,
            newcomers: 0,
            secret,
            workspace,
        };
        scene.mark(Phase::Before, "all are online and talk");
        Ok(scene)
    }

    /// Says what is done at this moment.
    pub(super) fn mark(&mut self, phase: Phase, text: impl Into<String>) -> Instant {
        let (at, text) = (Instant::now(), text.into());
        output::talk(format!("  {text}"));
        self.marks.push(Mark { at, phase, text });
        at
    }

    /// Adds a limit of this drill's own.
    pub(super) fn claim(&mut self, limit: impl Into<String>, found: impl Into<String>, kept: bool) {
        self.claims.push(Judged { limit: limit.into(), found: found.into(), kept });
    }

    /// Lets people talk for a while.
    pub(super) async fn talk(&self, time: Duration) -> Result<()> {
        let talk = async {
            sleep(time).await;
            Ok(())
        };
        self.crowd.watched(talk).await
    }

    /// Waits until all of these are back, counted from `since`.
    pub(super) async fn until_back(&mut self, users: &[String], since: Instant, within: Duration) -> Result<()> {
        let back = self.crowd.watched(self.crowd.until_back(users, since, within)).await?;
        self.back = Some(self.back.unwrap_or_default().max(back));
        Ok(())
    }

    /// Waits until all of these have a session, however often they lost it.
    pub(super) async fn until_online(&self, users: &[String], within: Duration) -> Result<()> {
        let online = async || users.iter().all(|user| self.crowd.diary.since(user).is_some()).then_some(());
        self.crowd.watched(eventually(within, "everybody online", online)).await
    }

    /// Makes it a limit that nobody else lost a session from `since` until now.
    pub(super) fn only_these_broke(&mut self, hit: &[String], since: Instant) {
        let others: Vec<String> = self.crowd.users().into_iter().filter(|user| !hit.contains(user)).collect();
        self.none_of_these_broke(&others, since);
    }

    /// Makes it a limit that none of these lost a session from `since` until now.
    pub(super) fn none_of_these_broke(&mut self, users: &[String], since: Instant) {
        let entries = self.crowd.diary.entries();
        let broke = entries.iter().filter(|entry| entry.at >= since && entry.what == Happening::Broke);
        let broken: Vec<&str> =
            broke.map(|entry| &*entry.user).filter(|user| users.iter().any(|known| known == user)).collect();
        let found = if broken.is_empty() { "0".into() } else { broken.join(", ") };
        self.claim(format!("none of the {} others loses a session", users.len()), found, broken.is_empty());
    }

    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.server.name == name).with_context(|| format!("no server is named {name}"))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.server.name == name);
        found.with_context(|| format!("no server is named {name}"))
    }

    /// Kills servers, and says who was on them.
    pub(super) fn kill(&mut self, names: &[String]) -> Result<Vec<String>> {
        let mut hit = Vec::new();
        for name in names {
            hit.extend(self.crowd.diary.at(name));
            self.node_mut(name)?.server.kill()?;
        }
        Ok(hit)
    }

    /// Starts servers again, where they were, and waits until the edge has seen them.
    pub(super) async fn restart(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let found = self.nodes.iter_mut().find(|node| node.server.name == *name);
            found.with_context(|| format!("no server is named {name}"))?.server.start_again(self.workspace).await?;
        }
        for name in names {
            self.until_up(name).await?;
        }
        Ok(())
    }

    /// Kills the edge, as a crash would.
    pub(super) fn kill_edge(&mut self) -> Result<()> {
        self.edge.process.kill()?;
        // The line that it was about to write is none.
        let log = fs::read_to_string(self.access_log()).context("the edge has an access log")?;
        let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
        fs::write(self.access_log(), whole).context("the access log cannot be cut")
    }

    /// Starts the edge again, where it was.
    pub(super) async fn start_edge_again(&mut self) -> Result<()> {
        self.edge = Edge::start(self.workspace, self.edge.file.clone()).await?;
        self.edge.ready().await
    }

    pub(super) async fn until_up(&self, name: &str) -> Result<()> {
        self.until_standing(name, |up| up > 0.5).await
    }

    pub(super) async fn until_down(&self, name: &str) -> Result<()> {
        self.until_standing(name, |up| up < 0.5).await
    }

    async fn until_standing(&self, name: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
        let endpoint = self.node(name)?.endpoint.to_string();
        let labels = [("endpoint", &*endpoint)];
        self.crowd.watched(self.edge.wait_for("warbler_endpoint_up", &labels, fits)).await?;
        Ok(())
    }

    /// Replaces the configuration by a changed one and waits until it counts.
    pub(super) async fn edit(&mut self, change: impl FnOnce(&mut String)) -> Result<()> {
        let before = self.edge.generation().await?;
        change(&mut self.configuration);
        self.workspace.replace(CONFIGURATION, &self.configuration)?;
        self.edge.process.signal(Signal::HUP)?;
        self.edge.wait_for("warbler_config_generation", &[], |now| now > before).await?;
        Ok(())
    }

    /// Writes a configuration that the edge must refuse, and waits until it has; the good one stays known.
    pub(super) async fn break_configuration(&mut self, broken: &str) -> Result<()> {
        let refusals = [("result", "refused")];
        let before = self.edge.metric("warbler_config_reloads_total", &refusals).await?.unwrap_or_default();
        self.workspace.replace(CONFIGURATION, broken)?;
        self.edge.process.signal(Signal::HUP)?;
        self.edge.wait_for("warbler_config_reloads_total", &refusals, |now| now > before).await?;
        Ok(())
    }

    /// Puts the last good configuration back.
    pub(super) async fn repair_configuration(&mut self) -> Result<()> {
        self.workspace.replace(CONFIGURATION, &self.configuration)?;
        self.edge.process.signal(Signal::HUP)?;
        self.edge.wait_for("warbler_config_last_reload_successful", &[], |ok| ok > 0.5).await?;
        Ok(())
    }

    pub(super) fn configuration(&self) -> &str {
        &self.configuration
    }

    /// Somebody new from there comes and goes; says at which server.
    pub(super) async fn newcomer(&mut self, home: &Home) -> Result<String> {
        self.newcomers += 1;
        let door = Door::new(self.edge.listener("im")?).announcing(home.address(200));
        // Somebody else's journal and diary: newcomers are no part of what is measured.
        let user = format!("newcomer-{}", self.newcomers);
        let mut phone = Phone::new(&user, door, &self.secret, &Journal::default()).telling(&Diary::default());
        phone.online(SOON).await.context("a newcomer does not get in")?;
        let node = phone.node().context("a newcomer has just got in")?.to_owned();
        phone.leave().await?;
        Ok(node)
    }

    /// Somebody sends again, through the edge and with another device, what was acknowledged before: under its id, and
    /// with another body, which counts only where the message is not stored.
    pub(super) async fn say_again(&self, said: &Promise, body: Bytes) -> Result<SendAck> {
        let mut door = Door::new(self.edge.listener("im")?);
        door.announced = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        let token = self.secret.token(&said.sender, SOON);
        let mut session = Session::open(&door, token, "again", None).await?;
        let ack = session.send(&said.conv, Bytes::copy_from_slice(&said.id), body).await?;
        session.leave().await?;
        Ok(ack)
    }

    /// Asks newcomers from there until one goes where it should, and says how long that took.
    pub(super) async fn until_newcomers_go(
        &mut self,
        home: &Home,
        what: &str,
        right: impl Fn(&Node) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            let node = self.newcomer(home).await?;
            if right(self.node(&node)?) {
                return Ok(start.elapsed());
            }
            self.talk(Duration::from_millis(100)).await?;
        }
        bail!("not seen within {SOON:?}: {what}")
    }

    /// The names of the servers that fit.
    pub(super) fn names(&self, fits: impl Fn(&Node) -> bool) -> Vec<String> {
        self.nodes.iter().filter(|node| fits(node)).map(|node| node.server.name.clone()).collect()
    }

    /// Makes it a limit from now on how many connections a second each server gets.
    pub(super) async fn cap_logins(&mut self, cap: f64) -> Result<()> {
        let accept_rate = format!("[clusters.im]\naccept-rate = \"{cap}/s\"\n");
        self.edit(|configuration| *configuration = configuration.replace("[clusters.im]\n", &accept_rate)).await?;
        self.cap = Some((cap, since_1970()));
        Ok(())
    }

    /// Ends the edge in order, with everything written that it has to write. Nobody may be left to be cut off.
    pub(super) async fn stop_edge(&mut self) -> Result<()> {
        self.edge.process.signal(Signal::TERM)?;
        let status = self.edge.process.wait(SOON).await?;
        self.claim("the edge ends in order", status.to_string(), status.success());
        Ok(())
    }

    pub(super) fn access_log(&self) -> PathBuf {
        self.workspace.path(ACCESS_LOG)
    }

    /// A server that runs, for whoever asks round the edge.
    pub(super) fn living_server(&mut self) -> Result<SocketAddr> {
        let living = self.nodes.iter_mut().find_map(|node| node.server.process.runs().then_some(node.server.address));
        living.context("no server is left to ask for what was said")
    }
}

async fn start_nodes(stage: &Stage, workspace: &Workspace, secret_file: &Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let shared_port = if stage.by_name { Some(reserve_port()?) } else { None };
    for locality in &stage.localities {
        for number in 1..=locality.servers {
            let name = format!("{}-{number}", locality.name);
            let address = match shared_port {
                Some(port) => SocketAddr::new(named_address(nodes.len()), port),
                None => SocketAddr::from(([127, 0, 0, 1], reserve_port()?)),
            };
            let server = Server::start(workspace, &name, address, secret_file, stage.server_arguments).await?;
            let wan = match locality.way {
                Some(way) => Some(Wan::start(SocketAddr::from(([127, 0, 0, 1], 0)), address, way).await?),
                None => None,
            };
            let endpoint = wan.as_ref().map_or(address, Wan::address);
            nodes.push(Node { server, locality: locality.name, provider: locality.provider, endpoint, wan });
        }
    }
    Ok(nodes)
}

/// The loopback address of a server that has its name in common with others.
fn named_address(number: usize) -> IpAddr {
    IpAddr::from([127, 30, 0, u8::try_from(number + 1).unwrap_or(u8::MAX)])
}

async fn start_dns(nodes: &[Node]) -> Result<DnsServer> {
    let dns = DnsServer::start().await?;
    let addresses: Vec<String> = nodes.iter().map(|node| node.endpoint.ip().to_string()).collect();
    dns.set_addresses(NAME, &addresses.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    Ok(dns)
}

fn endpoints(stage: &Stage, nodes: &[Node]) -> Vec<Endpoint> {
    let shown = |node: &Node| {
        if stage.by_name { format!("{NAME}:{}", node.endpoint.port()) } else { node.endpoint.to_string() }
    };
    let mut endpoints: Vec<Endpoint> =
        nodes.iter().map(|node| Endpoint { locality: node.locality, address: shown(node) }).collect();
    endpoints.dedup_by(|one, other| one.address == other.address);
    endpoints
}

/// Now, as logs and servers tell it.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A database of these places.
pub(super) fn database(rows: impl IntoIterator<Item = Row>) -> Result<Vec<u8>> {
    mmdb::build(Layout::GeoIp2City, &rows.into_iter().collect::<Vec<_>>())
}
