//! The hash policies: a client goes where its key says, and goes there again.
//!
//! The table is built on the configured members of a tier, and health is applied when it is read. So a server that fails
//! and comes back moves its own keys away and back, and nobody else's; rebuilding the table for each change of health would
//! move others, too, and cost milliseconds each time.
//!
//! With a balance factor the load is bounded: a member that is over its share passes further keys on, in an order of the
//! key's own (see [`crate::bounded_load`]). A client without a key is sent by dice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::{
    bounded_load::{BalanceFactor, Bound},
    candidates::Candidate,
    dice::Dice,
    endpoint::{EndpointIx, Weight},
    group::Group,
    load::Lease,
    maglev::{MaglevTable, TableSize},
    membership::Member,
    plan::PickContext,
    ring_hash::{Ring, RingSize},
};

/// Takes the first member in the key's order that can take the client and is not over its bound; if all that can take it
/// are over their bounds, the first of these.
pub(crate) fn pick<'a>(
    candidates: &'a [Candidate],
    hashed: &Hashed,
    cx: &mut PickContext<'_, impl Dice>,
) -> Option<(&'a Candidate, Lease)> {
    let key = cx.key.unwrap_or_else(|| cx.dice.next_u64());
    let bound = hashed.bound();
    let within = hashed.first(candidates, key, cx, |candidate| bound.is_none_or(|bound| has_room(bound, candidate)));
    within.or_else(|| bound.and_then(|_| hashed.first(candidates, key, cx, |_| true)))
}

fn has_room(bound: Bound, candidate: &Candidate) -> bool {
    bound.has_room(candidate.load().leases(), candidate.weight())
}

/// A table, and what it takes to read it with the health of this moment.
#[derive(Debug, Clone)]
pub(crate) struct Hashed {
    table: Arc<Table>,
    /// The position of each member among the candidates; none for those that may not be picked.
    ready: Arc<[Option<u32>]>,
    balance: Option<Balance>,
}

/// What bounded load is measured by.
#[derive(Debug, Clone)]
struct Balance {
    factor: BalanceFactor,
    /// Where the leases of the tier are summed up.
    groups: Arc<[Arc<Group>]>,
    /// Leases of the candidates that were taken before anybody summed them up, and less those in the groups that are on
    /// endpoints which may not be picked now. As of the compilation.
    correction: i64,
    weight: u64,
}

/// The configured members of a tier, and who of them may be picked.
pub(crate) struct Membership<'a> {
    pub(crate) members: Vec<(Arc<str>, Weight, EndpointIx)>,
    pub(crate) candidates: &'a [Candidate],
    pub(crate) groups: Vec<Arc<Group>>,
}

/// Which table, over whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TableKind {
    Maglev(TableSize),
    Ring(RingSize),
}

impl Hashed {
    pub(crate) fn new(
        kind: TableKind,
        factor: Option<BalanceFactor>,
        of: &Membership<'_>,
        tables: &HashTables,
    ) -> Self {
        let position = |ix: EndpointIx| of.candidates.binary_search_by_key(&ix, |candidate| candidate.endpoint).ok();
        let ready = of.members.iter().map(|&(_, _, ix)| position(ix).and_then(|at| u32::try_from(at).ok()));
        Self {
            table: tables.get(kind, of.members.iter().map(|(id, weight, _)| (Arc::clone(id), *weight)).collect()),
            ready: ready.collect(),
            balance: factor.map(|factor| Balance::new(factor, of)),
        }
    }

    fn bound(&self) -> Option<Bound> {
        self.balance.as_ref().map(Balance::bound)
    }

    pub(crate) fn is_over_bound(&self, candidate: &Candidate) -> bool {
        self.bound().is_some_and(|bound| !has_room(bound, candidate))
    }

    fn first<'a>(
        &self,
        candidates: &'a [Candidate],
        key: u64,
        cx: &mut PickContext<'_, impl Dice>,
        has_room: impl Fn(&Candidate) -> bool,
    ) -> Option<(&'a Candidate, Lease)> {
        let ready = |member: usize| self.ready.get(member).copied().flatten().map(|at| &candidates[at as usize]);
        let mut take = |candidate: &'a Candidate| {
            cx.considered.note(candidate);
            let able = candidate.can_take(cx.tried, cx.now) && has_room(candidate);
            able.then(|| candidate.reserve(cx.now)).flatten().map(|lease| (candidate, lease))
        };
        match &*self.table {
            Table::Maglev(table) => table.order(key).filter_map(ready).find_map(&mut take),
            Table::Ring(ring) => ring.order(key).filter_map(ready).find_map(&mut take),
        }
    }
}

impl Balance {
    fn new(factor: BalanceFactor, of: &Membership<'_>) -> Self {
        let held: i64 = of.candidates.iter().map(|candidate| i64::from(candidate.load().leases())).sum();
        Self {
            factor,
            groups: of.groups.clone().into(),
            correction: held - counted(&of.groups),
            weight: of.candidates.iter().map(|candidate| u64::from(candidate.weight().get())).sum(),
        }
    }

    fn bound(&self) -> Bound {
        let held = u64::try_from(counted(&self.groups) + self.correction).unwrap_or(0);
        Bound::new(self.factor, held, self.weight)
    }
}

fn counted(groups: &[Arc<Group>]) -> i64 {
    groups.iter().map(|group| i64::from(group.connections())).sum()
}

#[derive(Debug)]
enum Table {
    Maglev(MaglevTable),
    Ring(Ring),
}

/// The tables that are in use, so that a recompilation that changes no membership builds none. Keep one for each cluster
/// over all its snapshots. It is a memory and no state: what it answers does not depend on what it was asked before.
#[derive(Debug, Clone, Default)]
pub struct HashTables(Arc<Mutex<HashMap<TableKey, Weak<Table>>>>);

type TableKey = (TableKind, Vec<(Arc<str>, Weight)>);

impl HashTables {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many tables somebody uses.
    pub fn in_use(&self) -> usize {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.values().filter(|table| table.strong_count() > 0).count()
    }

    fn get(&self, kind: TableKind, members: Vec<(Arc<str>, Weight)>) -> Arc<Table> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, members);
        if let Some(table) = tables.get(&key).and_then(Weak::upgrade) {
            return table;
        }
        let table = Arc::new(Table::new(kind, &key.1));
        tables.retain(|_, table| table.strong_count() > 0);
        tables.insert(key, Arc::downgrade(&table));
        table
    }
}

impl Table {
    fn new(kind: TableKind, members: &[(Arc<str>, Weight)]) -> Self {
        let members: Vec<Member<'_>> = members.iter().map(|(id, weight)| Member { id, weight: *weight }).collect();
        match kind {
            TableKind::Maglev(size) => Self::Maglev(MaglevTable::new(&members, size)),
            TableKind::Ring(size) => Self::Ring(Ring::new(&members, size)),
        }
    }
}
