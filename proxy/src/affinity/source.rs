//! Values of a request that a client may be known by. What is missing or empty is none.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName};

/// What of a request is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub headers: &'a HeaderMap,
    /// Without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub fn new(headers: &'a HeaderMap, target: &'a http::Uri) -> Request<'a> {
        Request { headers, path: target.path(), query: target.query() }
    }

    /// The first field of this name.
    pub fn header(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.headers.get(name).map(|value| value.as_bytes().trim_ascii()).and_then(unless_empty)
    }

    /// The first cookie of this name, without quotes around it (RFC 6265 section 4.1.1 allows them, and not every client
    /// keeps them). HTTP/2 clients may send a field for each cookie.
    pub fn cookie(self, name: &str) -> Option<&'a [u8]> {
        let fields = self.headers.get_all(COOKIE).iter();
        let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        pairs.find_map(|pair| {
            let pair = pair.trim_ascii_start();
            let (known, value) = (pair.get(..name.len())?, pair.get(name.len()..)?);
            let value = value.strip_prefix(b"=").filter(|_| known == name.as_bytes())?.trim_ascii();
            let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            unless_empty(bare.unwrap_or(value))
        })
    }

    /// The first parameter of this name, decoded as forms are (`%20` and `+` are spaces).
    pub fn query(self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs = form_urlencoded::parse(self.query?.as_bytes());
        pairs.find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// A segment of the path, counted from 1, with `%` decoded.
    pub fn segment(self, nth: usize) -> Option<Cow<'a, [u8]>> {
        let segment = self.path.split('/').nth(nth).filter(|segment| !segment.is_empty())?;
        Some(percent_encoding::percent_decode_str(segment).into())
    }

    /// The token of `Authorization: Bearer`.
    pub fn bearer(self) -> Option<&'a [u8]> {
        let value = self.header(&AUTHORIZATION)?;
        let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii_start()).and_then(unless_empty)
    }

    /// The first entry of `Sec-WebSocket-Protocol` that starts with `prefix`, without it; with no prefix, the first that
    /// has the form of a JSON Web Token. Browsers can set no other field of an upgrade, so SDKs put tokens here.
    pub fn websocket_protocol(self, prefix: &str) -> Option<&'a [u8]> {
        let fields = self.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let mut entries = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        match prefix {
            "" => entries.find(|entry| entry.iter().filter(|byte| **byte == b'.').count() == 2),
            _ => entries.find_map(|entry| unless_empty(entry.strip_prefix(prefix.as_bytes())?)),
        }
    }
}

fn unless_empty(value: &[u8]) -> Option<&[u8]> {
    Some(value).filter(|value| !value.is_empty())
}

/// The octets of a network address, in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    octets: [u8; 16],
    length: usize,
}

