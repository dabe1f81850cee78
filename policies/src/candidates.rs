//! The endpoints of one tier that a policy chooses from, with the tables that make choosing cheap.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroU32,
    sync::Arc,
};

use crate::{
    accept_rate::AcceptRate,
    alias::AliasTable,
    by_latency,
    dice::Dice,
    endpoint::{Endpoint, EndpointIx, Locality, LocalityIx, Weight},
    group::{Bound, Group},
    hashed::{self, HashTables, Hashed, Membership, TableKind},
    hot_cold, least_connections,
    load::{Lease, Load},
    p2c,
    plan::{Kind, PickContext},
    prequal::HotCold,
    random,
    round_robin::{self, Schedule},
    snapshot::{Latency, Policy},
    tick::Tick,
    tried::Tried,
};

/// An endpoint that may be picked. Whatever its standing was when the set was compiled, it was good enough to be here.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) endpoint: EndpointIx,
    pub(crate) locality: LocalityIx,
    /// What it can carry, relative to its neighbours.
    weight: Weight,
    /// How often it is drawn: its weight, less what a slow start and a lowered share of its locality take away.
    draw_weight: u64,
    max_connections: Option<NonZeroU32>,
    accept_rate: Option<AcceptRate>,
    load: Arc<Load>,
    limits: Option<Arc<Limited>>,
}

/// The limits that the endpoints of a locality are under together.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) group: Arc<Group>,
    pub(crate) bounds: Box<[Bound]>,
}

impl Limited {
    /// Whether one more would fit.
    pub(crate) fn has_room(&self) -> bool {
        self.bounds.iter().all(Bound::has_room)
    }
}

impl Candidate {
    pub(crate) fn new(ix: EndpointIx, endpoint: &Endpoint, at: &Locality, limits: Option<Arc<Limited>>) -> Self {
        let weight = u64::from(endpoint.weight.get());
        Self {
            endpoint: ix,
            locality: endpoint.locality,
            weight: endpoint.weight,
            draw_weight: weight * u64::from(endpoint.ramp.per_mille()) * u64::from(at.share.as_percent().max(1)),
            max_connections: endpoint.max_connections,
            accept_rate: endpoint.accept_rate.map(|rate| rate.slowed(endpoint.ramp)),
            load: Arc::clone(&endpoint.load),
            limits,
        }
    }

    /// Whether this client has not been here and there is room. There may be none any more when it is reserved.
    pub(crate) fn can_take(&self, tried: &Tried, now: Tick) -> bool {
        !self.is_full() && !tried.contains(self.endpoint) && !self.is_early(now) && !self.is_at_limit()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.max_connections.is_some_and(|max| self.load.leases() >= max.get())
    }

    /// Whether its accept rate lets nobody in at this moment.
    pub(crate) fn is_early(&self, now: Tick) -> bool {
        self.accept_rate.is_some_and(|rate| !self.load.admits(rate, now))
    }

    /// Whether a limit of its cluster or priority is reached.
    pub(crate) fn is_at_limit(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| !limits.has_room())
    }

    /// Takes a lease if all limits allow one more. The accept rate comes last, because a turn that was taken is not given
    /// back.
    pub(crate) fn reserve(&self, now: Tick) -> Option<Lease> {
        let mut lease = self.load.reserve(self.max_connections)?;
        if let Some(limits) = &self.limits {
            lease.enter(&limits.group);
            if !limits.bounds.iter().all(Bound::is_kept) {
                return None;
            }
        }
        let on_time = self.accept_rate.is_none_or(|rate| self.load.take_turn(rate, now));
        on_time.then_some(lease)
    }

    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }

    pub(crate) fn cost(&self) -> Cost {
        self.cost_by(self.weight.get().into())
    }

    /// The cost for a policy that draws nobody, and so has no other place for what lowers the draws.
    pub(crate) fn drawn_cost(&self) -> Cost {
        self.cost_by(self.draw_weight)
    }

    fn cost_by(&self, weight: u64) -> Cost {
        Cost { connections: u64::from(self.load.leases()) + 1, weight }
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
        // Weights have up to 33 bits with what lowers the draws, and counts 32.
        let crosswise = |connections: u64, weight: u64| u128::from(connections) * u128::from(weight);
        crosswise(self.connections, other.weight).cmp(&crosswise(other.connections, self.weight))
    }
}

/// The candidates of one tier and one table for each kind of client.
#[derive(Debug)]
pub(crate) struct CandidateSet {
    /// In the order of their positions.
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
    Random(Arc<AliasTable>),
    P2c { choices: u8, table: Arc<AliasTable> },
    PeakEwma { choices: u8, latency: Latency, table: Arc<AliasTable> },
    Prequal { choices: u8, settings: HotCold, table: Arc<AliasTable> },
    Hashed(Hashed),
}

/// What a set is made of.
pub(crate) struct Parts<'a> {
    /// Those that may be picked.
    pub(crate) candidates: Vec<Candidate>,
    /// Everybody who is configured, with the name that hash tables know.
    pub(crate) members: Vec<(Arc<str>, Weight, EndpointIx)>,
    /// Where the leases of these are summed up.
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) policy: Policy,
    pub(crate) request_policy: Policy,
    pub(crate) tables: &'a HashTables,
}

