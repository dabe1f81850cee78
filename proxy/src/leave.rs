//! How connections leave: asked one by one, at one pace, whoever wants them gone.
//!
//! A stop, a reload that removes a listener or endpoint, and an endpoint that drains or (with `cut-on-down`) is down give
//! an [`Order`]. The pacer finds the connections that it
//! means and puts a `leave` into their command slots, `drain.rate` a second, so that clients come back as a stream and
//! not as a storm. An order lasts until nobody it means is left: who slipped in meanwhile is asked too.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use policies::Standing;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster::votes::{Source, Votes};
use crate::config::Name;
use crate::events;
use crate::listener::ListenerSlot;
use crate::registry::{Command, Entry, LeaveReason, Registry};
use crate::snapshot::Snapshot;
use crate::state::State;

/// How often the pacer hands out commands.
const TICK: Duration = Duration::from_millis(50);

/// Orders that may wait; each reload gives a few.
pub const ORDERS: usize = 1024;

/// Who is to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Everybody,
    Listener(ListenerSlot, Name),
    Endpoint(Name, SocketAddr),
}

impl Who {
    fn means(&self, entry: &Entry) -> bool {
        match self {
            Who::Everybody => true,
            Who::Listener(slot, _) => entry.listener.slot == *slot,
            Who::Endpoint(cluster, address) => {
                entry.endpoint().is_some_and(|endpoint| endpoint.cluster == *cluster && endpoint.address == *address)
            }
        }
    }

    /// What was to be emptied is in use again: nobody has to leave any more for this reason. A reload named it again, or
    /// the endpoint no longer drains or is no longer down.
    fn is_back(&self, reason: LeaveReason, snapshot: &Snapshot) -> bool {
        match self {
            Who::Everybody => false,
            Who::Listener(slot, _) => snapshot.listener(*slot).is_some(),
            Who::Endpoint(cluster, address) => {
                let plan = snapshot.clusters.iter().find(|plan| plan.config.name == *cluster);
                let members = plan.map_or(&[][..], |plan| &plan.members);
                members.iter().any(|member| member.address == *address && member.leaving() != Some(reason))
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Who::Everybody => "everybody".into(),
            Who::Listener(_, name) => format!("listener {name}"),
            Who::Endpoint(cluster, address) => format!("endpoint {address} of {cluster}"),
        }
    }
}

/// Who is to leave, why, and by when everybody must have been asked.
#[derive(Debug, Clone)]
pub struct Order {
    pub who: Who,
    pub reason: LeaveReason,
    pub asked_by: Option<Instant>,
}

/// Why the tunnels of an endpoint with these votes should leave it, if they should. A removed endpoint has its order
/// already; one in maintenance keeps its tunnels until an operator drains it, whatever its agent says of new clients.
pub fn reason_to_leave(votes: &Votes, cut_on_down: bool) -> Option<LeaveReason> {
    match votes.standing() {
        _ if votes.is_removed() => None,
        Standing::Draining => Some(LeaveReason::EndpointDraining),
        _ if votes.of(Source::Operator).standing == Standing::Draining => Some(LeaveReason::EndpointDraining),
        _ if cut_on_down && votes.has(Standing::Down) => Some(LeaveReason::EndpointDown),
        _ => None,
    }
}

/// Takes orders until its channel closes.
pub async fn pace(state: Arc<State>, mut orders: mpsc::Receiver<Order>) {
    let mut pacer = Pacer { state, active: Vec::new(), budget: 0.0 };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => pacer.begin(order),
                None => return,
            },
            _ = tick.tick(), if !pacer.active.is_empty() => pacer.step(),
        }
    }
}

struct Pacer {
    state: Arc<State>,
    active: Vec<Active>,
    /// Fractions of a connection that may be asked.
    budget: f64,
}

struct Active {
    order: Order,
    /// Asked next; empty when everybody who was found has been asked.
    waiting: VecDeque<Weak<Entry>>,
}

