//! The keys that tokens are signed with, from their files.
//!
//! A key is for one algorithm, and its kind says which: HS256 for a secret, RS256, ES256 or EdDSA for a public key. So
//! no token can choose how it is verified. Contents of the files are never quoted.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::config::TokenTrust;

/// RFC 7518 section 3.2: an HS256 key is at least as long as the hash, in bytes.
pub const SECRET_LENGTH: usize = 32;
/// RFC 7518 section 3.3 asks for 2048 bits at least; `ring` goes up to 8192.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of one cluster. Never empty.
#[derive(Debug, Default)]
pub struct TokenKeys {
    keys: Vec<Key>,
}

/// A key for one algorithm.
pub struct Key {
    /// What tokens call it (`kid`), when its file says so.
    id: Option<String>,
    material: Material,
}

enum Material {
    Hs256(hmac::Key),
    Rs256(signature::RsaPublicKeyComponents<Vec<u8>>),
    /// Uncompressed point.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

/// The algorithms of public keys.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Rs256,
    Es256,
    EdDsa,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Rs256 => "RS256",
            Kind::Es256 => "ES256",
            Kind::EdDsa => "EdDSA",
        }
    }
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read {file}: {cause}")]
    Unreadable { file: String, cause: std::io::Error },
    #[error("{file} {fault}")]
    Unusable { file: String, fault: KeyFault },
}

/// What is wrong with the contents of a file, as in "FILE is empty".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("is empty")]
    Empty,
    #[error("holds no public key")]
    NoKey,
    #[error("holds a private key, and verifying needs the public one")]
    Private,
    #[error("holds a certificate, and the bare public key of it is needed")]
    Certificate,
    #[error("holds a secret (`oct`), and that is no public key")]
    Secret,
    #[error("is neither PEM nor a JWK set")]
    Damaged,
    #[error("holds a key that is neither RSA, nor P-256, nor Ed25519")]
    Unsupported,
    #[error("holds an RSA key that is not 2048 to 8192 bits long")]
    RsaLength,
}

impl KeyFault {
    /// The way out, for whoever wrote the file.
    pub fn help(self) -> &'static str {
        match self {
            KeyFault::Empty => "it must hold the secret, at least 32 random bytes",
            KeyFault::Private => "openssl pkey -in KEY -pubout",
            KeyFault::Certificate => "openssl x509 -in CERTIFICATE -noout -pubkey",
            KeyFault::Secret => "name a file with the secret itself in `hs256-secret-file`",
            KeyFault::RsaLength => "shorter keys can be broken",
            KeyFault::NoKey | KeyFault::Damaged | KeyFault::Unsupported => {
                "PEM blocks `PUBLIC KEY`, or a JWK set, for ES256, RS256 or EdDSA"
            }
        }
    }
}

