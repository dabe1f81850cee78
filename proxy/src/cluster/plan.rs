//! One cluster as a snapshot has it: members, what is known of them, and a compiled plan for each client class.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use geoip::great_circle_km;
use policies::{
    Answer, CandidateSets, ClassView, ClusterView, Compiler, Dice, Endpoint, EndpointIx, Kind, Load, Locality,
    LocalityRtt, NoPick, Past, Pick, PickContext, Plan, Policy, Ramp, Repeat, Retry, RuleIndex, Share, Steering, Tick,
    Used, Weight,
};

use super::class::{Cell, Client};
use super::members::ClusterState;
use super::overrides::scale_weights;
use super::roster::{Roster, Seat};
use super::{EndpointState, class};
use crate::affinity::Keys;
use crate::config::{self, Config, Name};
use crate::events;
use crate::state::State;
use crate::tls::UpstreamTls;

/// Classes compiled at most; further ones are widened to their continent.
const MAX_CLASSES: usize = 4096;

/// The first rule that matches, and the cell: what clients of one class share.
pub type ClassKey = (Option<u16>, Cell);

/// Counts the plans of the process, so that a number names one.
static BUILT: AtomicU32 = AtomicU32::new(0);

/// A cluster, ready for picks. Replaced as a whole when the files or the health of an endpoint change.
pub struct ClusterPlan {
    /// Says of a past pick whether it was made by this very plan.
    pub id: u32,
    /// Names of the members, for what is told later.
    pub roster: Arc<Roster>,
    pub config: config::Cluster,
    pub state: Arc<ClusterState>,
    /// Identities, by `EndpointIx`.
    pub members: Vec<Arc<EndpointState>>,
    /// What the files say, by `EndpointIx`; the weights of the view have what operators set.
    pub configured_weights: Vec<Weight>,
    pub view: ClusterView,
    pub tls: Option<UpstreamTls>,
    /// How clients are known; `None` where nothing goes by it.
    pub keys: Option<Arc<Keys>>,
    /// Where an address is in `members`. Empty without stickiness.
    by_address: HashMap<SocketAddr, EndpointIx>,
    rules: RuleIndex,
    /// For tunnels and for requests; see [`ClusterPlan::learns_by`].
    learns_by: [Box<[Policy]>; 2],
    /// What sums had to be corrected for when this was built.
    unsettled: u64,
    plans: ArcSwap<HashMap<ClassKey, Arc<Plan>>>,
    /// What the plans have in common, and the right to compile another one.
    compiling: Mutex<CandidateSets>,
}

impl ClusterPlan {
    /// Reads the state of every endpoint once. `edge` is where this edge stands, for the RTT prior.
    pub fn build(
        config: &config::Cluster,
        state: Arc<ClusterState>,
        edge: &config::Edge,
        tls: Option<UpstreamTls>,
        keys: Option<Arc<Keys>>,
        now: Tick,
    ) -> ClusterPlan {
        state.sticky.fit(config.stickiness, now);
        let (members, configured_weights, endpoints) = members(config, &state, now);
        let rtts = rtts(config, edge, &members, &endpoints, now);
        let localities = localities(config, &state, &rtts, &state.bands(config, &rtts, now));
        let view = ClusterView {
            endpoints,
            localities,
            policy: config.policy,
            request_policy: config.request_policy,
            steering: steering(config),
            limits: config.limits,
            priority_limits: config.priority_limits.clone(),
            tables: state.tables.clone(),
        };
        let addresses = members.iter().map(|member| member.address).zip((0..).map(EndpointIx));
        ClusterPlan {
            id: BUILT.fetch_add(1, Relaxed).wrapping_add(1),
            roster: state.rosters.enter(seats(config, &members, &view.endpoints)),
            by_address: if config.stickiness.is_some() { addresses.collect() } else { HashMap::new() },
            config: config.clone(),
            state,
            members,
            configured_weights,
            rules: RuleIndex::new(&view.steering.rules),
            learns_by: [Kind::Tunnel, Kind::Request].map(|kind| learns_by(config, kind)),
            unsettled: view.unsettled(),
            view,
            tls,
            keys,
            plans: ArcSwap::default(),
            compiling: Mutex::default(),
        }
    }

