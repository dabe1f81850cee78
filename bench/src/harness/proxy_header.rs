//! PROXY protocol headers, as a proxy in front would send them: this is how a client on loopback announces an address
//! from elsewhere. By the specification of HAProxy, `doc/proxy-protocol.txt`.
//!
//! Written here and not with the edge's own library, so that a mistake there is not repeated by its test.

use std::net::SocketAddr;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const VERSION_2_LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// A version 1 header (text). Both addresses must be of one family.
///
/// # Panics
/// When one address is IPv4 and the other IPv6: version 1 has no word for that.
#[must_use]
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    assert_eq!(source.is_ipv4(), destination.is_ipv4(), "both addresses of one family: {source}, {destination}");
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A version 2 header (binary). Addresses of two families are sent as IPv6, the IPv4 one mapped.
#[must_use]
pub fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    v2_with(source, destination, &[])
}

/// A version 2 header with further fields: their type and value, such as `(0x02, b"im.example.com")` for the authority.
#[must_use]
pub fn v2_with(source: SocketAddr, destination: SocketAddr, fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    let family = match (source, destination) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            body.extend(from.ip().octets());
            body.extend(to.ip().octets());
            TCP_OVER_IPV4
        }
        _ => {
            body.extend(mapped(source));
            body.extend(mapped(destination));
            TCP_OVER_IPV6
        }
    };
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    for (kind, value) in fields {
        body.push(*kind);
        body.extend(length(value));
        body.extend(*value);
    }
    framed(VERSION_2_PROXY, family, &body)
}

/// A version 2 header of a connection that the proxy made for itself, such as a health check: it names no client.
#[must_use]
pub fn v2_local() -> Vec<u8> {
    framed(VERSION_2_LOCAL, 0, &[])
}

fn framed(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [&SIGNATURE[..], &[command, family], &length(body), body].concat()
}

fn mapped(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(v6) => v6.ip().octets(),
    }
}

fn length(value: &[u8]) -> [u8; 2] {
    u16::try_from(value.len()).expect("a test's header is below 64 KiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1_is_a_line() {
        let header = v1(address("203.0.113.7:4000"), address("127.0.0.1:443"));
        assert_eq!(header, b"PROXY TCP4 203.0.113.7 127.0.0.1 4000 443\r\n");
        let header = v1(address("[2001:db8::1]:1"), address("[::1]:2"));
        assert_eq!(header, b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n");
    }

    #[test]
    fn version_2_has_signature_length_addresses_and_fields() {
        let header = v2_with(address("203.0.113.7:258"), address("127.0.0.1:443"), &[(2, b"im")]);
        assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11");
        assert_eq!(&header[16..], b"\xcb\x00\x71\x07\x7f\x00\x00\x01\x01\x02\x01\xbb\x02\x00\x02im");
        assert_eq!(v2(address("[2001:db8::1]:1"), address("127.0.0.1:2")).len(), 16 + 36);
        assert_eq!(v2_local().len(), 16);
    }
}
