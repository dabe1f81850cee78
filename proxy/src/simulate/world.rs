//! One configuration at work: its plans, who is connected, and what time it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use geoip::{Coordinates, Geo, great_circle_km};
use http::HeaderMap;
use policies::{
    Cursors, Dice, EndpointIx, Kind, Lease, LocalityIx, NoPick, PickContext, SeededDice, Standing, Tick, Tried,
    hash_key, prior_rtt,
};
use slab::Slab;

use super::moves::{EndpointName, Landing, Names};
use super::report::{ClusterRun, EndpointRun, LocalityRun, Run};
use super::tally::{Gauge, RoundTrips};
use super::{Outage, Scenario, SimulateError, seconds};
use crate::cluster::plan::offline_with;
use crate::cluster::votes::Source;
use crate::cluster::{Client, ClusterPlan, ClusterState};
use crate::config::{Address, ClusterIx, Config, Locality, Serves};
use crate::reload::files::GeoFiles;
use crate::route::Routes;
use crate::trace::Visit;

/// A control tick: what changed since the last one gets into the plans. Ticks in which nothing can change are left out.
const TICK_US: u64 = 1_000_000;

/// Points of the curves in a report, at most one a tick.
const SAMPLES: u64 = 400;

pub(super) struct World {
    name: String,
    config: Config,
    geo: Arc<Geo>,
    listeners: Vec<Listening>,
    /// By `ClusterIx`.
    sites: Vec<Site>,
    outages: Vec<Struck>,

    /// By the number of the arrival.
    visitors: Vec<Visitor>,
    known_addresses: HashMap<IpAddr, (Client, Option<f32>)>,

    /// Microseconds since the first arrival.
    now: u64,
    next_tick: u64,
    cursors: Cursors,
    dice: SeededDice,
    held: Slab<Held>,
    /// When each of them ends.
    ends: BinaryHeap<Reverse<(u64, usize)>>,

    unrouted: u64,
    sample_every: u64,
    next_sample: u64,
}

/// An outage in one cluster.
struct Struck {
    outage: Outage,
    cluster: ClusterIx,
    endpoints: Vec<EndpointIx>,
    on: bool,
}

/// A client as this world sees it.
struct Visitor {
    cluster: Option<ClusterIx>,
    kind: Kind,
    client: Client,
    /// The round trip from the client to this edge in milliseconds, by the prior.
    to_edge_ms: Option<f32>,
}

/// A client that has come and not left.
struct Held {
    visitor: usize,
    cluster: ClusterIx,
    /// None: its endpoint failed, and nobody else would take it.
    place: Option<(EndpointIx, LocalityIx, Lease)>,
}

struct Listening {
    name: String,
    serves: Served,
}

enum Served {
    Tcp(ClusterIx),
    Http { routes: Routes, by_name: BTreeMap<String, ClusterIx>, match_headers: bool },
}

/// A cluster, and what happens in it.
struct Site {
    plan: Arc<ClusterPlan>,
    state: Arc<ClusterState>,
    /// Since the plan was compiled.
    health_changed: bool,
    /// By position of the endpoint in the plan, as the files write them.
    addresses: Vec<String>,
    /// Where its endpoints start in [`Names::endpoints`].
    first: u32,
    /// From this edge, in milliseconds, by `LocalityIx`.
    rtt_ms: Vec<Option<f32>>,

    clients: u64,
    reconnects: u64,
    picks: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    endpoints: Vec<Gauge>,
    localities: Vec<Gauge>,
    round_trips: Vec<RoundTrips>,
    /// Connections by locality, one row a sample.
    samples: Vec<Vec<u64>>,
}

impl World {
    pub(super) fn new(name: String, config: Config, scenario: &Scenario) -> Result<World, SimulateError> {
        let geo = GeoFiles::default().load(&config.geoip).map_err(SimulateError::Geo)?;
        let mut first = 0;
        let mut sites: Vec<Site> = Vec::new();
        for ix in (0..config.clusters.len()).map(ClusterIx) {
            let site = Site::new(&config, ix, first);
            first += u32::try_from(site.addresses.len()).unwrap_or(u32::MAX);
            sites.push(site);
        }
        let outages = scenario.outages.iter().flat_map(|outage| struck(&sites, outage)).collect();
        Ok(World {
            name,
            geo,
            listeners: config.listeners.iter().map(Listening::new).collect(),
            sites,
            outages,
            config,
            visitors: Vec::new(),
            known_addresses: HashMap::new(),
            now: 0,
            next_tick: 0,
            cursors: Cursors::new(scenario.seed),
            dice: SeededDice::new(scenario.seed),
            held: Slab::new(),
            ends: BinaryHeap::new(),
            unrouted: 0,
            sample_every: TICK_US,
            next_sample: 0,
        })
    }

