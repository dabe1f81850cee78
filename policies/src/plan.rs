//! The pick: from a compiled plan, for one client.
//!
//! Everything that can be decided beforehand is in the plan. What is left is to draw a tier, to ask the policy for an
//! endpoint of it, and to reserve a lease there. A tier where everything is full or tried passes the client on to the
//! others, best first.

use std::{fmt, sync::Arc};

use crate::{
    candidates::{Candidate, CandidateSet, Obstacle},
    cursors::Cursors,
    dice::Dice,
    endpoint::{EndpointIx, LocalityIx},
    load::Lease,
    tried::Tried,
};

/// Where one class of clients goes, compiled from one [`ClusterView`](crate::ClusterView).
#[derive(Debug)]
pub struct Plan {
    pub(crate) tiers: Box<[Tier]>,
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
    pub(crate) panic: bool,
    pub(crate) set: Arc<CandidateSet>,
}

/// Which of the cluster's two policies chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A TCP connection or an upgraded one: `policy`.
    Tunnel,
    /// One HTTP request: `request_policy`.
    Request,
}

/// What a pick needs from the worker that asks for it.
#[derive(Debug)]
pub struct PickContext<'a, D> {
    pub dice: &'a mut D,
    pub cursors: &'a mut Cursors,
    /// Endpoints that failed this client before.
    pub tried: &'a Tried,
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
        let drawn = self.draw_tier(cx.dice);
        let others = (0..self.tiers.len()).filter(|&tier| tier != drawn);
        let mut obstacle = Obstacle::Empty;
        for tier in std::iter::once(drawn).chain(others) {
            match self.tiers.get(tier).map_or(Err(Obstacle::Empty), |tier| tier.set.pick(kind, cx)) {
                Ok((candidate, lease)) => return Ok(self.picked(tier, candidate, lease)),
                Err(found) => obstacle = obstacle.max(found),
            }
        }
        Err(self.refused(obstacle))
    }

    /// The tiers, best first.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// No die is cast where one tier gets everything, which is nearly always.
    fn draw_tier(&self, dice: &mut impl Dice) -> usize {
        if let Some(only) = self.tiers.iter().position(|tier| tier.load_percent == 100) {
            return only;
        }
        let mut left = dice.below(100);
        let takes = |tier: &Tier| {
            let here = left < tier.load_percent;
            left = left.saturating_sub(tier.load_percent);
            here
        };
        self.tiers.iter().position(takes).unwrap_or(0)
    }

    fn picked(&self, tier: usize, candidate: &Candidate, lease: Lease) -> Pick {
        let reason = match tier {
            _ if self.tiers[tier].panic => Reason::Panic,
            0 => Reason::Preferred,
            _ => Reason::Spill,
        };
        let tier = u8::try_from(tier).unwrap_or(u8::MAX);
        Pick { endpoint: candidate.endpoint, locality: candidate.locality, tier, reason, lease }
    }

    fn refused(&self, obstacle: Obstacle) -> NoPick {
        match (self.refusal, obstacle) {
            (Refusal::NoEndpoints, _) => NoPick::NoEndpoints,
            (Refusal::Strict, _) => NoPick::StrictRefused,
            (Refusal::Plain, Obstacle::Empty) => NoPick::NoneReady,
            (Refusal::Plain, Obstacle::AllTried) => NoPick::AllTried,
            (Refusal::Plain, Obstacle::Full) => NoPick::AllFull,
        }
    }
}

impl Tier {
    /// The localities of this tier, in the order of the cluster.
    pub fn localities(&self) -> &[LocalityIx] {
        &self.localities
    }

    /// How much of the class's traffic this tier gets, 0 to 100. All tiers together get 100.
    pub fn load_percent(&self) -> u32 {
        self.load_percent
    }

    /// Whether health is ignored here because too much has failed.
    pub fn panic(&self) -> bool {
        self.panic
    }

    /// The endpoints that this tier picks from.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointIx> {
        self.set.candidates().iter().map(|candidate| candidate.endpoint)
    }
}

impl Kind {
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
    pub const ALL: [Self; 3] = [Self::Preferred, Self::Spill, Self::Panic];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Spill => "spill",
            Self::Panic => "panic",
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
    pub const ALL: [Self; 5] = [Self::NoEndpoints, Self::NoneReady, Self::AllFull, Self::AllTried, Self::StrictRefused];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::NoneReady => "none-ready",
            Self::AllFull => "all-full",
            Self::AllTried => "all-tried",
            Self::StrictRefused => "strict-refused",
        }
    }
}
