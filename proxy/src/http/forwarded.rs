//! Who the client is, told upstream: `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`, `Forwarded` (RFC 7239),
//! and a request id.
//!
//! Fields that a client sent are believed only when the connection comes from a trusted proxy; then ours is added
//! behind them. From anyone else they are dropped, so that nobody forges an address.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::Config;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a trusted proxy.
const LONGEST_ID: usize = 128;

/// What a request says about its way here, as far as it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// The client: the rightmost address that no trusted proxy owns.
    pub client: IpAddr,
    pub proto: &'static str,
    pub request_id: String,
    trusted: bool,
}

impl Forwarding {
    /// `hop` is who sent the request to us: the peer, or the client that its PROXY header names.
    pub fn read(headers: &HeaderMap, hop: SocketAddr, secure: bool, config: &Config) -> Forwarding {
        let trusted = config.trusts(hop.ip());
        let proto = if secure { "https" } else { "http" };
        if !trusted {
            return Forwarding { client: hop.ip().to_canonical(), proto, request_id: new_id(), trusted };
        }
        Forwarding {
            client: client_behind(headers, hop.ip(), config),
            proto: if told_https(headers).unwrap_or(secure) { "https" } else { "http" },
            request_id: given_id(headers).unwrap_or_else(new_id),
            trusted,
        }
    }

    /// The fields for the next hop, given those that came; `None` removes one.
    pub fn fields(&self, given: &HeaderMap, hop: SocketAddr, host: &str) -> [(HeaderName, Option<HeaderValue>); 6] {
        let hop = hop.ip().to_canonical();
        let believed = |name: &HeaderName| self.trusted.then(|| given.get_all(name)).into_iter().flatten();
        let element = format!("for={};proto={}{}", node(hop), self.proto, host_parameter(host));
        let given_host = believed(&X_FORWARDED_HOST).next().cloned();
        [
            (X_FORWARDED_FOR, value(&appended(believed(&X_FORWARDED_FOR), &hop.to_string()))),
            (header::FORWARDED, value(&appended(believed(&header::FORWARDED), &element))),
            (X_FORWARDED_PROTO, Some(HeaderValue::from_static(self.proto))),
            (X_FORWARDED_HOST, given_host.or_else(|| value(host).filter(|_| !host.is_empty()))),
            (X_REAL_IP, value(&self.client.to_string())),
            (X_REQUEST_ID, value(&self.request_id)),
        ]
    }

