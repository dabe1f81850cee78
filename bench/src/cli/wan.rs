//! The command line of `wan`: a long or bad way, as a relay or as a network, that obeys while it runs.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    harness::{
        self,
        wan::{COMMANDS, Control, Link, Way, Ways},
    },
    output, stop, units,
};

#[derive(Debug, Args)]
#[command(after_help = format!("Commands on the control address, one a line, each answered by `ok` or `error: …`:\n\n{COMMANDS}"))]
pub(super) struct Wan {
    /// Where it listens; port 0 takes a free one, which the ready line names.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Relays TCP to this address.
    #[arg(long, required_unless_present = "namespace")]
    to: Option<SocketAddr>,
    /// Makes a network namespace of this name instead, and carries packets between it and here: round trips, losses and
    /// retransmissions are then the kernel's own. The ready line has both addresses; start programs there with
    /// `ip netns exec NAME …`. Needs root, /dev/net/tun and iproute2.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "listen"])]
    namespace: Option<String>,
    /// Where it takes commands while it runs, below. Whoever can connect can command.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// How much later bytes arrive, each way: `40ms`, `1.5s`.
    #[arg(long, value_parser = units::duration, default_value = "0s")]
    delay: Duration,
    /// Up to so much more, evenly drawn, each way.
    #[arg(long, value_parser = units::duration, default_value = "0s")]
    jitter: Duration,
    /// The chance of a segment to be lost, each way: `2%`. Above TCP that is a stall for a retransmission time-out. With
    /// `--namespace`, of a packet.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    loss: f64,
    /// Bytes a second, each way: `64000`, `64KiB`, `1MiB`; as many as there are unless set.
    #[arg(long, value_parser = units::bytes)]
    rate: Option<u64>,
}

/// What is on the way, kept as long as it is needed.
enum Place {
    Relay(harness::Wan),
    Network(Link),
}

impl Wan {
    /// Relays until asked to stop.
    pub(super) async fn run(self) -> Result<()> {
        let Self { listen, to, namespace, control, delay, jitter, loss, rate } = self;
        let mut place = match (namespace, to) {
            (Some(name), _) => Place::Network(Link::start(&name)?),
            (None, to) => {
                let to = to.context("nowhere to relay to: say --to")?;
                Place::Relay(harness::Wan::start(listen, to, delay).await?)
            }
        };
        place.ways().change_both(|way| *way = Way { delay, jitter, loss, bytes_per_second: rate, silent: false });
        let mut addresses = place.addresses();
        let Some(control) = control else {
            output::ready(&addresses);
            return tokio::select! {
                outcome = stop::asked() => outcome,
                error = place.broken() => Err(error),
            };
        };
        let control = Control::bind(control, Arc::clone(place.ways()))?;
        addresses["control"] = json!([control.address()?.to_string()]);
        output::ready(&addresses);
        tokio::select! {
            outcome = control.run() => outcome,
            outcome = stop::asked() => outcome,
            error = place.broken() => Err(error),
        }
    }
}

impl Place {
    /// Waits until it works no more.
    async fn broken(&mut self) -> anyhow::Error {
        match self {
            Self::Relay(_) => pending().await,
            Self::Network(link) => link.broken().await,
        }
    }

    fn ways(&self) -> &Arc<Ways> {
        match self {
            Self::Relay(wan) => wan.ways(),
            Self::Network(link) => link.ways(),
        }
    }

    fn addresses(&self) -> Value {
        match self {
            Self::Relay(wan) => json!({ "listen": [wan.address().to_string()] }),
            Self::Network(link) => json!({ "near": [link.near().to_string()], "far": [link.far().to_string()] }),
        }
    }
}
