//! JSON Web Tokens: who a client is.
//!
//! Verified with `ring` directly. The `jsonwebtoken` crate (11) takes its cryptography from a process-wide provider and
//! offers none on ring; a second provider in the tree would cost more than these hundred lines. What goes
//! wrong with JWTs is the choice of the algorithm by the token, so here the *key* decides: a key works with one
//! algorithm, and a token that names another one is refused before any signature is looked at.

use std::{fmt, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{hmac, signature};
use serde::Deserialize;

use crate::{conversation::is_id, frame::LoginCode};

/// How far the clocks of issuer and server may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// RFC 7518, section 3.2: an HS256 key is at least as long as the hash, in bytes.
pub const SECRET_LENGTH: usize = 32;

/// A key for one algorithm.
enum Key {
    Hs256(hmac::Key),
    /// Uncompressed point.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

/// Checks tokens against the keys it was given.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: Vec<Key>,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// `sub`, fit to be a user id.
    pub user: String,
    /// `exp`, seconds of Unix time.
    pub expires: f64,
}

/// Why a key is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("the secret is empty")]
    Empty,
    #[error("no PEM block `PUBLIC KEY` was found")]
    NotPem,
    #[error("the public key is neither Ed25519 nor P-256 (uncompressed)")]
    Unsupported,
}

impl Verifier {
    /// Accepts HS256 by this secret.
    ///
    /// # Errors
    /// [`KeyError::Empty`]. A secret shorter than [`SECRET_LENGTH`] is taken, but the log says so.
    pub fn with_secret(mut self, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.is_empty() {
            return Err(KeyError::Empty);
        }
        if secret.len() < SECRET_LENGTH {
            tracing::warn!(bytes = secret.len(), wanted = SECRET_LENGTH, "the JWT secret is short, it can be guessed");
        }
        self.keys.push(Key::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        Ok(self)
    }

    /// Accepts EdDSA or ES256, whichever the public key (PEM, `SubjectPublicKeyInfo`) is for.
    ///
    /// # Errors
    /// [`KeyError::NotPem`] and [`KeyError::Unsupported`].
    pub fn with_public_key(mut self, pem: &str) -> Result<Self, KeyError> {
        // The headers of the only two kinds, in DER, in front of the key itself (RFC 8410 section 4; RFC 5480).
        const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        const P256: &[u8] = &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let info = pem_block(pem).ok_or(KeyError::NotPem)?;
        let key = match (info.strip_prefix(ED25519), info.strip_prefix(P256)) {
            (Some(key), _) if key.len() == 32 => Key::EdDsa(key.to_vec()),
            (_, Some(point)) if point.len() == 65 && point[0] == 0x04 => Key::Es256(point.to_vec()),
            _ => return Err(KeyError::Unsupported),
        };
        self.keys.push(key);
        Ok(self)
    }

    /// Whether any token can be good at all.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Checks a token at a moment, given in seconds of Unix time.
    ///
    /// # Errors
    /// The first of the checks that fails, in this order: form, algorithm, signature, time, user.
    pub fn verify(&self, token: &str, now: f64) -> Result<Identity, LoginCode> {
        let (signed, signature) = token.rsplit_once('.').ok_or(LoginCode::TokenMalformed)?;
        let (header, claims) = signed.split_once('.').ok_or(LoginCode::TokenMalformed)?;
        let header: Header = part(header)?;
        // `crit` names extensions that must be understood; none is.
        if header.crit.is_some() {
            return Err(LoginCode::TokenMalformed);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_not_base64| LoginCode::TokenMalformed)?;
        let mut candidates = self.keys.iter().filter(|key| key.algorithm() == header.alg).peekable();
        candidates.peek().ok_or(LoginCode::TokenAlgorithm)?;
        if !candidates.any(|key| key.signed(signed.as_bytes(), &signature)) {
            return Err(LoginCode::TokenSignature);
        }
        part::<Claims>(claims)?.check(now)
    }
}

impl Key {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn signed(&self, text: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hs256(key) => hmac::verify(key, text, signature).is_ok(),
            Self::Es256(key) => signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key)
                .verify(text, signature)
                .is_ok(),
            Self::EdDsa(key) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(text, signature).is_ok()
            }
        }
    }
}