    /// Remembers a client, and where it will be sent.
    pub(super) fn admit(&mut self, visit: &Visit<'_>) {
        let (client, to_edge_ms) = self.client(visit);
        self.visitors.push(Visitor { cluster: self.route(visit), kind: visit.kind, client, to_edge_ms });
    }

    /// Says for how long clients will come.
    pub(super) fn start(&mut self, span: u64) {
        self.sample_every = (span / SAMPLES).max(TICK_US);
    }

    /// Lets everything happen up to a moment: clients leave, ticks pass.
    pub(super) fn advance(&mut self, to: u64) {
        loop {
            let end = self.ends.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            if end.min(self.next_tick) > to {
                break;
            }
            if end < self.next_tick {
                self.end_of_one();
            } else {
                self.tick();
            }
        }
        self.now = to;
    }

    /// A client comes now and stays for so long.
    pub(super) fn arrive(&mut self, visitor: usize, lasts: u64, dice: &mut impl Dice) -> Landing {
        let Some(cluster) = self.visitors[visitor].cluster else {
            self.unrouted += 1;
            return Landing::Unrouted;
        };
        self.sites[cluster.0].clients += 1;
        let Some(place) = self.connect(visitor, cluster, dice) else { return Landing::Refused };
        let landing = self.sites[cluster.0].landing(&self.visitors[visitor], place.0);
        let slot = self.held.insert(Held { visitor, cluster, place: Some(place) });
        self.ends.push(Reverse((self.now.saturating_add(lasts), slot)));
        landing
    }

    /// As an edge does: the endpoint that is picked, and, when it does not answer, up to two more.
    fn connect(
        &mut self,
        visitor: usize,
        cluster: ClusterIx,
        dice: &mut impl Dice,
    ) -> Option<(EndpointIx, LocalityIx, Lease)> {
        let site = &mut self.sites[cluster.0];
        let key = site.key(visitor, &self.visitors[visitor].client);
        let visitor = &self.visitors[visitor];
        let (mut tried, now) = (Tried::new(), Tick(Duration::from_micros(self.now)));
        let refused = loop {
            let mut context = PickContext { key, ..PickContext::new(dice, &mut self.cursors, &tried, now) };
            match site.plan.pick(&visitor.client, visitor.kind, &mut context) {
                Ok(pick) if site.is_down(pick.endpoint) => {
                    tried.push(pick.endpoint);
                    if tried.is_full() {
                        break "connect-failed";
                    }
                }
                Ok(mut pick) => {
                    pick.lease.connected();
                    *site.picks.entry(pick.reason.as_str()).or_default() += 1;
                    site.came(self.now, pick.endpoint, pick.locality, visitor.to_edge_ms);
                    return Some((pick.endpoint, pick.locality, pick.lease));
                }
                Err(NoPick::AllTried) => break "connect-failed",
                Err(no_pick) => break no_pick.as_str(),
            }
        };
        *site.refused.entry(refused).or_default() += 1;
        None
    }

    fn end_of_one(&mut self) {
        let Some(Reverse((at, slot))) = self.ends.pop() else { return };
        self.now = at;
        let held = self.held.remove(slot);
        if let Some((endpoint, locality, lease)) = held.place {
            drop(lease);
            self.sites[held.cluster.0].left(self.now, endpoint, locality);
        }
    }

    fn tick(&mut self) {
        self.now = self.next_tick;
        self.next_tick += TICK_US;
        let broken = self.outages_begin_and_end();
        self.plans_follow();
        for (cluster, endpoints) in broken {
            self.connections_break(cluster, &endpoints);
        }
        if self.now >= self.next_sample {
            self.next_sample += self.sample_every;
            self.sites.iter_mut().for_each(Site::sample);
        }
        if self.sites.iter().all(Site::is_settled) {
            self.next_tick = self.next_tick.max(self.next_border().min(self.next_sample).next_multiple_of(TICK_US));
        }
    }

    /// When the next outage begins or ends.
    fn next_border(&self) -> u64 {
        let borders = self.outages.iter().flat_map(|Struck { outage, .. }| [Some(outage.from), outage.until]).flatten();
        let borders = borders.map(|border| u64::try_from(border.as_micros()).unwrap_or(u64::MAX));
        borders.filter(|&border| border > self.now).min().unwrap_or(u64::MAX)
    }