impl TokenKeys {
    /// Reads the files. `None` where tokens are not verified.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub fn open(trust: &TokenTrust) -> Result<Option<TokenKeys>, KeyFileError> {
        let TokenTrust::Verified { hs256_secret, public_keys } = trust else { return Ok(None) };
        let mut keys = TokenKeys::default();
        if let Some(path) = hs256_secret {
            keys.read(path, TokenKeys::add_secret)?;
        }
        if let Some(path) = public_keys {
            keys.read(path, TokenKeys::add_public)?;
        }
        Ok(Some(keys))
    }

    fn read(
        &mut self,
        path: &Path,
        add: fn(&mut TokenKeys, &[u8]) -> Result<(), KeyFault>,
    ) -> Result<(), KeyFileError> {
        let file = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => add(self, &bytes).map_err(|fault| KeyFileError::Unusable { file, fault }),
            Err(cause) => Err(KeyFileError::Unreadable { file, cause }),
        }
    }

    /// The contents of a file with an HS256 secret.
    ///
    /// # Errors
    /// [`KeyFault::Empty`].
    pub fn add_secret(&mut self, file: &[u8]) -> Result<(), KeyFault> {
        let secret = secret_in(file);
        if secret.is_empty() {
            return Err(KeyFault::Empty);
        }
        self.keys.push(Key { id: None, material: Material::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)) });
        Ok(())
    }

    /// The contents of a file with public keys: PEM, or a JWK set (RFC 7517) or a single JWK. Entries of a set that are
    /// for something else are passed over, as section 5 there says.
    ///
    /// # Errors
    /// When there is no key to use, or one that should not be there.
    pub fn add_public(&mut self, file: &[u8]) -> Result<(), KeyFault> {
        let before = self.keys.len();
        match file.trim_ascii_start().first() {
            Some(b'{') => self.add_jwks(file)?,
            _ => self.add_pem(file)?,
        }
        if self.keys.len() == before { Err(KeyFault::NoKey) } else { Ok(()) }
    }

    fn add_pem(&mut self, file: &[u8]) -> Result<(), KeyFault> {
        let holds = |label: &str| file.windows(label.len()).any(|window| window == label.as_bytes());
        if holds("PRIVATE KEY-----") {
            return Err(KeyFault::Private);
        }
        for block in SubjectPublicKeyInfoDer::pem_slice_iter(file) {
            let der = block.map_err(|_cause| KeyFault::Damaged)?;
            let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_cause| KeyFault::Damaged)?;
            self.keys.push(Key { id: None, material: Material::from_info(&info)? });
        }
        if self.keys.is_empty() && holds("-----BEGIN CERTIFICATE-----") {
            return Err(KeyFault::Certificate);
        }
        Ok(())
    }

    fn add_jwks(&mut self, file: &[u8]) -> Result<(), KeyFault> {
        let set: JwkSet = serde_json::from_slice(file).map_err(|_cause| KeyFault::Damaged)?;
        let single = if set.keys.is_none() { serde_json::from_slice(file).ok() } else { None };
        for jwk in set.keys.into_iter().flatten().chain(single) {
            let Some(material) = Material::from_jwk(&jwk)? else { continue };
            self.keys.push(Key { id: jwk.kid, material });
        }
        Ok(())
    }

    /// The keys that a token with this header may be signed by: none of another algorithm, and, if the token names its
    /// key, none with another name.
    pub fn candidates(&self, algorithm: &str, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            key.algorithm() == algorithm && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        })
    }

    /// Whether any key is for this algorithm.
    pub fn know(&self, algorithm: &str) -> bool {
        self.keys.iter().any(|key| key.algorithm() == algorithm)
    }
}

/// A secret as it stands in its file: a newline at the end is the editor's.
pub fn secret_in(file: &[u8]) -> &[u8] {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    secret.strip_suffix(b"\r").unwrap_or(secret)
}

impl Key {
    pub fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Hs256(_) => "HS256",
            Material::Rs256(_) => Kind::Rs256.as_str(),
            Material::Es256(_) => Kind::Es256.as_str(),
            Material::EdDsa(_) => Kind::EdDsa.as_str(),
        }
    }

    pub fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Hs256(key) => hmac::verify(key, text, signature),
            Material::Rs256(key) => key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, text, signature),
            Material::Es256(key) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).verify(text, signature)
            }
            Material::EdDsa(key) => signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(text, signature),
        };
        verified.is_ok()
    }
}

impl Material {
    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Material, KeyFault> {
        let algorithm = &info.algorithm.algorithm;
        let bytes = &*info.subject_public_key.data;
        if *algorithm == OID_SIG_ED25519 {
            return Material::ed25519(bytes.to_vec());
        }
        if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            return if curve == Some(OID_EC_P256) {
                Material::p256(bytes.to_vec())
            } else {
                Err(KeyFault::Unsupported)
            };
        }
        if *algorithm == OID_PKCS1_RSAENCRYPTION
            && let Ok(PublicKey::RSA(key)) = info.parsed()
        {
            return Material::rsa(key.modulus, key.exponent);
        }
        Err(KeyFault::Unsupported)
    }

    /// `None` for a key that is not for signatures of ours.
    fn from_jwk(jwk: &Jwk) -> Result<Option<Material>, KeyFault> {
        let kind = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("oct", _) => return Err(KeyFault::Secret),
            ("RSA", _) => Kind::Rs256,
            ("EC", Some("P-256")) => Kind::Es256,
            ("OKP", Some("Ed25519")) => Kind::EdDsa,
            _ => return Ok(None),
        };
        let for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
        let for_ours = jwk.alg.as_deref().is_none_or(|named| named == kind.as_str());
        if !for_signatures || !for_ours {
            return Ok(None);
        }
        let material = match kind {
            Kind::Rs256 => Material::rsa(&number(&jwk.n)?, &number(&jwk.e)?),
            Kind::Es256 => Material::p256([vec![0x04], number(&jwk.x)?, number(&jwk.y)?].concat()),
            Kind::EdDsa => Material::ed25519(number(&jwk.x)?),
        };
        material.map(Some)
    }

    fn ed25519(key: Vec<u8>) -> Result<Material, KeyFault> {
        if key.len() == 32 { Ok(Material::EdDsa(key)) } else { Err(KeyFault::Damaged) }
    }

    fn p256(point: Vec<u8>) -> Result<Material, KeyFault> {
        if point.len() == 65 && point[0] == 0x04 { Ok(Material::Es256(point)) } else { Err(KeyFault::Unsupported) }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, KeyFault> {
        let [n, e] = [modulus, exponent].map(without_leading_zeros);
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFault::RsaLength);
        }
        Ok(Material::Rs256(signature::RsaPublicKeyComponents { n: n.to_vec(), e: e.to_vec() }))
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

