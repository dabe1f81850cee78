//! What operators set by hand on the running edge, in place of what the files say.
//!
//! An override belongs to an identity, a locality by its name or an endpoint by its address, and not to a snapshot: it
//! survives reloads and DNS answers, stands in no file, and ends when somebody takes it back, when its time is over, or
//! with the process. Each says why, by whom and since when, so that nobody has to guess who moved the traffic.

use std::fmt;
use std::sync::Arc;

use policies::{Endpoint, Share, Standing, Tick, Weight};

/// What can be set by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of an endpoint: the operator's vote on its health.
    State,
    /// Of an endpoint.
    Weight,
    /// Of a locality.
    Share,
    /// Of a locality: what the weights of its endpoints are multiplied by.
    WeightPercent,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::State, Kind::Weight, Kind::Share, Kind::WeightPercent];

    /// The word that the API, the log and metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::State => "state",
            Kind::Weight => "weight",
            Kind::Share => "share",
            Kind::WeightPercent => "weight-percent",
        }
    }
}

/// What it is set to. `Ready` and 100 % are what counts where nothing is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    State(Service),
    Weight(Weight),
    Share(Share),
    /// 1 to [`MOST_WEIGHT_PERCENT`].
    WeightPercent(u16),
}

/// The largest factor on the weights of a locality, in percent.
pub const MOST_WEIGHT_PERCENT: u16 = 1000;

/// Whether an endpoint serves, as far as the operator is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Ready,
    /// No new clients; those that are there are asked to leave.
    Drain,
    /// No new clients; those that are there stay.
    Maintenance,
}

impl Service {
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Ready => "ready",
            Service::Drain => "drain",
            Service::Maintenance => "maintenance",
        }
    }

    /// The operator's vote.
    pub fn standing(self) -> Standing {
        match self {
            Service::Ready => Standing::Up,
            Service::Drain => Standing::Draining,
            Service::Maintenance => Standing::Maintenance,
        }
    }
}

impl Value {
    pub fn kind(self) -> Kind {
        match self {
            Value::State(_) => Kind::State,
            Value::Weight(_) => Kind::Weight,
            Value::Share(_) => Kind::Share,
            Value::WeightPercent(_) => Kind::WeightPercent,
        }
    }

    /// Whether no new client comes any more.
    pub fn takes_out_of_service(self) -> bool {
        matches!(self, Value::State(Service::Drain | Service::Maintenance) | Value::Share(Share::NONE))
    }
}

/// As people write it: `drain`, `5`, `90%`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::State(service) => f.write_str(service.as_str()),
            Value::Weight(weight) => write!(f, "{}", weight.get()),
            Value::Share(share) => write!(f, "{}%", share.as_percent()),
            Value::WeightPercent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// One thing that is set, with what an operator wants to know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    pub value: Value,
    pub note: Note,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Empty when none was given.
    pub reason: Arc<str>,
    /// Who says to have done it: for the colleagues, not a proof.
    pub by: Arc<str>,
    pub since: Tick,
    /// When it ends by itself.
    pub until: Option<Tick>,
}

impl Note {
    /// `by the operator`, with the reason if there is one.
    pub fn describe(&self) -> String {
        if self.reason.is_empty() { "by the operator".to_owned() } else { format!("by the operator: {}", self.reason) }
    }
}

/// All that is set on one identity, at most one of a kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides(Vec<Override>);

impl Overrides {
    /// Replaces what was set of that kind; what it was.
    pub fn set(&mut self, new: Override) -> Option<Override> {
        let old = self.take(new.value.kind());
        self.0.push(new);
        old
    }

    pub fn take(&mut self, kind: Kind) -> Option<Override> {
        let at = self.0.iter().position(|set| set.value.kind() == kind)?;
        Some(self.0.swap_remove(at))
    }

