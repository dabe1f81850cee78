//! Why a client goes where it goes, by the function that routes live traffic.
//!
//! The same answer is given by a running edge (`/api/v1/explain`, with its health, RTT and load) and by
//! `warbler explain --config` without one (all endpoints up, no RTT measured).

mod matched;
mod text;
pub mod tie_break;

use std::net::IpAddr;
use std::time::SystemTime;

use geoip::{Located, Source};
use http::HeaderMap;
use policies::{Cursors, LocalityRtt, PickContext, Reason, SeededDice, Share, Tick, Tried};
use serde::{Deserialize, Serialize};

pub use self::matched::Matched;
use self::tie_break::{Compared, TieBreak, compared};
use crate::affinity::Reading;
use crate::affinity::source::Request;
use crate::cluster::overrides::Kind;
use crate::cluster::{Client, ClusterPlan};
use crate::config::{Cluster, Listener, Serves};
use crate::route::Routed;
use crate::snapshot::Snapshot;

/// Who asks for what.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The client's address.
    pub from: String,
    /// May be left out when there is one listener only.
    pub listener: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    /// A WebSocket or other upgrade, instead of a plain request.
    #[serde(default)]
    pub upgrade: bool,
    /// Header fields of the request, `name=value`, one a line.
    #[serde(default)]
    pub headers: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("`{0}` is not an IP address")]
    NotAnAddress(String),
    #[error("`{0}` is not a header field: write name=value")]
    NotAHeader(String),
    #[error("no listener is named `{name}`; there are: {known}")]
    NoListener { name: String, known: String },
    #[error("say which listener: {0}")]
    WhichListener(String),
    #[error("no route of listener `{listener}` takes host `{host}` and path `{path}`: the client gets 404")]
    NoRoute { listener: String, host: String, path: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub from: IpAddr,
    pub place: Place,
    pub listener: String,
    pub route: Option<String>,
    pub cluster: String,
    /// `tunnel` or `request`.
    pub kind: String,
    /// Of the rule that the client matches, or of the cluster.
    pub policy: String,
    /// Likewise.
    pub steer: Vec<String>,
    pub class: Class,
    /// Where something goes by the key of a client.
    pub known_by: Option<KnownBy>,
    /// The endpoint that the client had, if stickiness knows one.
    pub remembered: Option<Remembered>,
    pub localities: Vec<Locality>,
    pub endpoints: Vec<Endpoint>,
    /// The candidates that the policy compared, in the order in which it came to them; the last four if more.
    pub considered: Vec<Compared>,
    /// Why the winner of these won.
    pub tie_break: String,
    pub pick: Option<Pick>,
    /// Why nothing can be picked.
    pub refused: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    pub asn: Option<u32>,
    /// A code, or a name where the source has no codes; rules see codes only.
    pub subdivision: Option<String>,
    pub country: Option<String>,
    pub continent: Option<String>,
    pub city: Option<String>,
    pub location: Option<[f64; 2]>,
    pub source: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Class {
    /// The first rule that matches, counted from 1 as it stands in the file. None too if the map decides.
    pub rule: Option<usize>,
    pub strict: bool,
    /// That rule, or the entry of the map, and what it says.
    pub matched: Option<Matched>,
    pub cell: String,
}

/// What tells this client from others; never the value itself, which may be a secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct KnownBy {
    /// The entry of `hash-on` that counts; none if the client has none of them.
    pub source: Option<String>,
    /// Who the client is, when `user` counts.
    pub user: Option<String>,
    /// Why its token does not count, if it has one.
    pub token_refused: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Remembered {
    pub endpoint: String,
    /// Whether the client gets it again.
    pub applies: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Locality {
    pub name: String,
    /// 1 is the preferred tier; none when a strict rule keeps this client away.
    pub tier: Option<usize>,
    pub in_rule: bool,
    /// How much the rule wants it, 1 the most; none if the rule does not name it.
    pub preference: Option<u32>,
    pub distance_km: Option<f64>,
    pub distance_band: Option<u32>,
    pub rtt_ms: Option<f64>,
    /// `false`: nothing was measured, the figure is the prior by distance.
    pub rtt_measured: bool,
    /// 0 to 1, of what was measured.
    pub rtt_confidence: Option<f32>,
    pub rtt_band: Option<u8>,
    pub priority: u32,
    pub load_percent: u32,
    /// What the degraded endpoints of its tier get besides.
    pub degraded_percent: u32,
    /// How much of what steering sends here may come; 0 is out of service.
    pub share_percent: u8,
    /// Who says so, when it is not all.
    pub share_by: Option<String>,
    pub panic: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub locality: String,
    pub standing: String,
    /// Of the vote that counts: whose it is, why, and since when.
    pub source: String,
    pub reason: String,
    pub since_seconds: u64,
    /// Of a vote that ends by itself, such as an ejection.
    pub seconds_left: Option<u64>,
    /// In force; with the factors of localities, all weights of a cluster are brought to whole numbers.
    pub weight: u16,
    pub configured_weight: u16,
    /// Who says so, when an operator has set it.
    pub weight_by: Option<String>,
    pub connections: u32,
    pub max_connections: Option<u32>,
    /// How far it has come in its slow start, 0 to 1.
    pub ramp: f64,
    pub degraded: bool,
    /// `eligible`, or the first thing that stands in the way.
    pub eligibility: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Pick {
    pub endpoint: String,
    pub locality: String,
    pub tier: usize,
    pub reason: String,
}

/// # Errors
/// When the question does not lead to a cluster.
pub fn answer(snapshot: &Snapshot, question: &Question, now: Tick) -> Result<Answer, ExplainError> {
    let from: IpAddr = question.from.parse().map_err(|_cause| ExplainError::NotAnAddress(question.from.clone()))?;
    let from = from.to_canonical();
    let listener = listener(snapshot, question)?;
    let headers = headers(&question.headers)?;
    let (routed, kind) = route(snapshot, &listener.config, question, &headers)?;
    let cluster = snapshot.cluster(routed.cluster);
    let located = snapshot.geo.locate(from);
    let client = Client::new(from, &located);
    // The dice of this answer: another client of the class may get another endpoint of the same tier.
    let seed = u64::try_from(now.0.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
    let request = matches!(listener.config.serves, Serves::Http(_)).then(|| request(question, &headers));
    let reading = cluster.keys.as_ref().map(|keys| keys.read(from, request, SystemTime::now()));
    let key = reading.as_ref().and_then(|reading| reading.key.as_ref().map(|key| key.hash));
    let address = key.and_then(|key| cluster.state.sticky.find(key, now));
    let pin = address.and_then(|address| cluster.ix_of(address));
    let (mut dice, mut cursors, tried) = (SeededDice::new(seed), Cursors::new(seed), Tried::default());
    let context = PickContext::new(&mut dice, &mut cursors, &tried, now);
    let explanation = cluster.explain(&client, kind, &mut PickContext { key, pin, ..context });
    let (rule, cell) = cluster.class_of(&client);
    let matched = rule.and_then(|rule| Matched::new(cluster, usize::from(rule), &client.place));
    let rtts = cluster.rtts(&snapshot.config.edge, now);
    let considered = compared(&explanation.considered, |ix| cluster.view.endpoints[ix.0 as usize].name.to_string());
    Ok(Answer {
        from,
        place: place(&located),
        listener: listener.name().to_string(),
        route: matches!(listener.config.serves, Serves::Http(_)).then(|| routed.route.to_string()),
        cluster: cluster.config.name.to_string(),
        kind: kind.as_str().to_owned(),
        policy: explanation.policy.as_str().to_owned(),
        steer: explanation.criteria.iter().map(|criterion| criterion.as_str().to_owned()).collect(),
        class: Class {
            rule: matched.as_ref().and_then(|matched| matched.rule),
            strict: explanation.strict,
            matched,
            cell: cell.to_string(),
        },
        known_by: reading.map(|reading| known_by(&cluster.config, reading)),
        remembered: address.map(|address| Remembered {
            endpoint: pin
                .map_or_else(|| address.to_string(), |pin| cluster.view.endpoints[pin.0 as usize].name.to_string()),
            applies: explanation.outcome.as_ref().is_ok_and(|choice| choice.reason == Reason::Sticky),
        }),
        localities: explanation.localities.iter().map(|explained| locality(cluster, &rtts, explained)).collect(),
        endpoints: explanation.endpoints.iter().map(|endpoint| self::endpoint(cluster, endpoint, now)).collect(),
        tie_break: tie_break(cluster, &explanation, &considered),
        considered,
        pick: explanation.outcome.as_ref().ok().map(|choice| Pick {
            endpoint: cluster.view.endpoints[choice.endpoint.0 as usize].name.to_string(),
            locality: cluster.locality_name(choice.locality).to_string(),
            tier: usize::from(choice.tier) + 1,
            reason: choice.reason.as_str().to_owned(),
        }),
        refused: explanation.outcome.err().map(|no_pick| no_pick.to_string()),
    })
}

fn listener<'s>(
    snapshot: &'s Snapshot,
    question: &Question,
) -> Result<&'s crate::listener::ListenerPlan, ExplainError> {
    let known = || snapshot.listeners.iter().map(|listener| listener.name().to_string()).collect::<Vec<_>>().join(", ");
    match (&question.listener, &snapshot.listeners[..]) {
        (None, [only]) => Ok(only),
        (None, _) => Err(ExplainError::WhichListener(known())),
        (Some(name), all) => all
            .iter()
            .find(|listener| **listener.name() == **name)
            .map(|listener| &**listener)
            .ok_or_else(|| ExplainError::NoListener { name: name.clone(), known: known() }),
    }
}

fn known_by(config: &Cluster, reading: Reading) -> KnownBy {
    let token_refused = reading.refused.map(|refused| refused.to_string());
    let (source, user) = match reading.key {
        Some(key) => (Some(config.hash_on[key.source].to_string()), key.user),
        None => (None, None),
    };
    KnownBy { source, user, token_refused }
}

fn request<'q>(question: &'q Question, headers: &'q HeaderMap) -> Request<'q> {
    let target = question.path.as_deref().unwrap_or("/");
    match target.split_once('?') {
        Some((path, query)) => Request { headers, path, query: Some(query) },
        None => Request { headers, path: target, query: None },
    }
}

fn route(
    snapshot: &Snapshot,
    listener: &Listener,
    question: &Question,
    headers: &HeaderMap,
) -> Result<(Routed, policies::Kind), ExplainError> {
    if let Serves::Tcp { cluster } = listener.serves {
        return Ok((Routed { route: listener.name.clone(), cluster, idle: None }, policies::Kind::Tunnel));
    }
    let host = question.host.clone().unwrap_or_default();
    let path = request(question, headers).path;
    let plan = snapshot.listeners.iter().find(|plan| plan.config.name == listener.name);
    let routed = plan.and_then(|plan| plan.routes.find(&host, path, headers));
    let kind = if question.upgrade { policies::Kind::Tunnel } else { policies::Kind::Request };
    let path = path.to_owned();
    let routed = routed.ok_or(ExplainError::NoRoute { listener: listener.name.to_string(), host, path })?;
    Ok((routed, kind))
}

fn headers(lines: &str) -> Result<HeaderMap, ExplainError> {
    let mut headers = HeaderMap::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let wrong = || ExplainError::NotAHeader(line.to_owned());
        let (name, value) = line.split_once('=').ok_or_else(wrong)?;
        let name: http::HeaderName = name.trim().parse().map_err(|_cause| wrong())?;
        headers.append(name, value.trim().parse().map_err(|_cause| wrong())?);
    }
    Ok(headers)
}

fn tie_break(cluster: &ClusterPlan, explanation: &policies::Explanation, considered: &[Compared]) -> String {
    let name = |choice: &policies::Choice| &*cluster.view.endpoints[choice.endpoint.0 as usize].name;
    let winner = explanation.outcome.as_ref().ok().map(|choice| (name(choice), choice.reason));
    TieBreak { policy: Some(explanation.policy), has_key: explanation.has_key, considered, winner }.line()
}

fn place(located: &Located) -> Place {
    let place = &located.place;
    Place {
        asn: place.asn,
        subdivision: place.subdivision.clone(),
        country: place.country.map(|country| country.to_string()),
        continent: place.continent.map(|continent| continent.to_string()),
        city: place.city.clone(),
        location: place.location.map(|location| [location.latitude, location.longitude]),
        source: match &located.source {
            Source::Override(network) => format!("override {network}"),
            Source::Database { name, network } => format!("{name} {network}"),
            Source::Unknown => "unknown".to_owned(),
        },
    }
}

fn locality(cluster: &ClusterPlan, rtts: &[Option<LocalityRtt>], explained: &policies::LocalityExplained) -> Locality {
    let overrides = cluster.state.overrides(&explained.name);
    let configured = cluster.config.localities[usize::from(explained.locality.0)].share;
    let by = || {
        let by = overrides.get(Kind::Share).map(|set| set.note.describe());
        let by = by.or_else(|| (configured != Share::ALL).then(|| "by the files".to_owned()));
        let full =
            (explained.share < overrides.share().unwrap_or(configured)).then(|| "as it is nearly full".to_owned());
        by.into_iter().chain(full).collect::<Vec<_>>().join(", ")
    };
    let rtt = rtts[usize::from(explained.locality.0)];
    Locality {
        name: explained.name.to_string(),
        tier: explained.tier.map(|tier| usize::from(tier) + 1),
        in_rule: explained.in_rule,
        preference: explained.preference.map(|preference| preference.saturating_add(1)),
        distance_km: explained.distance_km.map(f64::round),
        distance_band: explained.distance_band,
        rtt_ms: rtt.map(|known| known.rtt.as_secs_f64() * 1000.0),
        rtt_measured: rtt.is_some_and(|rtt| rtt.is_measured()),
        rtt_confidence: rtt.and_then(|rtt| rtt.confidence),
        rtt_band: explained.rtt_band,
        priority: explained.priority,
        load_percent: explained.load_percent,
        degraded_percent: explained.degraded_percent,
        share_percent: explained.share.as_percent(),
        share_by: (explained.share != Share::ALL).then(by),
        panic: explained.panic,
    }
}

fn endpoint(cluster: &ClusterPlan, explained: &policies::EndpointExplained, now: Tick) -> Endpoint {
    let at = explained.endpoint.0 as usize;
    let member = &cluster.members[at];
    let votes = member.votes();
    let (source, vote) = votes.worst();
    Endpoint {
        name: explained.name.to_string(),
        locality: cluster.locality_name(explained.locality).to_string(),
        standing: explained.standing.as_str().to_owned(),
        source: source.as_str().to_owned(),
        reason: vote.reason.to_string(),
        since_seconds: now.since(vote.since).as_secs(),
        seconds_left: vote.until.map(|until| until.since(now).as_secs()),
        weight: explained.weight.get(),
        configured_weight: cluster.configured_weights[at].get(),
        weight_by: member.overrides().get(Kind::Weight).map(|set| set.note.describe()),
        connections: explained.leases,
        max_connections: explained.max_connections.map(std::num::NonZeroU32::get),
        ramp: f64::from(explained.ramp.per_mille()) / 1000.0,
        degraded: explained.degraded,
        eligibility: explained.eligibility.as_str().to_owned(),
    }
}
