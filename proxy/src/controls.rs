//! Shifting traffic by hand: what an operator may set on the running edge, and what is refused.
//!
//! A change is kept with the identity that it is about ([`overrides`](crate::cluster::overrides)); plans follow at the next
//! round of steering, within [`COALESCE`](crate::control) of it. What would leave nobody who could take a client is
//! refused unless it is forced: at 3 a.m. the wrong one of two names is typed easily.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use policies::{LocalityIx, Share, Standing, Tick};

use crate::cluster::overrides::{Kind, Note, Override, Overrides, Service, Value};
use crate::cluster::votes::Source;
use crate::cluster::{ClusterPlan, ClusterState, EndpointState};
use crate::config::{Name, RuleOrigin};
use crate::events;
use crate::snapshot::Snapshot;
use crate::state::State;

/// How many names an error lists.
const NAMES: usize = 20;

/// What something is set on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Locality { cluster: Name, locality: Name },
    Endpoint { cluster: Name, address: SocketAddr },
}

impl Target {
    pub fn cluster(&self) -> &Name {
        match self {
            Target::Locality { cluster, .. } | Target::Endpoint { cluster, .. } => cluster,
        }
    }

    /// What can be set on it.
    fn kinds(&self) -> [Kind; 2] {
        match self {
            Target::Locality { .. } => [Kind::Share, Kind::WeightPercent],
            Target::Endpoint { .. } => [Kind::State, Kind::Weight],
        }
    }
}

/// As the command line names it: `im/frankfurt`, `im/10.0.0.7:5222`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Locality { cluster, locality } => write!(f, "{cluster}/{locality}"),
            Target::Endpoint { cluster, address } => write!(f, "{cluster}/{address}"),
        }
    }
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct Change {
    /// `State(Ready)` takes back what was set of that kind.
    pub values: Vec<Value>,
    pub by: Arc<str>,
    pub reason: Arc<str>,
    /// Ends by itself after this time.
    pub lasts: Option<Duration>,
    /// Also if nobody is left who could take a client.
    pub force: bool,
}

/// How something that is set by hand changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandChange {
    Set,
    TakenBack,
    TimeIsOver,
}

