//! Opaque TCP: pick, connect, relay.

use policies::Kind as PickKind;

use crate::affinity::Affinity;
use crate::config::ClusterIx;
use crate::connection::Opened;
use crate::trip::{Kind, Trip};
use crate::tunnel::{Framing, Tunnel};
use crate::upstream::{self, Reached};

pub async fn serve(opened: Opened, cluster: ClusterIx) {
    let Opened { worker, snapshot, plan, io, origin, registered } = opened;
    registered.trip_begins();
    let mut trip = Trip::new(worker.state.clone(), Kind::Tcp, origin);
    let cluster = snapshot.cluster(cluster);
    let client = snapshot.client(trip.origin.client.ip());
    let affinity = Affinity::of(&worker.state, cluster, trip.origin.client.ip(), None);
    match upstream::reach(&worker.state, cluster, &client, affinity, PickKind::Tunnel, &mut trip).await {
        Ok(Reached { io: endpoint_io, endpoint }) => {
            registered.becomes_tunnel(endpoint, plan.config.timeouts.idle, cluster.config.outlier.watched());
            let close_wait = snapshot.config.drain.close_wait;
            // A task of its own: this one was large enough for every step of the prelude.
            tokio::spawn(Tunnel::new(io, endpoint_io, Framing::Opaque, &[], registered, trip, close_wait));
        }
        Err(error) => {
            // The client shall not take this for a service that closed in order.
            io.reset_on_close();
            trip.fail(error.outcome(), error);
        }
    }
}
