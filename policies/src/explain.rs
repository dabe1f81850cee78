//! Why a client goes where it goes: the same compilation and the same pick, with the reasons laid open.

use std::{num::NonZeroU32, sync::Arc};

use crate::{
    compile::compile,
    considered::Considered,
    dice::Dice,
    endpoint::{Endpoint, EndpointIx, LocalityIx, Share, Standing, Weight},
    plan::{Kind, NoPick, Pick, PickContext, Plan, Reason},
    slow_start::Ramp,
    snapshot::{ClassView, ClusterView, Policy},
    steering::{self, Criterion},
};

/// All that decided over one pick.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub policy: Policy,
    /// The rule that the client matched, and whether it is strict.
    pub rule: Option<usize>,
    pub strict: bool,
    /// What ordered the localities: the cluster's criteria, or those of the rule.
    pub criteria: Vec<Criterion>,
    /// Best first; those that a strict rule leaves out are last.
    pub localities: Vec<LocalityExplained>,
    /// In the order of the localities above.
    pub endpoints: Vec<EndpointExplained>,
    /// Which endpoint these dice chose, or why none. The lease was given back.
    pub outcome: Result<Choice, NoPick>,
    /// The candidates that the policy compared on the way to it.
    pub considered: Considered,
    /// Whether there was a key to go by.
    pub has_key: bool,
}

/// What steering made of one locality.
#[derive(Debug, Clone)]
pub struct LocalityExplained {
    pub locality: LocalityIx,
    pub name: Arc<str>,
    /// 0 is the preferred tier. `None`: a strict rule keeps this class away.
    pub tier: Option<u8>,
    /// Whether it is one of the localities of the client's rule. False too if no rule matched.
    pub in_rule: bool,
    /// How much the rule wants it, 0 the most: positions where the order counts, else 0 for the localities of the rule and
    /// 1 for its fallback. `None` if it does not name it.
    pub preference: Option<u32>,
    pub distance_km: Option<f64>,
    pub distance_band: Option<u32>,
    pub rtt_ms: Option<f64>,
    pub rtt_band: Option<u8>,
    pub priority: u32,
    /// What its tier gets of the class's traffic, 0 to 100. Localities of one tier show the same figure and share it.
    pub load_percent: u32,
    /// What the degraded endpoints of its tier get besides.
    pub degraded_percent: u32,
    /// How much of what steering sends here may come.
    pub share: Share,
    /// Whether its tier ignores health because too much has failed.
    pub panic: bool,
}

/// What a pick sees of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointExplained {
    pub endpoint: EndpointIx,
    pub name: Arc<str>,
    pub locality: LocalityIx,
    pub tier: Option<u8>,
    pub standing: Standing,
    pub weight: Weight,
    pub leases: u32,
    pub max_connections: Option<NonZeroU32>,
    pub ramp: Ramp,
    pub degraded: bool,
    pub eligibility: Eligibility,
}

/// Whether an endpoint can be picked, and if not, the first thing that stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Eligibility {
    Eligible,
    /// A strict rule keeps this class away from its locality.
    OutsideStrictRule,
    /// It stands in no locality of the cluster.
    NoLocality,
    /// Its standing, in ordinary times or in the panic that its tier is in.
    NotReady,
    /// An operator has taken its locality out of service.
    LocalityDisabled,
    Tried,
    Full,
    /// It gets new connections at its accept rate already.
    RateLimited,
    /// A limit of its cluster or priority is reached.
    LimitReached,
}

/// The endpoint that was chosen: a [`Pick`] without its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub endpoint: EndpointIx,
    pub locality: LocalityIx,
    pub tier: u8,
    pub reason: Reason,
}

/// Compiles and picks as live traffic does, and tells why. It works on a copy of the counts: nothing is held, and no turn
/// of an accept rate is used up. Round-robin cursors move by one turn.
pub fn explain(
    view: &ClusterView,
    class: &ClassView<'_>,
    kind: Kind,
    cx: &mut PickContext<'_, impl Dice>,
) -> Explanation {
    let view = &view.detached();
    let plan = compile(view, class);
    let rule = steering::rule(view, class);
    let (tunnels, requests) = steering::policies(view, class);
    // Before the pick, whose own lease would otherwise be shown.
    let endpoints = endpoints(view, &plan, cx);
    let outcome = plan.pick(kind, cx).map(|pick| Choice::from(&pick));
    Explanation {
        policy: match kind {
            Kind::Tunnel => tunnels,
            Kind::Request => requests,
        },
        rule: class.rule.filter(|_| rule.is_some()),
        strict: rule.is_some_and(|rule| rule.strict),
        criteria: steering::criteria(view, class).to_vec(),
        localities: localities(view, class, &plan),
        endpoints,
        outcome,
        considered: cx.considered,
        has_key: cx.key.is_some(),
    }
}

