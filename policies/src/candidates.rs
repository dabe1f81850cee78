//! The endpoints of one tier that a policy chooses from, with the tables that make choosing cheap.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroU32,
    sync::Arc,
};

use crate::{
    dice::Dice,
    endpoint::{Endpoint, EndpointIx, LocalityIx, Weight},
    least_connections,
    load::{Lease, Load},
    p2c::{self, AliasTable},
    plan::{Kind, PickContext},
    round_robin::{self, Schedule},
    snapshot::Policy,
    tried::Tried,
};

/// An endpoint that may be picked. Whatever its standing was when the set was compiled, it was good enough to be here.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) endpoint: EndpointIx,
    pub(crate) locality: LocalityIx,
    weight: Weight,
    max_connections: Option<NonZeroU32>,
    load: Arc<Load>,
}

impl Candidate {
    pub(crate) fn new(ix: EndpointIx, endpoint: &Endpoint) -> Self {
        Self {
            endpoint: ix,
            locality: endpoint.locality,
            weight: endpoint.weight,
            max_connections: endpoint.max_connections,
            load: Arc::clone(&endpoint.load),
        }
    }

    /// Whether this client has not been here and there is room. There may be none any more when it is reserved.
    pub(crate) fn can_take(&self, tried: &Tried) -> bool {
        !self.is_full() && !tried.contains(self.endpoint)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.max_connections.is_some_and(|max| self.load.leases() >= max.get())
    }

    pub(crate) fn reserve(&self) -> Option<Lease> {
        self.load.reserve(self.max_connections)
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost { connections: u64::from(self.load.leases()) + 1, weight: u64::from(self.weight.get()) }
    }
}

/// What one more connection would cost: the share of its weight that the endpoint would then carry, (leases + 1) /
/// weight. The one that arrives is counted, or an idle server of weight 1 would look as good as one of weight 10.
/// Compared crosswise in whole numbers, as the scheduler SED of Linux IPVS does, so nothing is rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    connections: u64,
    weight: u64,
}

impl Cost {
    pub(crate) fn compare(self, other: Self) -> std::cmp::Ordering {
        (self.connections * other.weight).cmp(&(other.connections * self.weight))
    }
}

/// The candidates of one tier and one table for each kind of client.
#[derive(Debug)]
pub(crate) struct CandidateSet {
    candidates: Box<[Candidate]>,
    tunnel: Picker,
    request: Picker,
    /// Says which endpoints with which weights these are, so that a round-robin cursor finds its set again after a
    /// recompilation that changed nothing.
    tag: u64,
}

/// A policy with its table.
#[derive(Debug, Clone)]
enum Picker {
    RoundRobin(Arc<Schedule>),
    LeastConnections,
    P2c { choices: u8, table: Arc<AliasTable> },
}

/// Why no candidate of a set was taken. In the order of importance: of several sets the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle {
    Empty,
    AllTried,
    Full,
}

impl CandidateSet {
    pub(crate) fn new(candidates: Vec<Candidate>, policy: Policy, request_policy: Policy) -> Self {
        let weights: Vec<Weight> = candidates.iter().map(|candidate| candidate.weight).collect();
        let tunnel = Picker::new(policy, &weights);
        let request = if request_policy == policy { tunnel.clone() } else { Picker::new(request_policy, &weights) };
        Self { tag: tag(&candidates), candidates: candidates.into(), tunnel, request }
    }

    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Takes a candidate as the policy wants it, or, when those that the policy named were full or tried, the least
    /// loaded of all that are not. So nobody is refused while there is room.
    pub(crate) fn pick(
        &self,
        kind: Kind,
        cx: &mut PickContext<'_, impl Dice>,
    ) -> Result<(&Candidate, Lease), Obstacle> {
        if self.candidates.is_empty() {
            return Err(Obstacle::Empty);
        }
        self.pick_by_policy(kind, cx)
            .or_else(|| least_connections::pick(&self.candidates, cx.tried, cx.dice))
            .ok_or_else(|| self.obstacle(cx.tried))
    }

    fn pick_by_policy(&self, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Option<(&Candidate, Lease)> {
        match self.picker(kind) {
            Picker::RoundRobin(schedule) => {
                round_robin::pick(&self.candidates, schedule, self.cursor(kind), cx.tried, cx.cursors)
            }
            Picker::P2c { choices, table } => p2c::pick(&self.candidates, table, *choices, cx.tried, cx.dice),
            // What follows a policy that found nothing is least-connections itself.
            Picker::LeastConnections => None,
        }
    }

    fn picker(&self, kind: Kind) -> &Picker {
        match kind {
            Kind::Tunnel => &self.tunnel,
            Kind::Request => &self.request,
        }
    }

    /// Tunnels and requests take turns apart: a client that always makes one request before its tunnel would otherwise
    /// send all requests to one half of the endpoints and all tunnels to the other.
    fn cursor(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Tunnel => self.tag,
            Kind::Request => !self.tag,
        }
    }

    fn obstacle(&self, tried: &Tried) -> Obstacle {
        if self.candidates.iter().all(|candidate| tried.contains(candidate.endpoint)) {
            Obstacle::AllTried
        } else {
            Obstacle::Full
        }
    }
}

impl Picker {
    fn new(policy: Policy, weights: &[Weight]) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin(Arc::new(Schedule::new(weights))),
            Policy::LeastConnections => Self::LeastConnections,
            Policy::P2c { choices } => {
                Self::P2c { choices: choices.clamp(2, 16), table: Arc::new(AliasTable::new(weights)) }
            }
        }
    }
}

/// The loads are the identities of the endpoints: they outlive snapshots, and two clusters never share one even if their
/// addresses are the same.
fn tag(candidates: &[Candidate]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for candidate in candidates {
        (Arc::as_ptr(&candidate.load), candidate.weight).hash(&mut hasher);
    }
    hasher.finish()
}
