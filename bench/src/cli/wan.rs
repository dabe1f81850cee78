//! The command line of `wan`: a relay that is a long or bad way, and that obeys while it runs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{
    harness::{
        self,
        wan::{COMMANDS, Control, Way},
    },
    output, stop, units,
};

#[derive(Debug, Args)]
#[command(after_help = format!("Commands on the control address, one a line, each answered by `ok` or `error: …`:\n\n{COMMANDS}"))]
pub(super) struct Wan {
    /// Where it listens; port 0 takes a free one, which the ready line names.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it relays to.
    #[arg(long)]
    to: SocketAddr,
    /// Where it takes commands while it runs, below. Whoever can connect can command.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// How much later bytes arrive, each way: `40ms`, `1.5s`.
    #[arg(long, value_parser = units::duration, default_value = "0s")]
    delay: Duration,
    /// Up to so much more, evenly drawn, each way.
    #[arg(long, value_parser = units::duration, default_value = "0s")]
    jitter: Duration,
    /// The chance of a segment to be lost, each way: `2%`. Above TCP that is a stall for a retransmission time-out.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    loss: f64,
    /// Bytes a second, each way: `64000`, `64KiB`, `1MiB`; as many as there are unless set.
    #[arg(long, value_parser = units::bytes)]
    rate: Option<u64>,
}

impl Wan {
    /// Relays until asked to stop.
    pub(super) async fn run(self) -> Result<()> {
        let Self { listen, to, control, delay, jitter, loss, rate } = self;
        let wan = Arc::new(harness::Wan::start(listen, to, delay).await?);
        wan.change_both(|way| *way = Way { delay, jitter, loss, bytes_per_second: rate, silent: false });
        let mut addresses = json!({ "listen": [wan.address().to_string()] });
        let Some(control) = control else {
            output::ready(&addresses);
            return stop::asked().await;
        };
        let control = Control::bind(control, wan)?;
        addresses["control"] = json!([control.address()?.to_string()]);
        output::ready(&addresses);
        tokio::select! {
            outcome = control.run() => outcome,
            outcome = stop::asked() => outcome,
        }
    }
}
