//! `hash-on`, `user-token` and `stickiness` of `[clusters.NAME]`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use http::HeaderName;

use super::findings::Scope;
use super::{OpenFiles, opened};
use crate::config::affinity::{KeySource, Stickiness, TokenPlace, TokenTrust, UserToken};
use crate::config::raw::cluster::PolicyName;
use crate::config::raw::{Placed, RawCluster, RawStickiness, RawTokenKeys, RawUserToken};

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
/// Deeper paths are nobody's design.
const MOST_SEGMENTS: usize = 32;

/// All three; `None` if one of them is wrong.
pub(super) struct Checked {
    pub(super) hash_on: Option<Vec<KeySource>>,
    pub(super) user_token: Option<Option<UserToken>>,
    pub(super) stickiness: Option<Option<Stickiness>>,
}

/// `serves_tcp`: whether a tcp listener sends its connections here.
pub(super) fn affinity(raw: &RawCluster, serves_tcp: bool, scope: &mut Scope<'_, '_>) -> Checked {
    let hash_on = hash_on(raw, serves_tcp, scope);
    let user_token = match &raw.user_token {
        Some(token) => user_token(token, raw, scope).map(Some),
        None => Some(None),
    };
    let stickiness = match &raw.stickiness {
        Some(stickiness) => self::stickiness(stickiness, scope).map(Some),
        None => Some(None),
    };
    Checked { hash_on, user_token, stickiness }
}

/// Whether anything goes by the key of a client.
fn needs_key(raw: &RawCluster, scope: &Scope<'_, '_>) -> bool {
    let by_key = |policy: PolicyName| matches!(policy, PolicyName::Maglev | PolicyName::RingHash);
    let refused = ["stickiness", "policy", "request-policy", "rules"].iter().any(|key| scope.was_refused(key));
    let of_rules = raw.rules.iter().flat_map(|rule| [rule.policy, rule.request_policy]).flatten();
    let mut policies = [raw.policy, raw.request_policy].into_iter().chain(of_rules);
    raw.stickiness.is_some() || policies.any(by_key) || refused
}

fn hash_on(raw: &RawCluster, serves_tcp: bool, scope: &mut Scope<'_, '_>) -> Option<Vec<KeySource>> {
    let written = &raw.hash_on;
    if written.is_empty() {
        if !scope.was_refused("hash-on") {
            let problem = scope.error(written.span(), "`hash-on` is empty: no client would have a key");
            problem.help("hash-on = [\"address\"], or leave it out");
        }
        return None;
    }
    let mut checked: Vec<Option<KeySource>> = Vec::new();
    for source in written.iter() {
        let parsed = key_source(source);
        match &parsed {
            Err(help) => {
                scope.error(source.span(), format!("`{}` is not a source of keys", **source)).help(help);
            }
            Ok(known) if checked.iter().flatten().any(|before| before == known) => {
                scope.error(source.span(), format!("`{}` stands twice in `hash-on`", **source));
            }
            Ok(KeySource::User) if raw.user_token.is_none() && !scope.was_refused("user-token") => {
                let help = format!("add [{}.user-token]", scope.path);
                scope.error(source.span(), "`user` needs `user-token`, to know where the token is").help(help);
            }
            Ok(_) if checked.iter().flatten().any(is_address) => {
                let message = format!("`{}` never counts: every client has an address", **source);
                scope.warning(source.span(), message).help("the first source that a client has counts");
            }
            Ok(_) => {}
        }
        checked.push(parsed.ok());
    }
    let all_right: Option<Vec<KeySource>> = checked.into_iter().collect();
    let sources = all_right?;
    if written.is_written() && !needs_key(raw, scope) {
        let problem = scope.warning(written.span(), "`hash-on` has no effect: nothing goes by it");
        problem.help("`stickiness` and the policies `maglev` and `ring-hash` do");
    } else if serves_tcp && !sources.iter().any(is_address) {
        let message = "clients of a tcp listener have no key: of `hash-on`, only `address` works without HTTP";
        scope.warning(written.span(), message).help("add \"address\" as the last source");
    }
    Some(sources)
}

fn is_address(source: &KeySource) -> bool {
    matches!(source, KeySource::Address { .. })
}