impl HandChange {
    pub fn as_str(self) -> &'static str {
        match self {
            HandChange::Set => "set",
            HandChange::TakenBack => "taken back",
            HandChange::TimeIsOver => "its time is over",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is nothing of that name; the text has what there is.
    #[error("{0}")]
    Unknown(String),
    #[error("{consequence}; to do it all the same, send \"force\": true (--force)")]
    LeavesNobody { consequence: String },
}

/// Something that is set, and on what.
#[derive(Debug, Clone)]
pub struct Listed {
    pub target: Target,
    pub set: Override,
    /// What the files say; `None` when they do not name the target (any more).
    pub file: Option<Value>,
}

/// Sets what `change` asks for.
///
/// # Errors
/// When there is no such target, or nobody would be left who could take a client.
pub fn change(state: &State, target: &Target, change: &Change) -> Result<(), ControlError> {
    let snapshot = state.snapshot.load_full();
    let plan = configured(&snapshot, target)?;
    if !change.force && change.values.iter().any(|value| value.takes_out_of_service()) {
        refuse_to_leave_nobody(plan, target)?;
    }
    let since = state.clock.now();
    let until = change.lasts.map(|lasts| Tick(since.0 + lasts));
    let note = Note { reason: change.reason.clone(), by: change.by.clone(), since, until };
    for value in &change.values {
        match value {
            Value::State(Service::Ready) => _ = end(state, target, Kind::State, &note, HandChange::TakenBack),
            value => set(state, target, Override { value: *value, note: note.clone() }),
        }
    }
    state.steering_changed.notify_one();
    Ok(())
}

/// Takes back all that is set on a target; how much it was.
///
/// # Errors
/// When nothing is set on it and there is no such target.
pub fn reset(state: &State, target: &Target, by: &Arc<str>, reason: &Arc<str>) -> Result<usize, ControlError> {
    let note = Note { reason: reason.clone(), by: by.clone(), since: state.clock.now(), until: None };
    let ended =
        target.kinds().into_iter().filter(|kind| end(state, target, *kind, &note, HandChange::TakenBack)).count();
    if ended == 0 {
        configured(&state.snapshot.load_full(), target)?;
    }
    state.steering_changed.notify_one();
    Ok(ended)
}

/// Takes back all that is set; how much it was.
pub fn reset_all(state: &State, by: &Arc<str>, reason: &Arc<str>) -> usize {
    let note = Note { reason: reason.clone(), by: by.clone(), since: state.clock.now(), until: None };
    let all = list(state).into_iter();
    let ended = all.filter(|listed| end(state, &listed.target, listed.set.value.kind(), &note, HandChange::TakenBack));
    let ended = ended.count();
    state.steering_changed.notify_one();
    ended
}

/// Ends what was set until a time that is over.
pub fn end_due(state: &State, now: Tick) {
    let due = list(state).into_iter().filter(|listed| listed.set.note.until.is_some_and(|until| until <= now));
    for Listed { target, set, .. } in due {
        end(state, &target, set.value.kind(), &set.note, HandChange::TimeIsOver);
        state.steering_changed.notify_one();
    }
}

/// All that is set, by cluster, localities before endpoints.
pub fn list(state: &State) -> Vec<Listed> {
    let snapshot = state.snapshot.load_full();
    let clusters: Vec<Arc<ClusterState>> = state.clusters().values().cloned().collect();
    let mut listed = Vec::new();
    for cluster in clusters {
        let mut add = |target: Target, overrides: &Overrides| {
            listed.extend(overrides.all().map(|set| {
                let file = file_value(&snapshot, &target, set.value.kind());
                Listed { target: target.clone(), set: set.clone(), file }
            }));
        };
        for (locality, overrides) in cluster.overridden_localities() {
            add(Target::Locality { cluster: cluster.name.clone(), locality }, &overrides);
        }
        for endpoint in cluster.endpoints() {
            add(Target::Endpoint { cluster: cluster.name.clone(), address: endpoint.address }, &endpoint.overrides());
        }
    }
    listed
}

fn set(state: &State, target: &Target, new: Override) {
    let (value, note) = (new.value, new.note.clone());
    let Some(old) = change_overrides(state, target, |overrides| overrides.set(new)) else { return };
    if let Value::State(service) = value {
        vote(state, target, service, &note);
    }
    let before = old.map_or_else(|| otherwise(state, target, value.kind()), |old| old.value);
    events::changed_by_hand(state, target, &before, &value, &note, HandChange::Set);
}

/// Takes back what is set of one kind; whether there was anything. `note` says who does it.
fn end(state: &State, target: &Target, kind: Kind, note: &Note, how: HandChange) -> bool {
    let Some(old) = change_overrides(state, target, |overrides| overrides.take(kind)).flatten() else { return false };
    if kind == Kind::State {
        vote(state, target, Service::Ready, note);
    }
    let after = otherwise(state, target, kind);
    events::changed_by_hand(state, target, &old.value, &after, note, how);
    true
}

/// `None` when there is no such cluster or endpoint (any more).
fn change_overrides<T>(state: &State, target: &Target, change: impl FnOnce(&mut Overrides) -> T) -> Option<T> {
    let cluster = state.clusters().get(target.cluster()).cloned()?;
    match target {
        Target::Locality { locality, .. } => Some(cluster.change_overrides(locality, change)),
        Target::Endpoint { address, .. } => Some(cluster.known_endpoint(*address)?.change_overrides(change)),
    }
}

/// The operator's vote on an endpoint.
fn vote(state: &State, target: &Target, service: Service, note: &Note) {
    let Target::Endpoint { cluster, address } = target else { return };
    let known = state.clusters().get(cluster).and_then(|cluster| cluster.known_endpoint(*address));
    let Some(endpoint) = known else { return };
    let now = state.clock.now();
    let reason = if note.reason.is_empty() { service.as_str() } else { &*note.reason };
    let changed = endpoint.vote(|votes| match (service, note.until) {
        (Service::Ready, _) => votes.withdraw(Source::Operator, now),
        (_, None) => votes.cast(Source::Operator, service.standing(), reason, now),
        (_, Some(until)) => votes.cast_until(Source::Operator, service.standing(), reason, now, until),
    });
    if changed {
        events::standing_changed(state, &endpoint);
    }
}

/// What counts where nothing is set.
fn otherwise(state: &State, target: &Target, kind: Kind) -> Value {
    file_value(&state.snapshot.load_full(), target, kind).unwrap_or(match kind {
        Kind::State => Value::State(Service::Ready),
        Kind::Weight => Value::Weight(policies::Weight::default()),
        Kind::Share => Value::Share(Share::ALL),
        Kind::WeightPercent => Value::WeightPercent(100),
    })
}

/// What the files say; of what they cannot say, what counts without an operator.
pub fn file_value(snapshot: &Snapshot, target: &Target, kind: Kind) -> Option<Value> {
    let plan = configured(snapshot, target).ok()?;
    match (kind, target) {
        (Kind::State, _) => Some(Value::State(Service::Ready)),
        (Kind::WeightPercent, _) => Some(Value::WeightPercent(100)),
        (Kind::Share, Target::Locality { locality, .. }) => {
            let configured = plan.config.localities.iter().find(|configured| configured.name == *locality)?;
            Some(Value::Share(configured.share))
        }
        (Kind::Weight, Target::Endpoint { address, .. }) => {
            let at = plan.members.iter().position(|member| member.address == *address)?;
            Some(Value::Weight(plan.configured_weights[at]))
        }
        _ => None,
    }
}

/// The cluster that has the target now.
fn configured<'s>(snapshot: &'s Snapshot, target: &Target) -> Result<&'s ClusterPlan, ControlError> {
    let plan = snapshot.clusters.iter().find(|plan| plan.config.name == *target.cluster());
    let Some(plan) = plan else {
        let known = snapshot.clusters.iter().map(|plan| plan.config.name.to_string());
        return Err(unknown(format!("no cluster is named `{}`", target.cluster()), known));
    };
    match target {
        Target::Locality { cluster, locality } => {
            let known = || plan.config.localities.iter().map(|configured| &configured.name);
            if known().any(|name| name == locality) {
                return Ok(plan);
            }
            Err(unknown(format!("cluster `{cluster}` has no locality `{locality}`"), known().map(Name::to_string)))
        }
        Target::Endpoint { cluster, address } => {
            if plan.members.iter().any(|member| member.address == *address) {
                return Ok(plan);
            }
            let known = plan.view.endpoints.iter().map(|endpoint| endpoint.name.to_string());
            Err(unknown(format!("cluster `{cluster}` has no endpoint `{address}`"), known))
        }
    }
}

