//! What a client is known by, and the endpoint that it had.
//!
//! A key is looked for only where something goes by it: a hash policy, or stickiness. The first source of `hash-on` that
//! the client has counts, and its value becomes 64 bits that are the same on every edge and in every version. Keys spread
//! and bring back; they never let anybody in.

pub mod keys;
pub mod source;
pub mod token;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use policies::{EndpointIx, hash_key};

use self::keys::KeyFileError;
use self::source::Request;
use self::token::{TokenError, UserTokens};
use crate::cluster::sticky::Lookup;
use crate::cluster::{ClusterPlan, ClusterState, EndpointState};
use crate::config::{Cluster, KeySource};
use crate::state::{Clock, State};

/// What a pick takes into account of one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Affinity {
    pub key: Option<u64>,
    /// The endpoint that it had, in the plan that it was looked up for. Whether it may be picked is for the policy to say.
    pub pin: Option<EndpointIx>,
}

impl Affinity {
    /// Reads the key and looks up the endpoint, and counts what came of it. Nothing is done for a cluster that has no use
    /// for keys.
    pub fn of(state: &State, cluster: &ClusterPlan, client: IpAddr, request: Option<Request<'_>>) -> Affinity {
        let Some(keys) = &cluster.keys else { return Affinity::default() };
        let reading = keys.read(client, request, SystemTime::now());
        if let Some(refused) = reading.refused {
            state.metrics.token_refused(&cluster.config.name, refused.as_str());
        }
        let key = reading.key.map(|key| key.hash);
        let pin = match key {
            _ if cluster.config.stickiness.is_none() => None,
            None => {
                cluster.state.sticky.count(Lookup::NoKey);
                None
            }
            Some(key) => pin(state, cluster, key),
        };
        Affinity { key, pin }
    }
}

fn pin(state: &State, cluster: &ClusterPlan, key: u64) -> Option<EndpointIx> {
    let sticky = &cluster.state.sticky;
    let Some(address) = sticky.find(key, state.clock.now()) else {
        sticky.count(Lookup::Miss);
        return None;
    };
    let pin = cluster.ix_of(address);
    if pin.is_none() {
        sticky.count(Lookup::Unavailable);
    }
    pin
}

/// How the clients of one cluster are told apart: its sources, with the keys of its tokens read.
#[derive(Debug)]
pub struct Keys {
    sources: Vec<KeySource>,
    user: Option<UserTokens>,
}

/// What was found for one client.
#[derive(Debug, PartialEq)]
pub struct Reading {
    pub key: Option<Key>,
    /// Why its token did not count, if it has one that did not.
    pub refused: Option<TokenError>,
}

#[derive(Debug, PartialEq)]
pub struct Key {
    pub hash: u64,
    /// Position in `hash-on`.
    pub source: usize,
    /// Who the client is, when that is what counted.
    pub user: Option<String>,
}

impl Keys {
    /// Reads the files with the keys of tokens. `None` for a cluster that has no use for keys.
    ///
    /// # Errors
    /// When such a file cannot be read or used.
    pub fn open(config: &Cluster) -> Result<Option<Keys>, KeyFileError> {
        if !config.needs_key() {
            return Ok(None);
        }
        let user = config.user_token.as_ref().map(UserTokens::open).transpose()?;
        Ok(Some(Keys { sources: config.hash_on.clone(), user }))
    }

    /// The key of a client. A tcp client has no `request`, and only its address can count. `now` is for tokens, which
    /// expire.
    pub fn read(&self, client: IpAddr, request: Option<Request<'_>>, now: SystemTime) -> Reading {
        let mut refused = None;
        for (nth, source) in self.sources.iter().enumerate() {
            let found = match (source, &self.user, request) {
                (KeySource::User, Some(tokens), Some(request)) => match tokens.user(request, now) {
                    Some(Ok(user)) => Some((hash_key(user.as_bytes()), Some(user))),
                    Some(Err(error)) => {
                        refused = Some(error);
                        None
                    }
                    None => None,
                },
                _ => hash_of(source, client, request).map(|hash| (hash, None)),
            };
            if let Some((hash, user)) = found {
                return Reading { key: Some(Key { hash, source: nth, user }), refused };
            }
        }
        Reading { key: None, refused }
    }
}

/// By a source that says it plainly; a user is never plain.
fn hash_of(source: &KeySource, client: IpAddr, request: Option<Request<'_>>) -> Option<u64> {
    match source {
        KeySource::User => None,
        KeySource::Address { v4, v6 } => Some(hash_key(source::network(client, *v4, *v6).as_bytes())),
        KeySource::Header(name) => request?.header(name).map(hash_key),
        KeySource::Cookie(name) => request?.cookie(name).map(hash_key),
        KeySource::Query(name) => request?.query(name).map(|value| hash_key(value.as_bytes())),
        KeySource::PathSegment(nth) => request?.segment(*nth).map(|value| hash_key(&value)),
    }
}

/// A client at its endpoint, from the connect to the end: what its return is counted from.
pub struct Stay {
    cluster: Arc<ClusterState>,
    key: u64,
    address: SocketAddr,
    clock: Clock,
}

impl Stay {
    /// The client is connected. `None` where nobody is remembered.
    pub fn begin(state: &State, cluster: &ClusterPlan, affinity: Affinity, endpoint: &EndpointState) -> Option<Stay> {
        let key = affinity.key.filter(|_| cluster.config.stickiness.is_some())?;
        let (address, clock) = (endpoint.address, state.clock);
        cluster.state.sticky.began(key, address, clock.now());
        Some(Stay { cluster: cluster.state.clone(), key, address, clock })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.cluster.sticky.ended(self.key, self.address, self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderMap;

    use super::*;

    fn keys(sources: &[KeySource]) -> Keys {
        Keys { sources: sources.to_vec(), user: None }
    }

    #[test]
    fn the_first_source_that_a_client_has_counts() {
        let keys =
            keys(&[KeySource::Header("x-device".parse().unwrap()), KeySource::Query("uid".into()), KeySource::ADDRESS]);
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let check = |device: Option<&str>, query: Option<&str>, source: usize, value: &[u8]| {
            let mut headers = HeaderMap::new();
            if let Some(device) = device {
                headers.insert("x-device", device.parse().unwrap());
            }
            let reading = keys.read(client, Some(Request { headers: &headers, path: "/ws", query }), UNIX_EPOCH);
            let want = Key { hash: hash_key(value), source, user: None };
            assert_eq!(reading, Reading { key: Some(want), refused: None }, "{device:?} {query:?}");
        };
        check(Some("d1"), Some("uid=7"), 0, b"d1");
        check(None, Some("uid=7"), 1, b"7");
        check(Some(""), Some("uid="), 2, &[192, 0, 2, 7]);
        check(None, None, 2, &[192, 0, 2, 7]);
    }

    #[test]
    fn without_http_only_the_address_counts() {
        let client: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let only_http = keys(&[KeySource::Cookie("sid".into()), KeySource::PathSegment(1), KeySource::User]);
        assert_eq!(only_http.read(client, None, UNIX_EPOCH), Reading { key: None, refused: None });
        let with_address = keys(&[KeySource::Cookie("sid".into()), KeySource::Address { v4: 24, v6: 48 }]);
        let want = Key { hash: hash_key(&[192, 0, 2, 0]), source: 1, user: None };
        assert_eq!(with_address.read(client, None, UNIX_EPOCH).key, Some(want));
    }
}
