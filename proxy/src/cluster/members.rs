//! The endpoints of one cluster by identity, whatever configuration names them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policies::{
    BandState, Group, HashTables, LocalityRtt, OutlierDetector, RetryBudget, RttBands, Shedding, Standing, Tick, Used,
};

use super::EndpointState;
use super::overrides::Overrides;
use super::roster::Rosters;
use super::sticky::Sticky;
use crate::config::{Address, Cluster, Health, Initial, Name, Probe};

/// What outlives a snapshot of one cluster. Kept by name.
pub struct ClusterState {
    pub name: Name,
    /// The tables of hash policies, as long as a plan uses them.
    pub tables: HashTables,
    /// Who its endpoints were lately.
    pub rosters: Rosters,
    /// Which endpoint each client had.
    pub sticky: Sticky,
    /// Clients that are on a further try.
    pub retries: Arc<RetryBudget>,
    /// The control thread's alone.
    pub outliers: Mutex<OutlierDetector>,
    inner: Mutex<Inner>,
}

struct Inner {
    endpoints: BTreeMap<SocketAddr, Arc<EndpointState>>,
    /// The last good answer for each name.
    resolved: HashMap<Arc<str>, Answer>,
    bands: Option<Bands>,
    localities: HashMap<Name, LocalityState>,
    /// Endpoints that are new from now on were added to an edge that runs.
    started: bool,
}

struct Answer {
    addresses: Vec<IpAddr>,
    /// There was none before it.
    first: bool,
}

impl Inner {
    /// Whether a new endpoint of this origin comes to an edge that runs. The first answer to a name belongs to the start,
    /// however late it is.
    fn is_added(&self, origin: &Address) -> bool {
        let again = match origin {
            Address::Socket(_) => false,
            Address::Name { host, .. } => self.resolved.get(host).is_some_and(|answer| !answer.first),
        };
        self.started || again
    }
}

/// What a new endpoint is until its first probe. At the start there is nothing better than what the configuration trusts;
/// to a running edge, where others have proven themselves, it has to prove itself as well.
fn before_first_probe(added: bool, health: &Health) -> Standing {
    match health {
        Health { probe: Probe::Off, .. } => Standing::Up,
        _ if added => Standing::Suspect,
        Health { initial: Initial::Up, .. } => Standing::Up,
        Health { initial: Initial::Down, .. } => Standing::Down,
    }
}

/// What belongs to a locality by its name.
#[derive(Default)]
struct LocalityState {
    group: Arc<Group>,
    shedding: Shedding,
    /// What an operator set by hand.
    overrides: Overrides,
}

/// RTT bands of the localities of one configuration, by position.
struct Bands {
    rules: RttBands,
    /// From one update to the next: dwell counts these.
    round: Duration,
    updated: Tick,
    localities: Vec<Name>,
    states: Vec<BandState>,
}

impl Bands {
    fn new(config: &Cluster, now: Tick) -> Bands {
        Bands {
            rules: config.rtt.bands.clone(),
            round: config.rtt.window / 3,
            updated: now,
            localities: config.localities.iter().map(|locality| locality.name.clone()).collect(),
            states: vec![BandState::new(); config.localities.len()],
        }
    }

    fn fits(&self, config: &Cluster) -> bool {
        self.rules == config.rtt.bands
            && self.round == config.rtt.window / 3
            && self.localities.iter().eq(config.localities.iter().map(|locality| &locality.name))
    }

    fn now(&self) -> Vec<Option<u8>> {
        self.states.iter().map(BandState::band).collect()
    }
}

impl ClusterState {
    pub fn new(name: Name) -> ClusterState {
        ClusterState {
            name,
            sticky: Sticky::default(),
            retries: Arc::default(),
            outliers: Mutex::default(),
            tables: HashTables::new(),
            rosters: Rosters::default(),
            inner: Mutex::new(Inner {
                endpoints: BTreeMap::new(),
                resolved: HashMap::new(),
                bands: None,
                localities: HashMap::new(),
                started: false,
            }),
        }
    }

    /// The first configuration of the process is over: an endpoint that is added from now on gets no traffic before its
    /// first good probe.
    pub fn has_started(&self) {
        self.inner().started = true;
    }

