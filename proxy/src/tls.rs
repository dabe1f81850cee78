//! TLS on both sides, by rustls with ring.
//!
//! Certificates are read and checked when a snapshot is made, so a half-written pair is refused and the old one stays.
//! Session tickets belong to the process, or to all edges with the same keys: clients that resume do so over any reload.

#[cfg(test)]
pub(crate) mod fixture;
mod session;
mod socket;
mod tickets;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::WrappedX509;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;

pub use self::socket::TlsSocket;
pub use self::tickets::{TicketKeys, Tickets};
use crate::config::{self, CertificateFiles, ListenerTls, TlsVersion};
use crate::stream::Io;

/// What a file that TLS needs can be wrong in.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: String },
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} does not fit the certificate in {}: {cause}", key.display(), chain.display())]
    KeyMismatch { chain: PathBuf, key: PathBuf, cause: rustls::Error },
    #[error("{} {fault}", path.display())]
    TicketKeys { path: PathBuf, fault: tickets::KeyFault },
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Makes ring the provider of everything in this process that asks for the default.
pub fn install_provider() {
    // A second call finds it installed, which is as good.
    ring::default_provider().install_default().ok();
}

/// What a listener answers TLS handshakes with. `tickets` are the process's own, for a listener without keys in a file.
///
/// # Errors
/// When a file is missing, damaged or does not fit its partner.
pub fn server_config(
    tls: &ListenerTls,
    http: Option<(bool, bool)>,
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::Setup(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates::load(tls)?));
    if let Some((http1, http2)) = http {
        config.alpn_protocols.extend(http2.then(|| b"h2".to_vec()));
        config.alpn_protocols.extend(http1.then(|| b"http/1.1".to_vec()));
    }
    config.ticketer = match &tls.ticket_keys {
        Some(keys) => Tickets::shared(keys)?.producer(),
        None => tickets.producer(),
    };
    // One ticket is what a phone needs to come back once; the default of two costs memory and bytes a handshake.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Certificates by the names in them.
#[derive(Debug)]
struct Certificates {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that name no host or one that is not here; none when names are strict.
    fallback: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    fn load(tls: &ListenerTls) -> Result<Certificates, TlsError> {
        let mut certificates = Certificates { by_name: HashMap::new(), fallback: None };
        for files in &tls.certificates {
            let key = Arc::new(certified_key(files)?);
            for name in names(&key) {
                // The first certificate with a name has it.
                certificates.by_name.entry(name).or_insert_with(|| key.clone());
            }
            if !tls.strict_sni {
                certificates.fallback.get_or_insert(key);
            }
        }
        Ok(certificates)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else { return self.fallback.clone() };
        let name = name.to_ascii_lowercase();
        let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
        let found = self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard()?));
        found.or(self.fallback.as_ref()).cloned()
    }
}

/// Reads a chain and its key, and checks that they belong together.
///
/// # Errors
/// When a file is missing, damaged or does not fit its partner.
pub fn certified_key(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let unreadable = |path: &Path, cause: rustls_pki_types::pem::Error| TlsError::Unreadable {
        path: path.to_owned(),
        cause: cause.to_string(),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect)
        .map_err(|cause| unreadable(&files.chain, cause))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.chain.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| unreadable(&files.key, cause))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|cause| TlsError::KeyMismatch {
        chain: files.chain.clone(),
        key: files.key.clone(),
        cause,
    })
}

/// The DNS names that a certificate is for, in lower case.
fn names(key: &CertifiedKey) -> Vec<String> {
    let Some(certificate) = key.cert.first() else { return Vec::new() };
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    certificate.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

/// TLS to the endpoints of one cluster: one rustls configuration, shared by tunnels and probes.
#[derive(Clone)]
pub struct UpstreamTls {
    config: Arc<ClientConfig>,
    /// The same, offering HTTP/2.
    h2: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// Tells settings apart by what they hold, not by the path of a file that was written again.
    pub fingerprint: u64,
    /// The authorities of a `ca` file as pingora takes them; none for the system's.
    pub authorities: Option<Arc<CaType>>,
}

impl UpstreamTls {
    /// # Errors
    /// When the authorities cannot be read, or the name is none.
    pub fn new(tls: &config::UpstreamTls) -> Result<UpstreamTls, TlsError> {
        let name = ServerName::try_from(tls.name.clone()).map_err(|e| TlsError::Setup(e.to_string()))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Setup(e.to_string()))?;
        let mut config = if tls.verify {
            builder.with_root_certificates(authorities(tls.ca.as_deref())?).with_no_client_auth()
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny)).with_no_client_auth()
        };
        // Tunnels and probes speak HTTP/1.1 or no HTTP at all; requests over HTTP/2 go through pingora's own connector.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut h2 = config.clone();
        h2.alpn_protocols = vec![b"h2".to_vec()];
        let authorities = tls.ca.as_deref().map(for_pingora).transpose()?;
        let fingerprint = fingerprint(tls)?;
        Ok(UpstreamTls { config: Arc::new(config), h2: Arc::new(h2), name, fingerprint, authorities })
    }

    /// # Errors
    /// When the handshake fails; the certificate is part of it.
    pub async fn connect(&self, tcp: TcpStream) -> io::Result<Io> {
        self.handshake(&self.config, tcp).await
    }

    /// As [`UpstreamTls::connect`], for HTTP/2: what gRPC probes speak.
    ///
    /// # Errors
    /// When the handshake fails; the certificate is part of it.
    pub async fn connect_h2(&self, tcp: TcpStream) -> io::Result<Io> {
        self.handshake(&self.h2, tcp).await
    }

    /// The name that is verified, as an HTTP authority; none for an address.
    pub fn authority(&self) -> Option<String> {
        match &self.name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        }
    }

    async fn handshake(&self, config: &Arc<ClientConfig>, tcp: TcpStream) -> io::Result<Io> {
        let tls = TlsSocket::connect(tcp, config.clone(), self.name.clone()).await?;
        Ok(Io::Tls(Box::new(tls)))
    }
}

fn fingerprint(tls: &config::UpstreamTls) -> Result<u64, TlsError> {
    let mut hasher = DefaultHasher::new();
    (&tls.name, tls.verify).hash(&mut hasher);
    if let Some(ca) = &tls.ca {
        authority_certificates(Some(ca))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// pingora keeps a parsed certificate beside its bytes.
fn for_pingora(ca: &Path) -> Result<Arc<CaType>, TlsError> {
    let certificates = authority_certificates(Some(ca))?.into_iter().map(|certificate| {
        WrappedX509::try_new(certificate.to_vec(), |bytes| {
            x509_parser::parse_x509_certificate(bytes).map(|(_rest, certificate)| certificate)
        })
        .map_err(|cause| TlsError::Unreadable { path: ca.to_owned(), cause: cause.to_string() })
    });
    Ok(certificates.collect::<Result<Vec<WrappedX509>, TlsError>>()?.into())
}

/// The authorities in a PEM file, or the system's.
///
/// # Errors
/// When the file is missing, damaged or empty, or the system has none.
pub fn authority_certificates(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        return if found.certs.is_empty() {
            Err(TlsError::Setup("the system has no certificate authorities; name a `ca` file".into()))
        } else {
            Ok(found.certs)
        };
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| TlsError::Unreadable { path: path.to_owned(), cause: cause.to_string() })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(authority_certificates(ca)?);
    if added == 0 {
        return Err(TlsError::Setup("none of the certificate authorities can be used".into()));
    }
    Ok(roots)
}

/// `verify = false`: an operator said so, in so many words.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}
