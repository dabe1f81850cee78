//! Endpoint names to addresses, by hickory-resolver, off the data path.
//!
//! One task a name, on the control thread. It looks up again when the answer's TTL ends, within `dns.min-ttl` and
//! `dns.max-ttl`. A failure changes nothing: the last good answer stays, and an event says so. hickory keeps no stale
//! answers itself, hence the memory in [`super::ClusterState`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::task::AbortHandle;

use super::ClusterState;
use super::members::endpoint_names;
use crate::config::Dns;
use crate::events;
use crate::snapshot::Snapshot;
use crate::state::State;

/// What the system's resolver is configured by.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The running look-ups. Lives on the control thread.
#[derive(Default)]
pub struct Lookups {
    resolver: Option<Built>,
    running: HashMap<(Arc<str>, Arc<str>), AbortHandle>,
}

struct Built {
    /// Our settings, and the system's where those count.
    built_from: (Dns, Option<Vec<u8>>),
    resolver: Arc<TokioResolver>,
}

fn system_settings(dns: &Dns) -> Option<Vec<u8>> {
    if dns.resolvers.is_empty() { std::fs::read(RESOLV_CONF).ok() } else { None }
}

impl Lookups {
    /// Starts, keeps and stops look-ups so that they fit the snapshot.
    pub fn fit(&mut self, state: &Arc<State>, snapshot: &Snapshot) {
        let dns = &snapshot.config.dns;
        let built_from = (dns.clone(), system_settings(dns));
        if self.resolver.as_ref().is_some_and(|resolver| resolver.built_from != built_from) {
            self.stop();
        }
        let mut wanted = HashMap::new();
        for cluster in &snapshot.clusters {
            for host in endpoint_names(&cluster.config) {
                wanted.insert((cluster.config.name.clone(), host), &cluster.state);
            }
        }
        self.running.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for ((cluster_name, host), cluster) in wanted {
            if self.running.contains_key(&(cluster_name.clone(), host.clone())) {
                continue;
            }
            let Some(resolver) = self.resolver(dns, state) else { return };
            let lookup = Lookup {
                state: state.clone(),
                cluster: cluster.clone(),
                host: host.clone(),
                resolver,
                min_ttl: dns.min_ttl,
                max_ttl: dns.max_ttl,
                doubts: Doubts {
                    max_loss_percent: dns.max_loss_percent,
                    believe_after: dns.believe_after,
                    in_a_row: 0,
                },
            };
            self.running.insert((cluster_name, host), tokio::spawn(lookup.run()).abort_handle());
        }
    }

    fn resolver(&mut self, dns: &Dns, state: &State) -> Option<Arc<TokioResolver>> {
        if self.resolver.is_none() {
            match build(dns) {
                Ok(resolver) => {
                    let built_from = (dns.clone(), system_settings(dns));
                    self.resolver = Some(Built { built_from, resolver: Arc::new(resolver) });
                }
                Err(error) => events::dns_unusable(state, &error),
            }
        }
        self.resolver.as_ref().map(|built| built.resolver.clone())
    }

    fn stop(&mut self) {
        self.running.drain().for_each(|(_, task)| task.abort());
        self.resolver = None;
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.stop();
    }
}

fn build(dns: &Dns) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = if dns.resolvers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.resolvers.iter().map(|server| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            udp.port = server.port();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // One retry is on top of `attempts`, so this is the timeout in all.
    options.timeout = dns.timeout / 2;
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(dns.max_ttl);
    options.negative_max_ttl = Some(dns.min_ttl);
    builder.build()
}

struct Lookup {
    state: Arc<State>,
    cluster: Arc<ClusterState>,
    host: Arc<str>,
    resolver: Arc<TokioResolver>,
    min_ttl: Duration,
    max_ttl: Duration,
    doubts: Doubts,
}

impl Lookup {
    async fn run(mut self) {
        // A trailing dot keeps the search list out of it.
        let name = format!("{}.", self.host.trim_end_matches('.'));
        let mut failures: u32 = 0;
        loop {
            let pause = match self.resolver.lookup_ip(name.as_str()).await {
                Ok(answer) => {
                    let addresses: Vec<IpAddr> = answer.iter().collect();
                    let valid = answer.valid_until().saturating_duration_since(Instant::now());
                    failures = 0;
                    self.learn(addresses);
                    valid.clamp(self.min_ttl, self.max_ttl)
                }
                Err(error) => {
                    failures += 1;
                    events::name_unresolved(&self.state, &self.cluster.name, &self.host, &error.to_string(), failures);
                    self.min_ttl.max(Duration::from_secs(1)).saturating_mul(failures.min(10)).min(self.max_ttl)
                }
            };
            tokio::time::sleep(pause.mul_f64(1.0 + 0.1 * fastrand::f64())).await;
        }
    }

    fn learn(&mut self, addresses: Vec<IpAddr>) {
        if addresses.is_empty() || !self.believes(&addresses) {
            return;
        }
        if self.cluster.resolved(&self.host, addresses.clone()) {
            events::name_resolved(&self.state, &self.cluster.name, &self.host, &addresses);
            self.state.steering_changed.notify_one();
        }
    }

    fn believes(&mut self, addresses: &[IpAddr]) -> bool {
        let known = self.cluster.known_addresses(&self.host);
        let verdict = self.doubts.judge(known, addresses.len());
        if verdict != Verdict::Fine {
            let believed = verdict == Verdict::Believed;
            events::answer_shrank(&self.state, &self.cluster.name, &self.host, known, addresses.len(), believed);
        }
        verdict != Verdict::HeldBack
    }
}

/// An answer that has lost more than `dns.max-loss` of its addresses may be half an answer (one family timed out, a zone
/// is being rewritten): it is believed when it comes again and again.
struct Doubts {
    max_loss_percent: u8,
    believe_after: u32,
    /// Answers in a row that had lost too many, since the last one that was believed.
    in_a_row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    HeldBack,
    /// It has lost too many, again and again.
    Believed,
}

impl Doubts {
    /// Of an answer with `now` addresses where the last one that was believed had `known`.
    fn judge(&mut self, known: usize, now: usize) -> Verdict {
        let lost = known.saturating_sub(now);
        if lost * 100 <= known * usize::from(self.max_loss_percent) {
            self.in_a_row = 0;
            return Verdict::Fine;
        }
        self.in_a_row += 1;
        if self.in_a_row < self.believe_after {
            return Verdict::HeldBack;
        }
        // The next loss is a new one.
        self.in_a_row = 0;
        Verdict::Believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_has_to_come_again_and_again_before_it_is_believed() {
        use Verdict::{Believed, Fine, HeldBack};
        let mut doubts = Doubts { max_loss_percent: 50, believe_after: 3, in_a_row: 0 };
        let mut judge = |known, now| doubts.judge(known, now);
        assert_eq!([judge(100, 40), judge(100, 40), judge(100, 40)], [HeldBack, HeldBack, Believed]);
        assert_eq!([judge(40, 10), judge(40, 10), judge(40, 10)], [HeldBack, HeldBack, Believed], "a second loss");
        assert_eq!([judge(10, 4), judge(10, 10), judge(10, 4)], [HeldBack, Fine, HeldBack], "not in a row");
        assert_eq!([judge(10, 5), judge(0, 3)], [Fine, Fine]);
    }

    #[test]
    fn one_answer_is_enough_where_that_is_configured() {
        let mut doubts = Doubts { max_loss_percent: 0, believe_after: 1, in_a_row: 0 };
        assert_eq!([doubts.judge(3, 2), doubts.judge(2, 1)], [Verdict::Believed, Verdict::Believed]);
    }
}