/// Why no candidate of a set was taken. In the order of importance: of several sets the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle {
    Empty,
    AllTried,
    Full,
    TooEarly,
    AtLimit,
}

impl CandidateSet {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let Parts { mut candidates, members, groups, policy, request_policy, tables } = parts;
        candidates.sort_unstable_by_key(|candidate| candidate.endpoint);
        let membership = Membership { members, candidates: &candidates, groups };
        let tunnel = Picker::new(policy, &membership, tables);
        let request =
            if request_policy == policy { tunnel.clone() } else { Picker::new(request_policy, &membership, tables) };
        Self { tag: tag(&candidates), candidates: candidates.into(), tunnel, request }
    }

    /// Whether the policy goes by the client's key.
    pub(crate) fn goes_by_key(&self, kind: Kind) -> bool {
        matches!(self.picker(kind), Picker::Hashed(_))
    }

    /// Whether bounded load would send a client past this candidate.
    pub(crate) fn is_over_bound(&self, kind: Kind, candidate: &Candidate) -> bool {
        match self.picker(kind) {
            Picker::Hashed(table) => table.is_over_bound(candidate),
            _ => false,
        }
    }

    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    pub(crate) fn find(&self, endpoint: EndpointIx) -> Option<&Candidate> {
        let at = self.candidates.binary_search_by_key(&endpoint, |candidate| candidate.endpoint).ok()?;
        Some(&self.candidates[at])
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
            .or_else(|| least_connections::pick(&self.candidates, cx))
            .ok_or_else(|| self.obstacle(cx.tried, cx.now))
    }

    fn pick_by_policy(&self, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Option<(&Candidate, Lease)> {
        match self.picker(kind) {
            Picker::RoundRobin(schedule) => round_robin::pick(&self.candidates, schedule, self.cursor(kind), cx),
            Picker::Random(table) => random::pick(&self.candidates, table, cx),
            Picker::P2c { choices, table } => p2c::pick(&self.candidates, table, *choices, cx),
            Picker::PeakEwma { choices, latency, table } => {
                by_latency::pick(&self.candidates, table, *choices, kind, latency, cx)
            }
            Picker::Prequal { choices, settings, table } => {
                hot_cold::pick(&self.candidates, table, *choices, kind, settings, cx)
            }
            Picker::Hashed(table) => hashed::pick(&self.candidates, table, cx),
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

    fn obstacle(&self, tried: &Tried, now: Tick) -> Obstacle {
        let untried = self.candidates.iter().filter(|candidate| !tried.contains(candidate.endpoint));
        untried.map(|candidate| candidate.obstacle(now)).max().unwrap_or(Obstacle::AllTried)
    }
}

impl Candidate {
    /// What stands in the way of a candidate that was not taken. Losing every race for a last place looks like full.
    fn obstacle(&self, now: Tick) -> Obstacle {
        if self.is_full() {
            Obstacle::Full
        } else if self.is_at_limit() {
            Obstacle::AtLimit
        } else if self.is_early(now) {
            Obstacle::TooEarly
        } else {
            Obstacle::Full
        }
    }
}

impl Picker {
    fn new(policy: Policy, of: &Membership<'_>, tables: &HashTables) -> Self {
        let weights = || of.candidates.iter().map(|candidate| candidate.draw_weight).collect::<Vec<u64>>();
        let table = || Arc::new(AliasTable::new(&weights()));
        let drawn = |choices: u8| choices.clamp(2, 16);
        match policy {
            Policy::RoundRobin => Self::RoundRobin(Arc::new(Schedule::new(&weights()))),
            Policy::LeastConnections => Self::LeastConnections,
            Policy::Random => Self::Random(table()),
            Policy::P2c { choices } => Self::P2c { choices: drawn(choices), table: table() },
            Policy::PeakEwma { choices, latency } => {
                Self::PeakEwma { choices: drawn(choices), latency, table: table() }
            }
            Policy::Prequal { choices, hot_above_percent, report_age, latency } => {
                let settings = HotCold {
                    hot_quantile: f32::from(hot_above_percent.min(100)) / 100.0,
                    report_age,
                    decay: latency.decay,
                    default_rtt: latency.default,
                };
                Self::Prequal { choices: drawn(choices), settings, table: table() }
            }
            Policy::Maglev { size, balance } => Self::Hashed(Hashed::new(TableKind::Maglev(size), balance, of, tables)),
            Policy::RingHash { size, balance } => Self::Hashed(Hashed::new(TableKind::Ring(size), balance, of, tables)),
        }
    }
}

/// The loads are the identities of the endpoints: they outlive snapshots, and two clusters never share one even if their
/// addresses are the same.
fn tag(candidates: &[Candidate]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for candidate in candidates {
        (Arc::as_ptr(&candidate.load), candidate.draw_weight).hash(&mut hasher);
    }
    hasher.finish()
}
