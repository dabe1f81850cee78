//! The one certificate of every proxy, and the TLS of the load: the same cipher and curve whoever is on the other side,
//! so that all do the same work.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        ring::{cipher_suite::TLS13_AES_256_GCM_SHA384, default_provider, kx_group::X25519},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};

use super::row::Protocol;
use crate::harness::{TestCa, Workspace};

/// Files in the workspace, which is where every proxy runs.
pub(super) const CHAIN: &str = "chain.pem";
pub(super) const KEY: &str = "key.pem";
/// Both in one, as HAProxy wants it.
pub(super) const BOTH: &str = "both.pem";
/// The name that the load asks for.
pub(super) const NAME: &str = "im.example.com";

/// Tickets that are kept: a server sends one or two at a time.
const TICKETS: usize = 8;

/// Whether the load takes up sessions of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    Fresh,
    Resumed,
}

/// Writes a certificate (ECDSA P-256) and its key for all proxies.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let issued = TestCa::new()?.issue(&[NAME])?;
    workspace.write(BOTH, issued.chain_pem.clone() + &issued.key_pem)?;
    workspace.write(CHAIN, issued.chain_pem)?;
    workspace.write(KEY, issued.key_pem)?;
    Ok(())
}

/// The client side. Each configuration remembers tickets of its own.
pub(crate) fn client(protocol: Protocol, sessions: Sessions) -> Result<Arc<ClientConfig>> {
    let provider =
        CryptoProvider { cipher_suites: vec![TLS13_AES_256_GCM_SHA384], kx_groups: vec![X25519], ..default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .context("no TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    config.resumption = match sessions {
        Sessions::Fresh => Resumption::disabled(),
        Sessions::Resumed => Resumption::in_memory_sessions(TICKETS),
    };
    config.alpn_protocols = match protocol {
        Protocol::Http2 => vec![b"h2".to_vec()],
        Protocol::Http1Tls | Protocol::WebSocketTls => vec![b"http/1.1".to_vec()],
        _ => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// Takes any certificate and any signature: the core of the load is for load, and there is nobody to be fooled.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