    /// What goes down in this moment.
    fn outages_begin_and_end(&mut self) -> Vec<(ClusterIx, Vec<EndpointIx>)> {
        let now = Duration::from_micros(self.now);
        let is_on = |outage: &Outage| outage.from <= now && outage.until.is_none_or(|until| now < until);
        let (begin, end): (Vec<&mut Struck>, Vec<&mut Struck>) =
            self.outages.iter_mut().filter(|struck| struck.on != is_on(&struck.outage)).partition(|struck| !struck.on);
        if begin.is_empty() && end.is_empty() {
            return Vec::new();
        }
        let mut broken = Vec::new();
        // What ends comes first: where another one goes on or begins, it has the last word.
        for struck in end {
            struck.on = false;
            self.sites[struck.cluster.0].vote(&struck.endpoints, false, Tick(now));
        }
        for struck in begin {
            struck.on = true;
            broken.push((struck.cluster, struck.endpoints.clone()));
        }
        for struck in self.outages.iter().filter(|struck| struck.on) {
            self.sites[struck.cluster.0].vote(&struck.endpoints, true, Tick(now));
        }
        broken
    }

    /// What an edge does on its beat: plans follow health, slow starts, and localities that get full.
    fn plans_follow(&mut self) {
        let now = Tick(Duration::from_micros(self.now));
        for (site, ix) in self.sites.iter_mut().zip(0..) {
            let sheds = site.plan.shed(now);
            if std::mem::take(&mut site.health_changed) | sheds | site.plan.is_warming_up() {
                site.compile(&self.config, ClusterIx(ix), now);
            }
        }
    }

    /// The tunnels of endpoints that fail end, and their clients come back at once.
    fn connections_break(&mut self, cluster: ClusterIx, endpoints: &[EndpointIx]) {
        let breaks = |held: &Held| {
            held.cluster == cluster && held.place.as_ref().is_some_and(|(endpoint, ..)| endpoints.contains(endpoint))
        };
        let slots: Vec<usize> = self.held.iter().filter(|(_, held)| breaks(held)).map(|(slot, _)| slot).collect();
        for &slot in &slots {
            if let Some((endpoint, locality, lease)) = self.held[slot].place.take() {
                drop(lease);
                self.sites[cluster.0].left(self.now, endpoint, locality);
            }
        }
        for slot in slots {
            self.sites[cluster.0].reconnects += 1;
            let mut dice = SeededDice::new(self.dice.next_u64());
            self.held[slot].place = self.connect(self.held[slot].visitor, cluster, &mut dice);
        }
    }

    fn client(&mut self, visit: &Visit<'_>) -> (Client, Option<f32>) {
        let edge = self.config.edge.location;
        let to_edge = |location: Option<Coordinates>| Some(milliseconds(edge?, location?));
        match (&visit.place, visit.address) {
            (Some(place), address) => (Client::placed(address, place), to_edge(place.location)),
            (None, None) => (Client::placed(None, &geoip::Place::default()), None),
            (None, Some(address)) => {
                let geo = &self.geo;
                let look_up = || {
                    let located = geo.locate(address);
                    (Client::new(address, &located), to_edge(located.place.location))
                };
                self.known_addresses.entry(address).or_insert_with(look_up).clone()
            }
        }
    }

    /// By the listener's routes; what these cannot tell, because the trace does not say enough, by the cluster that the
    /// trace names.
    fn route(&self, visit: &Visit<'_>) -> Option<ClusterIx> {
        let listener = match (visit.listener, &self.listeners[..]) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(name), all) => all.iter().find(|listener| listener.name == name),
        };
        let by_name =
            |name: &str| self.config.clusters.iter().position(|cluster| &*cluster.name == name).map(ClusterIx);
        let only = || (self.config.clusters.len() == 1 && visit.listener.is_none()).then_some(ClusterIx(0));
        listener.and_then(|listener| listener.route(visit)).or_else(|| by_name(visit.cluster?)).or_else(only)
    }

    pub(super) fn names(&self) -> Names {
        Names { endpoints: self.sites.iter().flat_map(Site::names).collect() }
    }

    pub(super) fn report(mut self, end: u64) -> Run {
        self.sites.iter_mut().for_each(Site::sample);
        let unrouted = self.unrouted;
        let clusters = self.sites.iter().map(|site| site.report(end)).collect();
        Run { config: self.name, sample_seconds: seconds(self.sample_every), unrouted, clusters }
    }
}

/// The prior for the way between two places.
fn milliseconds(from: Coordinates, to: Coordinates) -> f32 {
    prior_rtt(great_circle_km(from, to)).as_secs_f32() * 1000.0
}