/// Makes tokens, where a server gives them out itself.
pub struct Signer(hmac::Key);

impl Signer {
    /// For HS256 by this secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A token for a user until a moment, in seconds of Unix time.
    #[must_use]
    pub fn sign(&self, user: &str, expires: u64) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(serde_json::json!({ "sub": user, "exp": expires }).to_string());
        let signed = format!("{header}.{claims}");
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, signed.as_bytes()));
        format!("{signed}.{tag}")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(***)")
    }
}

/// Only the kind of a key is ever shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(***)", self.algorithm())
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

impl Claims {
    fn check(self, now: f64) -> Result<Identity, LoginCode> {
        let leeway = LEEWAY.as_secs_f64();
        if now >= self.exp + leeway {
            return Err(LoginCode::TokenExpired);
        }
        if self.nbf.is_some_and(|begins| now < begins - leeway) {
            return Err(LoginCode::TokenNotYetValid);
        }
        if !is_id(&self.sub) {
            return Err(LoginCode::UserInvalid);
        }
        Ok(Identity { user: self.sub, expires: self.exp })
    }
}

fn part<T: for<'de> Deserialize<'de>>(encoded: &str) -> Result<T, LoginCode> {
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_not_base64| LoginCode::TokenMalformed)?;
    serde_json::from_slice(&json).map_err(|_not_ours| LoginCode::TokenMalformed)
}

