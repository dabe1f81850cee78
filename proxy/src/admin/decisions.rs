//! Why one connection went where it went, from what its worker noted of it ([`crate::decisions`]).
//!
//! A pick by a plan that still runs is made again: the same dice, the same counts, by the function that routes live traffic.
//! A pick by an earlier one is told from the record.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use policies::{EndpointIx, Past, Policy, Repeat};
use serde::{Deserialize, Serialize};

use super::explain::tie_break::{Compared, TieBreak, compared};
use crate::access_log::millis_since_1970;
use crate::cluster::ClusterPlan;
use crate::cluster::roster::Roster;
use crate::config::Name;
use crate::decisions::{Decision, KEPT};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::worker::WorkerDice;

/// What is kept of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    pub connection: u64,
    /// Oldest first: one for each try of each request.
    pub decisions: Vec<Retold>,
}

/// One pick, as far as it is still known.
#[derive(Debug, Serialize, Deserialize)]
pub struct Retold {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    pub seconds_ago: f64,
    pub generation: u64,
    /// None if the cluster is gone.
    pub cluster: Option<String>,
    pub kind: String,
    /// None if the configuration of that moment is gone.
    pub policy: Option<String>,
    /// 1 for the first endpoint of a request.
    #[serde(rename = "try")]
    pub attempt: usize,
    /// The first rule that matched, counted from 1.
    pub rule: Option<usize>,
    pub cell: String,
    pub has_key: bool,
    /// The endpoint that stickiness remembered.
    pub remembered: Option<String>,
    /// Endpoints that had failed this client before.
    pub tried: Vec<String>,
    pub considered: Vec<Compared>,
    pub tie_break: String,
    pub pick: Option<Pick>,
    pub refused: Option<String>,
    pub repeated: Repeated,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Pick {
    pub endpoint: String,
    pub address: SocketAddr,
    /// None if the endpoints of that moment are no longer known.
    pub locality: Option<String>,
    pub tier: usize,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Repeated {
    /// `same`, `other` or `not-possible`.
    pub result: String,
    pub detail: String,
}

#[derive(Debug, thiserror::Error)]
#[error("connection {connection} is not kept: each worker keeps its last {KEPT} picks")]
pub struct NotKept {
    connection: u64,
}

/// # Errors
/// When nothing is kept of this connection, or it never was.
pub fn tell(state: &State, connection: u64) -> Result<Told, NotKept> {
    let decisions = state.decisions.of(connection);
    if decisions.is_empty() {
        return Err(NotKept { connection });
    }
    let snapshot = state.snapshot.load_full();
    Ok(Told {
        connection,
        decisions: decisions.iter().map(|decision| Teller::new(state, &snapshot, decision).tell()).collect(),
    })
}

/// One decision, with what is still known of its moment.
struct Teller<'a> {
    decision: &'a Decision,
    ago: std::time::Duration,
    roster: Option<(Name, Arc<Roster>)>,
    /// The plan that made it, if it still runs.
    plan: Option<&'a Arc<ClusterPlan>>,
    /// The plan of the same configuration, maybe of other health.
    successor: Option<&'a Arc<ClusterPlan>>,
}

impl<'a> Teller<'a> {
    fn new(state: &State, snapshot: &'a Snapshot, decision: &'a Decision) -> Teller<'a> {
        let of_roster = |cluster: &Arc<crate::cluster::ClusterState>| {
            Some((cluster.name.clone(), cluster.rosters.find(decision.roster)?))
        };
        let roster = state.clusters().values().find_map(of_roster);
        let named = |plan: &&Arc<ClusterPlan>| roster.as_ref().is_some_and(|(name, _)| *name == plan.config.name);
        let successor = snapshot.clusters.iter().find(named).filter(|_| snapshot.generation == decision.generation());
        let plan = snapshot.clusters.iter().find(|plan| plan.id == decision.plan);
        let ago = state.clock.now().since(decision.at());
        Teller { decision, ago, roster, plan, successor }
    }

    fn tell(&self) -> Retold {
        let decision = self.decision;
        let considered = compared(&decision.considered, |ix| self.name(ix));
        let chosen = decision.chosen();
        let pick = chosen.ok().map(|chosen| Pick {
            endpoint: self.name_of(chosen.address),
            address: chosen.address,
            locality: self.locality_of(chosen.address),
            tier: usize::from(chosen.tier) + 1,
            reason: chosen.reason.as_str().to_owned(),
        });
        let policy = self.policy();
        let winner = pick.as_ref().zip(chosen.ok()).map(|(pick, chosen)| (pick.endpoint.as_str(), chosen.reason));
        let has_key = decision.key().is_some();
        let tie_break = TieBreak { policy, has_key, considered: &considered, winner }.line();
        let time = SystemTime::now().checked_sub(self.ago).unwrap_or(SystemTime::UNIX_EPOCH);
        Retold {
            time_ms: u64::try_from(millis_since_1970(time)).unwrap_or(u64::MAX),
            seconds_ago: self.ago.as_secs_f64(),
            generation: decision.generation(),
            cluster: self.roster.as_ref().map(|(name, _)| name.to_string()),
            kind: decision.kind.as_str().to_owned(),
            policy: policy.map(|policy| policy.as_str().to_owned()),
            attempt: decision.tried().len() + 1,
            rule: decision.rule().map(|rule| usize::from(rule) + 1),
            cell: decision.cell.to_string(),
            has_key,
            remembered: decision.pin().map(|pin| self.name(pin)),
            tried: decision.tried().iter().map(|ix| self.name(ix)).collect(),
            considered,
            tie_break,
            pick,
            refused: chosen.err().map(|no_pick| no_pick.to_string()),
            repeated: self.repeat(),
        }
    }