fn struck(sites: &[Site], outage: &Outage) -> Vec<Struck> {
    let in_one = |(site, ix): (&Site, usize)| {
        let hit = |(endpoint, address): (&policies::Endpoint, &String)| {
            outage.strikes(&site.plan.config.name, site.plan.locality_name(endpoint.locality), address)
        };
        let endpoints = (0..).map(EndpointIx).zip(site.plan.view.endpoints.iter().zip(&site.addresses));
        let endpoints: Vec<EndpointIx> = endpoints.filter(|(_, one)| hit(*one)).map(|(ix, _)| ix).collect();
        let (outage, cluster) = (outage.clone(), ClusterIx(ix));
        (!endpoints.is_empty()).then_some(Struck { outage, cluster, endpoints, on: false })
    };
    sites.iter().zip(0..).filter_map(in_one).collect()
}

impl Listening {
    fn new(listener: &crate::config::Listener) -> Listening {
        let serves = match &listener.serves {
            Serves::Tcp { cluster } => Served::Tcp(*cluster),
            Serves::Http(http) => Served::Http {
                routes: Routes::new(&http.routes),
                by_name: http.routes.iter().map(|route| (route.name.to_string(), route.cluster)).collect(),
                match_headers: http.routes.iter().any(|route| !route.headers.is_empty()),
            },
        };
        Listening { name: listener.name.to_string(), serves }
    }

    /// No log has the header fields of a request, so where routes match these, the name of the route that was taken then
    /// counts more than what matches now.
    fn route(&self, visit: &Visit<'_>) -> Option<ClusterIx> {
        match &self.serves {
            Served::Tcp(cluster) => Some(*cluster),
            Served::Http { routes, by_name, match_headers } => {
                let named = || by_name.get(visit.route?).copied();
                let path = visit.path.unwrap_or("/").split('?').next().unwrap_or("/");
                let matched = || Some(routes.find(visit.host.unwrap_or_default(), path, &HeaderMap::new())?.cluster);
                if *match_headers { named().or_else(matched) } else { matched().or_else(named) }
            }
        }
    }
}

impl Site {
    fn new(config: &Config, ix: ClusterIx, first: u32) -> Site {
        let cluster = config.cluster(ix);
        let state = Arc::new(ClusterState::new(cluster.name.clone()));
        for endpoint in cluster.localities.iter().flat_map(|locality| &locality.endpoints) {
            if let Address::Name { host, .. } = &endpoint.address {
                state.resolved(host, vec![stand_in(host)]);
            }
        }
        let plan = offline_with(config, ix, state.clone(), Tick(Duration::ZERO));
        let addresses = plan.members.iter().map(|member| member.origin().to_string()).collect();
        let limit = |endpoint: &policies::Endpoint| endpoint.max_connections.map(|max| u64::from(max.get()));
        let capacity = |locality: &Locality| locality.capacity.map(|capacity| u64::from(capacity.get()));
        let localities: Vec<Gauge> = cluster.localities.iter().map(capacity).map(Gauge::new).collect();
        let rtts = plan.rtts(&config.edge, Tick(Duration::ZERO)).into_iter();
        Site {
            state,
            health_changed: false,
            addresses,
            first,
            rtt_ms: rtts.map(|known| known.map(|known| known.rtt.as_secs_f32() * 1000.0)).collect(),
            clients: 0,
            reconnects: 0,
            picks: BTreeMap::new(),
            refused: BTreeMap::new(),
            endpoints: plan.view.endpoints.iter().map(limit).map(Gauge::new).collect(),
            round_trips: vec![RoundTrips::new(); localities.len()],
            localities,
            samples: Vec::new(),
            plan: Arc::new(plan),
        }
    }

    /// What a client is known by, where anything goes by it: its address if that is what counts, else a name of its own, as
    /// the header, cookie or token that an edge would look at is in no trace.
    fn key(&self, visitor: usize, client: &Client) -> Option<u64> {
        let keys = self.plan.keys.as_ref()?;
        let known = client.place.address.and_then(|address| keys.read(address, None, SystemTime::UNIX_EPOCH).key);
        Some(known.map_or_else(|| hash_key(&visitor.to_le_bytes()), |key| key.hash))
    }

    /// Whether its plan stays as it is until an outage begins or ends: nobody warms up, and no locality sends clients on
    /// when it gets full.
    fn is_settled(&self) -> bool {
        !self.health_changed && !self.plan.is_warming_up() && self.plan.config.spill.headroom.is_none()
    }

    fn is_down(&self, endpoint: EndpointIx) -> bool {
        !self.plan.view.endpoints[endpoint.0 as usize].standing.takes_new()
    }

