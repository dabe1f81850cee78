//! Asks the policy, and keeps the reason.

use std::sync::Arc;

use policies::{Kind, NoPick, Pick, PickContext, Reason, Tried};

use crate::affinity::Affinity;
use crate::cluster::sticky::Lookup;
use crate::cluster::{Client, ClusterPlan};
use crate::decisions::{Chosen, Decision, Note};
use crate::state::State;
use crate::trip::{Picked, Trip};
use crate::worker::with_local;

/// Picks an endpoint for a client and reserves its lease. The pick is noted under the trip's connection.
///
/// # Errors
/// When no endpoint may get this client; the reason says why.
pub fn pick(
    state: &State,
    cluster: &ClusterPlan,
    client: &Client,
    affinity: Affinity,
    kind: Kind,
    tried: &Tried,
    trip: &Trip,
) -> Result<(Picked, policies::EndpointIx), NoPick> {
    let now = state.clock.now();
    let class = cluster.class_of(client);
    let picked = with_local(|local| {
        let dice = local.dice.state();
        let context = PickContext::new(&mut local.dice, &mut local.cursors, tried, now);
        let mut cx = PickContext { key: affinity.key, pin: affinity.pin, ..context };
        let picked = cluster.pick_in(class, kind, &mut cx);
        let note = Note {
            connection: trip.origin.connection,
            at: now,
            dice,
            key: cx.key,
            pin: cx.pin,
            tried,
            considered: cx.considered,
            generation: trip.generation,
            plan: cluster.id,
            roster: cluster.roster.id,
            rule: class.0,
            cell: class.1,
            kind,
            outcome: picked.as_ref().map(|pick| chosen(cluster, pick)).map_err(|no_pick| *no_pick),
        };
        local.note(&state.decisions, Decision::new(&note));
        picked
    });
    if affinity.pin.is_some() && tried.is_empty() {
        let back = picked.as_ref().is_ok_and(|pick| pick.reason == Reason::Sticky);
        cluster.state.sticky.count(if back { Lookup::Hit } else { Lookup::Unavailable });
    }
    match picked {
        Ok(pick) => {
            let endpoint = Arc::clone(&cluster.members[pick.endpoint.0 as usize]);
            let locality = cluster.locality_name(pick.locality).clone();
            endpoint.picked();
            state.metrics.picked(&cluster.config.name, &locality, pick.reason.as_str());
            Ok((Picked { endpoint, locality, reason: pick.reason, lease: pick.lease, stay: None }, pick.endpoint))
        }
        Err(no_pick) => {
            // After a try that failed, "nobody else" is no news of its own.
            if tried.is_empty() {
                state.metrics.pick_failed(&cluster.config.name, no_pick.as_str());
            }
            Err(no_pick)
        }
    }
}

fn chosen(cluster: &ClusterPlan, pick: &Pick) -> Chosen {
    let address = cluster.members[pick.endpoint.0 as usize].address;
    Chosen { address, tier: pick.tier, reason: pick.reason }
}
