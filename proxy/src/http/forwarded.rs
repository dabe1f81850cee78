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

/// Who sends the requests of a connection to us: its peer, or the client that the PROXY header names. Written down once,
/// as all requests say it.
#[derive(Debug)]
pub struct Hop {
    pub address: IpAddr,
    text: Option<HeaderValue>,
}

impl Hop {
    pub fn new(address: SocketAddr) -> Hop {
        let address = address.ip().to_canonical();
        Hop { address, text: value(address.to_string()) }
    }
}

/// What a request says about its way here, as far as it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// The client: the rightmost address that no trusted proxy owns.
    pub client: IpAddr,
    pub proto: &'static str,
    pub request_id: RequestId,
    trusted: bool,
}

impl Forwarding {
    pub fn read(headers: &HeaderMap, hop: &Hop, secure: bool, config: &Config) -> Forwarding {
        let trusted = config.trusts(hop.address);
        let proto = if secure { "https" } else { "http" };
        if !trusted {
            return Forwarding { client: hop.address, proto, request_id: RequestId::random(), trusted };
        }
        Forwarding {
            client: client_behind(headers, hop.address, config),
            proto: if told_https(headers).unwrap_or(secure) { "https" } else { "http" },
            request_id: RequestId::given(headers).unwrap_or_else(RequestId::random),
            trusted,
        }
    }

    /// The fields for the next hop, given those that came; `None` removes one.
    pub fn fields(&self, given: &HeaderMap, hop: &Hop, host: &str) -> [(HeaderName, Option<HeaderValue>); 6] {
        let hop_text = hop.text.as_ref().and_then(|text| text.to_str().ok()).unwrap_or_default();
        let believed = |name: &HeaderName| self.trusted.then(|| given.get_all(name)).into_iter().flatten();
        let given_host = believed(&X_FORWARDED_HOST).next().cloned();
        [
            (X_FORWARDED_FOR, appended(believed(&X_FORWARDED_FOR), |list| list.push_str(hop_text))),
            (header::FORWARDED, appended(believed(&header::FORWARDED), |list| self.element(list, hop, hop_text, host))),
            (X_FORWARDED_PROTO, Some(HeaderValue::from_static(self.proto))),
            (X_FORWARDED_HOST, given_host.or_else(|| HeaderValue::from_str(host).ok().filter(|_| !host.is_empty()))),
            (X_REAL_IP, if self.client == hop.address { hop.text.clone() } else { value(self.client.to_string()) }),
            (X_REQUEST_ID, Some(self.request_id.0.clone())),
        ]
    }

    /// RFC 7239 section 4. IPv6 addresses stand in brackets and quotes (section 6).
    fn element(&self, list: &mut String, hop: &Hop, hop_text: &str, host: &str) {
        let (open, close) = if hop.address.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
        for part in ["for=", open, hop_text, close, ";proto=", self.proto] {
            list.push_str(part);
        }
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || host.contains(['"', '\\']) {
            return;
        }
        let quote = if host.bytes().all(is_token) { "" } else { "\"" };
        for part in [";host=", quote, host, quote] {
            list.push_str(part);
        }
    }

    /// Writes the fields for the next hop.
    pub fn write(&self, headers: &mut HeaderMap, hop: &Hop, host: &str) {
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
    let mut client = hop;
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

/// What one request is called in the logs of everyone on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// 128 random bits in hex, as W3C trace ids are written.
    pub fn random() -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bits = fastrand::u128(..).to_be_bytes();
        let digits = bits.iter().flat_map(|byte| [byte >> 4, byte & 15].map(|nibble| DIGITS[usize::from(nibble)]));
        let text: Vec<u8> = digits.collect();
        RequestId(HeaderValue::try_from(text).unwrap_or_else(|_never| HeaderValue::from_static("")))
    }

    fn given(headers: &HeaderMap) -> Option<RequestId> {
        let id = headers.get(X_REQUEST_ID)?;
        let fits = !id.is_empty() && id.len() <= LONGEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
        fits.then(|| RequestId(id.clone()))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub fn as_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// A list with one more element. `None` if the element cannot stand in a field.
fn appended<'h>(
    before: impl Iterator<Item = &'h HeaderValue>,
    element: impl FnOnce(&mut String),
) -> Option<HeaderValue> {
    let mut list = String::with_capacity(64);
    for given in before.filter_map(|value| value.to_str().ok()) {
        list.push_str(given);
        list.push_str(", ");
    }
    element(&mut list);
    value(list)
}

/// Everything written here was a header value before, or is made of address characters.
fn value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
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

    fn hop_of(address: &str) -> Hop {
        Hop::new(address.parse().unwrap())
    }

    fn client(trusted: &str, hop: &str, forwarded_for: &'static str) -> String {
        let headers = headers(&[("x-forwarded-for", forwarded_for)]);
        Forwarding::read(&headers, &hop_of(hop), false, &config(trusted)).client.to_string()
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
        let read = Forwarding::read(&headers, &hop_of("10.0.0.1:1"), false, &config("\"10.0.0.0/8\""));
        assert_eq!(read.client.to_string(), "203.0.113.7");
    }

    #[test]
    fn forged_fields_are_dropped_and_true_ones_extended() {
        let hop = hop_of("198.51.100.9:4711");
        let forged = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-real-ip", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]);
        let mut sent = forged.clone();
        Forwarding::read(&forged, &hop, true, &config("")).write(&mut sent, &hop, "im.example.com");
        assert_eq!(sent["x-forwarded-for"], "198.51.100.9");
        assert_eq!(sent["forwarded"], "for=198.51.100.9;proto=https;host=im.example.com");
        assert_eq!(sent["x-real-ip"], "198.51.100.9");
        assert_eq!(sent["x-forwarded-proto"], "https");

        let hop = hop_of("[2001:db8::1]:1");
        let mut sent = headers(&[("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "https")]);
        let read = Forwarding::read(&sent, &hop, false, &config("\"2001:db8::/32\""));
        read.write(&mut sent, &hop, "h:8080");
        assert_eq!(sent["x-forwarded-for"], "203.0.113.7, 2001:db8::1");
        assert_eq!(sent["forwarded"], "for=\"[2001:db8::1]\";proto=https;host=\"h:8080\"");
        assert_eq!(sent["x-real-ip"], "203.0.113.7");
    }

    #[test]
    fn a_request_id_is_taken_from_trusted_proxies_only() {
        let given = headers(&[("x-request-id", "abc-123")]);
        let hop = hop_of("10.0.0.1:1");
        assert_eq!(Forwarding::read(&given, &hop, false, &config("\"10.0.0.0/8\"")).request_id.as_str(), "abc-123");
        let fresh = Forwarding::read(&given, &hop, false, &config("")).request_id;
        let fresh = fresh.as_str();
        assert!(fresh.len() == 32 && fresh.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