impl Pacer {
    fn begin(&mut self, order: Order) {
        let waiting = unasked(&self.state.registry, &order.who);
        let rate = self.state.snapshot.load().config.drain.rate_per_second;
        events::leaving_began(order.reason, &order.who.describe(), waiting.len(), rate);
        let active = Active { order, waiting };
        // A stop means everybody, and has a deadline: it does not wait for its turn.
        match active.order.who {
            Who::Everybody => self.active.insert(0, active),
            _ => self.active.push(active),
        }
    }

    fn step(&mut self) {
        let snapshot = self.state.snapshot.load_full();
        self.active.retain(|active| !active.order.who.is_back(active.order.reason, &snapshot));
        self.budget += self.rate() * TICK.as_secs_f64();
        while self.budget >= 1.0 {
            let Some(active) = self.active.first_mut() else { break };
            let Some(entry) = active.waiting.pop_front() else {
                if self.next_round() {
                    continue;
                } else {
                    break;
                };
            };
            if let Some(entry) = entry.upgrade().filter(|entry| entry.command().is_none()) {
                entry.tell(Command::Leave(active.order.reason));
                events::asked_to_leave(&self.state, active.order.reason);
                self.budget -= 1.0;
            }
        }
        if self.active.is_empty() {
            self.budget = 0.0;
        }
    }

    /// The first order has asked everybody it found. It ends when a second look finds nobody; the ones that came after
    /// it get their turn either way.
    fn next_round(&mut self) -> bool {
        let mut active = self.active.remove(0);
        active.waiting = unasked(&self.state.registry, &active.order.who);
        if !active.waiting.is_empty() {
            self.active.insert(0, active);
        } else if active.order.who == Who::Everybody {
            // A stop stays in force: connections that are being set up come into the registry late.
            self.active.push(active);
            return self.active.len() > 1;
        }
        !self.active.is_empty()
    }

    /// As configured, or faster when a deadline asks for it.
    fn rate(&self) -> f64 {
        let configured = self.state.snapshot.load().config.drain.rate_per_second;
        let needed = self.active.iter().filter_map(|active| {
            let left = active.order.asked_by?.saturating_duration_since(Instant::now()).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a number of connections")]
            let waiting = active.waiting.len() as f64;
            Some(waiting / left.max(TICK.as_secs_f64()))
        });
        needed.fold(configured, f64::max)
    }
}

fn unasked(registry: &Registry, who: &Who) -> VecDeque<Weak<Entry>> {
    let mut found = VecDeque::new();
    registry.for_each(|entry| {
        if entry.command().is_none() && who.means(entry) {
            found.push_back(Arc::downgrade(entry));
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::Tick;

    #[test]
    fn who_drains_or_is_down_loses_its_tunnels_and_nobody_else() {
        let now = Tick::default();
        let check = |cast: &[(Source, Standing)], kept, cut| {
            let mut votes = Votes::new(now);
            cast.iter().for_each(|(source, standing)| votes.cast(*source, *standing, "because", now));
            assert_eq!((reason_to_leave(&votes, false), reason_to_leave(&votes, true)), (kept, cut), "{cast:?}");
        };
        let (draining, down) = (Some(LeaveReason::EndpointDraining), Some(LeaveReason::EndpointDown));
        check(&[], None, None);
        check(&[(Source::Outlier, Standing::Suspect)], None, None);
        check(&[(Source::Probes, Standing::Down)], None, down);
        check(&[(Source::Agent, Standing::Draining)], draining, draining);
        check(&[(Source::Operator, Standing::Maintenance)], None, None);
        check(&[(Source::Operator, Standing::Maintenance), (Source::Probes, Standing::Down)], None, down);
        check(&[(Source::Operator, Standing::Draining), (Source::Probes, Standing::Down)], draining, draining);
        let by_agent = (Source::Agent, Standing::Maintenance);
        check(&[by_agent, (Source::Operator, Standing::Draining)], draining, draining);
        check(&[(Source::Operator, Standing::Maintenance), (Source::Agent, Standing::Draining)], None, None);
        check(&[(Source::Membership, Standing::Draining)], None, None);
    }
}