    /// Whether the plans of `other` would pick alike: then there is nothing to publish.
    pub fn steers_like(&self, other: &ClusterPlan) -> bool {
        self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.view.endpoints.iter().zip(&other.view.endpoints).all(|(a, b)| picks_alike(a, b))
            && self.view.localities.iter().zip(&other.view.localities).all(|(a, b)| steers_alike(a, b))
            && self.unsettled == other.unsettled
    }

    /// Whether sums are corrected for leases that no sum has, so that plans are to be compiled anew until those are gone.
    pub fn is_settling(&self) -> bool {
        self.unsettled > 0
    }

    /// Whether an endpoint is in its slow start, so that plans are to be compiled anew for a while.
    pub fn is_warming_up(&self) -> bool {
        self.view.endpoints.iter().any(|endpoint| endpoint.ramp != Ramp::WHOLE)
    }

    /// One round of the load-aware spill-over; true when a locality sends on more or less than before.
    pub fn shed(&self, now: Tick) -> bool {
        self.state.update_shedding(&self.config, &self.used(), now)
    }

    /// How full each locality is, where its capacity is known.
    pub fn used(&self) -> Vec<Option<Used>> {
        let used = |(locality, ix): (&config::Locality, u16)| {
            let here = || self.view.endpoints.iter().filter(move |endpoint| endpoint.locality.0 == ix);
            let weight = |endpoint: &Endpoint| u64::from(endpoint.weight.get());
            let all: u64 = here().map(weight).sum();
            let up: u64 = here().filter(|endpoint| endpoint.standing.takes_new()).map(weight).sum();
            let connections = here().map(|endpoint| u64::from(endpoint.load.leases())).sum();
            // What is declared is for all of its endpoints: a locality that has lost half of them holds half.
            let capacity = u64::from(locality.capacity?.get()) * up / all.max(1);
            Some(Used { connections, capacity })
        };
        self.config.localities.iter().zip(0u16..).map(used).collect()
    }

    /// Whether so few endpoints are up that health is no longer believed: the panic threshold over the whole cluster,
    /// without endpoints that somebody wants out.
    pub fn is_in_panic(&self) -> bool {
        let standings = self.view.endpoints.iter().map(|endpoint| endpoint.standing);
        let (mut all, mut up) = (0, 0);
        for standing in standings.filter(|standing| standing.takes_in_panic()) {
            all += 1;
            up += u64::from(standing.takes_new());
        }
        up * 100 < all * u64::from(self.config.panic_threshold_percent)
    }

    /// The round trips by `LocalityIx`, as they are now; the plan itself goes by bands.
    pub fn rtts(&self, edge: &config::Edge, now: Tick) -> Vec<Option<LocalityRtt>> {
        rtts(&self.config, edge, &self.members, &self.view.endpoints, now)
    }

    /// Lets the bands follow the round trips; true when a locality changed its band. To be called once a second.
    pub fn follow_rtts(&self, edge: &config::Edge, now: Tick) -> bool {
        self.state.update_bands(&self.rtts(edge, now), now)
    }

    /// Compiles the classes that `before` knew, so that no worker has to.
    pub fn warm_up(&self, before: &ClusterPlan) {
        if self.config.rules != before.config.rules {
            return;
        }
        let mut compiler = Compiler::new(&self.view);
        let known = before.plans.load();
        let plans = known.keys().map(|key| (*key, Arc::new(self.compile(*key, &mut compiler))));
        self.plans.store(Arc::new(plans.collect()));
        *self.compiling() = compiler.into_sets();
    }

