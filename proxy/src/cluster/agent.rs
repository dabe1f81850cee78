//! `agent-check`: an agent beside each endpoint says how much it can take, by HAProxy's line protocol over TCP.
//!
//! One task an endpoint, on the control thread. What an agent said holds until the agent says otherwise: one that
//! cannot be reached changes nothing, for whether the endpoint is there is for the probes to find out.

pub mod line;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use policies::Standing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use self::line::{Administration, Line, MaxConnections, Operation};
use super::EndpointState;
use super::endpoint::AgentChanges;
use crate::config::AgentCheck;
use crate::events;
use crate::snapshot::Snapshot;
use crate::state::State;

/// The longest line that is read.
const LONGEST_LINE: usize = 1024;
/// Share of the interval by which questions are spread.
const JITTER: f64 = 0.2;

/// What an agent has said so far, all lines taken together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// Of the configured weight; 0 takes the endpoint out of balancing.
    pub weight_percent: Option<u16>,
    /// In place of the configured limit.
    pub max_connections: Option<NonZeroU32>,
    administration: Administration,
    /// Why the endpoint is down, if it is.
    down: Option<String>,
}

impl Said {
    pub fn hear(&mut self, line: &Line) {
        self.weight_percent = line.weight_percent.or(self.weight_percent);
        match line.max_connections {
            Some(MaxConnections::Limit(limit)) => self.max_connections = Some(limit),
            Some(MaxConnections::Configured) => self.max_connections = None,
            None => {}
        }
        self.administration = line.administration.unwrap_or(self.administration);
        match &line.operation {
            Some(Operation::Down(reason)) => self.down = Some(reason.clone()),
            Some(Operation::Up) => self.down = None,
            None => {}
        }
    }

    /// The agent's one vote, and its reason. A wish comes before a failure, as among the votes of several sources.
    ///
    /// A weight of zero takes a server out of HAProxy's farm (its manual, section 5.2): nothing new comes to it, not even
    /// when no other server is left, and whoever is on it stays. That is what maintenance is here.
    pub fn vote(&self) -> (Standing, &str) {
        match (self.administration, self.weight_percent, &self.down) {
            (Administration::Maint, ..) => (Standing::Maintenance, "maint"),
            (Administration::Drain, ..) => (Standing::Draining, "drain"),
            (_, Some(0), _) => (Standing::Maintenance, "weight 0%"),
            (_, _, Some(reason)) => (Standing::Down, reason),
            _ => (Standing::Up, "ready"),
        }
    }
}

/// The running questions. Lives on the control thread.
#[derive(Default)]
pub struct Agents {
    running: HashMap<(Arc<str>, SocketAddr), Running>,
}

struct Running {
    settings: AgentCheck,
    task: AbortHandle,
}

impl Agents {
    /// Starts, keeps and stops questions so that they fit the snapshot. What an agent said is forgotten where its
    /// cluster has no agents any more, also by an endpoint that was not in the cluster when they went: its tunnels keep it
    /// known, and it may come back.
    pub fn fit(&mut self, state: &Arc<State>, snapshot: &Snapshot) {
        let mut wanted = HashMap::new();
        for cluster in &snapshot.clusters {
            for member in &cluster.members {
                let key = (member.cluster.clone(), member.address);
                match &cluster.config.agent_check {
                    Some(settings) => _ = wanted.insert(key, (settings, member)),
                    None => forget(state, member),
                }
            }
        }
        self.running.retain(|key, running| {
            let keep = wanted.get(key).is_some_and(|(settings, _)| **settings == running.settings);
            if !keep {
                running.task.abort();
            }
            keep
        });
        for (key, (settings, member)) in wanted {
            self.running.entry(key).or_insert_with(|| start(state, settings, member));
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.task.abort());
    }
}

/// Told only when something changes by it: what follows from that comes back here.
fn forget(state: &State, member: &EndpointState) {
    tell(state, member, member.agent_withdrawn(state.clock.now()));
}

fn tell(state: &State, endpoint: &EndpointState, changes: AgentChanges) {
    if changes.limits {
        events::agent_limits_changed(endpoint);
    }
    if changes.standing {
        events::standing_changed(state, endpoint);
    }
    if changes.limits || changes.standing {
        state.steering_changed.notify_one();
    }
}

fn start(state: &Arc<State>, settings: &AgentCheck, member: &Arc<EndpointState>) -> Running {
    let settings = settings.clone();
    let asker = Asker { state: state.clone(), endpoint: member.clone(), settings: settings.clone() };
    Running { settings, task: tokio::spawn(asker.run()).abort_handle() }
}

struct Asker {
    state: Arc<State>,
    endpoint: Arc<EndpointState>,
    settings: AgentCheck,
}

impl Asker {
    async fn run(self) {
        let mut unanswered: u32 = 0;
        loop {
            let started = Instant::now();
            match timeout(self.settings.timeout, self.ask()).await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                Ok(line) => {
                    events::agent_answers(&self.endpoint, std::mem::take(&mut unanswered));
                    self.heard(&Line::parse(&line));
                }
                Err(error) => {
                    unanswered = unanswered.saturating_add(1);
                    events::agent_failed(&self.state, &self.endpoint, &error, unanswered);
                }
            }
            tokio::time::sleep_until(started + self.pause()).await;
        }
    }

    async fn ask(&self) -> io::Result<Vec<u8>> {
        let agent = SocketAddr::new(self.endpoint.address.ip(), self.settings.port.get());
        let mut tcp = TcpStream::connect(agent).await?;
        tcp.write_all(self.settings.send.as_bytes()).await?;
        let mut line = Vec::with_capacity(128);
        while line.len() < LONGEST_LINE && !line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            if tcp.read_buf(&mut line).await? == 0 {
                break;
            }
        }
        Ok(line)
    }

    fn heard(&self, line: &Line) {
        events::agent_heard(&self.state, &self.endpoint, line.unclear.as_deref());
        tell(&self.state, &self.endpoint, self.endpoint.agent_said(line, self.state.clock.now()));
    }

    fn pause(&self) -> Duration {
        self.settings.interval.mul_f64(1.0 + JITTER * (fastrand::f64() - 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Said {
        let mut said = Said::default();
        lines.iter().for_each(|line| said.hear(&Line::parse(line.as_bytes())));
        said
    }

    #[test]
    fn what_a_line_does_not_name_stays_as_it_was() {
        let said = after(&["50% maxconn:9 drain down#disk", "25%"]);
        assert_eq!((said.weight_percent, said.max_connections), (Some(25), NonZeroU32::new(9)));
        assert_eq!(said.vote(), (Standing::Draining, "drain"));
        let said = after(&["50% maxconn:9 drain down#disk", "ready maxconn:0"]);
        assert_eq!((said.max_connections, said.vote()), (None, (Standing::Down, "down: disk")));
    }

    #[test]
    fn each_wish_is_taken_back_by_its_own_word_alone() {
        let check = |lines: &[&str], want| assert_eq!(after(lines).vote().0, want, "{lines:?}");
        check(&["maint", "up"], Standing::Maintenance);
        check(&["maint", "ready"], Standing::Up);
        check(&["fail", "ready"], Standing::Down);
        check(&["fail", "up"], Standing::Up);
        check(&["0%", "ready up"], Standing::Maintenance);
        check(&["0% down", "ready"], Standing::Maintenance);
        check(&["0%", "1%"], Standing::Up);
        check(&["drain down", ""], Standing::Draining);
    }
}
