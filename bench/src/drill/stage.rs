//! What a drill needs to be there: servers in localities, an edge before them, and how many people of which kind.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use crate::{harness::mmdb::Row, im::BackOff};

/// Where some servers stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locality {
    pub(super) name: &'static str,
    pub(super) provider: &'static str,
    /// Degrees of latitude and longitude.
    pub(super) location: (f64, f64),
    pub(super) servers: usize,
    /// How long bytes take to it, one way, over a relay of its own for each server; without a relay unless set.
    pub(super) way: Option<Duration>,
}

pub(super) const FRANKFURT: Locality =
    Locality { name: "frankfurt", provider: "alpha", location: (50.11, 8.68), servers: 3, way: None };
pub(super) const VIRGINIA: Locality =
    Locality { name: "virginia", provider: "beta", location: (39.04, -77.49), servers: 2, way: None };
pub(super) const SINGAPORE: Locality =
    Locality { name: "singapore", provider: "beta", location: (1.35, 103.82), servers: 2, way: None };

/// Where some people are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home {
    /// The first three numbers of their addresses, of which the database knows a place.
    pub(super) network: [u8; 3],
    pub(super) country: &'static str,
    pub(super) continent: &'static str,
    pub(super) location: (f64, f64),
}

/// Networks for documentation (RFC 5737).
pub(super) const BERLIN: Home =
    Home { network: [203, 0, 113], country: "DE", continent: "EU", location: (52.52, 13.40) };
pub(super) const TORONTO: Home =
    Home { network: [192, 0, 2], country: "CA", continent: "NA", location: (43.65, -79.38) };
pub(super) const JAKARTA: Home =
    Home { network: [198, 51, 100], country: "ID", continent: "AS", location: (-6.21, 106.85) };

impl Home {
    /// What a database says of it.
    pub(super) fn row(&self) -> Row {
        let [a, b, c] = self.network;
        let (latitude, longitude) = self.location;
        Row::new(&format!("{a}.{b}.{c}.0/24")).country(self.country).continent(self.continent).at(latitude, longitude)
    }

    /// The address that somebody there announces.
    pub(super) fn address(&self, number: usize) -> SocketAddr {
        let [a, b, c] = self.network;
        let host = u8::try_from(number % 250 + 1).unwrap_or(1);
        let port = u16::try_from(1024 + number / 250).unwrap_or(1024);
        SocketAddr::from(([a, b, c, host], port))
    }
}

/// Who takes part.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// Two at least; an odd one is left out, because people talk in pairs.
    pub(super) clients: usize,
    /// How many share a room.
    pub(super) group: usize,
    /// How often each says something, in turn to one other and to the room.
    pub(super) period: Duration,
    /// Bytes of what is said.
    pub(super) body: usize,
    pub(super) back_off: BackOff,
    /// How long a phone waits for an answer before it gives its connection up.
    pub(super) patience: Duration,
    /// Every so many of them can be told to stop reading; nobody unless set.
    pub(super) deaf: Option<usize>,
    /// Where they are, in turn.
    pub(super) homes: &'static [Home],
}

impl Default for Cast {
    fn default() -> Self {
        Self {
            clients: 24,
            group: 6,
            period: Duration::from_millis(200),
            body: 100,
            back_off: BackOff { first: Duration::from_millis(100), longest: Duration::from_secs(2) },
            patience: Duration::from_secs(10),
            deaf: None,
            homes: &[BERLIN],
        }
    }
}

/// Everything that is started for a drill.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) cast: Cast,
    pub(super) localities: Vec<Locality>,
    /// Further keys of the cluster, as in a configuration file.
    pub(super) cluster: String,
    /// Further tables of the configuration.
    pub(super) tables: String,
    pub(super) server_arguments: &'static [&'static str],
    /// One name for all servers, on one port of several addresses, instead of their addresses.
    pub(super) by_name: bool,
    /// The edge listens where it did when it is started again.
    pub(super) fixed_port: bool,
}

/// The name of all servers where they have one.
pub(super) const NAME: &str = "im.example.test";

impl Default for Stage {
    fn default() -> Self {
        Self {
            cast: Cast::default(),
            localities: vec![FRANKFURT],
            cluster: String::new(),
            tables: String::new(),
            server_arguments: &[],
            by_name: false,
            fixed_port: false,
        }
    }
}

/// An endpoint as it stands in the configuration.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) locality: &'static str,
    pub(super) address: String,
}

/// Where the edge writes its access log.
pub(super) const ACCESS_LOG: &str = "access.log";
/// Before the keys that differ. One worker: everything shares a small machine. Probes are quick, so that a drill is short.
const COMMON: &str = r#"
[edge]
name = "drill"
location = [50.11, 8.68]
trusted-proxies = ["127.0.0.0/8"]
workers = 1

[admin]
bind = ["127.0.0.1:0"]

[log]
access = "access.log"

[stop]
grace = "0s"
deadline = "5s"

[listeners.im]
bind = ["127.0.0.1:0"]
protocol = "http"
proxy-protocol = true

[[listeners.im.routes]]
path-prefix = "/ws"
cluster = "im"
"#;

/// Where people find the edge: any free port.
pub(super) const LISTENER: &str = "[listeners.im]\nbind = [\"127.0.0.1:0\"]";

const CLUSTER: &str = r#"
[clusters.im]
connect-timeout = "1s"
response-timeout = "3s"
health.http = { path = "/readyz", interval = "500ms", fast-interval = "250ms", timeout = "1s", rise = 2, fall = 3 }
"#;

impl Stage {
    /// The configuration of the edge before these endpoints.
    pub(super) fn configuration(&self, endpoints: &[Endpoint]) -> String {
        let mut text = format!("{COMMON}\n{}\n{CLUSTER}{}\n", self.tables, self.cluster);
        for Locality { name, provider, location: (latitude, longitude), .. } in &self.localities {
            let own = endpoints.iter().filter(|endpoint| endpoint.locality == *name);
            let own: Vec<String> = own.map(|endpoint| format!("{{ address = \"{}\" }}", endpoint.address)).collect();
            _ = writeln!(
                text,
                "\n[clusters.im.localities.{name}]\nprovider = \"{provider}\"\nlocation = [{latitude:.2}, \
                 {longitude:.2}]\nendpoints = [{}]",
                own.join(", ")
            );
        }
        text
    }

    /// How many files this process, and each of those it starts, may have open: a tunnel of the edge takes two.
    pub(super) fn open_files(&self) -> u64 {
        3 * self.cast.clients as u64 + 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_stand_in_their_locality() {
        let stage =
            Stage { localities: vec![FRANKFURT, VIRGINIA], cluster: "cut-on-down = true".into(), ..Stage::default() };
        let endpoint = |locality, address: &str| Endpoint { locality, address: address.into() };
        let text = stage.configuration(&[endpoint("frankfurt", "127.0.0.1:1"), endpoint("virginia", "127.0.0.1:2")]);
        let (_, virginia) = text.split_once("[clusters.im.localities.virginia]").unwrap();
        assert!(virginia.contains("127.0.0.1:2") && !virginia.contains("127.0.0.1:1"), "{text}");
        assert!(virginia.contains("provider = \"beta\"\nlocation = [39.04, -77.49]"), "{text}");
    }

    #[test]
    fn people_of_one_home_have_addresses_of_their_own() {
        let all: std::collections::HashSet<_> = (0..5000).map(|number| BERLIN.address(number)).collect();
        assert_eq!(all.len(), 5000);
    }
}
