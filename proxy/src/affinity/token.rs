//! JSON Web Tokens: which user a client is.
//!
//! With `ring` directly, as the reference server does: the `jsonwebtoken` crate (11) offers no cryptography on ring, and
//! a second provider in the tree would cost more than this file. What goes wrong with tokens elsewhere is that they
//! choose how they are verified; here the kind of the key does (see [`keys`](super::keys)), and `none` is no key's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{KeyFileError, TokenKeys};
use super::source::Request;
use crate::config::{TokenPlace, UserToken};

/// How far the clocks of issuer and edge may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// Longer ones are nobody's: they would not fit into the head of most servers.
const LONGEST: usize = 16 * 1024;

/// Finds tokens and reads the user out of them, as one cluster wants it.
#[derive(Debug)]
pub struct UserTokens {
    from: Vec<TokenPlace>,
    claim: String,
    /// `None`: tokens are believed as they are.
    keys: Option<TokenKeys>,
}

/// Why a token does not count, in the order of the checks. A closed set: it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is not a JSON Web Token")]
    Malformed,
    #[error("no key is for its algorithm")]
    Algorithm,
    #[error("no key has its `kid`")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("its claim is missing, empty, or neither text nor a whole number")]
    NoClaim,
}

impl TokenError {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenError::Malformed => "malformed",
            TokenError::Algorithm => "algorithm",
            TokenError::UnknownKey => "unknown-key",
            TokenError::Signature => "signature",
            TokenError::Expired => "expired",
            TokenError::NotYetValid => "not-yet-valid",
            TokenError::NoClaim => "no-claim",
        }
    }
}

impl UserTokens {
    /// Reads the files with the keys.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub fn open(config: &UserToken) -> Result<UserTokens, KeyFileError> {
        let keys = TokenKeys::open(&config.trust)?;
        Ok(UserTokens { from: config.from.clone(), claim: config.claim.clone(), keys })
    }

    /// The user by the first place that has a token; `None` if none has.
    ///
    /// # Errors
    /// Inside: when that token does not count. Another place is not tried then.
    pub fn user(&self, request: Request<'_>, now: SystemTime) -> Option<Result<String, TokenError>> {
        self.from.iter().find_map(|place| match place {
            TokenPlace::Authorization => request.bearer().map(|token| self.read(token, now)),
            TokenPlace::Header(name) => request.header(name).map(|token| self.read(token, now)),
            TokenPlace::Cookie(name) => request.cookie(name).map(|token| self.read(token, now)),
            TokenPlace::Query(name) => request.query(name).map(|token| self.read(token.as_bytes(), now)),
            TokenPlace::Protocol { prefix } => request.websocket_protocol(prefix).map(|token| self.read(token, now)),
        })
    }

    /// The user that a token names.
    ///
    /// # Errors
    /// The first check that fails: form, algorithm, key, signature, time, claim.
    fn read(&self, token: &[u8], now: SystemTime) -> Result<String, TokenError> {
        let token = Some(token).filter(|token| token.len() <= LONGEST).ok_or(TokenError::Malformed)?;
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenError::Malformed);
        };
        let signed = Signed {
            header: &token[..first],
            claims: &token[first + 1..second],
            text: &token[..second],
            signature: &token[second + 1..],
        };
        if let Some(keys) = &self.keys {
            signed.verify(keys)?;
        }
        let claims: Map<String, Value> = part(signed.claims)?;
        if self.keys.is_some() {
            check_times(&claims, now)?;
        }
        match claims.get(&self.claim) {
            Some(Value::String(user)) if !user.is_empty() => Ok(user.clone()),
            Some(Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
            _ => Err(TokenError::NoClaim),
        }
    }
}

/// A token in its parts, still encoded.
struct Signed<'t> {
    header: &'t [u8],
    claims: &'t [u8],
    text: &'t [u8],
    signature: &'t [u8],
}

impl Signed<'_> {
    fn verify(&self, keys: &TokenKeys) -> Result<(), TokenError> {
        let header: Header = part(self.header)?;
        // It names extensions that must be understood; none is.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let signature = decoded(self.signature)?;
        if !keys.know(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let mut candidates = keys.candidates(&header.alg, header.kid.as_deref()).peekable();
        candidates.peek().ok_or(TokenError::UnknownKey)?;
        let good = candidates.any(|key| key.has_signed(self.text, &signature));
        if good { Ok(()) } else { Err(TokenError::Signature) }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// `exp` and `nbf`, seconds since 1970 with or without a fraction (RFC 7519 section 2). A token need not have them.
fn check_times(claims: &Map<String, Value>, now: SystemTime) -> Result<(), TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenError::Malformed),
    };
    let leeway = LEEWAY.as_secs_f64();
    if time("exp")?.is_some_and(|ends| now >= ends + leeway) {
        return Err(TokenError::Expired);
    }
    if time("nbf")?.is_some_and(|begins| now < begins - leeway) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

