//! Both ends of a TLS connection of a test.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::AcceptAny;

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["im.example.com".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// With a certificate that is followed by so many more that nobody asked for.
pub(crate) fn server_config(more: usize) -> Arc<ServerConfig> {
    let (certificate, key) = certificate();
    let chain = vec![certificate; 1 + more];
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// That offers so many protocols of 250 bytes each.
pub(crate) fn client_config(protocols: usize, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = (0..protocols).map(|number| format!("{number:0250}").into_bytes()).collect();
    Arc::new(config)
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("im.example.com").unwrap()
}