fn localities(view: &ClusterView, class: &ClassView<'_>, plan: &Plan) -> Vec<LocalityExplained> {
    let rule = steering::rule(view, class);
    let mut explained: Vec<LocalityExplained> = steering::localities(view)
        .map(|(ix, locality)| {
            let rank = steering::rank(view, class, ix, locality);
            let tier = tier_of(plan, ix);
            LocalityExplained {
                locality: ix,
                name: Arc::clone(&locality.name),
                tier: tier.map(saturated),
                in_rule: rule.is_some_and(|rule| rule.localities.contains(&ix)),
                preference: rank.preference,
                distance_km: rank.distance_km,
                distance_band: rank.distance_band,
                rtt_ms: locality.rtt_ms,
                rtt_band: rank.rtt_band,
                priority: rank.priority,
                load_percent: tier.map_or(0, |tier| plan.tiers()[tier].load_percent()),
                degraded_percent: tier.map_or(0, |tier| plan.tiers()[tier].degraded_percent()),
                share: locality.share,
                panic: tier.is_some_and(|tier| plan.tiers()[tier].panic()),
            }
        })
        .collect();
    explained.sort_by_key(|explained| (tier_or_last(tier_of(plan, explained.locality)), explained.locality));
    explained
}

fn endpoints(view: &ClusterView, plan: &Plan, cx: &PickContext<'_, impl Dice>) -> Vec<EndpointExplained> {
    let mut explained: Vec<EndpointExplained> = (0..=u32::MAX)
        .map(EndpointIx)
        .zip(&view.endpoints)
        .map(|(ix, endpoint)| EndpointExplained {
            endpoint: ix,
            name: Arc::clone(&endpoint.name),
            locality: endpoint.locality,
            tier: tier_of(plan, endpoint.locality).map(saturated),
            standing: endpoint.standing,
            weight: endpoint.weight,
            leases: endpoint.load.leases(),
            max_connections: endpoint.max_connections,
            ramp: endpoint.ramp,
            degraded: endpoint.degraded,
            eligibility: eligibility(view, plan, cx, ix, endpoint),
        })
        .collect();
    explained.sort_by_key(|explained| {
        (tier_or_last(tier_of(plan, explained.locality)), explained.locality, explained.endpoint)
    });
    explained
}

fn eligibility(
    view: &ClusterView,
    plan: &Plan,
    cx: &PickContext<'_, impl Dice>,
    ix: EndpointIx,
    endpoint: &Endpoint,
) -> Eligibility {
    if usize::from(endpoint.locality.0) >= view.localities.len() {
        return Eligibility::NoLocality;
    }
    let Some(tier) = tier_of(plan, endpoint.locality) else {
        return Eligibility::OutsideStrictRule;
    };
    if view.localities[usize::from(endpoint.locality.0)].share == Share::NONE {
        return Eligibility::LocalityDisabled;
    }
    match plan.candidates_of(tier).find(|candidate| candidate.endpoint == ix) {
        None => Eligibility::NotReady,
        Some(_) if cx.tried.contains(ix) => Eligibility::Tried,
        Some(candidate) if candidate.is_full() => Eligibility::Full,
        Some(candidate) if candidate.is_at_limit() => Eligibility::LimitReached,
        Some(candidate) if candidate.is_early(cx.now) => Eligibility::RateLimited,
        Some(_) => Eligibility::Eligible,
    }
}

fn tier_of(plan: &Plan, locality: LocalityIx) -> Option<usize> {
    plan.tiers().iter().position(|tier| tier.localities().contains(&locality))
}

fn tier_or_last(tier: Option<usize>) -> usize {
    tier.unwrap_or(usize::MAX)
}

fn saturated(tier: usize) -> u8 {
    u8::try_from(tier).unwrap_or(u8::MAX)
}

impl Eligibility {
    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eligible => "eligible",
            Self::OutsideStrictRule => "outside-strict-rule",
            Self::NoLocality => "no-locality",
            Self::NotReady => "not-ready",
            Self::LocalityDisabled => "locality-disabled",
            Self::Tried => "tried",
            Self::Full => "full",
            Self::RateLimited => "rate-limited",
            Self::LimitReached => "limit-reached",
        }
    }
}

impl From<&Pick> for Choice {
    fn from(pick: &Pick) -> Self {
        Self { endpoint: pick.endpoint, locality: pick.locality, tier: pick.tier, reason: pick.reason }
    }
}
