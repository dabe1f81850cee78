//! `hash-on`, `[clusters.NAME.user-token]` and `stickiness` as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Placed, defaults};
use crate::config::units::Period;

/// Who the user is, by a JSON Web Token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawUserToken {
    /// Where the token is; the first of these places that has one counts.
    pub from: Placed<Vec<Placed<String>>>,
    /// The claim that names the user: text or a whole number.
    pub claim: Placed<String>,
    /// The keys that tokens must be signed with.
    pub verify: Option<Placed<RawTokenKeys>>,
    /// `true` believes every token unseen: it spreads clients, and proves nothing about them.
    pub decode_only: Placed<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawTokenKeys {
    /// File with the secret of HS256 tokens; a newline at its end does not count.
    pub hs256_secret_file: Option<Placed<String>>,
    /// File with public keys for ES256, RS256 or EdDSA: PEM (`PUBLIC KEY`), or a JWK set.
    pub public_key_file: Option<Placed<String>>,
}

/// Brings a client back to the endpoint that it had.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStickiness {
    /// How long after its last connection ended a client is still brought back.
    #[serde(default = "defaults::stickiness_ttl")]
    pub ttl: Placed<Period>,
    /// Clients remembered at most; the one that was not seen for longest is forgotten first.
    #[serde(default = "defaults::stickiness_max_entries")]
    pub max_entries: Placed<i64>,
}
