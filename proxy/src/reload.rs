//! From files to a published snapshot: check → resolve → compile → swap → retire.
//!
//! Everything that can fail happens before the swap, so a configuration that fails any step changes nothing. What the
//! new one no longer names is retired after it: sockets close, connections are asked to leave at a pace.

pub mod diff;
pub mod files;

mod compile;
mod resolve;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;

use self::compile::{Slots, compile};
use self::files::{FileState, GeoFiles};
use self::resolve::{Refused, Resolved, resolve};
use crate::cluster::agent::Agents;
use crate::cluster::probe::Probes;
use crate::cluster::resolve::Lookups;
use crate::cluster::{ClusterPlan, ClusterState};
use crate::config::{self, Config, Name};
use crate::events;
use crate::leave::{self, Order, Who};
use crate::registry::LeaveReason;
use crate::snapshot::Snapshot;
use crate::sockets::{Prepared, Sockets};
use crate::state::{ReloadResult, State};
use crate::tls::Tickets;

/// Makes snapshots, and everything that goes with them. Lives on the control thread.
pub struct Reloader {
    path: PathBuf,
    slots: Slots,
    geo_files: GeoFiles,
    /// The files as they were when last read, refused or not.
    seen: FileState,
    /// The files of the running configuration.
    published: FileState,
    probes: Probes,
    agents: Agents,
    lookups: Lookups,
    sockets: Sockets,
    orders: mpsc::Sender<Order>,
}

/// The first configuration of a process: resolved, with its sockets open, and nothing running yet.
pub struct First {
    pub snapshot: Arc<Snapshot>,
    pub clusters: BTreeMap<Name, Arc<ClusterState>>,
    pub warnings: Vec<config::diagnostic::Problem>,
    prepared: Prepared,
    slots: Slots,
    geo_files: GeoFiles,
    files: FileState,
    sockets: Sockets,
}

impl First {
    /// Checks and resolves the files, and binds every address.
    ///
    /// # Errors
    /// Every problem, as a report to print.
    pub fn load(
        path: PathBuf,
        tickets: &Tickets,
        now: policies::Tick,
        sockets_for: impl FnOnce(&Config) -> Sockets,
    ) -> Result<First, String> {
        let mut geo_files = GeoFiles::default();
        let resolved =
            resolve(&path, tickets, &mut geo_files).map_err(|refused| refused.text("nothing was started"))?;
        let mut slots = Slots::default();
        slots.give(&resolved.loaded.config);
        let sockets = sockets_for(&resolved.loaded.config);
        let prepared = sockets
            .prepare(&resolved.loaded.config, |name| slots.of(name))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let mut clusters = BTreeMap::new();
        let warnings = resolved.loaded.warnings.clone();
        let files = resolved.files.clone();
        let snapshot = Arc::new(compile(resolved, 1, &slots, &prepared, &mut clusters, None, now));
        Ok(First { snapshot, clusters, warnings, prepared, slots, geo_files, files, sockets })
    }

    pub fn into_parts(self, path: PathBuf, orders: mpsc::Sender<Order>) -> (Reloader, Prepared) {
        let reloader = Reloader {
            path,
            slots: self.slots,
            geo_files: self.geo_files,
            seen: self.files.clone(),
            published: self.files,
            probes: Probes::default(),
            agents: Agents::default(),
            lookups: Lookups::default(),
            sockets: self.sockets,
            orders,
        };
        (reloader, self.prepared)
    }
}

impl Reloader {
    /// Starts what the first snapshot needs: accept loops, probes, look-ups.
    pub async fn begin(&mut self, state: &Arc<State>, prepared: Prepared) {
        let snapshot = state.snapshot.load_full();
        let slots = &self.slots;
        self.sockets.adopt(prepared, &snapshot.config, |name| slots.of(name)).await;
        state.listens_on(self.sockets.addresses());
        self.fit(state, &snapshot);
        state.metrics.started(snapshot.generation);
    }

    pub async fn close_listeners(&mut self, state: &State) {
        self.sockets.close_all().await;
        state.listens_on(BTreeMap::new());
    }

    /// Every file that the running configuration depends on.
    pub fn watched(&self) -> Vec<PathBuf> {
        self.seen.paths()
    }