    /// Writes the fields for the next hop.
    pub fn write(&self, headers: &mut HeaderMap, hop: SocketAddr, host: &str) {
        for (name, value) in self.fields(headers, hop, host) {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
    }
}

/// Walks the list from our side to the first address that is not a trusted proxy. Each element is judged alone: what a
/// client wrote in front does not spoil what the proxy wrote behind it.
fn client_behind(headers: &HeaderMap, hop: IpAddr, config: &Config) -> IpAddr {
    let lines: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let mut client = hop.to_canonical();
    for given in lines.iter().flat_map(|line| line.split(|byte| *byte == b',')).rev() {
        let address = std::str::from_utf8(given).ok().and_then(|given| parse_node(given.trim()));
        // Something that is no address: what stands further left cannot be believed.
        let Some(address) = address else { break };
        client = address;
        if !config.trusts(address) {
            break;
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_node(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches('"');
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| bare.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    address.or_else(|| bare.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(|address| address.to_canonical())
}

fn told_https(headers: &HeaderMap) -> Option<bool> {
    match headers.get(X_FORWARDED_PROTO)?.to_str().ok()?.trim() {
        proto if proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss") => Some(true),
        proto if proto.eq_ignore_ascii_case("http") || proto.eq_ignore_ascii_case("ws") => Some(false),
        _ => None,
    }
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let fits = !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| id.to_owned())
}

/// 128 random bits in hex, as W3C trace ids are written.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// RFC 7239 section 6: IPv6 addresses stand in brackets and quotes.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    }
}

fn host_parameter(host: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || host.contains(['"', '\\']) {
        String::new()
    } else if host.bytes().all(is_token) {
        format!(";host={host}")
    } else {
        format!(";host=\"{host}\"")
    }
}

fn appended<'h>(before: impl Iterator<Item = &'h HeaderValue>, element: &str) -> String {
    let mut list = String::with_capacity(64);
    for given in before.filter_map(|value| value.to_str().ok()) {
        list.push_str(given);
        list.push_str(", ");
    }
    list.push_str(element);
    list
}

/// Everything written here was a header value before, or is made of address characters.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(trusted: &str) -> Config {
        let text = format!(
            "[edge]\nname = \"t\"\ntrusted-proxies = [{trusted}]\n[listeners.l]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\n\
             cluster = \"c\"\n[clusters.c.localities.x]\nendpoints = [{{ address = \"127.0.0.1:1\" }}]\n"
        );
        crate::config::load_text("t.toml", &text, crate::config::OpenFiles::No).unwrap().config
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn client(trusted: &str, hop: &str, forwarded_for: &'static str) -> String {
        let headers = headers(&[("x-forwarded-for", forwarded_for)]);
        Forwarding::read(&headers, hop.parse().unwrap(), false, &config(trusted)).client.to_string()
    }

    #[test]
    fn a_client_that_is_no_trusted_proxy_speaks_for_itself() {
        assert_eq!(client("", "198.51.100.9:1", "203.0.113.7"), "198.51.100.9");
        assert_eq!(client("\"10.0.0.0/8\"", "198.51.100.9:1", "203.0.113.7"), "198.51.100.9");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_proxy() {
        let trusted = "\"10.0.0.0/8\"";
        assert_eq!(client(trusted, "10.0.0.1:1", "203.0.113.7"), "203.0.113.7");
        assert_eq!(client(trusted, "10.0.0.1:1", "1.1.1.1, 203.0.113.7, 10.0.0.2"), "203.0.113.7");
        assert_eq!(client(trusted, "10.0.0.1:1", "1.1.1.1, nonsense, 10.0.0.2"), "10.0.0.2");
        assert_eq!(client(trusted, "10.0.0.1:1", "[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(client(trusted, "10.0.0.1:1", "203.0.113.7:4711"), "203.0.113.7");
    }

    #[test]
    fn what_a_client_wrote_in_front_does_not_hide_it() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 203.0.113.7").unwrap());
        let read = Forwarding::read(&headers, "10.0.0.1:1".parse().unwrap(), false, &config("\"10.0.0.0/8\""));
        assert_eq!(read.client.to_string(), "203.0.113.7");
    }

    #[test]
    fn forged_fields_are_dropped_and_true_ones_extended() {
        let hop: SocketAddr = "198.51.100.9:4711".parse().unwrap();
        let forged = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-real-ip", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]);
        let mut sent = forged.clone();
        Forwarding::read(&forged, hop, true, &config("")).write(&mut sent, hop, "im.example.com");
        assert_eq!(sent["x-forwarded-for"], "198.51.100.9");
        assert_eq!(sent["forwarded"], "for=198.51.100.9;proto=https;host=im.example.com");
        assert_eq!(sent["x-real-ip"], "198.51.100.9");
        assert_eq!(sent["x-forwarded-proto"], "https");

        let hop: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        let mut sent = headers(&[("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "https")]);
        let read = Forwarding::read(&sent, hop, false, &config("\"2001:db8::/32\""));
        read.write(&mut sent, hop, "h:8080");
        assert_eq!(sent["x-forwarded-for"], "203.0.113.7, 2001:db8::1");
        assert_eq!(sent["forwarded"], "for=\"[2001:db8::1]\";proto=https;host=\"h:8080\"");
        assert_eq!(sent["x-real-ip"], "203.0.113.7");
    }

    #[test]
    fn a_request_id_is_taken_from_trusted_proxies_only() {
        let given = headers(&[("x-request-id", "abc-123")]);
        let hop = "10.0.0.1:1".parse().unwrap();
        assert_eq!(Forwarding::read(&given, hop, false, &config("\"10.0.0.0/8\"")).request_id, "abc-123");
        let fresh = Forwarding::read(&given, hop, false, &config("")).request_id;
        assert!(fresh.len() == 32 && fresh.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
