//! Who goes elsewhere when one configuration takes the place of another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

/// Where a client ended up in one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Landing {
    Endpoint {
        /// A position in [`Names::endpoints`].
        place: u32,
        /// Whether the same client always gets the same endpoint, so that another one is a move and not chance.
        by_key: bool,
    },
    /// Nobody would take it.
    Refused,
    /// No route leads to a cluster.
    Unrouted,
}

/// What one world calls its endpoints.
pub(super) struct Names {
    pub(super) endpoints: Vec<EndpointName>,
}

pub(super) struct EndpointName {
    /// As the files write it: the same address is the same server, whatever cluster and locality name it.
    pub(super) address: String,
    /// `cluster/locality`.
    pub(super) locality: String,
    pub(super) weight: u16,
    pub(super) max_connections: Option<u64>,
}

/// What decides how many clients an endpoint gets: its address, its weight and its limit.
type Setting<'n> = (&'n str, u16, Option<u64>);

/// The landings of all clients in two worlds.
#[derive(Default)]
pub(super) struct Landings(HashMap<(Landing, Landing), u64>);

/// Who moved, from the first configuration to the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moves {
    pub clients: u64,
    /// Clients that go to another locality, or are refused in one world only.
    pub other_locality: u64,
    /// Clients that get another endpoint with the same dice. Where load decides, most of it is chance: one pick that falls
    /// out differently changes the loads for all that follow.
    pub other_endpoint: u64,
    /// Clients that have to go to another endpoint: all that change their locality, and of those that stay in one whose
    /// endpoints or weights are different, so many as the new shares make necessary. This is what a limit is compared with.
    pub moved: u64,
    /// `moved` as a share of all clients, 0 to 1.
    pub share: f64,
    /// From one locality to another, the most first.
    pub localities: Vec<FromTo>,
    /// From one endpoint to another, the most first; with the same dice.
    pub endpoints: Vec<FromTo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FromTo {
    pub from: String,
    pub to: String,
    pub clients: u64,
}

impl Landings {
    pub(super) fn add(&mut self, old: Landing, new: Landing) {
        *self.0.entry((old, new)).or_default() += 1;
    }

    pub(super) fn moves(&self, old: &Names, new: &Names) -> Moves {
        let (mut localities, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
        let (mut left, mut stayed) = (0, Stayed { alike: old.localities_alike(new), ..Stayed::default() });
        for (&(before, after), &clients) in &self.0 {
            let (from, to) = (old.locality(before), new.locality(after));
            let (here, there) = (old.endpoint(before), new.endpoint(after));
            *endpoints.entry((here, there)).or_default() += clients;
            *localities.entry((from, to)).or_default() += clients;
            match (before, after) {
                (Landing::Endpoint { by_key: true, .. }, Landing::Endpoint { by_key: true, .. }) if from == to => {
                    stayed.by_key += if here == there { 0 } else { clients };
                }
                (Landing::Endpoint { .. }, Landing::Endpoint { .. }) if from == to => {
                    stayed.add(from, here, there, clients);
                }
                _ => left += if here == there { 0 } else { clients },
            }
        }
        let clients = self.0.values().sum();
        let (localities, endpoints) = (from_to(localities), from_to(endpoints));
        let all = |list: &[FromTo]| list.iter().map(|row| row.clients).sum::<u64>();
        let (other_locality, other_endpoint) = (all(&localities), all(&endpoints));
        let moved = left + stayed.have_to_move();
        let share = if clients == 0 { 0.0 } else { moved as f64 / clients as f64 };
        Moves { clients, other_locality, other_endpoint, moved, share, localities, endpoints }
    }
}

/// Clients that keep their locality, by endpoint before and after.
#[derive(Default)]
struct Stayed<'n> {
    /// Localities whose endpoints are what they were: what is different there is chance.
    alike: BTreeSet<&'n str>,
    counts: BTreeMap<(&'n str, &'n str), (u64, u64)>,
    /// Those whose key leads to another endpoint.
    by_key: u64,
}

impl<'n> Stayed<'n> {
    fn add(&mut self, locality: &'n str, before: &'n str, after: &'n str, clients: u64) {
        if self.alike.contains(locality) {
            return;
        }
        self.counts.entry((locality, before)).or_default().0 += clients;
        self.counts.entry((locality, after)).or_default().1 += clients;
    }

    /// What an endpoint loses has to go to another one.
    fn have_to_move(&self) -> u64 {
        self.by_key + self.counts.values().map(|(before, after)| before.saturating_sub(*after)).sum::<u64>()
    }
}