    /// Reads the files again if they differ from what was seen last.
    pub async fn reload_if_changed(&mut self, state: &Arc<State>) {
        let mut seen = std::mem::take(&mut self.seen);
        let looking = tokio::task::spawn_blocking(move || (seen.has_changed(), seen));
        let Ok((changed, seen)) = looking.await else { return events::task_panicked("watch") };
        self.seen = seen;
        // The system's resolver settings count as well.
        self.lookups.fit(state, &state.snapshot.load_full());
        if changed {
            // The result is in the log, the metrics and the status.
            self.reload(state, "file").await.ok();
        }
    }

    /// Reads, checks and publishes the files; the generation that runs after it.
    ///
    /// # Errors
    /// When the files are refused: the report. The running configuration stays.
    pub async fn reload(&mut self, state: &Arc<State>, trigger: &'static str) -> Result<u64, String> {
        let started = Instant::now();
        let running = state.snapshot.load_full();
        let result = match self.resolve(state).await {
            Ok(resolved) => self.publish(state, &running, resolved, trigger, started).await,
            Err(refused) => {
                self.seen.was_refused(refused.files.clone());
                Err(refused.text("the running config was kept"))
            }
        };
        if let Err(report) = &result {
            events::reload_refused(state, running.generation, trigger, report);
            let refused = Some(report.clone());
            state.reload_ended(ReloadResult {
                at: Some(SystemTime::now()),
                trigger,
                refused,
                ..ReloadResult::default()
            });
        }
        result
    }

    /// Reading and checking may take a while (a city database is tens of megabytes): not on the control thread.
    async fn resolve(&mut self, state: &State) -> Result<Resolved, Refused> {
        let (path, tickets, mut geo_files) =
            (self.path.clone(), state.tickets.clone(), std::mem::take(&mut self.geo_files));
        let resolving = tokio::task::spawn_blocking(move || (resolve(&path, &tickets, &mut geo_files), geo_files));
        match resolving.await {
            Ok((resolved, geo_files)) => {
                self.geo_files = geo_files;
                resolved
            }
            Err(panicked) => {
                events::task_panicked("reload");
                Err(Refused { problems: vec![panicked.to_string()], report: None, files: Vec::new() })
            }
        }
    }