    /// The addresses that a configured endpoint stands for now; none for a name without an answer yet.
    pub fn addresses(&self, address: &Address) -> Vec<SocketAddr> {
        match address {
            Address::Socket(address) => vec![*address],
            Address::Name { host, port } => {
                let inner = self.inner();
                let answer = inner.resolved.get(host).into_iter().flat_map(|answer| &answer.addresses);
                answer.map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
        }
    }

    /// The identity behind an address, made when it is new.
    pub fn endpoint(&self, address: SocketAddr, origin: &Address, health: &Health, now: Tick) -> Arc<EndpointState> {
        let mut inner = self.inner();
        if let Some(endpoint) = inner.endpoints.get(&address) {
            endpoint.comes_from(origin);
            return endpoint.clone();
        }
        let endpoint = Arc::new(EndpointState::new(self.name.clone(), address, origin.clone(), now));
        let added = inner.is_added(origin);
        endpoint.vote(|votes| votes.unproven(before_first_probe(added, health), now));
        if added {
            endpoint.comes_up(now);
        }
        inner.endpoints.insert(address, endpoint.clone());
        endpoint
    }

    /// Every endpoint that is known, configured or leaving.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        self.inner().endpoints.values().cloned().collect()
    }

    /// The endpoint of this address, configured or leaving.
    pub fn known_endpoint(&self, address: SocketAddr) -> Option<Arc<EndpointState>> {
        self.inner().endpoints.get(&address).cloned()
    }

    /// What is set by hand on a locality.
    pub fn overrides(&self, locality: &str) -> Overrides {
        self.inner().localities.get(locality).map(|state| state.overrides.clone()).unwrap_or_default()
    }

    /// The localities that something is set on, configured or not, by name.
    pub fn overridden_localities(&self) -> Vec<(Name, Overrides)> {
        let inner = self.inner();
        let set = inner.localities.iter().filter(|(_, state)| !state.overrides.is_empty());
        let mut set: Vec<_> = set.map(|(name, state)| (name.clone(), state.overrides.clone())).collect();
        set.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        set
    }

    pub fn change_overrides<T>(&self, locality: &Name, change: impl FnOnce(&mut Overrides) -> T) -> T {
        change(&mut self.inner().localities.entry(locality.clone()).or_default().overrides)
    }

    /// Remembers a good answer; true when it says something new.
    pub fn resolved(&self, host: &Arc<str>, mut answer: Vec<IpAddr>) -> bool {
        answer.sort_unstable();
        answer.dedup();
        let mut inner = self.inner();
        let before = inner.resolved.get(host);
        let (news, first) = (before.is_none_or(|before| before.addresses != answer), before.is_none());
        inner.resolved.insert(host.clone(), Answer { addresses: answer, first });
        news
    }

    /// How many addresses the last good answer for a name had.
    pub fn known_addresses(&self, host: &Arc<str>) -> usize {
        self.inner().resolved.get(host).map_or(0, |answer| answer.addresses.len())
    }

    pub fn unresolved_names(&self, config: &Cluster) -> Vec<Arc<str>> {
        let inner = self.inner();
        let mut names: Vec<Arc<str>> =
            endpoint_names(config).filter(|name| !inner.resolved.contains_key(name)).collect();
        names.dedup();
        names
    }

    /// Forgets endpoints that nothing names, nobody uses and no operator has set anything on, and answers for names that
    /// are gone. What is in maintenance stays so when its name comes back.
    pub fn forget_unused(&self, config: Option<&Cluster>, named: &[Arc<EndpointState>]) {
        let mut inner = self.inner();
        inner.endpoints.retain(|_, endpoint| {
            endpoint.load.leases() > 0
                || named.iter().any(|kept| Arc::ptr_eq(kept, endpoint))
                || !endpoint.overrides().is_empty()
        });
        inner.localities.retain(|name, state| {
            let named = config.is_some_and(|config| config.localities.iter().any(|locality| locality.name == *name));
            named || state.group.connections() > 0 || !state.overrides.is_empty()
        });
        inner.resolved.retain(|name, _| config.is_some_and(|config| endpoint_names(config).any(|kept| kept == *name)));
    }

    pub fn is_unused(&self) -> bool {
        let inner = self.inner();
        inner.endpoints.is_empty() && inner.localities.values().all(|state| state.overrides.is_empty())
    }

    /// The bands that the localities are in; measured now when this set of localities is new.
    pub fn bands(&self, config: &Cluster, rtts: &[Option<LocalityRtt>], now: Tick) -> Vec<Option<u8>> {
        let mut inner = self.inner();
        let kept = inner.bands.take().filter(|bands| bands.fits(config));
        let bands = kept.unwrap_or_else(|| {
            let mut fresh = Bands::new(config, now);
            fresh.rules.update(&mut fresh.states, rtts);
            fresh
        });
        inner.bands.insert(bands).now()
    }