fn unknown(what: String, known: impl Iterator<Item = String>) -> ControlError {
    let mut known: Vec<String> = known.collect();
    let more = known.len().saturating_sub(NAMES);
    known.truncate(NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    ControlError::Unknown(format!("{what}; there are: {}{more}", known.join(", ")))
}

/// Refuses to take `target` out of service when it is the last of its cluster, or of the localities of a strict rule,
/// that is up, or that could be picked at all.
fn refuse_to_leave_nobody(plan: &ClusterPlan, target: &Target) -> Result<(), ControlError> {
    let name = &plan.config.name;
    let all: Vec<LocalityIx> = (0..).map(LocalityIx).take(plan.config.localities.len()).collect();
    let whole = (format!("cluster `{name}`"), "every new client", all);
    let strict = plan.config.rules.iter().filter(|rule| rule.terms.strict).map(|rule| {
        let which = match &rule.origin {
            RuleOrigin::Rule(nth) => format!("strict rule {nth} of cluster `{name}`"),
            RuleOrigin::Map(key) => format!("the strict map of cluster `{name}` for {key}"),
        };
        let localities = [&rule.terms.localities[..], &rule.terms.fallback].concat();
        (which, "every client that it matches", localities)
    });
    for (of, who, localities) in std::iter::once(whole).chain(strict) {
        let (before, after) = (serving(plan, &localities, None), serving(plan, &localities, Some(target)));
        let consequence = if before.in_panic > 0 && after.in_panic == 0 {
            format!("{target} is all that {of} has in service: {who} would be refused")
        } else if before.up > 0 && after.up == 0 {
            format!(
                "{target} is all that {of} has up: {who} would be sent to one of {} that are down or in doubt, or refused",
                after.in_panic
            )
        } else {
            continue;
        };
        return Err(ControlError::LeavesNobody { consequence });
    }
    Ok(())
}

/// Endpoints that take clients.
struct Serving {
    up: usize,
    /// With those that are tried when all else has failed.
    in_panic: usize,
}

/// Who serves in these localities, with what is set now and not as the last round of steering saw it.
fn serving(plan: &ClusterPlan, localities: &[LocalityIx], without: Option<&Target>) -> Serving {
    let in_service = |ix: LocalityIx| {
        let locality = &plan.config.localities[usize::from(ix.0)];
        let share = plan.state.overrides(&locality.name).share().unwrap_or(locality.share);
        let taken = matches!(without, Some(Target::Locality { locality: taken, .. }) if *taken == locality.name);
        share != Share::NONE && !taken
    };
    let open: Vec<LocalityIx> = localities.iter().copied().filter(|ix| in_service(*ix)).collect();
    let taken = |member: &EndpointState| matches!(without, Some(Target::Endpoint { address, .. }) if *address == member.address);
    let here = plan.view.endpoints.iter().zip(&plan.members);
    let standings: Vec<Standing> = here
        .filter(|(endpoint, member)| open.contains(&endpoint.locality) && !taken(member))
        .map(|(_, member)| member.standing())
        .collect();
    Serving {
        up: standings.iter().filter(|standing| standing.takes_new()).count(),
        in_panic: standings.iter().filter(|standing| standing.takes_in_panic()).count(),
    }
}
