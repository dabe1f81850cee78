//! A map of the world, as GeoDNS servers have it: where the clients of an area go, the narrowest area first.
//!
//! The semantics are those of gdnsd's geoip plugin (its manual, "map"): areas nest, what is said of a wider one holds for
//! all of it that no narrower one speaks of, and levels that do not matter are skipped. A map is no mechanism of its own:
//! it becomes rules in the order of their width, so the same look-up decides and the same explanation is given.

use crate::rule::{Rule, Subdivision};

/// What an entry of a map is for. The order is that of their width, the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    Subdivision(Subdivision),
    /// ISO 3166-1 alpha-2.
    Country([u8; 2]),
    Continent([u8; 2]),
    World,
}

impl Area {
    /// A rule for the clients of this area, with all else as in `rule`.
    pub fn rule(self, mut rule: Rule) -> Rule {
        match self {
            Self::Subdivision(subdivision) => rule.subdivisions = vec![subdivision],
            Self::Country(country) => rule.countries = vec![country],
            Self::Continent(continent) => rule.continents = vec![continent],
            Self::World => {}
        }
        rule
    }
}