/// What is wrong is said as the way out.
fn key_source(text: &str) -> Result<KeySource, String> {
    match (text, text.split_once(':')) {
        ("user", _) => Ok(KeySource::User),
        ("address", _) => Ok(KeySource::ADDRESS),
        (_, Some(("header", name))) => header_name(name).map(KeySource::Header),
        (_, Some(("cookie", name))) => cookie_name(name).map(KeySource::Cookie),
        (_, Some(("query", name))) => query_name(name).map(KeySource::Query),
        (_, Some(("path", nth))) => nth
            .parse()
            .ok()
            .filter(|nth| (1..=MOST_SEGMENTS).contains(nth))
            .map(KeySource::PathSegment)
            .ok_or_else(|| format!("`path:1` is the first segment; up to {MOST_SEGMENTS} can be named")),
        _ => match text.strip_prefix("address/") {
            Some(lengths) => prefix_lengths(lengths).map(|(v4, v6)| KeySource::Address { v4, v6 }).ok_or_else(|| {
                "`address/24,48`: bits of an IPv4 address, 1 to 32, and of an IPv6 one, 1 to 128".into()
            }),
            None => Err(help_by_example(text, &KEY_SOURCES)),
        },
    }
}

const KEY_SOURCES: [&str; 7] =
    ["user", "header:NAME", "cookie:NAME", "query:NAME", "path:NUMBER", "address", "address/24,48"];

const TOKEN_PLACES: [&str; 6] =
    ["authorization", "header:NAME", "cookie:NAME", "query:NAME", "websocket-protocol", "websocket-protocol:PREFIX"];

/// The nearest of the forms, or all of them.
fn help_by_example(text: &str, forms: &[&str]) -> String {
    let word = |form: &str| form.split([':', '/']).next().unwrap_or_default().to_owned();
    let typed = word(text);
    let near = forms.iter().filter(|form| strsim::damerau_levenshtein(&word(form), &typed) <= 2).min_by_key(|form| {
        let has_argument = text.contains([':', '/']) == form.contains([':', '/']);
        (strsim::damerau_levenshtein(&word(form), &typed), !has_argument)
    });
    match near {
        Some(form) => format!("did you mean `{form}`?"),
        None => format!("known here: `{}`", forms.join("`, `")),
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    if name.is_empty() {
        return Err("its name must follow the colon".to_owned());
    }
    name.parse().map_err(|_cause| format!("`{}` is not the name of a header field", name.escape_debug()))
}

/// A token, by RFC 6265 section 4.1.1: the same letters as the name of a header field, but their case counts.
fn cookie_name(name: &str) -> Result<String, String> {
    match header_name(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) if !name.is_empty() => Err(format!("`{}` is not the name of a cookie", name.escape_debug())),
        Err(help) => Err(help),
    }
}

fn query_name(name: &str) -> Result<String, String> {
    match name.is_empty() {
        true => Err("`query:NAME`, as in `query:uid` for `/ws?uid=7`".to_owned()),
        false => Ok(name.to_owned()),
    }
}

fn prefix_lengths(text: &str) -> Option<(u8, u8)> {
    let (v4, v6) = text.split_once(',')?;
    let length = |text: &str, most: u8| text.trim().parse::<u8>().ok().filter(|length| (1..=most).contains(length));
    Some((length(v4, 32)?, length(v6, 128)?))
}

fn user_token(raw: &Placed<RawUserToken>, cluster: &RawCluster, scope: &mut Scope<'_, '_>) -> Option<UserToken> {
    if !cluster.hash_on.iter().any(|source| **source == "user") && !scope.was_refused("hash-on") {
        let problem = scope.warning(raw.span(), "`user-token` has no effect: `hash-on` does not name `user`");
        problem.help("hash-on = [\"user\", \"address\"]");
    }
    let scope = &mut scope.below("user-token", raw.span());
    let from = token_places(&raw.from, scope);
    if raw.claim.is_empty() {
        scope.error(raw.claim.span(), "`claim` is empty: no claim has that name").help("most tokens say it in `sub`");
    }
    let trust = token_trust(raw, scope);
    Some(UserToken {
        from: from?,
        claim: Some(raw.claim.to_string()).filter(|claim| !claim.is_empty())?,
        trust: trust?,
    })
}

