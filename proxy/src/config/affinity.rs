//! What tells one client of a cluster from another, and how long a client keeps its endpoint.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::Cluster;

/// One entry of `hash-on`: where the key of a client may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Who a token says the client is.
    User,
    Header(HeaderName),
    Cookie(String),
    Query(String),
    /// Counted from 1.
    PathSegment(usize),
    /// The network of the client's address, by its length for either family.
    Address {
        v4: u8,
        v6: u8,
    },
}

impl KeySource {
    /// The address itself.
    pub const ADDRESS: KeySource = KeySource::Address { v4: 32, v6: 128 };
}

/// As it is written in `hash-on`.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::User => f.write_str("user"),
            KeySource::Header(name) => write!(f, "header:{name}"),
            KeySource::Cookie(name) => write!(f, "cookie:{name}"),
            KeySource::Query(name) => write!(f, "query:{name}"),
            KeySource::PathSegment(nth) => write!(f, "path:{nth}"),
            &KeySource::ADDRESS => f.write_str("address"),
            KeySource::Address { v4, v6 } => write!(f, "address/{v4},{v6}"),
        }
    }
}

/// `[clusters.NAME.user-token]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserToken {
    /// The first that has a token counts.
    pub from: Vec<TokenPlace>,
    pub claim: String,
    pub trust: TokenTrust,
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer TOKEN`.
    Authorization,
    /// The whole value.
    Header(HeaderName),
    Cookie(String),
    Query(String),
    /// An entry of `Sec-WebSocket-Protocol` that starts with this, without it; if empty, one that looks like a token.
    Protocol {
        prefix: String,
    },
}

/// What makes a token count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenTrust {
    /// A signature by one of these keys, and its times. At least one of the files is named.
    Verified { hs256_secret: Option<PathBuf>, public_keys: Option<PathBuf> },
    /// Nothing: what it says is believed.
    DecodeOnly,
}

impl TokenTrust {
    /// The files with keys.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let (secret, public) = match self {
            TokenTrust::Verified { hs256_secret, public_keys } => (hs256_secret.as_ref(), public_keys.as_ref()),
            TokenTrust::DecodeOnly => (None, None),
        };
        secret.into_iter().chain(public)
    }
}

/// `clusters.NAME.stickiness`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stickiness {
    pub ttl: Duration,
    pub max_entries: NonZeroUsize,
}

impl Cluster {
    /// Whether anything goes by the key of a client; if not, none is looked for.
    pub fn needs_key(&self) -> bool {
        let of_rules = self.rules.iter().flat_map(|rule| [rule.terms.policy, rule.terms.request_policy]).flatten();
        let mut policies = [self.policy, self.request_policy].into_iter().chain(of_rules);
        self.stickiness.is_some() || policies.any(|policy| policy.goes_by_key())
    }
}