fn pem_block(pem: &str) -> Option<Vec<u8>> {
    let (_, after) = pem.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (block, _) = after.split_once("-----END PUBLIC KEY-----")?;
    STANDARD.decode(block.split_ascii_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: f64 = 1_000_000.0;

    fn token(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn hs256(text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text).as_ref().to_vec()
    }

    #[track_caller]
    fn check(header: &str, claims: &str, want: Result<&str, LoginCode>) {
        let verifier = Verifier::default().with_secret(SECRET).unwrap();
        let got = verifier.verify(&token(header, claims, hs256), NOW);
        assert_eq!(got.map(|identity| identity.user), want.map(str::to_owned), "{header} {claims}");
    }

    const GOOD: &str = r#"{"sub":"alice","exp":1000060}"#;

    #[test]
    fn each_way_to_be_wrong_has_its_own_code() {
        let hs = r#"{"alg":"HS256","typ":"JWT"}"#;
        check(hs, GOOD, Ok("alice"));
        check(r#"{"alg":"none"}"#, GOOD, Err(LoginCode::TokenAlgorithm));
        check(r#"{"alg":"HS512"}"#, GOOD, Err(LoginCode::TokenAlgorithm));
        check(r#"{"alg":"RS256"}"#, GOOD, Err(LoginCode::TokenAlgorithm));
        check(r#"{"alg":"hs256"}"#, GOOD, Err(LoginCode::TokenAlgorithm));
        check(r#"{"alg":"HS256","crit":["b64"]}"#, GOOD, Err(LoginCode::TokenMalformed));
        check(hs, r#"{"sub":"alice","exp":999960}"#, Err(LoginCode::TokenExpired));
        check(hs, r#"{"sub":"alice","exp":1000060,"nbf":1000040}"#, Err(LoginCode::TokenNotYetValid));
        check(hs, r#"{"sub":"alice"}"#, Err(LoginCode::TokenMalformed));
        check(hs, r#"{"exp":1000060}"#, Err(LoginCode::TokenMalformed));
        check(hs, r#"{"sub":"a:b","exp":1000060}"#, Err(LoginCode::UserInvalid));
        check(hs, r#"{"sub":"","exp":1000060}"#, Err(LoginCode::UserInvalid));
    }

    #[test]
    fn a_token_of_ones_own_is_good_until_its_end() {
        let token = Signer::new(SECRET).sign("grüße", 1_000_060);
        let verifier = Verifier::default().with_secret(SECRET).unwrap();
        assert_eq!(verifier.verify(&token, NOW), Ok(Identity { user: "grüße".into(), expires: 1_000_060.0 }));
        assert_eq!(verifier.verify(&token, 1_000_091.0), Err(LoginCode::TokenExpired));
        assert_eq!(format!("{:?}", Signer::new(SECRET)), "Signer(***)");
    }

    #[test]
    fn clocks_may_differ_by_the_leeway() {
        let hs = r#"{"alg":"HS256"}"#;
        check(hs, r#"{"sub":"alice","exp":999971}"#, Ok("alice"));
        check(hs, r#"{"sub":"alice","exp":1000060,"nbf":1000029.5}"#, Ok("alice"));
    }

    #[test]
    fn a_changed_token_and_a_foreign_secret_are_bad_signatures() {
        let good = token(r#"{"alg":"HS256"}"#, GOOD, hs256);
        let forged =
            good.replacen(&URL_SAFE_NO_PAD.encode(GOOD), &URL_SAFE_NO_PAD.encode(GOOD.replace("alice", "mallory")), 1);
        let verifier = Verifier::default().with_secret(SECRET).unwrap();
        assert_eq!(verifier.verify(&forged, NOW), Err(LoginCode::TokenSignature));
        let other = Verifier::default().with_secret(b"another secret of thirty-two byte").unwrap();
        assert_eq!(other.verify(&good, NOW), Err(LoginCode::TokenSignature));
        assert_eq!(
            verifier.verify(&token(r#"{"alg":"HS256"}"#, GOOD, |_| Vec::new()), NOW),
            Err(LoginCode::TokenSignature)
        );
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        let verifier = Verifier::default().with_secret(SECRET).unwrap();
        for text in ["", ".", "..", "a.b", "a.b.c", "!!.!!.!!", "e30.e30.e30", "é.é.é"] {
            assert_eq!(verifier.verify(text, NOW), Err(LoginCode::TokenMalformed), "{text}");
        }
    }

    fn pem(prefix: &[u8], key: &[u8]) -> String {
        let info = STANDARD.encode([prefix, key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{info}\n-----END PUBLIC KEY-----\n")
    }

    fn ed25519() -> (Ed25519KeyPair, String) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let pem = pem(&prefix, pair.public_key().as_ref());
        (pair, pem)
    }

    #[test]
    fn ed25519_and_p256_keys_verify_their_own_algorithm() {
        let (pair, ed_pem) = ed25519();
        let ed = token(r#"{"alg":"EdDSA"}"#, GOOD, |text| pair.sign(text).as_ref().to_vec());

        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let es = token(r#"{"alg":"ES256"}"#, GOOD, |text| pair.sign(&random, text).unwrap().as_ref().to_vec());
        let prefix = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let es_pem = pem(&prefix, pair.public_key().as_ref());

        let both = Verifier::default().with_public_key(&ed_pem).unwrap().with_public_key(&es_pem).unwrap();
        assert_eq!(both.verify(&ed, NOW).map(|i| i.user), Ok("alice".into()));
        assert_eq!(both.verify(&es, NOW).map(|i| i.user), Ok("alice".into()));
        assert_eq!(both.verify(&token(r#"{"alg":"EdDSA"}"#, GOOD, hs256), NOW), Err(LoginCode::TokenSignature));
    }

    /// The classic confusion: a public key, which everybody has, used as the secret of an HMAC.
    #[test]
    fn a_public_key_is_never_a_secret() {
        let (_, pem) = ed25519();
        let verifier = Verifier::default().with_public_key(&pem).unwrap();
        let confused = token(r#"{"alg":"HS256"}"#, GOOD, |text| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes()), text).as_ref().to_vec()
        });
        assert_eq!(verifier.verify(&confused, NOW), Err(LoginCode::TokenAlgorithm));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        assert_eq!(Verifier::default().with_secret(b"").err(), Some(KeyError::Empty));
        assert_eq!(Verifier::default().with_public_key("hello").err(), Some(KeyError::NotPem));
        assert_eq!(Verifier::default().with_public_key(&pem(&[1, 2], &[3])).err(), Some(KeyError::Unsupported));
    }

    #[test]
    fn a_key_never_shows_itself() {
        let shown = format!("{:?}", Verifier::default().with_secret(SECRET).unwrap());
        assert!(!shown.contains("0123") && shown.contains("***"), "{shown}");
    }
}
