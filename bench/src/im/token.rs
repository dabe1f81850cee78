//! Tokens for logins: JWTs signed with HS256, made here because the secret is made here too.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::json;

/// The secret that servers and clients of one run share.
#[derive(Clone)]
pub struct Secret(String);

/// Stars: secrets do not belong in logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// One that servers have already.
impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl Secret {
    /// A fresh one of 48 letters and digits.
    #[must_use]
    pub fn random() -> Self {
        Self(std::iter::repeat_with(fastrand::alphanumeric).take(48).collect())
    }

    /// As text, for the file that a server reads.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A token for `user`, good for `lifetime` from now.
    #[must_use]
    pub fn token(&self, user: &str, lifetime: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sign(&json!({ "sub": user, "iat": now.as_secs(), "exp": (now + lifetime).as_secs() }).to_string())
    }

    fn sign(&self, claims: &str) -> String {
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes()), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515, appendix A.1, has another head; this one is by jwt.io's default secret and claims.
    #[test]
    fn the_signature_is_that_of_others() {
        let secret = Secret("your-256-bit-secret".into());
        let token = secret.sign(r#"{"sub":"1234567890","name":"John Doe","iat":1516239022}"#);
        assert!(token.ends_with(".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"), "{token}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::random()), "Secret(***)");
        assert_ne!(Secret::random().reveal(), Secret::random().reveal());
    }
}