    pub fn pick(&self, client: &Client, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Result<Pick, NoPick> {
        self.pick_in(self.class_of(client), kind, cx)
    }

    /// Picks for a client of this class.
    pub fn pick_in(&self, class: ClassKey, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Result<Pick, NoPick> {
        self.plan(class).pick(kind, cx)
    }

    /// Makes a pick of this very plan again.
    pub fn repeat(&self, (rule, cell): ClassKey, past: &Past, dice: &mut impl Dice) -> Repeat {
        let distances = self.distances_km(cell);
        policies::repeat(&self.view, &ClassView { rule: rule.map(usize::from), distances_km: &distances }, past, dice)
    }

    /// Where the member with this address is. Known only with stickiness.
    pub fn ix_of(&self, address: SocketAddr) -> Option<EndpointIx> {
        self.by_address.get(&address).copied()
    }

    /// Everything that a pick for this client weighs, and its result, by the function that routes live traffic.
    pub fn explain(&self, client: &Client, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> policies::Explanation {
        let (rule, cell) = self.class_of(client);
        let distances = self.distances_km(cell);
        policies::explain(&self.view, &ClassView { rule: rule.map(usize::from), distances_km: &distances }, kind, cx)
    }

    pub fn class_of(&self, client: &Client) -> ClassKey {
        let rule = self.rules.first_match(&client.place).and_then(|rule| u16::try_from(rule).ok());
        let key = (rule, client.cell);
        let plans = self.plans.load();
        if plans.len() < MAX_CLASSES || plans.contains_key(&key) { key } else { (rule, client.coarse_cell()) }
    }

    /// What a client of this kind met on its arrival at an endpoint, itself included; `None` if no policy asks.
    pub fn in_flight(&self, kind: Kind, load: &Load, now: Tick) -> Option<u32> {
        let ages = self.learns_by(kind).iter().map(|policy| policy.report_age().unwrap_or_default());
        ages.max().map(|report_age| load.in_flight(report_age, now))
    }

    /// Tells every policy that goes by latency how long an endpoint took.
    pub fn answered(&self, kind: Kind, load: &Load, answer: Answer, now: Tick) {
        self.learns_by(kind).iter().for_each(|policy| load.answered(kind, answer, *policy, now));
    }

    /// The policies that have to be told of latencies: those of the cluster and of its rules that go by latency, each once.
    /// What an endpoint took is told by all clients, also by those whose own policy does not ask.
    fn learns_by(&self, kind: Kind) -> &[Policy] {
        let [tunnels, requests] = &self.learns_by;
        match kind {
            Kind::Tunnel => tunnels,
            Kind::Request => requests,
        }
    }

    /// The policy that picks for clients of this rule: its own, or else the cluster's.
    pub fn policy_of(&self, rule: Option<u16>, kind: Kind) -> Policy {
        let rule = rule.and_then(|rule| self.view.steering.rules.get(usize::from(rule)));
        match kind {
            Kind::Tunnel => rule.and_then(|rule| rule.policy).unwrap_or(self.view.policy),
            Kind::Request => rule.and_then(|rule| rule.request_policy).unwrap_or(self.view.request_policy),
        }
    }

    /// A place in the retry budget for one more try, given back by its drop; `None` when the budget is used up.
    pub fn retry(&self, state: &State) -> Option<Retry> {
        let active = self.members.iter().fold(0_u32, |sum, member| sum.saturating_add(member.load.leases()));
        let retry = self.state.retries.take(self.config.retry_budget, active);
        events::tried_again(state, &self.config.name, retry.is_some());
        retry
    }

    /// Endpoints that there are to try, and one try in any case: it finds out why there is none.
    pub fn tries(&self) -> u8 {
        u8::try_from(self.members.len()).unwrap_or(u8::MAX).max(1)
    }

    pub fn classes(&self) -> usize {
        self.plans.load().len()
    }

    pub fn locality_name(&self, locality: policies::LocalityIx) -> &Name {
        &self.config.localities[usize::from(locality.0)].name
    }

    fn plan(&self, key: ClassKey) -> Arc<Plan> {
        if let Some(plan) = self.plans.load().get(&key) {
            return plan.clone();
        }
        self.compile_and_keep(key)
    }

    /// The first client of a class pays for its compilation, once; the map is copied, so readers never wait.
    #[cold]
    fn compile_and_keep(&self, key: ClassKey) -> Arc<Plan> {
        let mut sets = self.compiling();
        let plans = self.plans.load_full();
        if let Some(plan) = plans.get(&key) {
            return plan.clone();
        }
        let mut compiler = Compiler::resume(&self.view, std::mem::take(&mut *sets));
        let plan = Arc::new(self.compile(key, &mut compiler));
        *sets = compiler.into_sets();
        let mut plans = HashMap::clone(&plans);
        plans.insert(key, plan.clone());
        self.plans.store(Arc::new(plans));
        plan
    }

    fn compiling(&self) -> MutexGuard<'_, CandidateSets> {
        self.compiling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile(&self, (rule, cell): ClassKey, compiler: &mut Compiler<'_>) -> Plan {
        let distances = self.distances_km(cell);
        compiler.compile(&ClassView { rule: rule.map(usize::from), distances_km: &distances })
    }

    fn distances_km(&self, cell: class::Cell) -> Vec<Option<f64>> {
        let centre = cell.centre();
        let distance = |locality: &config::Locality| Some(great_circle_km(centre?, locality.location?));
        self.config.localities.iter().map(distance).collect()
    }
}

fn learns_by(config: &config::Cluster, kind: Kind) -> Box<[Policy]> {
    let (of_cluster, of_rule): (_, fn(&policies::Rule) -> Option<Policy>) = match kind {
        Kind::Tunnel => (config.policy, |rule| rule.policy),
        Kind::Request => (config.request_policy, |rule| rule.request_policy),
    };
    let of_rules = config.rules.iter().filter_map(|rule| of_rule(&rule.terms));
    let mut learning: Vec<Policy> = Vec::new();
    for policy in std::iter::once(of_cluster).chain(of_rules).filter(|policy| policy.latency().is_some()) {
        // The parameters are the cluster's, so two of one kind are the same.
        if !learning.contains(&policy) {
            learning.push(policy);
        }
    }
    learning.into()
}

fn steering(config: &config::Cluster) -> Steering {
    Steering {
        criteria: config.steer.clone(),
        distance_band_km: config.distance_band_km,
        rules: config.rules.iter().map(|rule| rule.terms.clone()).collect(),
        overprovisioning_percent: config.overprovisioning_percent,
        panic_threshold_percent: config.panic_threshold_percent,
        spill_by: config.spill.by,
    }
}

fn members(
    config: &config::Cluster,
    state: &ClusterState,
    now: Tick,
) -> (Vec<Arc<EndpointState>>, Vec<Weight>, Vec<Endpoint>) {
    let mut members: Vec<Arc<EndpointState>> = Vec::new();
    let mut known = HashSet::new();
    let mut configured_weights = Vec::new();
    let mut endpoints = Vec::new();
    for (locality, ix) in config.localities.iter().zip(0u16..) {
        for configured in &locality.endpoints {
            for address in state.addresses(&configured.address) {
                // Two names may resolve to one address: the first one has it.
                if !known.insert(address) {
                    continue;
                }
                let member = state.endpoint(address, &configured.address, &config.health, now);
                member.vote(|votes| votes.configured(now));
                member.measure_over(config.rtt.window);
                endpoints.push(Endpoint {
                    name: label(configured, address),
                    locality: policies::LocalityIx(ix),
                    weight: weight(configured, &member),
                    table_weight: Some(configured.weight),
                    max_connections: member.agent_max_connections().or(configured.max_connections),
                    accept_rate: configured.accept_rate,
                    ramp: config.slow_start.ramp(member.up_since(), now),
                    degraded: member.is_degraded(),
                    standing: member.standing(),
                    load: member.load.clone(),
                });
                members.push(member);
                configured_weights.push(configured.weight);
            }
        }
    }
    let percents: Vec<u16> =
        config.localities.iter().map(|locality| state.overrides(&locality.name).weight_percent()).collect();
    scale_weights(&mut endpoints, |locality| percents[usize::from(locality.0)]);
    (members, configured_weights, endpoints)
}

/// As configured or set by hand, or the share of it that the agent asks for. Never nothing: at 0 % the agent's vote drains.
fn weight(configured: &config::Endpoint, member: &EndpointState) -> Weight {
    let weight = member.overrides().weight().unwrap_or(configured.weight);
    let Some(percent) = member.agent_weight_percent() else { return weight };
    let scaled = u32::from(weight.get()) * u32::from(percent) / 100;
    Weight::new(u16::try_from(scaled).unwrap_or(u16::MAX)).unwrap_or_default()
}

fn seats(config: &config::Cluster, members: &[Arc<EndpointState>], endpoints: &[Endpoint]) -> Vec<Seat> {
    let seat = |(member, endpoint): (&Arc<EndpointState>, &Endpoint)| Seat {
        address: member.address,
        name: endpoint.name.clone(),
        locality: config.localities[usize::from(endpoint.locality.0)].name.clone(),
    };
    members.iter().zip(endpoints).map(seat).collect()
}

fn label(configured: &config::Endpoint, address: SocketAddr) -> Arc<str> {
    match &configured.address {
        config::Address::Socket(_) => address.to_string().into(),
        config::Address::Name { host, port } => format!("{host}:{port} ({})", address.ip()).into(),
    }
}

/// The round trip to each locality: the lowest measured of its endpoints, else the prior by distance.
fn rtts(
    config: &config::Cluster,
    edge: &config::Edge,
    members: &[Arc<EndpointState>],
    endpoints: &[Endpoint],
    now: Tick,
) -> Vec<Option<LocalityRtt>> {
    let mut rtts = vec![None::<LocalityRtt>; config.localities.len()];
    for (endpoint, member) in endpoints.iter().zip(members) {
        let Some(measured) = member.rtt(&config.rtt, now) else { continue };
        let here = &mut rtts[usize::from(endpoint.locality.0)];
        if here.is_none_or(|lowest| measured.rtt < lowest.rtt) {
            *here = Some(LocalityRtt { rtt: measured.rtt, confidence: Some(measured.confidence) });
        }
    }
    let prior = |locality: &config::Locality| -> Option<LocalityRtt> {
        let rtt = policies::prior_rtt(great_circle_km(edge.location?, locality.location?));
        Some(LocalityRtt { rtt, confidence: None })
    };
    rtts.into_iter().zip(&config.localities).map(|(measured, locality)| measured.or_else(|| prior(locality))).collect()
}

/// What the operator says, else the files.
fn share(locality: &config::Locality, state: &ClusterState) -> Share {
    state.overrides(&locality.name).share().unwrap_or(locality.share)
}

/// Whether picks go to these two alike, what their counts do left aside.
fn picks_alike(one: &Endpoint, other: &Endpoint) -> bool {
    let stands = |it: &Endpoint| (it.locality, it.standing, it.degraded);
    let weighs = |it: &Endpoint| (it.weight, it.table_weight, it.ramp, it.max_connections, it.accept_rate);
    stands(one) == stands(other) && weighs(one) == weighs(other) && one.name == other.name
}

fn steers_alike(one: &Locality, other: &Locality) -> bool {
    one.rtt_band == other.rtt_band && one.share == other.share
}

fn localities(
    config: &config::Cluster,
    state: &ClusterState,
    rtts: &[Option<LocalityRtt>],
    bands: &[Option<u8>],
) -> Vec<Locality> {
    let locality = |((locality, rtt), band): ((&config::Locality, &Option<LocalityRtt>), &Option<u8>)| Locality {
        name: locality.name.clone(),
        priority: locality.priority,
        rtt_band: *band,
        rtt_ms: rtt.map(|known| known.rtt.as_secs_f64() * 1000.0),
        share: share(locality, state).without(state.shed_percent(&locality.name)),
        capacity: locality.capacity,
        group: state.group(&locality.name),
    };
    config.localities.iter().zip(rtts).zip(bands).map(locality).collect()
}

/// A cluster without a running edge, from the configuration alone: what `warbler explain` shows.
pub fn offline(config: &Config, ix: config::ClusterIx) -> ClusterPlan {
    let state = Arc::new(ClusterState::new(config.cluster(ix).name.clone()));
    offline_with(config, ix, state, Tick(Duration::ZERO))
}

/// The same with what is known by then of its endpoints.
pub fn offline_with(config: &Config, ix: config::ClusterIx, state: Arc<ClusterState>, now: Tick) -> ClusterPlan {
    let mut cluster = config.cluster(ix).clone();
    // Nobody probes here, so nobody waits for a first probe.
    cluster.health.initial = config::Initial::Up;
    // A configuration that was checked with its files has keys that can be read.
    let keys = Keys::open(&cluster).ok().flatten().map(Arc::new);
    ClusterPlan::build(&cluster, state, &config.edge, None, keys, now)
}

#[cfg(test)]
mod tests {
    use geoip::{Coordinates, Place};

    use super::*;
    use crate::config::{ClusterIx, OpenFiles, load_text};

    /// Whoever could make up places could fill the memory with plans.
    #[test]
    fn a_client_of_one_class_too_many_is_steered_by_its_continent() {
        let text = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
                    [clusters.im]\nsteer = [\"rules\", \"distance\"]\n\
                    [[clusters.im.rules]]\nnetwork = \"10.0.0.0/8\"\nlocalities = \"here\"\n\
                    [clusters.im.localities.here]\nlocation = [50, 8]\nendpoints = [{ address = \"10.0.0.7:5222\" }]\n";
        let config = load_text("t.toml", text, OpenFiles::No).unwrap().config;
        let plan = offline(&config, ClusterIx(0));
        let client = |address: &str, row: u8, column: u8| {
            let at = |cells: u8, from: f64| (f64::from(cells) + 0.5) * 5.0 - from;
            let location = Coordinates::new(at(row, 90.0), at(column, 180.0));
            let place = Place { location, continent: Some(geoip::ContinentCode::EUROPE), ..Place::default() };
            class::Client::placed(Some(address.parse().unwrap()), &place)
        };
        let everywhere = || (0..36).flat_map(|row| (0..72).map(move |column| (row, column)));
        for address in ["10.0.0.1", "192.0.2.1"] {
            for (row, column) in everywhere() {
                plan.plan(plan.class_of(&client(address, row, column)));
            }
        }
        // Two times 2592 cells were asked for; the continents come on top.
        assert_eq!(plan.classes(), MAX_CLASSES + 1);
        let known = client("10.0.0.1", 3, 3);
        assert_eq!(plan.class_of(&known), (Some(0), known.cell), "who was there stays");
        assert_eq!(plan.class_of(&client("192.0.2.1", 35, 71)), (None, class::Cell::Continent(*b"EU")));
    }

    #[test]
    fn endpoints_are_told_of_latencies_for_the_policy_of_a_rule() {
        let learns_by = |policies: &str| {
            let text = format!(
                "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
                 [[clusters.im.rules]]\nnetwork = \"10.0.0.0/8\"\nlocalities = \"here\"\n{policies}\n\
                 [clusters.im.localities.here]\nendpoints = [{{ address = \"10.0.0.7:5222\" }}]\n"
            );
            let config = load_text("t.toml", &text, OpenFiles::No).unwrap().config;
            let plan = offline(&config, ClusterIx(0));
            let names = |kind| plan.learns_by(kind).iter().map(|policy| policy.as_str()).collect::<Vec<_>>();
            [names(Kind::Tunnel), names(Kind::Request)]
        };
        assert_eq!(learns_by(""), [Vec::<&str>::new(), vec![]]);
        assert_eq!(learns_by("request-policy = \"peak-ewma\""), [vec![], vec!["peak-ewma"]]);
        assert_eq!(learns_by("policy = \"prequal\""), [vec!["prequal"], vec![]]);
        let both = "policy = \"prequal\"\n[clusters.im]\npolicy = \"peak-ewma\"";
        assert_eq!(learns_by(both), [vec!["peak-ewma", "prequal"], vec![]]);
    }
}