fn token_places(raw: &Placed<Vec<Placed<String>>>, scope: &mut Scope<'_, '_>) -> Option<Vec<TokenPlace>> {
    if raw.is_empty() {
        if !scope.was_refused("from") {
            let problem = scope.error(raw.span(), "`from` is empty: no token would be found");
            problem.help("from = [\"authorization\"]");
        }
        return None;
    }
    let mut checked = Vec::new();
    for written in raw.iter() {
        let place = token_place(written);
        if let Err(help) = &place {
            scope.error(written.span(), format!("`{}` is not a place for a token", **written)).help(help);
        }
        checked.push(place.ok());
    }
    checked.into_iter().collect()
}

fn token_place(text: &str) -> Result<TokenPlace, String> {
    match (text, text.split_once(':')) {
        ("authorization", _) => Ok(TokenPlace::Authorization),
        ("websocket-protocol", _) => Ok(TokenPlace::Protocol { prefix: String::new() }),
        (_, Some(("header", name))) => header_name(name).map(TokenPlace::Header),
        (_, Some(("cookie", name))) => cookie_name(name).map(TokenPlace::Cookie),
        (_, Some(("query", name))) => query_name(name).map(TokenPlace::Query),
        (_, Some(("websocket-protocol", prefix))) if header_name(prefix).is_ok() => {
            Ok(TokenPlace::Protocol { prefix: prefix.to_owned() })
        }
        _ => Err(help_by_example(text, &TOKEN_PLACES)),
    }
}

fn token_trust(raw: &RawUserToken, scope: &mut Scope<'_, '_>) -> Option<TokenTrust> {
    match (&raw.verify, *raw.decode_only) {
        (Some(keys), false) => token_keys(keys, scope),
        (None, true) => Some(TokenTrust::DecodeOnly),
        (Some(_), true) => {
            let problem = scope.error(raw.decode_only.span(), "`decode-only` and `verify` exclude each other");
            problem.help("leave out `decode-only`: then only tokens that are signed by the keys count");
            None
        }
        (None, false) => {
            if !scope.had_refused_keys() {
                let problem = scope.error(None, "`user-token` needs `verify`: who signs the tokens?");
                problem.help(
                    "verify = { public-key-file = \"tls/users.pem\" }, or decode-only = true to believe every token",
                );
            }
            None
        }
    }
}

fn token_keys(raw: &Placed<RawTokenKeys>, scope: &mut Scope<'_, '_>) -> Option<TokenTrust> {
    let scope = &mut scope.below("verify", raw.span());
    let RawTokenKeys { hs256_secret_file, public_key_file } = &**raw;
    if hs256_secret_file.is_none() && public_key_file.is_none() {
        if !scope.had_refused_keys() {
            let problem = scope.error(None, "`verify` names no key");
            problem.help("`public-key-file`, or `hs256-secret-file` for tokens that are signed with a shared secret");
        }
        return None;
    }
    let open = scope.findings.open == OpenFiles::Yes;
    let mut file = |key: &str, written: &Option<Placed<String>>, open_it: OpenIt| -> Option<PathBuf> {
        let written = written.as_ref()?;
        let path = scope.path(key, written);
        if open {
            open_it(&path, written, scope);
        }
        Some(path)
    };
    Some(TokenTrust::Verified {
        hs256_secret: file("hs256-secret-file", hs256_secret_file, opened::token_secret),
        public_keys: file("public-key-file", public_key_file, opened::token_keys),
    })
}

type OpenIt = fn(&std::path::Path, &Placed<String>, &mut Scope<'_, '_>);

fn stickiness(raw: &Placed<RawStickiness>, scope: &mut Scope<'_, '_>) -> Option<Stickiness> {
    let scope = &mut scope.below("stickiness", raw.span());
    let ttl = scope.duration("ttl", &raw.ttl, SECOND..=7 * DAY);
    let max_entries = scope.whole("max-entries", &raw.max_entries, 1..=10_000_000);
    Some(Stickiness { ttl: ttl?, max_entries: NonZeroUsize::new(max_entries?)? })
}
