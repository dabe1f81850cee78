//! From a resolved configuration to a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resolve::Resolved;
use crate::affinity::Keys;
use crate::cluster::{ClusterPlan, ClusterState};
use crate::config::{self, Config, Name, Serves};
use crate::listener::{ListenerIdentity, ListenerPlan, ListenerSlot};
use crate::route::Routes;
use crate::snapshot::Snapshot;
use crate::sockets::Prepared;
use crate::tls::UpstreamTls;

/// Listener identities, by name, for the life of the process.
#[derive(Default)]
pub(super) struct Slots {
    by_name: BTreeMap<Name, Arc<ListenerIdentity>>,
}

impl Slots {
    pub(super) fn give(&mut self, config: &Config) {
        for listener in &config.listeners {
            let next = ListenerSlot(u32::try_from(self.by_name.len()).unwrap_or(u32::MAX));
            let fresh = || Arc::new(ListenerIdentity::new(next, listener.name.clone()));
            self.by_name.entry(listener.name.clone()).or_insert_with(fresh);
        }
    }

    pub(super) fn of(&self, name: &Name) -> ListenerSlot {
        self.by_name.get(name).map_or(ListenerSlot(u32::MAX), |identity| identity.slot)
    }

    fn identity(&self, name: &Name) -> Arc<ListenerIdentity> {
        let unknown = || Arc::new(ListenerIdentity::new(ListenerSlot(u32::MAX), name.clone()));
        self.by_name.get(name).cloned().unwrap_or_else(unknown)
    }
}

/// Makes the snapshot; nothing here can fail. Classes that `before` knew are compiled at once.
pub(super) fn compile(
    resolved: Resolved,
    generation: u64,
    slots: &Slots,
    prepared: &Prepared,
    clusters: &mut BTreeMap<Name, Arc<ClusterState>>,
    before: Option<&Snapshot>,
    now: policies::Tick,
) -> Snapshot {
    let config = Arc::new(resolved.loaded.config);
    let plan = |((cluster, tls), keys): ((&config::Cluster, Option<UpstreamTls>), Option<Arc<Keys>>)| {
        let state =
            clusters.entry(cluster.name.clone()).or_insert_with(|| Arc::new(ClusterState::new(cluster.name.clone())));
        if before.is_some() {
            state.has_started();
        }
        let plan = ClusterPlan::build(cluster, state.clone(), &config.edge, tls, keys, now);
        let old = before.and_then(|before| before.clusters.iter().find(|old| old.config.name == cluster.name));
        if let Some(old) = old {
            plan.warm_up(old);
        }
        Arc::new(plan)
    };
    let cluster_plans = config.clusters.iter().zip(resolved.cluster_tls).zip(resolved.cluster_keys).map(plan).collect();
    let listener = |(listener, tls): (&config::Listener, Option<Arc<rustls::ServerConfig>>)| {
        let routes = match &listener.serves {
            Serves::Tcp { .. } => Routes::default(),
            Serves::Http(http) => Routes::new(&http.routes),
        };
        let slot = slots.of(&listener.name);
        Arc::new(ListenerPlan {
            slot,
            config: listener.clone(),
            routes,
            tls,
            took_over: prepared.given_to(slot),
            identity: slots.identity(&listener.name),
        })
    };
    let listeners = config.listeners.iter().zip(resolved.listener_tls).map(listener).collect();
    Snapshot { generation, clusters: cluster_plans, listeners, geo: resolved.geo, config }
}
