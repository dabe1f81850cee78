//! `health` and `agent-check` of a cluster as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Placed, defaults};
use crate::config::units::{Percent, Period};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawHealth {
    /// `true`: no probing; endpoints count as up.
    pub off: Option<Placed<bool>>,
    /// Opens a connection.
    pub tcp: Option<Placed<RawTcpProbe>>,
    /// Asks for a path.
    pub http: Option<Placed<RawHttpProbe>>,
    /// Upgrades to WebSocket.
    pub websocket: Option<Placed<RawWebsocketProbe>>,
    /// Asks the gRPC health service.
    pub grpc: Option<Placed<RawGrpcProbe>>,
    /// Logs in to an IM server.
    pub im: Option<Placed<RawImProbe>>,
}

/// When to probe, and when to believe it.
#[derive(Debug)]
pub struct RawProbeTiming {
    pub interval: Placed<Period>,
    pub fast_interval: Placed<Period>,
    pub timeout: Placed<Period>,
    pub jitter: Placed<Percent>,
    pub rise: Placed<i64>,
    pub fall: Placed<i64>,
    pub initial: Placed<RawInitial>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawInitial {
    Up,
    Down,
}

/// A table of one kind of probe: what it asks, and the keys of [`RawProbeTiming`]. Those are repeated in every table,
/// because `flatten` would lose their places.
macro_rules! probe {
    ($probe:ident asks $question:ident { $($(#[$about:meta])* $key:ident: $kind:ty,)* }) => {
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub struct $probe {
            $($(#[$about])* pub $key: $kind,)*
            /// Between two probes of an endpoint.
            pub interval: Placed<Period>,
            /// Between two probes of an endpoint in doubt. The default is shortened to a shorter `interval`.
            pub fast_interval: Placed<Period>,
            /// A probe without an answer by then has failed. The default is shortened to a shorter `interval`.
            pub timeout: Placed<Period>,
            /// Share of the interval by which probes are spread.
            pub jitter: Placed<Percent>,
            /// Good probes in a row that bring an endpoint up, 1 to 100.
            pub rise: Placed<i64>,
            /// Failed probes in a row that take it down, 1 to 100.
            pub fall: Placed<i64>,
            /// What endpoints are before their first probe when the process starts.
            pub initial: Placed<RawInitial>,
        }

        /// What the probe asks, without the timing.
        #[derive(Debug)]
        pub struct $question {
            $(pub $key: $kind,)*
        }

        impl $probe {
            pub fn new(question: $question, timing: RawProbeTiming) -> $probe {
                let $question { $($key),* } = question;
                let RawProbeTiming { interval, fast_interval, timeout, jitter, rise, fall, initial } = timing;
                $probe { $($key,)* interval, fast_interval, timeout, jitter, rise, fall, initial }
            }

            pub fn parts(self) -> ($question, RawProbeTiming) {
                let $probe { $($key,)* interval, fast_interval, timeout, jitter, rise, fall, initial } = self;
                let timing = RawProbeTiming { interval, fast_interval, timeout, jitter, rise, fall, initial };
                ($question { $($key),* }, timing)
            }
        }
    };
}

probe! { RawTcpProbe asks RawTcpQuestion {} }

probe! { RawHttpProbe asks RawHttpQuestion {
    /// The path to ask for.
    path: Placed<String>,
    /// The `Host` to ask for. The endpoint's own address by default.
    host: Option<Placed<String>>,
    /// Status codes that are good: `200` or `200-299`.
    expect: Placed<Vec<Placed<String>>>,
    /// A good answer with this header field, whatever its value, says that the endpoint is degraded.
    degraded_header: Placed<String>,
    /// The header field of a good answer in which an endpoint says how many requests and tunnels it has from everybody.
    load_header: Placed<String>,
} }

probe! { RawWebsocketProbe asks RawWebsocketQuestion {
    /// The path to upgrade at.
    path: Placed<String>,
    /// The `Host` to ask for. The endpoint's own address by default.
    host: Option<Placed<String>>,
    /// The subprotocol to ask for, which the answer must name. None by default.
    protocol: Option<Placed<String>>,
} }

probe! { RawGrpcProbe asks RawGrpcQuestion {
    /// The service to ask about; "" is the server as a whole.
    service: Placed<String>,
    /// The `:authority` to ask for. The name of `tls`, else the endpoint's own address, by default.
    authority: Option<Placed<String>>,
} }

probe! { RawImProbe asks RawImQuestion {
    /// The path to upgrade at.
    path: Placed<String>,
    /// The `Host` to ask for. The endpoint's own address by default.
    host: Option<Placed<String>>,
    /// File with the token to log in with. It is read for each probe.
    token_file: Option<Placed<String>>,
    /// The `device_id` to log in with, 1 to 60 bytes.
    device: Placed<String>,
} }

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawAgentCheck {
    /// The port on which each endpoint's agent listens.
    pub port: Placed<i64>,
    /// Between two questions to an agent.
    #[serde(default = "defaults::agent_interval")]
    pub interval: Placed<Period>,
    /// An agent that has not answered by then changes nothing. The default is shortened to a shorter `interval`.
    #[serde(default = "defaults::agent_timeout")]
    pub timeout: Placed<Period>,
    /// Text to send first, at most 256 bytes; a line needs its `\n`.
    #[serde(default = "defaults::nothing")]
    pub send: Placed<String>,
}