    /// One round for the localities of the last [`Self::bands`], if it is time for one; true when one changed its band.
    pub fn update_bands(&self, rtts: &[Option<LocalityRtt>], now: Tick) -> bool {
        let mut inner = self.inner();
        let Some(bands) = inner.bands.as_mut().filter(|bands| bands.states.len() == rtts.len()) else { return false };
        if now.since(bands.updated) < bands.round {
            return false;
        }
        bands.updated = now;
        let before = bands.now();
        bands.rules.update(&mut bands.states, rtts);
        bands.now() != before
    }

    /// Where the leases of a locality are summed up.
    pub fn group(&self, locality: &Name) -> Arc<Group> {
        self.inner().localities.entry(locality.clone()).or_default().group.clone()
    }

    /// How much of its new clients a locality sends on because it is full, in percent.
    pub fn shed_percent(&self, locality: &Name) -> u8 {
        self.inner().localities.get(locality).map_or(0, |state| state.shedding.percent())
    }

    /// One round of the load-aware spill-over; true when a locality sends on more or less than before. Without settings
    /// nobody sends anybody on.
    pub fn update_shedding(&self, config: &Cluster, used: &[Option<Used>], now: Tick) -> bool {
        let mut inner = self.inner();
        let names: Vec<&Name> = config.localities.iter().map(|locality| &locality.name).collect();
        let shedding = |inner: &Inner, name: &Name| inner.localities.get(name).map(|state| state.shedding);
        let before: Vec<Shedding> = names.iter().map(|name| shedding(&inner, name).unwrap_or_default()).collect();
        let mut after = match &config.spill.headroom {
            Some(_) => before.clone(),
            None => vec![Shedding::new(); before.len()],
        };
        if let Some(headroom) = &config.spill.headroom {
            Shedding::update(headroom, &mut after, used, now);
        }
        let percents = |states: &[Shedding]| states.iter().map(Shedding::percent).collect::<Vec<_>>();
        let changed = percents(&before) != percents(&after);
        for (name, state) in names.into_iter().zip(after) {
            inner.localities.entry(name.clone()).or_default().shedding = state;
        }
        changed
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn endpoint_names(config: &Cluster) -> impl Iterator<Item = Arc<str>> + '_ {
    config.localities.iter().flat_map(|locality| &locality.endpoints).filter_map(|endpoint| match &endpoint.address {
        Address::Name { host, .. } => Some(host.clone()),
        Address::Socket(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OpenFiles, load_text};

    fn health(keys: &str) -> Health {
        let text = format!(
            "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n[clusters.c]\n{keys}\n\
             [clusters.c.localities.here]\nendpoints = [{{ address = \"127.0.0.1:1\" }}]\n"
        );
        load_text("t.toml", &text, OpenFiles::No).unwrap().config.clusters[0].health.clone()
    }

    /// What endpoint `10.0.0.last` of the name is when it comes.
    fn standing(cluster: &ClusterState, last: u8, health: &Health) -> Standing {
        let name = Address::Name { host: "im.test".into(), port: 5222 };
        cluster.endpoint(SocketAddr::from(([10, 0, 0, last], 5222)), &name, health, Tick::default()).standing()
    }

    #[test]
    fn the_first_answer_to_a_name_is_trusted_and_what_a_later_one_adds_has_to_prove_itself() {
        let (cluster, health) = (ClusterState::new("c".into()), health(""));
        let answer = |last: &[u8]| last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect::<Vec<_>>();
        assert!(cluster.resolved(&"im.test".into(), answer(&[1, 2])));
        assert_eq!([1, 2].map(|last| standing(&cluster, last, &health)), [Standing::Up; 2]);
        assert!(cluster.resolved(&"im.test".into(), answer(&[1, 2, 3])));
        assert_eq!(
            [1, 2, 3].map(|last| standing(&cluster, last, &health)),
            [Standing::Up, Standing::Up, Standing::Suspect]
        );
    }

    #[test]
    fn what_a_reload_adds_has_to_prove_itself_unless_nobody_probes() {
        let cluster = ClusterState::new("c".into());
        let down = health("health.tcp.initial = \"down\"");
        assert_eq!(standing(&cluster, 1, &health("")), Standing::Up);
        assert_eq!(standing(&cluster, 2, &down), Standing::Down);
        cluster.has_started();
        assert_eq!(standing(&cluster, 1, &health("")), Standing::Up, "it was there before");
        assert_eq!(standing(&cluster, 3, &health("")), Standing::Suspect);
        assert_eq!(standing(&cluster, 4, &down), Standing::Suspect);
        assert_eq!(standing(&cluster, 5, &health("health.off = true")), Standing::Up);
    }
}