impl Network {
    /// 4 of them for IPv4, 16 for IPv6.
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// The network of an address, `v4` or `v6` bits long. An IPv4 address written as an IPv6 one is an IPv4 address.
pub fn network(address: IpAddr, v4: u8, v6: u8) -> Network {
    let mut octets = [0; 16];
    let length = match address.to_canonical() {
        IpAddr::V4(address) => {
            let masked = address.to_bits() & u32::MAX.checked_shl(32 - u32::from(v4.min(32))).unwrap_or(0);
            octets[..4].copy_from_slice(&masked.to_be_bytes());
            4
        }
        IpAddr::V6(address) => {
            let masked = address.to_bits() & u128::MAX.checked_shl(128 - u32::from(v6.min(128))).unwrap_or(0);
            octets = masked.to_be_bytes();
            16
        }
    };
    Network { octets, length }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        fields.iter().map(field).for_each(|(name, value): (_, HeaderValue)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn cookies_are_found_with_quotes_and_spaces_and_over_several_fields() {
        let check = |fields: &[&str], want: Option<&str>| {
            let fields: Vec<(&'static str, &str)> = fields.iter().map(|field| ("cookie", *field)).collect();
            let headers = headers(&fields);
            let found = Request { headers: &headers, path: "/", query: None }.cookie("sid");
            assert_eq!(found.map(|value| std::str::from_utf8(value).unwrap()), want, "{fields:?}");
        };
        check(&["sid=a1"], Some("a1"));
        check(&["lang=de; sid=a1; theme=dark"], Some("a1"));
        check(&["lang=de;sid=a1"], Some("a1"));
        check(&["lang=de;   sid= a1 ;x=y"], Some("a1"));
        check(&["sid=\"a 1\""], Some("a 1"));
        check(&["sid=\"a1"], Some("\"a1"));
        check(&["sid=a=b=="], Some("a=b=="));
        check(&["lang=de", "sid=a1"], Some("a1"));
        check(&["sid=first; sid=second"], Some("first"));
        check(&["sid=; sid=second"], Some("second"));
        check(&["SID=a1"], None);
        check(&["xsid=a1; sidx=b"], None);
        check(&["sid"], None);
        check(&["sid=\"\""], None);
        check(&["=a1; ;;"], None);
        check(&[], None);
    }

    #[test]
    fn query_values_are_decoded_and_missing_ones_are_none() {
        let none = HeaderMap::new();
        let check = |query: Option<&str>, want: Option<&str>| {
            let found = Request { headers: &none, path: "/", query }.query("uid");
            assert_eq!(found.as_deref(), want, "{query:?}");
        };
        check(Some("uid=7"), Some("7"));
        check(Some("a=b&uid=7&c"), Some("7"));
        check(Some("uid=%41nna+b%20c"), Some("Anna b c"));
        check(Some("%75id=7"), Some("7"));
        check(Some("uid=a%"), Some("a%"));
        check(Some("uid=%zz%2"), Some("%zz%2"));
        check(Some("uid=%ff"), Some("\u{fffd}"));
        check(Some("uid=first&uid=second"), Some("first"));
        check(Some("uid=&uid=second"), Some("second"));
        check(Some("uid"), None);
        check(Some("UID=7"), None);
        check(Some(""), None);
        check(None, None);
    }

    #[test]
    fn path_segments_count_from_one() {
        let none = HeaderMap::new();
        let check = |path: &str, nth: usize, want: Option<&str>| {
            let found = Request { headers: &none, path, query: None }.segment(nth);
            assert_eq!(found.as_deref().map(|value| std::str::from_utf8(value).unwrap()), want, "{path} {nth}");
        };
        check("/room/42/ws", 1, Some("room"));
        check("/room/42/ws", 2, Some("42"));
        check("/room/42/ws", 4, None);
        check("/room/a%20b", 2, Some("a b"));
        check("/room//x", 2, None);
        check("/", 1, None);
        check("*", 1, None);
        check("", 1, None);
    }

    #[test]
    fn headers_are_trimmed_and_the_first_counts() {
        let headers = headers(&[("x-device", " d1 "), ("x-device", "d2"), ("x-empty", " ")]);
        let request = Request { headers: &headers, path: "/", query: None };
        assert_eq!(request.header(&HeaderName::from_static("x-device")), Some(&b"d1"[..]));
        assert_eq!(request.header(&HeaderName::from_static("x-empty")), None);
        assert_eq!(request.header(&HeaderName::from_static("x-none")), None);
    }

    #[test]
    fn bearers_have_a_scheme_in_any_case() {
        let check = |value: &str, want: Option<&[u8]>| {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(Request { headers: &headers, path: "/", query: None }.bearer(), want, "{value}");
        };
        check("Bearer a.b.c", Some(b"a.b.c"));
        check("bearer   a.b.c ", Some(b"a.b.c"));
        check("Basic YTpi", None);
        check("Bearer", None);
        check("Bearer ", None);
        check("Bearera.b.c", None);
    }

    #[test]
    fn a_token_among_websocket_protocols_is_found_by_form_or_by_prefix() {
        let check = |value: &str, prefix: &str, want: Option<&[u8]>| {
            let headers = headers(&[("sec-websocket-protocol", value)]);
            let found = Request { headers: &headers, path: "/", query: None }.websocket_protocol(prefix);
            assert_eq!(found, want, "{value} by `{prefix}`");
        };
        check("im.v2, access_token, a.b.c", "", Some(b"a.b.c"));
        check("im.v2", "", None);
        check("im.v2, bearer.a.b.c", "bearer.", Some(b"a.b.c"));
        check("im.v2, bearer.", "bearer.", None);
        check("im.v2", "bearer.", None);
    }

    #[test]
    fn a_network_is_the_address_with_the_rest_cut_off() {
        let check = |address: &str, v4: u8, v6: u8, want: &str| {
            let want: IpAddr = want.parse().unwrap();
            let octets = match want {
                IpAddr::V4(want) => want.octets().to_vec(),
                IpAddr::V6(want) => want.octets().to_vec(),
            };
            assert_eq!(network(address.parse().unwrap(), v4, v6).as_bytes(), octets, "{address}/{v4},{v6}");
        };
        check("192.0.2.77", 32, 128, "192.0.2.77");
        check("192.0.2.77", 24, 48, "192.0.2.0");
        check("192.0.2.77", 1, 48, "128.0.0.0");
        check("::ffff:192.0.2.77", 24, 48, "192.0.2.0");
        check("2001:db8:7:8::9", 24, 48, "2001:db8:7::");
        check("2001:db8:7:8::9", 24, 128, "2001:db8:7:8::9");
        check("2001:db8:7:8::9", 24, 1, "::");
    }

    proptest! {
        /// Clients may send any bytes that a field can have.
        #[test]
        fn no_bytes_of_a_client_make_it_panic(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
            path in "(/[^?#]{0,12}){0,4}",
            query in proptest::option::of(".{0,60}"),
            name in "[a-z]{1,3}",
        ) {
            let mut headers = HeaderMap::new();
            for value in values {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                for field in [COOKIE, AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL] {
                    headers.append(field, value.clone());
                }
            }
            let request = Request { headers: &headers, path: &path, query: query.as_deref() };
            let found = [request.cookie(&name), request.header(&COOKIE), request.bearer(), request.websocket_protocol("")];
            prop_assert!(found.iter().flatten().all(|value| !value.is_empty()));
            prop_assert!(request.query(&name).is_none_or(|value| !value.is_empty()));
            for nth in 1..4 {
                prop_assert!(request.segment(nth).is_none_or(|value| !value.is_empty()));
            }
        }
    }
}