    fn vote(&mut self, endpoints: &[EndpointIx], fail: bool, now: Tick) {
        for endpoint in endpoints {
            self.health_changed |= self.plan.members[endpoint.0 as usize].vote(|votes| match fail {
                true => votes.cast(Source::Probes, Standing::Down, "fails in this simulation", now),
                false => votes.withdraw(Source::Probes, now),
            });
        }
    }

    /// A plan of what is known now, in the place of the one before.
    fn compile(&mut self, config: &Config, ix: ClusterIx, now: Tick) {
        let plan = offline_with(config, ix, self.state.clone(), now);
        plan.warm_up(&self.plan);
        self.plan = Arc::new(plan);
    }

    fn came(&mut self, now: u64, endpoint: EndpointIx, locality: LocalityIx, to_edge_ms: Option<f32>) {
        let locality = usize::from(locality.0);
        self.endpoints[endpoint.0 as usize].came(now);
        self.localities[locality].came(now);
        let rtt = to_edge_ms.zip(self.rtt_ms[locality]).map(|(to_edge, onward)| to_edge + onward);
        self.round_trips[locality].add(rtt);
    }

    fn left(&mut self, now: u64, endpoint: EndpointIx, locality: LocalityIx) {
        self.endpoints[endpoint.0 as usize].left(now);
        self.localities[usize::from(locality.0)].left(now);
    }

    fn sample(&mut self) {
        self.samples.push(self.localities.iter().map(|gauge| gauge.now).collect());
    }

    fn landing(&self, visitor: &Visitor, endpoint: EndpointIx) -> Landing {
        let by_key = || {
            let (rule, _) = self.plan.class_of(&visitor.client);
            self.plan.policy_of(rule, visitor.kind).goes_by_key()
        };
        Landing::Endpoint { place: self.first + endpoint.0, by_key: self.plan.keys.is_some() && by_key() }
    }

    fn names(&self) -> impl Iterator<Item = EndpointName> {
        self.addresses.iter().zip(&self.plan.view.endpoints).map(|(address, endpoint)| EndpointName {
            address: address.clone(),
            locality: format!("{}/{}", self.plan.config.name, self.plan.locality_name(endpoint.locality)),
            weight: endpoint.weight.get(),
            max_connections: endpoint.max_connections.map(|max| u64::from(max.get())),
        })
    }

    fn report(&self, end: u64) -> ClusterRun {
        let picked: u64 = self.localities.iter().map(|gauge| gauge.arrivals).sum();
        let mut round_trips = RoundTrips::new();
        self.round_trips.iter().for_each(|one| round_trips.add_all(one));
        ClusterRun {
            name: self.plan.config.name.to_string(),
            clients: self.clients,
            reconnects: self.reconnects,
            picks: self.picks.clone(),
            refused: self.refused.clone(),
            rtt_ms: round_trips.percentiles(),
            rtt_unknown: round_trips.unknown,
            localities: (0..self.localities.len()).map(|nth| self.locality(nth, picked, end)).collect(),
        }
    }

    fn locality(&self, nth: usize, picked: u64, end: u64) -> LocalityRun {
        let gauge = &self.localities[nth];
        let here = self.plan.view.endpoints.iter().zip(&self.addresses).zip(&self.endpoints);
        let here = here.filter(|((endpoint, _), _)| usize::from(endpoint.locality.0) == nth);
        LocalityRun {
            name: self.plan.config.localities[nth].name.to_string(),
            arrivals: gauge.arrivals,
            share: share(gauge.arrivals, picked),
            peak: gauge.peak,
            mean: gauge.mean(end),
            capacity: gauge.capacity,
            full_seconds: seconds(gauge.full_us(end)),
            rtt_ms: self.round_trips[nth].percentiles(),
            connections: self.samples.iter().map(|row| row[nth]).collect(),
            endpoints: here
                .map(|((endpoint, address), gauge)| EndpointRun {
                    address: address.clone(),
                    weight: endpoint.weight.get(),
                    arrivals: gauge.arrivals,
                    share: share(gauge.arrivals, picked),
                    peak: gauge.peak,
                    mean: gauge.mean(end),
                    max_connections: gauge.capacity,
                    full_seconds: seconds(gauge.full_us(end)),
                })
                .collect(),
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// An address for a name that is not looked up: from the network that leads nowhere (RFC 6666), and the same for the same
/// name in every world, so that what goes by addresses treats it alike.
fn stand_in(host: &str) -> IpAddr {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    Ipv6Addr::from((0x0100_u128 << 112) | u128::from(hasher.finish())).into()
}