fn number(encoded: &Option<String>) -> Result<Vec<u8>, KeyFault> {
    let encoded = encoded.as_ref().ok_or(KeyFault::Damaged)?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_cause| KeyFault::Damaged)
}

/// Only the algorithm of a key is ever shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(***)", self.algorithm())
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Option<Vec<Jwk>>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, want: Result<&[&str], KeyFault>) {
        let mut keys = TokenKeys::default();
        let added = keys.add_public(file.as_bytes());
        let algorithms: Vec<&str> = keys.keys.iter().map(Key::algorithm).collect();
        assert_eq!(added.map(|()| algorithms), want.map(<[&str]>::to_vec), "{file}");
    }

    /// RFC 7515, appendix A.3.1, without `d`.
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    /// RFC 8037, appendix A.2.
    const ED25519: &str =
        r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    #[test]
    fn keys_of_a_set_are_taken_for_what_they_are_and_others_are_passed_over() {
        check(P256, Ok(&["ES256"]));
        check(&format!("\n {{\"keys\":[{P256},{ED25519}]}}"), Ok(&["ES256", "EdDSA"]));
        let foreign = r#"{"kty":"EC","crv":"P-384","x":"","y":""},{"kty":"new"}"#;
        check(&format!("{{\"keys\":[{foreign},{ED25519}]}}"), Ok(&["EdDSA"]));
        let encrypting = ED25519.replace("\"kid\"", "\"use\":\"enc\",\"kid\"");
        check(&format!("{{\"keys\":[{encrypting}]}}"), Err(KeyFault::NoKey));
        check(&P256.replace("\"crv\"", "\"alg\":\"ES512\",\"crv\""), Err(KeyFault::NoKey));
        check("{\"keys\":[]}", Err(KeyFault::NoKey));
        check("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", Err(KeyFault::Secret));
        check("{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}", Err(KeyFault::RsaLength));
        check("{\"kty\":\"RSA\",\"e\":\"AQAB\"}", Err(KeyFault::Damaged));
        check(&P256.replace("f83O", "f8!O"), Err(KeyFault::Damaged));
        check(&P256.replace("f83OJ3D2", ""), Err(KeyFault::Unsupported));
        check("{", Err(KeyFault::Damaged));
    }

    #[test]
    fn files_that_hold_something_else_say_so() {
        check("", Err(KeyFault::NoKey));
        check("hello", Err(KeyFault::NoKey));
        let pair = rcgen::generate_simple_self_signed(["im.test".to_owned()]).unwrap();
        check(&pair.signing_key.serialize_pem(), Err(KeyFault::Private));
        check(&pair.cert.pem(), Err(KeyFault::Certificate));
        check(&pair.signing_key.public_key_pem(), Ok(&["ES256"]));
        check("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Err(KeyFault::Damaged));
        let mut keys = TokenKeys::default();
        assert_eq!(keys.add_secret(b"\r\n"), Err(KeyFault::Empty));
        assert_eq!(secret_in(b" s \r\n"), b" s ");
    }

    #[test]
    fn pem_keys_are_known_by_their_algorithm() {
        for (algorithm, want) in [(&rcgen::PKCS_ED25519, "EdDSA"), (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256")] {
            check(&rcgen::KeyPair::generate_for(algorithm).unwrap().public_key_pem(), Ok(&[want]));
        }
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        check(&p384, Err(KeyFault::Unsupported));
    }

    #[test]
    fn a_key_never_shows_itself() {
        let mut keys = TokenKeys::default();
        keys.add_secret(b"0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(format!("{keys:?}"), "TokenKeys { keys: [HS256(***)] }");
    }
}
