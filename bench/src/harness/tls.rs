//! A certificate authority for one test, and clients that trust it and nothing else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authority that issues certificates (ECDSA P-256) in memory.
#[derive(Debug)]
pub struct TestCa {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
}

impl TestCa {
    /// Makes an authority with a fresh key.
    ///
    /// # Errors
    /// When there is no randomness to make a key of.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "warbler test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot sign an authority")?;
        Ok(Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for DNS names (also `*.wildcards`) and IP addresses.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn issue(&self, names: &[&str]) -> Result<Issued> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).with_context(|| format!("no names: {names:?}"))?;
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        Ok(Issued { chain_pem: certificate.pem() + &self.pem, key_pem: key.serialize_pem() })
    }

    /// A client configuration that trusts this authority only and offers these protocols by ALPN (none: no ALPN).
    ///
    /// # Errors
    /// When the TLS library takes neither the authority nor its own defaults.
    pub fn client(&self, alpn: &[&str]) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).context("the authority is not taken")?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("no TLS version")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Connects and shakes hands. The certificate must be for `server_name`, a DNS name or an IP address.
///
/// # Errors
/// When there is no connection, or no trusted handshake in 10 s.
pub async fn connect(
    address: SocketAddr,
    server_name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let stream =
        timeout(PATIENCE, TcpStream::connect(address)).await.with_context(|| format!("{address} did not answer"))?;
    let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("the connection is gone already")?;
    connect_over(stream, server_name, config).await
}

/// Shakes hands over a connection that is open already, such as one that began with a PROXY header.
///
/// # Errors
/// When there is no trusted handshake in 10 s.
pub async fn connect_over(
    stream: TcpStream,
    server_name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let name =
        ServerName::try_from(server_name.to_owned()).with_context(|| format!("no server name: {server_name:?}"))?;
    let handshake = timeout(PATIENCE, TlsConnector::from(config).connect(name, stream)).await;
    handshake
        .with_context(|| format!("no TLS handshake as {server_name} in {PATIENCE:?}"))?
        .with_context(|| format!("no TLS as {server_name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            pki_types::{PrivateKeyDer, pem::PemObject},
        },
    };

    #[tokio::test]
    async fn its_clients_trust_what_it_issued_by_name_and_by_address() {
        let ca = TestCa::new().unwrap();
        let issued = ca.issue(&["im.example.com", "*.chat.example.com", "127.0.0.1"]).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.write_all(b"x").await.unwrap();
                }
            }
        });
        for name in ["im.example.com", "a.chat.example.com", "127.0.0.1"] {
            let mut stream = connect(address, name, ca.client(&[]).unwrap()).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
        }
        assert!(connect(address, "other.example.com", ca.client(&[]).unwrap()).await.is_err());
        let stranger = TestCa::new().unwrap();
        assert!(connect(address, "im.example.com", stranger.client(&[]).unwrap()).await.is_err());
    }
}
