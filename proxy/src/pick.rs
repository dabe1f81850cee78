//! Asks the policy, and keeps the reason.

use std::sync::Arc;

use policies::{Kind, NoPick, PickContext, Reason, Tried};

use crate::affinity::Affinity;
use crate::cluster::sticky::Lookup;
use crate::cluster::{Client, ClusterPlan};
use crate::state::State;
use crate::trip::Picked;
use crate::worker::with_local;

/// Picks an endpoint for a client and reserves its lease.
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
) -> Result<(Picked, policies::EndpointIx), NoPick> {
    let now = state.clock.now();
    let picked = with_local(|local| {
        let context = PickContext::new(&mut local.dice, &mut local.cursors, tried, now);
        cluster.pick(client, kind, &mut PickContext { key: affinity.key, pin: affinity.pin, ..context })
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
