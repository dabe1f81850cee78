//! What every decision is made by: one configuration with everything compiled from it, behind one pointer.
//!
//! A snapshot is never changed. A reload, a change of health or a new DNS answer makes another one that shares what is
//! the same, and one pointer swap publishes it, so no pick sees half of a change. Connections take what they need when
//! they start and let the snapshot go: none is kept alive by a tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use geoip::Geo;

use crate::cluster::{Client, ClusterPlan};
use crate::config::{ClusterIx, Config};
use crate::listener::{ListenerPlan, ListenerSlot};

pub struct Snapshot {
    /// Counts configurations that were published, from 1.
    pub generation: u64,
    pub config: Arc<Config>,
    /// By `ClusterIx`.
    pub clusters: Vec<Arc<ClusterPlan>>,
    /// By position in the configuration.
    pub listeners: Vec<Arc<ListenerPlan>>,
    pub geo: Arc<Geo>,
}

impl Snapshot {
    pub fn cluster(&self, ix: ClusterIx) -> &Arc<ClusterPlan> {
        &self.clusters[ix.0]
    }

    /// A client as steering sees it.
    pub fn client(&self, address: IpAddr) -> Client {
        Client::placed(Some(address), &self.geo.whereabouts(address))
    }

    /// The listener behind a slot, unless a reload took it away.
    pub fn listener(&self, slot: ListenerSlot) -> Option<&Arc<ListenerPlan>> {
        self.listeners.iter().find(|listener| listener.slot == slot)
    }

    /// Who serves a connection that was accepted on a socket of this slot. A worker hears of a socket's new owner a
    /// moment after the snapshot that names it is published; until then the slot is the old owner's.
    pub fn listener_for(&self, slot: ListenerSlot) -> Option<&Arc<ListenerPlan>> {
        self.listener(slot).or_else(|| self.listeners.iter().find(|listener| listener.took_over.contains(&slot)))
    }
}