fn part<T: for<'de> Deserialize<'de>>(encoded: &[u8]) -> Result<T, TokenError> {
    serde_json::from_slice(&decoded(encoded)?).map_err(|_cause| TokenError::Malformed)
}

fn decoded(encoded: &[u8]) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_cause| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use ring::hmac;
    use ring::signature::Ed25519KeyPair;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn tokens(claim: &str, keys: Option<TokenKeys>) -> UserTokens {
        UserTokens { from: vec![TokenPlace::Authorization], claim: claim.to_owned(), keys }
    }

    fn with_secret(secret: &[u8]) -> Option<TokenKeys> {
        let mut keys = TokenKeys::default();
        keys.add_secret(secret).unwrap();
        Some(keys)
    }

    fn with_public(file: &str) -> Option<TokenKeys> {
        let mut keys = TokenKeys::default();
        keys.add_public(file.as_bytes()).unwrap();
        Some(keys)
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn token(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn hs256(text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text).as_ref().to_vec()
    }

    const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    /// When the tokens of RFC 7515 expire.
    const JOE_EXPIRES: u64 = 1_300_819_380;

    #[track_caller]
    fn check_rfc(keys: fn() -> Option<TokenKeys>, token: &str) {
        let check = |token: &str, now: u64, want: Result<&str, TokenError>| {
            assert_eq!(
                tokens("iss", keys()).read(token.as_bytes(), at(now)),
                want.map(str::to_owned),
                "{token} at {now}"
            );
        };
        check(token, JOE_EXPIRES - 1, Ok("joe"));
        check(token, JOE_EXPIRES + 29, Ok("joe"));
        check(token, JOE_EXPIRES + 30, Err(TokenError::Expired));
        let forged = token.replacen(JOE, &URL_SAFE_NO_PAD.encode(r#"{"iss":"eve"}"#), 1);
        check(&forged, JOE_EXPIRES - 1, Err(TokenError::Signature));
    }

    #[test]
    fn rfc_7515_a1_is_a_good_hs256_token() {
        let keys = || {
            let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
            with_secret(&URL_SAFE_NO_PAD.decode(key).unwrap())
        };
        check_rfc(
            keys,
            &format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        );
    }

    #[test]
    fn rfc_7515_a2_is_a_good_rs256_token() {
        let keys = || {
            with_public(
                r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#,
            )
        };
        check_rfc(
            keys,
            &format!(
                "eyJhbGciOiJSUzI1NiJ9.{JOE}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
            ),
        );
    }

    #[test]
    fn rfc_7515_a3_is_a_good_es256_token() {
        let keys = || {
            with_public(
                r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#,
            )
        };
        check_rfc(
            keys,
            &format!(
                "eyJhbGciOiJFUzI1NiJ9.{JOE}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
            ),
        );
    }

    /// RFC 7515, appendix A.5: "unsecured".
    #[test]
    fn alg_none_never_counts() {
        let unsecured = format!("eyJhbGciOiJub25lIn0.{JOE}.");
        let read = |keys| tokens("iss", keys).read(unsecured.as_bytes(), at(JOE_EXPIRES - 1));
        assert_eq!(read(with_secret(SECRET)), Err(TokenError::Algorithm));
        assert_eq!(read(None), Ok("joe".to_owned()), "save where every token is believed");
    }

    #[track_caller]
    fn check(header: &str, claims: &str, want: Result<&str, TokenError>) {
        let token = token(header, claims, hs256);
        let read = tokens("sub", with_secret(SECRET)).read(token.as_bytes(), at(1_000_000));
        assert_eq!(read, want.map(str::to_owned), "{header} {claims}");
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_word() {
        check(HS256, r#"{"sub":"anna","exp":1000060}"#, Ok("anna"));
        check(HS256, r#"{"sub":"anna"}"#, Ok("anna"));
        check(HS256, r#"{"sub":4711}"#, Ok("4711"));
        for algorithm in ["none", "None", "hs256", "HS512", "RS256", "ES256", "EdDSA", ""] {
            check(&format!(r#"{{"alg":"{algorithm}"}}"#), r#"{"sub":"anna"}"#, Err(TokenError::Algorithm));
        }
        check(r#"{"alg":"HS256","crit":["b64"]}"#, r#"{"sub":"anna"}"#, Err(TokenError::Malformed));
        check(r#"{"typ":"JWT"}"#, r#"{"sub":"anna"}"#, Err(TokenError::Malformed));
        check(HS256, r#"{"sub":"anna","exp":999970}"#, Err(TokenError::Expired));
        check(HS256, r#"{"sub":"anna","exp":999970.5}"#, Ok("anna"));
        check(HS256, r#"{"sub":"anna","nbf":1000030}"#, Ok("anna"));
        check(HS256, r#"{"sub":"anna","nbf":1000031}"#, Err(TokenError::NotYetValid));
        check(HS256, r#"{"sub":"anna","exp":"soon"}"#, Err(TokenError::Malformed));
        check(HS256, r#"{"sub":"anna","exp":null}"#, Err(TokenError::Malformed));
        for claims in [r#"{}"#, r#"{"sub":""}"#, r#"{"sub":1.5}"#, r#"{"sub":["anna"]}"#, r#"{"sub":null}"#] {
            check(HS256, claims, Err(TokenError::NoClaim));
        }
        check(HS256, r#"["sub"]"#, Err(TokenError::Malformed));
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "!!.!!.!!", "e30.e30.e30=", "é.é.é"] {
            let read = |keys| tokens("sub", keys).read(text.as_bytes(), at(0));
            assert_eq!(read(with_secret(SECRET)), Err(TokenError::Malformed), "{text}");
            if text != "e30.e30.e30=" {
                assert_eq!(read(None), Err(TokenError::Malformed), "{text}");
            }
        }
        let long = token(HS256, &format!(r#"{{"sub":"{}"}}"#, "a".repeat(LONGEST)), hs256);
        assert_eq!(tokens("sub", with_secret(SECRET)).read(long.as_bytes(), at(0)), Err(TokenError::Malformed));
    }

    /// RFC 8037, appendix A.1: the seed, and its public key with a name.
    fn ed25519() -> (Ed25519KeyPair, &'static str) {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let public = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        (Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(), public)
    }

    /// The classic confusion: a public key, which everybody has, used as the secret of an HMAC.
    #[test]
    fn a_public_key_is_never_a_secret() {
        let (_, public) = ed25519();
        let confused = token(HS256, r#"{"sub":"eve"}"#, |text| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), text).as_ref().to_vec()
        });
        let read = tokens("sub", with_public(public)).read(confused.as_bytes(), at(0));
        assert_eq!(read, Err(TokenError::Algorithm));
    }

    #[test]
    fn a_key_that_a_token_names_must_be_there() {
        let (pair, public) = ed25519();
        let check = |header: &str, want: Result<&str, TokenError>| {
            let token = token(header, r#"{"sub":"anna"}"#, |text| pair.sign(text).as_ref().to_vec());
            let read = tokens("sub", with_public(public)).read(token.as_bytes(), at(0));
            assert_eq!(read, want.map(str::to_owned), "{header}");
        };
        check(r#"{"alg":"EdDSA"}"#, Ok("anna"));
        check(r#"{"alg":"EdDSA","kid":"ed"}"#, Ok("anna"));
        check(r#"{"alg":"EdDSA","kid":"other"}"#, Err(TokenError::UnknownKey));
        check(r#"{"alg":"ES256","kid":"ed"}"#, Err(TokenError::Algorithm));
    }

    #[test]
    fn the_first_place_that_has_a_token_counts() {
        let places = vec![
            TokenPlace::Header("x-token".parse().unwrap()),
            TokenPlace::Cookie("t".into()),
            TokenPlace::Query("token".into()),
            TokenPlace::Protocol { prefix: String::new() },
            TokenPlace::Authorization,
        ];
        let all = UserTokens { from: places, claim: "sub".into(), keys: with_secret(SECRET) };
        let good = token(HS256, r#"{"sub":"anna"}"#, hs256);
        let check = |fields: &[(&'static str, String)], query: Option<&str>, want: Option<Result<&str, TokenError>>| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            let found = all.user(Request { headers: &headers, path: "/", query }, at(0));
            assert_eq!(found, want.map(|want| want.map(str::to_owned)), "{fields:?} {query:?}");
        };
        check(&[], None, None);
        check(&[("x-token", good.clone())], None, Some(Ok("anna")));
        check(&[("cookie", format!("a=b; t={good}"))], None, Some(Ok("anna")));
        check(&[], Some(&format!("v=2&token={good}")), Some(Ok("anna")));
        check(&[("sec-websocket-protocol", format!("im, {good}"))], None, Some(Ok("anna")));
        check(&[("authorization", format!("Bearer {good}"))], None, Some(Ok("anna")));
        let broken = [("x-token", "x".to_owned()), ("authorization", format!("Bearer {good}"))];
        check(&broken, None, Some(Err(TokenError::Malformed)));
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in proptest::collection::vec(any::<u8>(), 0..200), parts in "[A-Za-z0-9._-]{0,200}") {
            for token in [&token[..], parts.as_bytes()] {
                for keys in [None, with_secret(SECRET)] {
                    prop_assert!(tokens("sub", keys).read(token, at(0)).is_err());
                }
            }
        }
    }
}
