//! What clients are known by, and stickiness.

use super::check;

/// A cluster with these keys, and an http listener that uses it.
fn with_cluster(keys: &str) -> String {
    format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\nroutes = [{{ cluster = \"c\" }}]\n\
         [clusters.c.localities.x]\nendpoints = [{{ address = \"10.0.0.7:5222\" }}]\n[clusters.c]\n{keys}"
    )
}

#[test]
fn sources_of_keys_are_checked_one_by_one() {
    check(
        &with_cluster(
            r#"stickiness = {}
hash-on = ["hedaer:x-device", "header:", "cookie:a b", "query:", "path:0", "path:two", "address/24", "address/0,48",
           "adress", "client", "header:X-Device", "header:x-device"]
"#,
        ),
        "
t.toml:9:12: error: `hedaer:x-device` is not a source of keys
   help: did you mean `header:NAME`?
t.toml:9:31: error: `header:` is not a source of keys
   help: its name must follow the colon
t.toml:9:42: error: `cookie:a b` is not a source of keys
   help: `a b` is not the name of a cookie
t.toml:9:56: error: `query:` is not a source of keys
   help: `query:NAME`, as in `query:uid` for `/ws?uid=7`
t.toml:9:66: error: `path:0` is not a source of keys
   help: `path:1` is the first segment; up to 32 can be named
t.toml:9:76: error: `path:two` is not a source of keys
   help: `path:1` is the first segment; up to 32 can be named
t.toml:9:88: error: `address/24` is not a source of keys
   help: `address/24,48`: bits of an IPv4 address, 1 to 32, and of an IPv6 one, 1 to 128
t.toml:9:102: error: `address/0,48` is not a source of keys
   help: `address/24,48`: bits of an IPv4 address, 1 to 32, and of an IPv6 one, 1 to 128
t.toml:10:12: error: `adress` is not a source of keys
   help: did you mean `address`?
t.toml:10:22: error: `client` is not a source of keys
   help: known here: `user`, `header:NAME`, `cookie:NAME`, `query:NAME`, `path:NUMBER`, `address`, `address/24,48`
t.toml:10:51: error: `header:x-device` stands twice in `hash-on`",
    );
}

#[test]
fn sources_that_never_count_are_warned_of() {
    check(
        &with_cluster("hash-on = [\"header:x\"]\n"),
        "
t.toml:8:11: warning: `hash-on` has no effect: nothing goes by it
   help: `stickiness` and the policies `maglev` and `ring-hash` do",
    );
    check(
        &with_cluster("stickiness = {}\nhash-on = [\"address/24,48\", \"cookie:sid\"]\n"),
        "
t.toml:9:29: warning: `cookie:sid` never counts: every client has an address
   help: the first source that a client has counts",
    );
    check(
        &with_cluster("stickiness = {}\nhash-on = []\n"),
        "
t.toml:9:11: error: `hash-on` is empty: no client would have a key
   help: hash-on = [\"address\"], or leave it out",
    );
    check(
        &with_cluster("stickiness = { ttl = \"10ms\", max-entries = 0 }\n"),
        "
t.toml:8:22: error: `ttl` must be from 1s to 7d, not 10ms
t.toml:8:44: error: `max-entries` must be from 1 to 10000000, not 0",
    );
    check(
        &with_cluster("stickiness = true\n"),
        "
t.toml:8:14: error: `stickiness` must be a table, not `true`",
    );
}

#[test]
fn a_tcp_listener_has_clients_with_an_address_only() {
    let tcp = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n";
    check(
        &format!("{tcp}{}", with_cluster("stickiness = {}\nhash-on = [\"header:x\"]\n")),
        "
t.toml:13:11: warning: clients of a tcp listener have no key: of `hash-on`, only `address` works without HTTP
   help: add \"address\" as the last source",
    );
    check(&format!("{tcp}{}", with_cluster("stickiness = {}\nhash-on = [\"header:x\", \"address\"]\n")), "");
}

#[test]
fn tokens_need_a_place_and_somebody_who_signs_them() {
    check(
        &with_cluster("stickiness = {}\nhash-on = [\"user\"]\n"),
        "
t.toml:9:12: error: `user` needs `user-token`, to know where the token is
   help: add [clusters.c.user-token]",
    );
    check(
        &with_cluster("stickiness = {}\nuser-token = { decode-only = true }\n"),
        "
t.toml:9:14: warning: `user-token` has no effect: `hash-on` does not name `user`
   help: hash-on = [\"user\", \"address\"]",
    );
    check(
        &with_cluster(
            "stickiness = {}\nhash-on = [\"user\"]\nuser-token = { from = [\"authorisation\", \"cookie\"], claim = \"\" }\n",
        ),
        "
t.toml:10:14: error: `user-token` needs `verify`: who signs the tokens?
   help: verify = { public-key-file = \"tls/users.pem\" }, or decode-only = true to believe every token
t.toml:10:24: error: `authorisation` is not a place for a token
   help: did you mean `authorization`?
t.toml:10:41: error: `cookie` is not a place for a token
   help: did you mean `cookie:NAME`?
t.toml:10:60: error: `claim` is empty: no claim has that name
   help: most tokens say it in `sub`",
    );
    check(
        &with_cluster(
            "stickiness = {}\nhash-on = [\"user\"]\nuser-token = { from = [], decode-only = true, verify = {} }\n",
        ),
        "
t.toml:10:23: error: `from` is empty: no token would be found
   help: from = [\"authorization\"]
t.toml:10:41: error: `decode-only` and `verify` exclude each other
   help: leave out `decode-only`: then only tokens that are signed by the keys count",
    );
    check(
        &with_cluster("stickiness = {}\nhash-on = [\"user\"]\nuser-token.verify = { public-key-fil = \"a\" }\n"),
        "
t.toml:10:23: error: unknown key `public-key-fil`
   help: did you mean `public-key-file`?",
    );
    check(
        &with_cluster("stickiness = {}\nhash-on = [\"user\"]\nuser-token.verify = {}\n"),
        "
t.toml:10:21: error: `verify` names no key
   help: `public-key-file`, or `hs256-secret-file` for tokens that are signed with a shared secret",
    );
    let places = "[\"authorization\", \"header:x-t\", \"cookie:t\", \"query:t\", \"websocket-protocol\", \"websocket-protocol:bearer.\"]";
    let all = format!("user-token = {{ from = {places}, verify.hs256-secret-file = \"s\" }}\n");
    check(&with_cluster(&format!("stickiness = {{}}\nhash-on = [\"user\"]\n{all}")), "");
}