impl Names {
    fn localities_alike<'n>(&'n self, other: &'n Names) -> BTreeSet<&'n str> {
        let (here, there) = (self.by_locality(), other.by_locality());
        let alike = |(name, endpoints): (&'n str, BTreeSet<_>)| (there.get(name) == Some(&endpoints)).then_some(name);
        here.into_iter().filter_map(alike).collect()
    }

    fn by_locality(&self) -> BTreeMap<&str, BTreeSet<Setting<'_>>> {
        let mut localities: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            let known = (&*endpoint.address, endpoint.weight, endpoint.max_connections);
            localities.entry(&*endpoint.locality).or_default().insert(known);
        }
        localities
    }

    fn locality(&self, landing: Landing) -> &str {
        self.find(landing, |name| &name.locality)
    }

    fn endpoint(&self, landing: Landing) -> &str {
        self.find(landing, |name| &name.address)
    }

    fn find(&self, landing: Landing, name: impl Fn(&EndpointName) -> &str) -> &str {
        match landing {
            Landing::Endpoint { place, .. } => name(&self.endpoints[place as usize]),
            Landing::Refused => "(refused)",
            Landing::Unrouted => "(no route)",
        }
    }
}

fn from_to(counts: BTreeMap<(&str, &str), u64>) -> Vec<FromTo> {
    let moved = counts.into_iter().filter(|((from, to), _)| from != to);
    let mut rows: Vec<FromTo> =
        moved.map(|((from, to), clients)| FromTo { from: from.to_owned(), to: to.to_owned(), clients }).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.clients));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(endpoints: &[(&str, &str)]) -> Names {
        let name = |&(address, locality): &(&str, &str)| EndpointName {
            address: address.to_owned(),
            locality: locality.to_owned(),
            weight: 1,
            max_connections: None,
        };
        Names { endpoints: endpoints.iter().map(name).collect() }
    }

    fn landings(counts: &[(u32, u32, u64)]) -> Landings {
        landings_by([false; 2], counts)
    }

    /// Whether it goes by key in the old world and in the new one.
    fn landings_by([old, new]: [bool; 2], counts: &[(u32, u32, u64)]) -> Landings {
        let endpoint = |place, by_key| Landing::Endpoint { place, by_key };
        let landed = |&(from, to, clients): &(u32, u32, u64)| ((endpoint(from, old), endpoint(to, new)), clients);
        Landings(counts.iter().map(landed).collect())
    }

    const PLACES: [(&str, &str); 3] = [("a", "im/fra"), ("b", "im/fra"), ("c", "im/par")];

    #[test]
    fn what_chance_reshuffles_within_a_locality_does_not_have_to_move() {
        let (old, mut new) = (names(&PLACES), names(&PLACES));
        let moves = landings(&[(0, 1, 40), (1, 0, 30), (0, 0, 30)]).moves(&old, &new);
        assert_eq!((moves.other_locality, moves.other_endpoint, moves.moved), (0, 70, 0));
        new.endpoints[1].weight = 2;
        let moves = landings(&[(0, 1, 40), (1, 0, 30), (0, 0, 30)]).moves(&old, &new);
        assert_eq!((moves.other_locality, moves.other_endpoint, moves.moved), (0, 70, 10));
        assert_eq!(moves.endpoints[0], FromTo { from: "a".into(), to: "b".into(), clients: 40 });
    }

    #[test]
    fn with_a_key_every_other_endpoint_is_a_move() {
        let names = names(&PLACES);
        let moved = |by_key| landings_by(by_key, &[(0, 1, 40), (1, 0, 30), (0, 0, 30)]).moves(&names, &names).moved;
        assert_eq!(moved([true, true]), 70);
        assert_eq!((moved([false, true]), moved([true, false])), (0, 0), "nothing held them where they were");
    }

    #[test]
    fn another_locality_and_a_refusal_are_moves() {
        let names = names(&PLACES);
        let mut landings = landings(&[(0, 2, 5), (2, 0, 5), (1, 1, 80)]);
        (0..10).for_each(|_| landings.add(Landing::Endpoint { place: 1, by_key: false }, Landing::Refused));
        let moves = landings.moves(&names, &names);
        assert_eq!((moves.clients, moves.other_locality, moves.moved), (100, 20, 20));
        assert_eq!(moves.localities[0], FromTo { from: "im/fra".into(), to: "(refused)".into(), clients: 10 });
    }

    #[test]
    fn an_endpoint_that_gets_another_locality_is_the_same_server_elsewhere() {
        let (old, new) = (names(&[("a", "im/fra")]), names(&[("a", "im/frankfurt")]));
        let moves = landings(&[(0, 0, 7)]).moves(&old, &new);
        assert_eq!((moves.other_locality, moves.other_endpoint, moves.moved), (7, 0, 0));
    }
}
