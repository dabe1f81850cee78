//! The PROXY header, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): for whom a proxy in front speaks.
//!
//! The header is believed from networks that the operator names and from nobody else, because whoever may send one can
//! be anybody. Whether there is one is told by its first bytes, which are those of no HTTP request and of no length of a
//! frame: so a header from a wrong place is seen for what it is, and a probe of a trusted proxy may come without.

use std::{io, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::downstream::{Downstream, Origin};

/// How long a header may take from its first byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest header taken, in bytes: a version 2 header with its TLVs (certificates included) fits; version 1 needs 107.
const LARGEST: usize = 4096;
const VERSION_1: &[u8] = b"PROXY ";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whether a connection's proxy is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Believed {
    Yes,
    No,
}

/// Why there is nobody to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the connection broke before it said anything")]
    Broken(#[from] io::Error),
    #[error("the connection ended inside its PROXY header")]
    Ended,
    #[error("the PROXY header was not complete {PATIENCE:?} after its first byte")]
    Slow,
    #[error("the PROXY header cannot be understood")]
    Malformed,
    #[error("the PROXY header is larger than {LARGEST} bytes")]
    TooLarge,
    #[error("a PROXY header came from an address that no --proxy-from names")]
    NotBelieved,
}

/// Finds out who is at the other end. Waits for its first byte without a limit of its own.
///
/// # Errors
/// [`HeaderError`] if the connection must not be served.
pub(crate) async fn origin(
    stream: &mut Downstream,
    peer: SocketAddr,
    believed: Believed,
) -> Result<Origin, HeaderError> {
    // So that who says nothing takes no memory.
    stream.readable().await?;
    let mut bytes = BytesMut::new();
    stream.read_buf(&mut bytes).await?;
    let header = timeout(PATIENCE, header(stream, bytes, believed)).await.map_err(|_elapsed| HeaderError::Slow)??;
    Ok(match header {
        Header::Client(address) => Origin { address, proxy: Some(peer), unnamed: false },
        Header::Nobody => Origin::direct(peer),
        Header::Missing => Origin { unnamed: believed == Believed::Yes, ..Origin::direct(peer) },
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Client(SocketAddr),
    /// The proxy speaks for itself (`LOCAL`, `UNKNOWN`), or for somebody without an IP address.
    Nobody,
    Missing,
}

/// Takes the header off the stream, of which `bytes` have been read, and nothing behind it.
async fn header(stream: &mut Downstream, mut bytes: BytesMut, believed: Believed) -> Result<Header, HeaderError> {
    loop {
        match parse(&bytes) {
            Parsed::Missing => {
                stream.put_back(bytes.freeze());
                return Ok(Header::Missing);
            }
            Parsed::Unclear => {}
            _ if believed == Believed::No => return Err(HeaderError::NotBelieved),
            Parsed::Whole { client, length } => {
                stream.put_back(bytes.split_off(length).freeze());
                return Ok(client.map_or(Header::Nobody, Header::Client));
            }
            Parsed::Begun if bytes.len() >= LARGEST => return Err(HeaderError::TooLarge),
            Parsed::Begun => {}
            Parsed::Malformed => return Err(HeaderError::Malformed),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(HeaderError::Ended);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// Something else than a header.
    Missing,
    /// Too little to say.
    Unclear,
    /// A header, of which there is more to come.
    Begun,
    Whole {
        client: Option<SocketAddr>,
        length: usize,
    },
    Malformed,
}

fn parse(bytes: &[u8]) -> Parsed {
    const CONFIG: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    let signatures = [VERSION_1, VERSION_2];
    if !signatures.iter().any(|signature| bytes.starts_with(signature)) {
        let may_become_one = !bytes.is_empty() && signatures.iter().any(|signature| signature.starts_with(bytes));
        return if may_become_one { Parsed::Unclear } else { Parsed::Missing };
    }
    match ProxyHeader::parse(bytes, CONFIG) {
        Ok((header, length)) => {
            let client = header.proxied_address().map(|address| address.source);
            Parsed::Whole { client, length }
        }
        // A version 1 header ends with its line; the parser waits for more of one that is too short.
        Err(Error::BufferTooShort) if bytes.starts_with(VERSION_1) && bytes.contains(&b'\n') => Parsed::Malformed,
        Err(Error::BufferTooShort) => Parsed::Begun,
        Err(_malformed) => Parsed::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n";

    /// Version 2: command, family, and what is behind the length.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [VERSION_2, &[command, family], &length, rest].concat()
    }

    fn whole(client: Option<&str>, length: usize) -> Parsed {
        Parsed::Whole { client: client.map(|client| client.parse().unwrap()), length }
    }

    #[track_caller]
    fn check(bytes: &[u8], want: &Parsed) {
        let behind = [bytes, b"hello"].concat();
        assert_eq!(parse(&behind), *want, "{}", bytes.escape_ascii());
    }

    #[test]
    fn both_versions_name_the_client_and_nothing_behind_the_header_is_taken() {
        check(LINE, &whole(Some("203.0.113.7:4711"), LINE.len()));
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
        check(six, &whole(Some("[2001:db8::7]:4711"), six.len()));
        let addresses = [203, 0, 113, 7, 127, 0, 0, 1, 0x12, 0x67, 1, 187];
        let header = v2(0x21, 0x11, &addresses);
        check(&header, &whole(Some("203.0.113.7:4711"), header.len()));
        let tlvs = [&addresses[..], &[0x02, 0, 3, b'i', b'm', b'1']].concat();
        let header = v2(0x21, 0x11, &tlvs);
        check(&header, &whole(Some("203.0.113.7:4711"), header.len()));
    }

    #[test]
    fn a_proxy_may_speak_for_itself_or_for_somebody_without_an_address() {
        check(LOCAL, &whole(None, LOCAL.len()));
        check(b"PROXY UNKNOWN\r\n", &whole(None, 15));
        check(b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n", &whole(None, 33));
        // A health check with the addresses of its own connection: they do not count.
        let header = v2(0x20, 0x11, &[127, 0, 0, 1, 127, 0, 0, 1, 1, 1, 1, 1]);
        check(&header, &whole(None, header.len()));
        let unspecified = v2(0x21, 0x00, &[1, 2, 3]);
        check(&unspecified, &whole(None, unspecified.len()));
        let unix = v2(0x21, 0x31, &[0; 216]);
        check(&unix, &whole(None, unix.len()));
    }

    #[test]
    fn what_is_no_header_is_told_from_one_that_is_broken() {
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"POST / HTTP/1.1\r\n", b"PROXYISH", b"\r\n\r\nGET", &[0, 0, 0, 4]] {
            check(other, &Parsed::Missing);
        }
        for broken in [&b"PROXY TCP4 nonsense\r\n"[..], b"PROXY \r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n"] {
            check(broken, &Parsed::Malformed);
        }
        // A family, a command and a version that there are not, and addresses that do not fit their length.
        for (command, family, rest) in [(0x21, 0x41, 12), (0x22, 0x11, 12), (0x31, 0x11, 12), (0x21, 0x11, 11)] {
            check(&v2(command, family, &vec![0; rest]), &Parsed::Malformed);
        }
        let endless = [VERSION_1, &[b'x'; 200]].concat();
        check(&endless, &Parsed::Malformed);
    }

    #[test]
    fn every_beginning_of_a_header_waits_for_the_rest() {
        for header in [LINE, LOCAL, b"PROXY UNKNOWN\r\n"] {
            for length in 1..header.len() {
                let parsed = parse(&header[..length]);
                assert!(matches!(parsed, Parsed::Unclear | Parsed::Begun), "{length}: {parsed:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_take_more_than_there_is(
            version in 0..3, bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let signature = match version { 0 => VERSION_1, 1 => VERSION_2, _ => b"" };
            let bytes = [signature, &bytes].concat();
            if let Parsed::Whole { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