    pub fn get(&self, kind: Kind) -> Option<&Override> {
        self.0.iter().find(|set| set.value.kind() == kind)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of [`Kind::ALL`].
    pub fn all(&self) -> impl Iterator<Item = &Override> {
        Kind::ALL.into_iter().filter_map(|kind| self.get(kind))
    }

    pub fn weight(&self) -> Option<Weight> {
        self.0.iter().find_map(|set| if let Value::Weight(weight) = set.value { Some(weight) } else { None })
    }

    pub fn share(&self) -> Option<Share> {
        self.0.iter().find_map(|set| if let Value::Share(share) = set.value { Some(share) } else { None })
    }

    /// 100 unless something else is set.
    pub fn weight_percent(&self) -> u16 {
        let set = |set: &Override| if let Value::WeightPercent(percent) = set.value { Some(percent) } else { None };
        self.0.iter().find_map(set).unwrap_or(100)
    }
}

/// Multiplies the weights of the endpoints of each locality by its percentage.
///
/// Weights are whole numbers and often 1, of which 90 % is nothing that can be written. What counts is their proportion,
/// so all are brought to the smallest whole numbers that have it, or, where these are too large for a weight, to the
/// nearest that are not.
pub fn scale_weights(endpoints: &mut [Endpoint], percent_of: impl Fn(policies::LocalityIx) -> u16) {
    if endpoints.iter().all(|endpoint| percent_of(endpoint.locality) == 100) {
        return;
    }
    let scaled = |endpoint: &Endpoint| u64::from(endpoint.weight.get()) * u64::from(percent_of(endpoint.locality));
    let most = endpoints.iter().map(scaled).max().unwrap_or(1).max(1);
    let common = endpoints.iter().map(scaled).fold(0, greatest_common_divisor).max(1);
    // As a fraction: `times` / `over`.
    let (times, over) = if most / common <= u64::from(u16::MAX) { (1, common) } else { (u64::from(u16::MAX), most) };
    for endpoint in endpoints {
        let weight = (scaled(endpoint) * times + over / 2) / over;
        let weight = u16::try_from(weight.max(1)).unwrap_or(u16::MAX);
        endpoint.weight = Weight::new(weight).unwrap_or_default();
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::LocalityIx;

    fn set(value: Value) -> Override {
        Override { value, note: Note { reason: "".into(), by: "".into(), since: Tick::default(), until: None } }
    }

    #[test]
    fn one_of_a_kind_is_set_at_a_time() {
        let mut overrides = Overrides::default();
        assert_eq!(overrides.set(set(Value::Share(Share::NONE))), None);
        overrides.set(set(Value::WeightPercent(50)));
        let half = Share::percent(50).unwrap();
        let before = overrides.set(set(Value::Share(half))).map(|old| old.value);
        assert_eq!(before, Some(Value::Share(Share::NONE)));
        assert_eq!((overrides.share(), overrides.weight_percent(), overrides.weight()), (Some(half), 50, None));
        assert!(overrides.take(Kind::Share).is_some() && overrides.take(Kind::Share).is_none());
        assert_eq!((overrides.share(), overrides.all().count()), (None, 1));
    }

    /// Weights of two localities, multiplied.
    #[track_caller]
    fn check(weights: [u16; 3], percents: [u16; 2], want: [u16; 3]) {
        let endpoint = |(weight, locality)| Endpoint {
            weight: Weight::new(weight).unwrap(),
            locality: LocalityIx(locality),
            ..Endpoint::default()
        };
        let mut endpoints = weights.into_iter().zip([0, 0, 1]).map(endpoint).collect::<Vec<_>>();
        scale_weights(&mut endpoints, |locality| percents[usize::from(locality.0)]);
        assert_eq!(endpoints.iter().map(|endpoint| endpoint.weight.get()).collect::<Vec<_>>(), want);
    }

    #[test]
    fn the_weights_of_a_locality_are_multiplied_in_proportion() {
        check([1, 2, 3], [100, 100], [1, 2, 3]);
        check([1, 1, 1], [90, 100], [9, 9, 10]);
        check([1, 2, 1], [50, 100], [1, 2, 2]);
        check([2, 4, 6], [100, 150], [2, 4, 9]);
        check([1, 1, 1], [1, 1000], [1, 1, 1000]);
        // What is too large for a weight is brought down, and nobody to nothing.
        check([65_535, 1, 65_535], [100, 1000], [6554, 1, 65_535]);
    }
}
