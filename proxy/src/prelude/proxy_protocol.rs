//! The PROXY header, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): who the client of a trusted proxy is.
//!
//! Exactly the header is taken from the socket, by peeking first: what follows may be a TLS handshake, and must still
//! be there for it.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Largest header taken: a version 2 header with its TLVs (certificates included) fits; version 1 needs 107 bytes.
const LARGEST: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("connection ended inside the PROXY header")]
    Ended,
    #[error("PROXY header cannot be read: {0}")]
    Broken(#[from] io::Error),
    #[error("does not start with a PROXY header")]
    Malformed,
    #[error("PROXY header is larger than {LARGEST} bytes")]
    TooLarge,
}

/// Reads the header; the client's address, or nothing when the proxy speaks for itself (`LOCAL`, `UNKNOWN`).
///
/// # Errors
/// When there is no valid header.
pub async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut bytes = vec![0; 256];
    let mut taken = 0;
    loop {
        if taken == bytes.len() {
            bytes.resize((bytes.len() * 2).min(LARGEST), 0);
        }
        let seen = tcp.peek(&mut bytes[taken..]).await?;
        if seen == 0 {
            return Err(HeaderError::Ended);
        }
        let have = taken + seen;
        match parse(&bytes[..have])? {
            Some((client, length)) => {
                tcp.read_exact(&mut bytes[taken..length]).await?;
                return Ok(client);
            }
            None if have >= LARGEST => return Err(HeaderError::TooLarge),
            // All of it belongs to the header, so it can be taken, and the next peek waits for more.
            None => tcp.read_exact(&mut bytes[taken..have]).await?,
        };
        taken = have;
    }
}

/// The client and the header's length; nothing while the header is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, HeaderError> {
    const CONFIG: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(bytes, CONFIG) {
        Ok((header, length)) => Ok(Some((header.proxied_address().map(|address| address.source), length))),
        // A version 1 header ends with its line; the parser waits for more of one that is too short.
        Err(Error::BufferTooShort) if bytes.starts_with(b"PROXY ") && bytes.contains(&b'\n') => {
            Err(HeaderError::Malformed)
        }
        Err(Error::BufferTooShort) => Ok(None),
        Err(_malformed) => Err(HeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

    fn v2(client: [u8; 4], port: u16, tlvs: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        header.extend(u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes());
        header.extend(client);
        header.extend([127, 0, 0, 1]);
        header.extend(port.to_be_bytes());
        header.extend(443u16.to_be_bytes());
        header.extend(tlvs);
        header
    }

    /// Sends `pieces` one by one, each after the reader has taken the one before.
    async fn check(pieces: &[&[u8]], want: Result<Option<&str>, &str>, rest: &[u8]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut receiver, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                sender.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            sender.shutdown().await.unwrap();
        };
        let (got, ()) = tokio::join!(read(&mut receiver), sending);
        let got = got.map(|client| client.map(|client| client.to_string())).map_err(|error| error.to_string());
        assert_eq!(got.as_ref().map(|client| client.as_deref()).map_err(String::as_str), want);
        if got.is_ok() {
            let mut left = Vec::new();
            receiver.read_to_end(&mut left).await.unwrap();
            assert_eq!(left, rest);
        }
    }

    #[tokio::test]
    async fn version_1_names_the_client_and_leaves_the_rest() {
        check(&[b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\nhello"], Ok(Some("203.0.113.7:4711")), b"hello").await;
        check(&[b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"], Ok(Some("[2001:db8::7]:4711")), b"").await;
        check(&[b"PROXY UNKNOWN\r\nhello"], Ok(None), b"hello").await;
    }

    #[tokio::test]
    async fn version_2_names_the_client_and_leaves_the_rest() {
        let header = v2([203, 0, 113, 7], 4711, &[]);
        check(&[&header, b"hello"], Ok(Some("203.0.113.7:4711")), b"hello").await;
        check(&[V2_LOCAL, b"hello"], Ok(None), b"hello").await;
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte_and_with_large_tlvs() {
        let mut tlvs = vec![0x04, 0x07, 0xd0];
        tlvs.resize(3 + 2000, 0);
        let header = v2([203, 0, 113, 7], 4711, &tlvs);
        let pieces: Vec<&[u8]> = header.chunks(97).chain([&b"hello"[..]]).collect();
        check(&pieces, Ok(Some("203.0.113.7:4711")), b"hello").await;
        let single: Vec<&[u8]> = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".chunks(1).collect();
        check(&single, Ok(Some("203.0.113.7:4711")), b"").await;
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        check(&[b"GET / HTTP/1.1\r\n\r\n"], Err("does not start with a PROXY header"), b"").await;
        check(&[b"PROXY TCP4 nonsense\r\n"], Err("does not start with a PROXY header"), b"").await;
        check(&[b"PROXY TCP4 203.0.113.7"], Err("connection ended inside the PROXY header"), b"").await;
    }
}
