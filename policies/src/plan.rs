//! The pick: from a compiled plan, for one client.
//!
//! Everything that can be decided beforehand is in the plan. What is left is to draw a tier, to ask the policy for an
//! endpoint of it, and to reserve a lease there. A tier where everything is full or tried passes the client on to the
//! others, best first.

use std::{fmt, sync::Arc};

use crate::{
    candidates::{Candidate, CandidateSet, Limited, Obstacle},
    considered::Considered,
    cursors::Cursors,
    dice::Dice,
    endpoint::{EndpointIx, LocalityIx},
    group::Bound,
    load::Lease,
    tick::Tick,
    tried::Tried,
};

/// Where one class of clients goes, compiled from one [`ClusterView`](crate::ClusterView).
#[derive(Debug)]
pub struct Plan {
    pub(crate) tiers: Box<[Tier]>,
    /// What is drawn from: the tiers, and behind them those of their endpoints that are degraded.
    pub(crate) levels: Box<[Level]>,
    /// What the whole cluster may hold, asked before anything else is.
    pub(crate) limit: Option<Bound>,
    /// What a failed pick means when nothing of the plan stands in the way but the rule.
    pub(crate) refusal: Refusal,
}

/// What the plan leaves out, which decides how a failed pick is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The cluster has no endpoints at all.
    NoEndpoints,
    /// There are endpoints, but a strict rule keeps this class away from them.
    Strict,
    /// Everything that exists is in the plan.
    Plain,
}

/// Localities that steering left tied. Their endpoints are one set of candidates.
#[derive(Debug)]
pub struct Tier {
    pub(crate) localities: Box<[LocalityIx]>,
    pub(crate) load_percent: u32,
    pub(crate) degraded_percent: u32,
    pub(crate) panic: bool,
}

/// Endpoints of one tier that get a share of the traffic.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) tier: usize,
    pub(crate) degraded: bool,
    pub(crate) percent: u32,
    /// The limits that all of its endpoints are under, asked once.
    pub(crate) limits: Option<Arc<Limited>>,
    pub(crate) set: Arc<CandidateSet>,
}

impl Level {
    fn is_at_limit(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| !limits.has_room())
    }
}

/// Which of the cluster's two policies chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A TCP connection or an upgraded one: `policy`.
    Tunnel,
    /// One HTTP request: `request_policy`.
    Request,
}

/// What a pick needs from the worker that asks for it, and of the client.
#[derive(Debug)]
pub struct PickContext<'a, D> {
    pub dice: &'a mut D,
    pub cursors: &'a mut Cursors,
    /// Endpoints that failed this client before.
    pub tried: &'a Tried,
    /// For accept rates and for figures that age.
    pub now: Tick,
    /// What the hash policies send by: a hash of the user, of a header, of the address. Without one they pick by dice.
    pub key: Option<u64>,
    /// Where the client was a moment ago. It goes there again if that endpoint still takes new clients.
    pub pin: Option<EndpointIx>,
    /// Filled in by the pick, also by one that finds nobody.
    pub considered: Considered,
}

impl<'a, D: Dice> PickContext<'a, D> {
    /// A client without key and pin.
    pub fn new(dice: &'a mut D, cursors: &'a mut Cursors, tried: &'a Tried, now: Tick) -> Self {
        Self { dice, cursors, tried, now, key: None, pin: None, considered: Considered::default() }
    }
}

/// The endpoint for a client, with the lease that counts it there.
#[derive(Debug)]
pub struct Pick {
    pub endpoint: EndpointIx,
    pub locality: LocalityIx,
    /// 0 is the preferred tier; tiers past the 255th all count as that.
    pub tier: u8,
    pub reason: Reason,
    pub lease: Lease,
}

/// Why a pick went where it went. A closed set, for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The best tier.
    Preferred,
    /// A later tier: the best cannot carry everything, or all of it was full or tried.
    Spill,
    /// So much of the tier has failed that health is not believed.
    Panic,
    /// The healthy endpoints cannot carry everything, and this one is degraded.
    Degraded,
    /// The client was there a moment ago.
    Sticky,
}

/// Why there is no endpoint for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoPick {
    #[error("the cluster has no endpoints")]
    NoEndpoints,
    #[error("no endpoint is ready to take new connections")]
    NoneReady,
    #[error("every endpoint that is ready has reached its max-connections")]
    AllFull,
    #[error("every endpoint that is ready was tried for this client")]
    AllTried,
    #[error("every endpoint that is ready gets new connections at its accept-rate already")]
    RateLimited,
    #[error("a limit of the cluster or priority is reached")]
    LimitReached,
    #[error("the localities that a strict rule allows cannot take this client")]
    StrictRefused,
}