    async fn publish(
        &mut self,
        state: &Arc<State>,
        running: &Arc<Snapshot>,
        resolved: Resolved,
        trigger: &'static str,
        started: Instant,
    ) -> Result<u64, String> {
        let files_changed = self.published.differs_in_named_files(&resolved.files);
        let files = resolved.files.clone();
        self.seen = files.clone();
        let mut changes = diff::changes(&running.config, &resolved.loaded.config);
        if files_changed {
            changes.push("files: certificates, databases or other named files have new contents".into());
        }
        if changes.is_empty() {
            let report = ReloadResult { at: Some(SystemTime::now()), trigger, ..ReloadResult::default() };
            state.reload_ended(report);
            events::reload_unchanged(state, running.generation, trigger);
            return Ok(running.generation);
        }
        self.slots.give(&resolved.loaded.config);
        let slots = &self.slots;
        let prepared = self.sockets.prepare(&resolved.loaded.config, |name| slots.of(name)).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(|error| format!("error: {error}")).collect();
            format!(
                "{}\n{}; the running config was kept",
                lines.join("\n"),
                config::diagnostic::counted(lines.len(), "problem")
            )
        })?;
        let generation = running.generation + 1;
        let at_next_start = diff::at_next_start(&running.config, &resolved.loaded.config);
        let snapshot = {
            let mut clusters = state.clusters();
            let now = state.clock.now();
            Arc::new(compile(resolved, generation, &self.slots, &prepared, &mut clusters, Some(running), now))
        };
        for gone in running.listeners.iter().filter(|listener| snapshot.listener(listener.slot).is_none()) {
            // Its connections leave one by one, and are served until they do.
            state.retire(gone.slot, running.clone());
        }
        state.snapshot.store(snapshot.clone());
        self.published = files;
        if running.config.log.level != snapshot.config.log.level
            && let Err(error) = state.log_filter.change(&snapshot.config.log.level)
        {
            events::log_level_kept(&error);
        }
        let slots = &self.slots;
        self.sockets.adopt(prepared, &snapshot.config, |name| slots.of(name)).await;
        state.listens_on(self.sockets.addresses());
        self.fit(state, &snapshot);
        self.retire(state, running, &snapshot).await;
        self.empty_endpoints(&snapshot).await;
        events::reload_succeeded(state, generation, trigger, &changes, started.elapsed());
        events::reload_needs_start(&at_next_start);
        state.reload_ended(ReloadResult {
            at: Some(SystemTime::now()),
            trigger,
            refused: None,
            changes,
            at_next_start,
        });
        Ok(generation)
    }

    /// Health, RTT or addresses changed: the same configuration, compiled anew where it steers differently.
    pub async fn resteer(&mut self, state: &Arc<State>) {
        let running = state.snapshot.load_full();
        let now = state.clock.now();
        let mut changed = false;
        let clusters = running.clusters.iter().map(|cluster| {
            let rebuilt = ClusterPlan::build(
                &cluster.config,
                cluster.state.clone(),
                &running.config.edge,
                cluster.tls.clone(),
                cluster.keys.clone(),
                now,
            );
            if rebuilt.steers_like(cluster) {
                return cluster.clone();
            }
            changed = true;
            rebuilt.warm_up(cluster);
            Arc::new(rebuilt)
        });
        let snapshot = Snapshot {
            generation: running.generation,
            config: running.config.clone(),
            clusters: clusters.collect(),
            listeners: running.listeners.clone(),
            geo: running.geo.clone(),
        };
        if changed {
            let snapshot = Arc::new(snapshot);
            state.snapshot.store(snapshot.clone());
            self.fit(state, &snapshot);
        }
        let snapshot = state.snapshot.load_full();
        self.empty_endpoints(&snapshot).await;
        forget_unused(state, &snapshot);
    }

    fn fit(&mut self, state: &Arc<State>, snapshot: &Snapshot) {
        self.lookups.fit(state, snapshot);
        self.probes.fit(state, snapshot);
        self.agents.fit(state, snapshot);
    }

    /// Asks the tunnels of endpoints that drain to leave, and those of endpoints that are down where `cut-on-down` says
    /// so. Those that need not leave any more are asked no further: see [`Who::is_back`].
    async fn empty_endpoints(&self, snapshot: &Snapshot) {
        for plan in &snapshot.clusters {
            // In panic everybody looks down, and a client that leaves comes back to the same endpoints.
            let cuts = plan.config.cut_on_down && !plan.is_in_panic();
            for member in &plan.members {
                let Some(reason) = leave::reason_to_leave(&member.votes(), cuts) else {
                    member.tunnels_leave(None);
                    continue;
                };
                if member.tunnels_leave(Some(reason)) {
                    let who = Who::Endpoint(plan.config.name.clone(), member.address);
                    self.order(Order { who, reason, asked_by: None }).await;
                }
            }
        }
    }

    async fn order(&self, order: Order) {
        // The pacer ends with the process only.
        self.orders.send(order).await.unwrap_or(());
    }

    /// Asks the connections of removed listeners and endpoints to leave.
    async fn retire(&mut self, state: &State, before: &Snapshot, after: &Snapshot) {
        let mut orders = Vec::new();
        for listener in &before.listeners {
            if after.listener(listener.slot).is_none() {
                let who = Who::Listener(listener.slot, listener.name().clone());
                orders.push(Order { who, reason: LeaveReason::ListenerRemoved, asked_by: None });
            }
        }
        let clusters: Vec<Arc<ClusterState>> = state.clusters().values().cloned().collect();
        for cluster in clusters {
            let config = after.config.clusters.iter().find(|config| config.name == cluster.name);
            for endpoint in cluster.endpoints() {
                if is_named(config, &endpoint.origin()) {
                    continue;
                }
                if !endpoint.remove(state.clock.now()) {
                    // Asked to leave by an earlier reload.
                    continue;
                }
                events::standing_changed(state, &endpoint);
                let who = Who::Endpoint(cluster.name.clone(), endpoint.address);
                orders.push(Order { who, reason: LeaveReason::EndpointRemoved, asked_by: None });
            }
        }
        for order in orders {
            self.order(order).await;
        }
        forget_unused(state, after);
    }
}

fn is_named(config: Option<&config::Cluster>, origin: &config::Address) -> bool {
    config.is_some_and(|config| {
        config.localities.iter().flat_map(|locality| &locality.endpoints).any(|endpoint| endpoint.address == *origin)
    })
}

/// Endpoints that the files no longer name, and that the last tunnel has left.
pub fn forget_unused(state: &State, snapshot: &Snapshot) {
    state.clusters().retain(|name, cluster| {
        let plan = snapshot.clusters.iter().find(|plan| plan.config.name == *name);
        cluster.forget_unused(plan.map(|plan| &plan.config), plan.map_or(&[], |plan| &plan.members));
        plan.is_some() || !cluster.is_unused()
    });
}