    fn policy(&self) -> Option<Policy> {
        Some(self.successor?.policy_of(self.decision.rule(), self.decision.kind))
    }

    fn repeat(&self) -> Repeated {
        let decision = self.decision;
        let said = |result: &str, detail: String| Repeated { result: result.to_owned(), detail };
        let Some(plan) = self.plan else {
            let detail = "health, round trips, endpoints or files have changed since: this is told from the record";
            return said("not-possible", detail.to_owned());
        };
        let ix = |address| plan.members.iter().position(|member| member.address == address);
        let outcome = match decision.chosen() {
            Ok(chosen) => match ix(chosen.address).and_then(|ix| u32::try_from(ix).ok()) {
                Some(ix) => Ok((EndpointIx(ix), chosen.reason)),
                None => return said("not-possible", "its endpoint is not one of the plan's".to_owned()),
            },
            Err(no_pick) => Err(no_pick),
        };
        let past = Past {
            kind: decision.kind,
            now: decision.at(),
            tried: decision.tried(),
            key: decision.key(),
            pin: decision.pin(),
            considered: decision.considered,
            outcome,
        };
        let class = (decision.rule(), decision.cell);
        match plan.repeat(class, &past, &mut WorkerDice::standing_at(decision.dice)) {
            Repeat::Same => said("same", "made again with the same dice and counts, it comes out the same".to_owned()),
            Repeat::Other(Ok(choice)) => said(
                "other",
                format!("made again it leads to {}: counts moved while it was made", self.name(choice.endpoint)),
            ),
            Repeat::Other(Err(no_pick)) => said("other", format!("made again it finds nobody: {no_pick}")),
            Repeat::NotPossible(missing) => said("not-possible", format!("{missing}: this is told from the record")),
        }
    }

    fn name(&self, EndpointIx(ix): EndpointIx) -> String {
        let seat = self.roster.as_ref().and_then(|(_, roster)| roster.seats.get(ix as usize));
        seat.map_or_else(|| format!("endpoint {ix} (no longer known)"), |seat| seat.name.to_string())
    }

    fn name_of(&self, address: SocketAddr) -> String {
        let seats = self.roster.iter().flat_map(|(_, roster)| &roster.seats);
        let seat = seats.into_iter().find(|seat| seat.address == address);
        seat.map_or_else(|| address.to_string(), |seat| seat.name.to_string())
    }

    fn locality_of(&self, address: SocketAddr) -> Option<String> {
        let mut seats = self.roster.iter().flat_map(|(_, roster)| &roster.seats);
        seats.find(|seat| seat.address == address).map(|seat| seat.locality.to_string())
    }
}

/// The answer for people.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.connection)?;
        self.decisions.iter().try_for_each(|decision| write!(f, "\n\n{decision}"))
    }
}

impl fmt::Display for Retold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster.as_deref().unwrap_or("(gone)");
        let policy = self.policy.as_deref().map_or_else(String::new, |policy| format!(" by {policy}"));
        let rule = self.rule.map_or_else(|| "no rule".to_owned(), |rule| format!("rule {rule}"));
        writeln!(f, "when      {:.1} s ago  ({} ms since 1970)", self.seconds_ago, self.time_ms)?;
        writeln!(f, "cluster   {cluster}  {}{policy}  generation {}", self.kind, self.generation)?;
        writeln!(f, "class     {rule}  cell {}", self.cell)?;
        write!(f, "try       {}", self.attempt)?;
        match &self.tried[..] {
            [] => writeln!(f)?,
            failed => writeln!(f, "  after {} had failed", failed.join(", "))?,
        }
        if let Some(remembered) = &self.remembered {
            writeln!(f, "had       {remembered}")?;
        }
        writeln!(f, "compared  {}", self.tie_break)?;
        match (&self.pick, &self.refused) {
            (Some(Pick { endpoint, locality, tier, reason, .. }), _) => {
                let locality = locality.as_deref().map_or_else(String::new, |locality| format!(" in {locality}"));
                writeln!(f, "pick      {endpoint}{locality} (tier {tier}, {reason})")?;
            }
            (None, refused) => writeln!(f, "refused   {}", refused.as_deref().unwrap_or_default())?,
        }
        write!(f, "repeated  {}", self.repeated.detail)
    }
}