impl Plan {
    /// Chooses an endpoint and reserves a lease on it. Allocates nothing.
    ///
    /// A full endpoint is passed over, then the tier: nobody is refused while an endpoint of the plan that this client
    /// has not tried has room (only losing the race for the last place several times over can refuse earlier).
    ///
    /// # Errors
    /// [`NoPick`] says what stands in the way. Under a strict rule that leaves endpoints out it is always
    /// [`NoPick::StrictRefused`]: without the rule the client could have gone there.
    pub fn pick(&self, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Result<Pick, NoPick> {
        if self.limit.as_ref().is_some_and(|limit| !limit.has_room()) {
            return Err(self.refused(Obstacle::AtLimit));
        }
        if let Some(pick) = cx.pin.and_then(|pin| self.pick_pinned(pin, kind, cx)) {
            return Ok(pick);
        }
        let drawn = self.draw_level(kind, cx);
        let others = (0..self.levels.len()).filter(|&level| level != drawn);
        let mut obstacle = Obstacle::Empty;
        for level in std::iter::once(drawn).chain(others) {
            let Some(level) = self.levels.get(level) else { continue };
            if level.is_at_limit() {
                obstacle = obstacle.max(Obstacle::AtLimit);
                continue;
            }
            match level.set.pick(kind, cx) {
                Ok((candidate, lease)) => return Ok(picked(level.tier, self.reason(level), candidate, lease)),
                Err(found) => obstacle = obstacle.max(found),
            }
        }
        Err(self.refused(obstacle))
    }

    /// The tiers, best first.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The endpoints that one of [`Self::tiers`] picks from.
    pub fn endpoints_of(&self, tier: usize) -> impl Iterator<Item = EndpointIx> {
        self.candidates_of(tier).map(|candidate| candidate.endpoint)
    }

    pub(crate) fn candidates_of(&self, tier: usize) -> impl Iterator<Item = &Candidate> {
        self.levels.iter().filter(move |level| level.tier == tier).flat_map(|level| level.set.candidates())
    }

    /// A client goes back to where it was in ordinary times only: in panic its endpoint may be the one that failed.
    /// Nor does it go over the bound of a hash policy, which is there so that nobody has to carry more than that.
    fn pick_pinned(&self, pin: EndpointIx, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> Option<Pick> {
        let (level, candidate) = self.levels.iter().find_map(|level| Some((level, level.set.find(pin)?)))?;
        if self.tiers[level.tier].panic || cx.tried.contains(pin) || level.set.is_over_bound(kind, candidate) {
            return None;
        }
        cx.considered.note(candidate);
        Some(picked(level.tier, Reason::Sticky, candidate, candidate.reserve(cx.now)?))
    }

    /// No die is cast where one level gets everything, which is nearly always. Where the policy goes by a key, the level
    /// does so, too: otherwise a client would be sent to two servers in turn while a tier spills over (Envoy: hash % 100).
    fn draw_level(&self, kind: Kind, cx: &mut PickContext<'_, impl Dice>) -> usize {
        if let Some(only) = self.levels.iter().position(|level| level.percent == 100) {
            return only;
        }
        let by_key = self.levels.first().is_some_and(|level| level.set.goes_by_key(kind));
        let mut left = match cx.key.filter(|_| by_key) {
            Some(key) => u32::try_from(key % 100).unwrap_or(0),
            None => cx.dice.below(100),
        };
        let takes = |level: &Level| {
            let here = left < level.percent;
            left = left.saturating_sub(level.percent);
            here
        };
        self.levels.iter().position(takes).unwrap_or(0)
    }

    fn reason(&self, level: &Level) -> Reason {
        match level.tier {
            _ if self.tiers[level.tier].panic => Reason::Panic,
            _ if level.degraded => Reason::Degraded,
            0 => Reason::Preferred,
            _ => Reason::Spill,
        }
    }

    fn refused(&self, obstacle: Obstacle) -> NoPick {
        match (self.refusal, obstacle) {
            (Refusal::NoEndpoints, _) => NoPick::NoEndpoints,
            (Refusal::Strict, _) => NoPick::StrictRefused,
            (Refusal::Plain, Obstacle::Empty) => NoPick::NoneReady,
            (Refusal::Plain, Obstacle::AllTried) => NoPick::AllTried,
            (Refusal::Plain, Obstacle::Full) => NoPick::AllFull,
            (Refusal::Plain, Obstacle::TooEarly) => NoPick::RateLimited,
            (Refusal::Plain, Obstacle::AtLimit) => NoPick::LimitReached,
        }
    }
}

fn picked(tier: usize, reason: Reason, candidate: &Candidate, lease: Lease) -> Pick {
    let tier = u8::try_from(tier).unwrap_or(u8::MAX);
    Pick { endpoint: candidate.endpoint, locality: candidate.locality, tier, reason, lease }
}

impl Tier {
    /// The localities of this tier, in the order of the cluster.
    pub fn localities(&self) -> &[LocalityIx] {
        &self.localities
    }

    /// How much of the class's traffic its healthy endpoints get, 0 to 100. With what degraded ones get, all tiers have 100.
    pub fn load_percent(&self) -> u32 {
        self.load_percent
    }

    /// How much its degraded endpoints get besides, because all healthy ones together cannot carry everything.
    pub fn degraded_percent(&self) -> u32 {
        self.degraded_percent
    }

    /// Whether health is ignored here because too much has failed.
    pub fn panic(&self) -> bool {
        self.panic
    }
}

impl Kind {
    /// 0 or 1, where something is kept for each.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Tunnel => 0,
            Self::Request => 1,
        }
    }

    /// The word that metrics and people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Request => "request",
        }
    }
}

impl Reason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 5] = [Self::Preferred, Self::Spill, Self::Panic, Self::Degraded, Self::Sticky];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Spill => "spill",
            Self::Panic => "panic",
            Self::Degraded => "degraded",
            Self::Sticky => "sticky",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl NoPick {
    /// Every cause, for metrics that start at zero.
    pub const ALL: [Self; 7] = [
        Self::NoEndpoints,
        Self::NoneReady,
        Self::AllFull,
        Self::AllTried,
        Self::RateLimited,
        Self::LimitReached,
        Self::StrictRefused,
    ];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::NoneReady => "none-ready",
            Self::AllFull => "all-full",
            Self::AllTried => "all-tried",
            Self::RateLimited => "rate-limited",
            Self::LimitReached => "limit-reached",
            Self::StrictRefused => "strict-refused",
        }
    }
}
