//! The endpoints of one cluster by identity, whatever configuration names them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policies::{
    BandState, Group, HashTables, LocalityRtt, OutlierDetector, RetryBudget, RttBands, Shedding, Tick, Used,
};

use super::EndpointState;
use crate::config::{Address, Cluster, Name};

/// What outlives a snapshot of one cluster. Kept by name.
pub struct ClusterState {
    pub name: Name,
    /// The tables of hash policies, as long as a plan uses them.
    pub tables: HashTables,
    /// Clients that are on a further try.
    pub retries: Arc<RetryBudget>,
    /// The control thread's alone.
    pub outliers: Mutex<OutlierDetector>,
    inner: Mutex<Inner>,
}

struct Inner {
    endpoints: BTreeMap<SocketAddr, Arc<EndpointState>>,
    /// The last good answer for each name.
    resolved: HashMap<Arc<str>, Vec<IpAddr>>,
    bands: Option<Bands>,
    localities: HashMap<Name, LocalityState>,
}

/// What belongs to a locality by its name.
#[derive(Default)]
struct LocalityState {
    group: Arc<Group>,
    shedding: Shedding,
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
            retries: Arc::default(),
            outliers: Mutex::default(),
            tables: HashTables::new(),
            inner: Mutex::new(Inner {
                endpoints: BTreeMap::new(),
                resolved: HashMap::new(),
                bands: None,
                localities: HashMap::new(),
            }),
        }
    }

    /// The addresses that a configured endpoint stands for now; none for a name without an answer yet.
    pub fn addresses(&self, address: &Address) -> Vec<SocketAddr> {
        match address {
            Address::Socket(address) => vec![*address],
            Address::Name { host, port } => {
                let inner = self.inner();
                inner.resolved.get(host).into_iter().flatten().map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
        }
    }

    /// The identity behind an address, made when it is new.
    pub fn endpoint(&self, address: SocketAddr, origin: &Address, now: Tick) -> Arc<EndpointState> {
        let mut inner = self.inner();
        let endpoint = inner
            .endpoints
            .entry(address)
            .or_insert_with(|| Arc::new(EndpointState::new(self.name.clone(), address, origin.clone(), now)));
        endpoint.comes_from(origin);
        endpoint.clone()
    }

    /// Every endpoint that is known, configured or leaving.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        self.inner().endpoints.values().cloned().collect()
    }

    /// Remembers a good answer; true when it says something new.
    pub fn resolved(&self, host: &Arc<str>, mut answer: Vec<IpAddr>) -> bool {
        answer.sort_unstable();
        answer.dedup();
        self.inner().resolved.insert(host.clone(), answer.clone()).is_none_or(|old| old != answer)
    }

    /// How many addresses the last good answer for a name had.
    pub fn known_addresses(&self, host: &Arc<str>) -> usize {
        self.inner().resolved.get(host).map_or(0, Vec::len)
    }

    pub fn unresolved_names(&self, config: &Cluster) -> Vec<Arc<str>> {
        let inner = self.inner();
        let mut names: Vec<Arc<str>> =
            endpoint_names(config).filter(|name| !inner.resolved.contains_key(name)).collect();
        names.dedup();
        names
    }

    /// Forgets endpoints that nothing names and nobody uses, and answers for names that are gone.
    pub fn forget_unused(&self, config: Option<&Cluster>, named: &[Arc<EndpointState>]) {
        let mut inner = self.inner();
        inner
            .endpoints
            .retain(|_, endpoint| endpoint.load.leases() > 0 || named.iter().any(|kept| Arc::ptr_eq(kept, endpoint)));
        inner.localities.retain(|name, state| {
            let named = config.is_some_and(|config| config.localities.iter().any(|locality| locality.name == *name));
            named || state.group.connections() > 0
        });
        inner.resolved.retain(|name, _| config.is_some_and(|config| endpoint_names(config).any(|kept| kept == *name)));
    }

    pub fn is_unused(&self) -> bool {
        self.inner().endpoints.is_empty()
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
