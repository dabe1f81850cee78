//! What operators get to read, whole: a text, and every problem that it has.

mod affinity;

use std::path::Path;
use std::time::Duration;

use policies::RttBands;

use super::*;
use crate::config::reference::{Fallback, KEYS};

/// Everything said about a configuration, refused or not.
#[track_caller]
fn check(text: &str, want: &str) {
    let (said, refused) = match load_text("t.toml", text, OpenFiles::No) {
        Ok(loaded) => (Report { problems: loaded.warnings }.to_string(), false),
        Err(report) => (report.to_string(), true),
    };
    assert_eq!(said, want.trim_start_matches('\n'), "said of\n{text}");
    assert_eq!(refused, want.contains(": error: "), "only an error refuses");
}

#[test]
fn all_errors_of_syntax_are_reported() {
    check(
        r#"
[edge
name = "a"
[stop]
grace = 5s
[stop]
"#,
        "
t.toml:2:6: error: not TOML: unclosed table, expected `]`
t.toml:5:9: error: not TOML: string values must be quoted, expected literal string
t.toml:6:2: error: not TOML: duplicate key",
    );
}

#[test]
fn slips_in_several_tables_are_all_reported_once() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
max-conections = 5
[stop]
grace = 5
deadlin = "1m"
[drain]
rate = "fast"
[clusters.im.localities.here]
endpoints = [{ adress = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:6:1: error: unknown key `max-conections`
   help: did you mean `max-connections`?
t.toml:8:9: error: `grace` must be a duration such as "30s", "250ms" or "1h30m", not the number `5`
t.toml:9:1: error: unknown key `deadlin`
   help: did you mean `deadline`?
t.toml:11:8: error: `rate`: `fast` is not a rate: a number with a unit is expected
t.toml:13:16: error: unknown key `adress`
   help: did you mean `address`?"#,
    );
}

#[test]
fn unknown_tables_are_refused() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[cluster.x]
a = 1
[zzz]
"#,
        "
t.toml:8:2: error: unknown key `cluster`
   help: did you mean `clusters`?
t.toml:10:2: error: unknown key `zzz`
   help: known here: `include`, `edge`, `admin`, `log`, `dns`, `geoip`, `stop`, `drain`, `listeners`, `clusters`",
    );
}

#[test]
fn ejections_that_make_no_sense_are_refused_or_warned_of() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
retry-budget.min = -1
[clusters.im.outlier]
consecutive = 1001
base-ejection = "10m"
max-ejection = "5m"
early-close = "2m"
silence = "500ms"
success-rate = { hosts = 2, deviations = 0.0 }
failure-percentage = { threshold = "0%" }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:20: error: `min` must be from 0 to 1000000, not -1
t.toml:9:15: error: `consecutive` must be from 0 to 1000, not 1001
t.toml:11:16: error: `max-ejection` (5m) is shorter than `base-ejection` (10m)
   help: the first ejection lasts as long as `base-ejection`, and no other is shorter
t.toml:12:15: error: `early-close` must be from 1ms to 1m, not 2m
t.toml:13:11: error: `silence` must be 0s or from 1s, not 500ms
t.toml:13:11: warning: `silence` (500ms) is shorter than `early-close` (2m)
   help: an endpoint that thinks for a moment would be ejected; heartbeats take tens of seconds
t.toml:14:26: error: `hosts` must be from 3 to 10000, not 2
t.toml:14:42: error: `deviations` must be from 0.1 to 10, not 0
t.toml:15:36: warning: this has no effect without `enforce = true`
t.toml:15:36: error: `threshold` must be from 1% to 100%, not 0%
   help: at 0% an endpoint without any failure would be ejected",
    );
}

#[test]
fn all_missing_keys_of_a_table_are_named() {
    check(
        r#"
[listeners.im]
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:2:1: error: `im` needs `bind` and `protocol`",
    );
}

#[test]
fn values_of_the_wrong_type_say_what_is_expected() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
proxy-protocol = "yes"
tcp.backlog = "many"
timeouts = 5
[edge]
location = [1.0]
workers = 1.5
trusted-proxies = "10.0.0.0/8"
[[stop]]
grace = "5s"
[clusters.im.localities.here]
priority = true
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:6:18: error: `proxy-protocol` must be `true` or `false`, not the text "yes"
t.toml:7:15: error: `backlog` must be a whole number, not the text "many"
t.toml:8:12: error: `timeouts` must be a table, not the number `5`
t.toml:10:12: error: `location` must be [latitude, longitude], not a list of 1
t.toml:11:11: error: `workers` must be a whole number, not the number `1.5`
t.toml:12:19: error: `trusted-proxies` must be a list, not the text "10.0.0.0/8"
t.toml:13:1: error: `stop` is one table, not a list
   help: write [stop]
t.toml:16:12: error: `priority` must be a whole number, not `true`"#,
    );
}

#[test]
fn words_that_are_not_known_come_with_those_that_are() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tpc"
cluster = "im"
[clusters.im]
policy = "sticky-bit"
steer = ["rules", "latency"]
rtt.from = "prob"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:4:12: error: `protocol` cannot be `tpc`
   help: did you mean `tcp`?
t.toml:7:10: error: `policy` cannot be `sticky-bit`
   help: possible here: `round-robin`, `least-connections`, `random`, `p2c`, `peak-ewma`, `prequal`, `maglev`, `ring-hash`
t.toml:8:19: error: an entry of `steer` cannot be `latency`
   help: possible here: `rules`, `distance`, `rtt`, `priority`
t.toml:9:12: error: `from` cannot be `prob`
   help: did you mean `probe`?",
    );
}

#[test]
fn tables_and_lists_of_tables_are_not_mixed_up() {
    check(
        r#"
[listeners.web]
bind = ["0.0.0.0:80"]
protocol = "http"
[listeners.web.routes]
cluster = "im"
[[clusters.im]]
"#,
        "
t.toml:5:1: error: `routes` must be a list, not a table
   help: write [[listeners.web.routes]]
t.toml:7:1: error: `im` is one table, not a list
   help: write [clusters.im]",
    );
}

#[test]
fn an_endpoint_is_never_read_from_a_list() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.here]
endpoints = [["10.0.0.7:5222"]]
"#,
        "
t.toml:7:14: error: each entry of `endpoints` must be a table, not a list",
    );
}

#[test]
fn discovery_is_not_known_yet_and_is_one_problem() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.sg]
location = [1.35, 103.82]
discover.dns = { srv = "_im._tcp.sg.example.internal" }
"#,
        "
t.toml:8:1: error: unknown key `discover`
   help: known here: `provider`, `location`, `priority`, `share`, `capacity`, `endpoints`",
    );
}

#[test]
fn a_share_is_a_percentage_and_not_every_locality_is_out_of_service() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.a]
share = "0%"
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im.localities.b]
share = "0%"
endpoints = [{ address = "10.0.0.8:5222" }]
[clusters.other.localities.c]
share = "101%"
endpoints = [{ address = "10.0.0.9:5222" }]
"#,
        r#"
t.toml:10:9: error: cluster `im` has every locality at `share = "0%"`: every client would be refused
   help: leave one locality with a share
t.toml:12:11: warning: nothing uses cluster `other`
t.toml:13:9: error: `share`: `101%` is not a percentage: it must be a whole number from 0 to 100"#,
    );
}

#[test]
fn a_dangling_cluster_name_comes_with_those_that_exist() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im-eu"
[clusters.im-europe.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im-asia.localities.here]
endpoints = [{ address = "10.0.0.8:5222" }]
"#,
        "
t.toml:5:11: error: no cluster is named `im-eu`
   help: defined here: `im-europe` (line 6), `im-asia` (line 8)",
    );
}

#[test]
fn a_dangling_cluster_name_without_any_cluster_says_how_to_define_one() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
"#,
        "
t.toml:5:11: error: no cluster is named `im`
   help: define it in [clusters.NAME]",
    );
}

#[test]
fn an_empty_file_lacks_a_listener() {
    check(
        "",
        "
t.toml:1:1: error: no listener is defined
   help: nobody can connect; add [listeners.NAME]",
    );
}

#[test]
fn addresses_to_listen_on_are_complete_and_asked_for_once() {
    check(
        r#"
[listeners.a]
bind = ["0.0.0.0:5222", "127.0.0.1:9901", ":80", "localhost:80", "::1:80", "127.0.0.1:0", "127.0.0.1:0"]
protocol = "tcp"
cluster = "im"
[listeners.b]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[listeners.c]
bind = []
protocol = "tcp"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:3:25: error: 127.0.0.1:9901 is taken by `[admin]`, whose default it is
t.toml:3:43: error: `bind`: `:80` is not an address with a port
   help: write `0.0.0.0:80` for every IPv4 address, `[::]:80` for IPv6
t.toml:3:50: error: `bind`: `localhost:80` is not an address with a port
   help: write `IP:port` or `[IPv6]:port`
t.toml:3:66: error: `bind`: `::1:80` is not an address with a port
   help: write `[::1]:80`
t.toml:7:9: error: 0.0.0.0:5222 is taken by listener `a` on line 3
t.toml:11:8: error: a listener needs at least one address to listen on",
    );
}

#[test]
fn keys_of_http_are_refused_on_a_tcp_listener() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
max-head = "1KiB"
http-versions = ["2"]
timeouts = { keep-alive = "1s", tls-handshake = "1s" }
[[listeners.im.routes]]
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:6:12: error: `max-head` is for http, and this listener is tcp
   help: leave it out, or write protocol = "http"
t.toml:7:17: error: `http-versions` is for http, and this listener is tcp
   help: leave it out, or write protocol = "http"
t.toml:8:27: warning: `keep-alive` has no effect: the listener is not http
t.toml:8:49: warning: `tls-handshake` has no effect: the listener has no `tls`
t.toml:9:1: error: `routes` is for http, and this listener is tcp
   help: leave it out, or write protocol = "http""#,
    );
}

#[test]
fn an_http_listener_has_routes_instead_of_a_cluster() {
    check(
        r#"
[listeners.web]
bind = ["0.0.0.0:80"]
protocol = "http"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:5:11: error: an http listener has routes instead of `cluster`
   help: write [[listeners.web.routes]] with cluster = "im"
t.toml:6:11: warning: nothing uses cluster `im`"#,
    );
}

#[test]
fn an_http_listener_that_could_serve_nobody_is_refused() {
    check(
        r#"
[listeners.web]
bind = ["0.0.0.0:80"]
protocol = "http"
http-versions = []
max-head = 100
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:2:12: error: an http listener needs at least one route
   help: add [[listeners.web.routes]] with at least a `cluster`
t.toml:5:17: error: `http-versions` is empty: nobody could be served
   help: http-versions = ["1.1", "2"]
t.toml:6:12: error: `max-head` must be from 1KiB to 1MiB, not 100B"#,
    );
}

#[test]
fn a_tcp_listener_needs_a_cluster() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:2:12: error: a tcp listener needs `cluster`
   help: the name of the cluster that its connections go to",
    );
}

#[test]
fn proxy_headers_from_nobody_are_refused() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
proxy-protocol = true
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:6:18: error: `proxy-protocol` is on, but `edge.trusted-proxies` is empty: nobody could connect
   help: name the networks of the proxies there",
    );
}

#[test]
fn limits_and_times_have_ranges() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
max-connections = 0
tcp.backlog = 0
tcp.keepalive = "500ms"
timeouts.idle = "0s"
[edge]
workers = 0
max-connections = -1
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:6:19: error: `max-connections` must be from 1; 0 would refuse everyone
   help: leave it out for no limit of its own
t.toml:7:15: error: `backlog` must be from 1 to 65535, not 0
t.toml:8:17: error: `keepalive` must be from 1s to 9h, not 500ms
t.toml:9:17: error: `idle` must be from 1s to 7d, not 0s
t.toml:11:11: error: `workers` must be from 1 to 1024, not 0
t.toml:12:19: error: `max-connections` must be from 1 to 4294967295, not -1",
    );
}

#[test]
fn routes_that_cannot_work_are_refused() {
    check(
        r#"
[listeners.web]
bind = ["0.0.0.0:80"]
protocol = "http"
[[listeners.web.routes]]
host = "IM.example.com"
path-prefix = "/ws/"
cluster = "im"
[[listeners.web.routes]]
host = "im.example.com."
path-prefix = "/ws"
cluster = "im"
[[listeners.web.routes]]
path = "/a"
path-prefix = "/b"
cluster = "im"
[[listeners.web.routes]]
host = "im.example.com:443"
cluster = "im"
[[listeners.web.routes]]
host = "im.*.com"
path = "ws"
cluster = "im"
[[listeners.web.routes]]
path = "/a?b=c"
headers = { "host" = "a", "x y" = "b" }
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:9:1: error: this route matches the same requests as the one on line 5
   help: it could never be reached; remove one, or change what it matches
t.toml:15:15: error: a route has `path` or `path-prefix`, not both
   help: make two routes of it
t.toml:18:8: error: `im.example.com:443` is not a host
   help: ports are not looked at: write `im.example.com`
t.toml:21:8: error: `im.*.com` is not a host
   help: write `im.example.com`, or `*.example.com` for every name below it
t.toml:22:8: error: `path` must start with `/`
t.toml:25:8: error: `path` cannot have `?` or `#`: queries are not looked at
t.toml:26:13: error: `host` is not matched as a header
   help: use the key `host` of the route
t.toml:26:27: error: `x y` is not a header name",
    );
}

#[test]
fn names_of_routes_are_unique_and_not_empty() {
    check(
        r#"
[listeners.web]
bind = ["0.0.0.0:80"]
protocol = "http"
[[listeners.web.routes]]
name = "a"
path = "/1"
cluster = "im"
[[listeners.web.routes]]
name = "a"
path = "/2"
cluster = "im"
[[listeners.web.routes]]
name = ""
path = "/3"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:10:8: error: a route is already named `a`, on line 5
t.toml:14:8: error: `name` cannot be the name of a route
   help: 1 to 128 characters without line breaks",
    );
}

#[test]
fn endpoints_are_complete_and_listed_once() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.a]
endpoints = [
  { address = "10.0.0.7:5222" },
  { address = "10.0.0.7", weight = 0 },
  { address = "10.0.0.300:80", weight = 70000 },
]
[clusters.im.localities.b]
endpoints = [{ address = "[::ffff:10.0.0.7]:5222" }, { address = "im.example.com:5222", max-connections = 0 }]
[clusters.im.localities.c]
[clusters.im.localities."d e"]
endpoints = [{ address = "10.0.0.9:1" }]
priority = 200
location = [103.82, 1.35]
"#,
        r#"
t.toml:6:25: warning: locality `a` has no `location`: by distance it comes after all that have one
t.toml:9:15: error: `10.0.0.7` is not the address of an endpoint
   help: the port is missing: `10.0.0.7:5222`
t.toml:9:36: error: `weight` must be from 1; 0 is no share
   help: to take an endpoint out of service, drain it or remove it
t.toml:10:15: error: `10.0.0.300:80` is not the address of an endpoint
   help: write `IP:port`, `[IPv6]:port` or `name:port`
t.toml:10:41: error: `weight` must be from 1 to 65535, not 70000
t.toml:12:25: warning: locality `b` has no `location`: by distance it comes after all that have one
t.toml:13:26: error: endpoint [::ffff:10.0.0.7]:5222 is listed twice in `im`, first on line 8
   help: to give it a larger share, raise its `weight`
t.toml:13:107: error: `max-connections` must be from 1; 0 would refuse everyone
   help: leave it out for no limit of its own
t.toml:14:25: warning: locality `c` has no `location`: by distance it comes after all that have one
t.toml:14:25: error: locality `c` has no endpoint
   help: endpoints = [{ address = "10.0.0.7:5222" }]
t.toml:15:25: error: `d e` cannot be the name of a locality
   help: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`
t.toml:17:12: error: `priority` must be from 0 to 127, not 200
t.toml:18:12: error: [103.82, 1.35] is no place on earth
   help: latitude comes first: these look swapped"#,
    );
}

#[test]
fn a_cluster_needs_a_locality() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
"#,
        "
t.toml:6:11: error: cluster `im` has no locality
   help: add [clusters.im.localities.NAME] with `endpoints`",
    );
}

#[test]
fn rules_name_what_exists() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[geoip]
databases = ["a.mmdb"]
[[clusters.im.rules]]
country = "UK"
localities = "here"
[[clusters.im.rules]]
country = ["de", "ZZ", "Germany"]
localities = ["there"]
[[clusters.im.rules]]
continent = "Europe"
network = ["10.0.0.1/8", "10.0.0.0/33"]
localities = []
[[clusters.im.rules]]
continent = []
localities = ["here", "here"]
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:9:11: error: `UK` is not a country code
   help: the United Kingdom is `GB`
t.toml:12:12: error: `de` is not a country code
   help: write `DE`
t.toml:12:18: error: `ZZ` is not a country code
   help: ISO 3166-1 alpha-2 in upper case, such as `DE`
t.toml:12:24: error: `Germany` is not a country code
   help: ISO 3166-1 alpha-2 in upper case, such as `DE`
t.toml:13:15: error: no locality of this cluster is named `there`
   help: defined here: `here`
t.toml:15:13: error: `Europe` is not a continent code
   help: one of: `AF`, `AN`, `AS`, `EU`, `NA`, `OC`, `SA`
t.toml:16:12: warning: `10.0.0.1/8` has bits below its prefix; they are ignored
   help: write `10.0.0.0/8`, or `10.0.0.1` for this one address
t.toml:16:26: error: `10.0.0.0/33` is not a network
   help: write `10.0.0.0/8`, `2001:db8::/32`, or a single address
t.toml:17:14: error: `localities` is empty: these clients would have nowhere to go
   help: "refuse" refuses them; "auto" steers them as if nothing were said of them
t.toml:19:13: error: `continent` is empty
   help: leave the key out; a rule without any match is for everyone
t.toml:20:23: error: `here` stands twice in `localities`"#,
    );
}

#[test]
fn a_rule_that_can_never_match_is_a_warning() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[geoip]
databases = ["a.mmdb"]
[[clusters.im.rules]]
country = ["DE", "FR"]
localities = "here"
[[clusters.im.rules]]
country = ["FR", "DE"]
localities = "here"
[[clusters.im.rules]]
localities = "here"
[[clusters.im.rules]]
country = "IT"
localities = "here"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:11:1: warning: this rule can never match: the one on line 8 matches the same
   help: the first rule that matches counts; remove one of them
t.toml:16:1: warning: this rule can never match: the one on line 14 is for everyone
   help: the first rule that matches counts; put the general one last",
    );
}

#[test]
fn numbers_of_systems_and_codes_of_subdivisions_have_a_form() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[geoip]
databases = ["a.mmdb"]
[[clusters.im.rules]]
asn = "AS15169"
localities = "here"
[[clusters.im.rules]]
asn = [0, 4294967296, "64512"]
localities = "here"
[[clusters.im.rules]]
asn = [64512, 64513, 64512]
localities = "here"
[[clusters.im.rules]]
subdivision = ["BY", "de-by", "DE/BY", "ZZ-BY", "DE-BAVARIA", "DE-BY", "DE-BY"]
localities = "here"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:9:7: error: `asn` must be a whole number or a list of whole numbers, not the text "AS15169"
t.toml:12:8: error: `asn` must be from 1 to 4294967295, not 0
t.toml:12:11: error: `asn` must be from 1 to 4294967295, not 4294967296
t.toml:12:23: error: an entry of `asn` must be a whole number, not the text "64512"
t.toml:15:22: warning: `64512` stands twice in `asn`
t.toml:18:16: error: `BY` is not a subdivision code
   help: ISO 3166-2 in upper case: the country, a hyphen and up to three letters or digits, such as `DE-BY`
t.toml:18:22: error: `de-by` is not a subdivision code
   help: write `DE-BY`
t.toml:18:31: error: `DE/BY` is not a subdivision code
   help: write `DE-BY`
t.toml:18:40: error: `ZZ-BY` is not a subdivision code
   help: ISO 3166-2 in upper case: the country, a hyphen and up to three letters or digits, such as `DE-BY`
t.toml:18:49: error: `DE-BAVARIA` is not a subdivision code
   help: ISO 3166-2 in upper case: the country, a hyphen and up to three letters or digits, such as `DE-BY`
t.toml:18:72: warning: `DE-BY` stands twice in `subdivision`"#,
    );
}

#[test]
fn what_an_earlier_rule_takes_decides_nothing_later() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[geoip]
databases = ["a.mmdb"]
[[clusters.im.rules]]
network = "10.0.0.0/8"
asn = 64512
localities = "here"
[[clusters.im.rules]]
continent = "EU"
localities = "here"
[[clusters.im.rules]]
country = "US"
localities = "here"
[[clusters.im.rules]]
network = ["10.1.0.0/16", "192.0.2.0/24"]
asn = [64513, 64512]
country = ["CA", "DE"]
subdivision = ["US-CA", "CA-QC"]
localities = "here"
[[clusters.im.rules]]
subdivision = "FR-75"
localities = "here"
[[clusters.im.rules]]
network = "10.2.3.4"
subdivision = ["US-NY", "CA-QC"]
localities = "here"
[[clusters.im.rules]]
network = "0.0.0.0/0"
localities = "here"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:19:12: warning: `10.1.0.0/16` decides nothing here: the one on line 8 matches network 10.0.0.0/8
   help: the first rule that matches counts; put the narrower one first
t.toml:20:15: warning: `64512` decides nothing here: the one on line 8 matches AS64512
   help: the first rule that matches counts; put the narrower one first
t.toml:21:18: warning: `DE` decides nothing here: the one on line 12 matches continent EU
   help: the first rule that matches counts; put the narrower one first
t.toml:22:16: warning: `US-CA` decides nothing here: the one on line 15 matches country US
   help: the first rule that matches counts; put the narrower one first
t.toml:24:1: warning: this rule can never match: the one on line 12 matches all of it
   help: the first rule that matches counts; put the narrower one first
t.toml:27:1: warning: this rule can never match: the one on line 8 and the one on line 15 and the one on line 18 match all of it
   help: the first rule that matches counts; put the narrower one first",
    );
}

#[test]
fn words_in_the_place_of_localities_stand_alone_and_fallbacks_do_not_contradict() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[[clusters.im.rules]]
network = "10.0.0.0/24"
localities = "refuse"
fallback = "none"
[[clusters.im.rules]]
network = "10.0.1.0/24"
localities = ["here", "refuse"]
fallback = []
[[clusters.im.rules]]
network = "10.0.2.0/24"
localities = "here"
strict = true
fallback = ["there"]
[[clusters.im.rules]]
network = "10.0.3.0/24"
localities = "here"
fallback = ["here", "any", "there"]
[[clusters.im.rules]]
network = "10.0.4.0/24"
localities = "any"
order = "written"
[[clusters.im.rules]]
network = "10.0.5.0/24"
localities = "here"
fallback = ["there", "any"]
steer = ["rtt"]
[[clusters.im.rules]]
network = "10.0.6.0/24"
localities = "auto"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im.localities.there]
endpoints = [{ address = "10.0.0.8:5222" }]
[clusters.im.localities.auto]
endpoints = [{ address = "10.0.0.9:5222" }]
"#,
        r#"
t.toml:9:12: error: `fallback` means nothing with `localities = "refuse"`
   help: leave it out
t.toml:12:23: error: no locality of this cluster is named `refuse`
   help: `refuse` stands alone, and not in a list
t.toml:13:12: error: `fallback` is empty
   help: "none": nothing follows; "any": all other localities do
t.toml:17:10: error: `strict` and `fallback` contradict each other
   help: `strict = true` is `fallback = "none"`; leave one of them out
t.toml:22:21: error: no locality of this cluster is named `any`
   help: `any` can stand alone in `fallback`, or at the end of its list
t.toml:25:14: error: no locality of this cluster is named `any`
   help: `any` can stand alone in `fallback`, or at the end of its list
t.toml:26:9: error: `order` cannot be `written`
   help: did you mean `as-written`?
t.toml:31:9: warning: the localities of this rule have no effect: its `steer` does not name `rules`
   help: steer = ["rules", ...]
t.toml:34:14: error: `auto` has a meaning here, and is a locality's name
   help: give the locality another name"#,
    );
}

#[test]
fn a_map_names_areas() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[geoip]
databases = ["a.mmdb"]
[clusters.im.map]
default = "auto"
EU = "here"
"EU/DE" = ["here", "there"]
"EU/DE/BY" = "there"
JP = "there"
"US/CA" = "here"
"AS/SA" = "here"
SA = "here"
KP = "refuse"
world = "here"
eu = "here"
UK = "here"
"DE-BY" = "here"
"EU/default" = "here"
"EU/FR/default" = "here"
"EU/US" = "here"
"SA/01" = "here"
"EU/FR/FR-75" = "here"
"EU/FR/Paris" = "here"
"EU/FR/75/Paris" = "here"
"FR/" = "here"
DE = "here"
IT = "gone"
ES = []
AF.EG = "here"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im.localities.there]
endpoints = [{ address = "10.0.0.8:5222" }]
"#,
        r#"
t.toml:18:1: error: `world` is not an area
   help: `default`, a country of ISO 3166-1 such as `DE`, or a continent: `AF`, `AN`, `AS`, `EU`, `NA`, `OC`, `SA`
t.toml:19:1: error: `eu` is not an area
   help: write `EU`
t.toml:20:1: error: `UK` is not an area
   help: the United Kingdom is `GB`
t.toml:21:1: error: `DE-BY` is not an area
   help: write `DE/BY`
t.toml:22:1: error: `EU/default` is not an area
   help: write `EU`: an area is the default of what is in it
t.toml:23:1: error: `EU/FR/default` is not an area
   help: write `EU/FR`: an area is the default of what is in it
t.toml:24:1: error: `EU/US` is not an area
   help: `US` is in `NA`
t.toml:25:1: error: `SA/01` is not an area
   help: `SA` is a continent here, and `01` no country; the country is `AS/SA`
t.toml:26:1: error: `EU/FR/FR-75` is not an area
   help: write `75` for the subdivision: its country stands before it
t.toml:27:1: error: `EU/FR/Paris` is not an area
   help: `Paris` is not a subdivision: up to three capitals or digits, such as `DE/BY`
t.toml:28:1: error: `EU/FR/75/Paris` is not an area
   help: a path is `CONTINENT/COUNTRY/SUBDIVISION` at most; the continent can be left out
t.toml:29:1: error: `FR/` is not an area
   help: `` is not a subdivision: up to three capitals or digits, such as `DE/BY`
t.toml:30:1: error: `DE` is the same area as `EU/DE` on line 11
   help: a path may leave out the continent; keep one of them
t.toml:31:6: error: no locality of this cluster is named `gone`
   help: defined here: `here`, `there`
t.toml:32:6: error: `ES` is empty: these clients would have nowhere to go
   help: "refuse" refuses them; "auto" steers them as if nothing were said of them
t.toml:33:1: error: `AF` must be a string or a list of strings, not a table
   help: an area inside this one is one key with a path: "AF/...""#,
    );
}

#[test]
fn an_entry_of_the_map_that_a_rule_takes_decides_nothing() {
    let config = |rule: &str| {
        format!(
            "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
             [geoip]\ndatabases = [\"a.mmdb\"]\n[[clusters.im.rules]]\n{rule}\nlocalities = \"here\"\n\
             [clusters.im.map]\ndefault = \"here\"\n\"EU/DE\" = \"here\"\nUS = \"here\"\n\
             [clusters.im.localities.here]\nendpoints = [{{ address = \"10.0.0.7:5222\" }}]\n"
        )
    };
    check(
        &config("continent = \"EU\""),
        "
t.toml:12:1: warning: `EU/DE` decides nothing here: the one on line 7 matches continent EU
   help: the first rule that matches counts; put the narrower one first",
    );
    check(
        &config(""),
        "
t.toml:12:1: warning: the map decides nothing: the one on line 7 is for everyone
   help: rules come before the map; remove the rule",
    );
    check(&config("country = \"FR\""), "");
}

/// `refuse` decides whatever `steer` says; the other entry does not.
#[test]
fn a_map_without_effect_is_a_warning_and_its_words_have_one() {
    let with_map = |map: &str| {
        format!(
            "[geoip]\ndatabases = [\"city.mmdb\"]\n\
             [listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
             [clusters.im]\nsteer = [\"distance\"]\nmap = {map}\n\
             [clusters.im.localities.here]\nlocation = [50, 8]\nendpoints = [{{ address = \"10.0.0.7:5222\" }}]\n"
        )
    };
    check(&with_map("{ KP = \"refuse\" }"), "");
    check(
        &with_map("{ KP = \"refuse\", default = \"here\" }"),
        r#"
t.toml:9:24: warning: the localities of the map have no effect: `steer` does not name `rules`
   help: steer = ["rules", ...]"#,
    );
}

#[test]
fn mistakes_in_rtt_are_told_beside_those_in_health() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
health.tcp = { interval = "1ms" }
rtt = { bands = ["20ms", "10ms"], hysteresis = "60%" }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:7:27: error: `interval` must be from 100ms to 1h, not 1ms
t.toml:8:26: error: `bands` must ascend, and 10ms does not
   help: each limit must be longer than the one before it, and than zero
t.toml:8:48: error: `hysteresis` must be from 0% to 50%, not 60%
   help: more would keep a locality out of a narrow band for good"#,
    );
}

#[test]
fn rules_without_effect_are_a_warning() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
steer = ["rtt"]
[[clusters.im.rules]]
country = "IT"
localities = "here"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        r#"
t.toml:8:1: warning: rules have no effect: `steer` does not name them
   help: steer = ["rules", ...]
t.toml:9:11: warning: no client matches this: nothing says in which country one is
   help: name `databases` or `overrides` in [geoip]"#,
    );
}

#[test]
fn settings_of_steering_have_ranges() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
steer = ["rtt", "distance", "rtt"]
p2c.choices = 1
distance-band = "0km"
overnprovisioning = 1
overprovisioning = 0.5
rtt.bands = ["10ms", "5ms"]
connect-timeout = "2m"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im.localities.there]
endpoints = [{ address = "10.0.0.8:5222" }]
"#,
        "
t.toml:7:17: warning: `distance` decides nothing: no locality has a `location`
   help: location = [latitude, longitude] in each locality
t.toml:7:29: error: a criterion stands twice in `steer`
   help: the first decides all that it can; the second would never decide anything
t.toml:8:15: error: `choices` must be from 2 to 16, not 1
t.toml:9:17: error: `distance-band` must be from 1km to 20000km, not 0km
t.toml:10:1: error: unknown key `overnprovisioning`
   help: did you mean `overprovisioning`?
t.toml:11:20: error: `overprovisioning` must be from 1.0 to 10, not 0.5
t.toml:12:22: error: `bands` must ascend, and 5ms does not
   help: each limit must be longer than the one before it, and than zero
t.toml:13:19: error: `connect-timeout` must be from 1ms to 1m, not 2m",
    );
}

#[test]
fn parameters_of_policies_are_checked_used_or_not() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
policy = "maglev"
request-policy = "peak-ewma"
maglev = { table-size = 65536, balance-factor = 0.5 }
peak-ewma = { choices = 17, decay = "1ms", default-latency = "0s", failure-penalty = "10m" }
ring-hash = { min-size = 4096, max-size = 1024 }
prequal = { choices = 0, report-age = "2h" }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:9:25: error: `table-size` must be a prime number up to 5000011, not 65536
   help: common ones: 2039, 16381, 65537, 655373; at least a hundred times the number of endpoints
t.toml:9:49: error: `balance-factor` must be from 1.0 to 100, or 0, not 0.5
   help: 1.25 lets an endpoint have a quarter more than its share; 0 is no bound
t.toml:10:25: error: `choices` must be from 2 to 16, not 17
t.toml:10:37: error: `decay` must be from 100ms to 1h, not 1ms
t.toml:10:62: error: `default-latency` must be from 1ms to 1m, not 0s
t.toml:10:86: error: `failure-penalty` must be from 0s to 5m, not 10m
t.toml:11:26: error: `min-size` (4096) is larger than `max-size` (1024)
t.toml:11:26: warning: `ring-hash` has no effect: no policy of this cluster is `ring-hash`
t.toml:12:23: error: `choices` must be from 2 to 16, not 0
t.toml:12:23: warning: `prequal` has no effect: no policy of this cluster is `prequal`
t.toml:12:39: error: `report-age` must be from 100ms to 1h, not 2h",
    );
}

#[test]
fn rates_limits_and_thresholds_that_contradict_each_other_are_found() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
accept-rate = "0/s"
slow-start = { window = "2d", aggression = 0.0, least = "0%" }
limits = { max-connections = 10, max-pending = 20 }
priority-limits = [{ priority = 0 }, { priority = 0 }, { priority = 7, max-connections = 0 }]
spill = { above = "70%", below = "80%" }
[clusters.im.localities.here]
capacity = 0
endpoints = [{ address = "10.0.0.7:5222", accept-rate = "2000000/s" }]
"#,
        "
t.toml:7:15: error: `accept-rate` must be from 0.01/s to 1000000/s, not 0/s
   help: leave it out for no limit; to take an endpoint out of service, drain it or remove it
t.toml:8:25: error: `window` must be from 0s to 1d, not 2d
t.toml:8:44: error: `aggression` must be from 0.1 to 10, not 0
t.toml:9:48: warning: `max-pending` (20) is larger than `max-connections` (10): it limits nothing
t.toml:10:51: error: priority 0 has limits already
t.toml:10:69: warning: no locality has priority 7
   help: limits are for the `priority` that localities have; it is 0 where none is written
t.toml:10:90: error: `max-connections` must be from 1; 0 would refuse everyone
   help: leave it out for no limit of its own
t.toml:11:34: error: `below` (80%) must be lower than `above` (70%)
   help: between the two, what is sent on stays as it is; ten points apart are usual
t.toml:13:12: error: `capacity` must be from 1 to 4294967295, not 0
t.toml:14:57: error: `accept-rate` must be from 0.01/s to 1000000/s, not 2000000/s
   help: leave it out for no limit; to take an endpoint out of service, drain it or remove it",
    );
}

#[test]
fn settings_that_do_nothing_are_warnings() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
slow-start.aggression = 2.0
spill = { by = "capacity", below = "10%" }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:25: warning: `slow-start` has no effect without a `window`
   help: slow-start.window = \"60s\"
t.toml:8:36: warning: `spill.below` and `spill.slope` have no effect without `spill.above`
t.toml:9:25: warning: locality `here` has no `capacity`: `spill.by = \"capacity\"` goes by weights while one has none
   help: capacity = 50000, or `max-connections` for each of its endpoints",
    );
}

#[test]
fn a_locality_without_capacity_is_a_warning_where_spill_over_goes_by_it() {
    let check_spill = |spill: &str, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let place = "[clusters.im.localities.here]\nendpoints = [{ address = \"10.0.0.7:5222\" }]\n";
        let help = "   help: capacity = 50000, or `max-connections` for each of its endpoints";
        let want = format!("t.toml:7:25: warning: locality `here` has no `capacity`: {want}\n{help}");
        check(&format!("{listener}[clusters.im]\n{spill}\n{place}"), &want);
    };
    check_spill("spill.above = \"70%\"", "`spill` cannot tell how full it is");
    check_spill("spill.by = \"capacity\"", "`spill.by = \"capacity\"` goes by weights while one has none");
    check_spill(
        "spill = { by = \"capacity\", above = \"70%\" }",
        "`spill.by = \"capacity\"` goes by weights while one has none, and `spill.above` cannot tell how full it is",
    );
}

#[test]
fn a_capacity_that_its_endpoints_cannot_reach_is_a_warning() {
    let check_place = |place: &str, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        check(&format!("{listener}[clusters.im.localities.here]\n{place}"), want);
    };
    let limits = |first: &str, second: &str| {
        let endpoint = |at: u8, limit: &str| format!("{{ address = \"10.0.0.{at}:5222\"{limit} }}");
        format!("endpoints = [{}, {}]", endpoint(7, first), endpoint(8, second))
    };
    let both = limits(", max-connections = 100", ", max-connections = 200");
    check_place(
        &format!("capacity = 301\n{both}"),
        "
t.toml:6:12: warning: `capacity` (301) is more than its endpoints' `max-connections` together (300)
   help: it can never be full; leave `capacity` out, and it is that sum",
    );
    check_place(&format!("capacity = 300\n{both}"), "");
    check_place(&format!("capacity = 301\n{}", limits(", max-connections = 100", "")), "");
    // The sum is more than can be counted.
    check_place(&limits(", max-connections = 4294967295", ", max-connections = 4294967295"), "");
}

#[test]
fn a_strict_rule_to_localities_out_of_service_is_a_warning() {
    let check_rule = |rule: &str, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let place = |name: &str, share: &str, at: u8| {
            format!(
                "[clusters.im.localities.{name}]\nshare = \"{share}\"\nendpoints = [{{ address = \"10.0.0.{at}:1\" }}]\n"
            )
        };
        let places = [place("a", "0%", 7), place("b", "0%", 8), place("c", "10%", 9)].concat();
        check(&format!("{listener}{rule}\n{places}"), want);
    };
    let rule = |way: &str| format!("[[clusters.im.rules]]\nnetwork = \"10.0.0.0/8\"\n{way}");
    let refuses = "
t.toml:5:1: warning: rule 1 refuses its clients: each of its localities is at `share = \"0%\"`
   help: give one of them a share, or let others follow with `fallback = \"any\"`";
    check_rule(&rule("localities = [\"a\", \"b\"]\nstrict = true"), refuses);
    check_rule(&rule("localities = \"a\"\nfallback = \"none\""), refuses);
    check_rule(&rule("localities = \"a\"\nfallback = \"b\""), refuses);
    check_rule(&rule("localities = [\"a\", \"c\"]\nfallback = \"none\""), "");
    check_rule(&rule("localities = \"a\"\nfallback = \"c\""), "");
    check_rule(&rule("localities = \"a\"\nfallback = [\"b\", \"any\"]"), "");
    check_rule(&rule("localities = \"a\""), "");
    check_rule(&rule("localities = \"refuse\""), "");
}

#[test]
fn a_maglev_table_that_is_small_for_its_cluster_is_a_warning() {
    let check_size = |endpoints: usize, policy: &str, size: Option<u32>, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let list: Vec<String> =
            (0..endpoints).map(|ix| format!("{{ address = \"10.{}.{}.1:1\" }}", ix / 256, ix % 256)).collect();
        let size = size.map(|size| format!("maglev.table-size = {size}")).unwrap_or_default();
        let cluster = format!("[clusters.im]\npolicy = \"{policy}\"\n{size}\n[clusters.im.localities.here]\n");
        check(&format!("{listener}{cluster}endpoints = [{}]", list.join(", ")), want);
    };
    let enough = "at least a hundred slots for each spread the keys evenly";
    check_size(
        21,
        "maglev",
        Some(2039),
        &format!(
            "t.toml:7:21: warning: `maglev.table-size` (2039) is small for 21 endpoints\n   \
             help: maglev.table-size = 16381; {enough}"
        ),
    );
    check_size(20, "maglev", Some(2039), "");
    check_size(
        656,
        "maglev",
        None,
        &format!(
            "t.toml:5:11: warning: `maglev.table-size` (65537) is small for 656 endpoints\n   \
             help: maglev.table-size = 655373; {enough}"
        ),
    );
    check_size(656, "p2c", None, "");
}

#[test]
fn reports_that_are_too_old_to_count_are_a_warning() {
    let check_cluster = |keys: &str, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let place = "[clusters.im.localities.here]\nendpoints = [{ address = \"10.0.0.7:5222\" }]\n";
        check(&format!("{listener}[clusters.im]\n{keys}\n{place}"), want);
    };
    let help = "   help: between two reports `prequal` would know nothing of other edges' requests; twice the interval is usual";
    check_cluster(
        "request-policy = \"prequal\"\nhealth.http.interval = \"10s\"",
        &format!("t.toml:7:24: warning: `report-age` (5s) is shorter than the probes' `interval` (10s)\n{help}"),
    );
    check_cluster(
        "policy = \"prequal\"\nprequal.report-age = \"1s\"\nhealth.http = {}",
        &format!("t.toml:7:22: warning: `report-age` (1s) is shorter than the probes' `interval` (2s)\n{help}"),
    );
    check_cluster("request-policy = \"prequal\"\nhealth.http = {}", "");
    check_cluster("request-policy = \"prequal\"", "");
    check_cluster("health.http.interval = \"10s\"", "");
    check_cluster(
        "request-policy = \"prequal\"\nprequal.report-age = \"10s\"",
        "
t.toml:7:22: warning: `report-age` has no effect: endpoints report in answers to the `http` probe
   help: health.http = {}",
    );
}

#[test]
fn parameters_of_a_policy_that_is_not_used_are_a_warning() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
policy = "round-robin"
request-policy = "least-connections"
p2c.choices = 3
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:9:15: warning: `p2c` has no effect: no policy of this cluster is `p2c`",
    );
}

#[test]
fn a_locality_without_location_among_others_with_one_is_a_warning() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.im.localities.there]
endpoints = [{ address = "10.0.0.8:5222" }]
location = [1.0, 2.0]
"#,
        "
t.toml:6:25: warning: locality `here` has no `location`: by distance it comes after all that have one",
    );
}

#[test]
fn health_is_one_probe_that_makes_sense() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
health = { off = true, tcp = {} }
[clusters.b]
health.http = { path = "readyz", host = "a b", expect = ["2xx", "300-200"], interval = "1s", fast-interval = "2s", timeout = "3s", rise = 0 }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.b.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:30: error: `health` is one of `tcp`, `http`, `websocket`, `grpc`, `im` and `off`
   help: leave the others out
t.toml:8:11: warning: nothing uses cluster `b`
t.toml:9:24: error: `path` must start with `/`
t.toml:9:41: error: `a b` is not a host
   help: a name, with or without a port
t.toml:9:58: error: `2xx` is not a status code or range
   help: `200` or `200-299`, from 100 to 599
t.toml:9:65: error: `300-200` is not a status code or range
   help: `200` or `200-299`, from 100 to 599
t.toml:9:110: error: `fast-interval` (2s) is longer than `interval` (1s)
   help: it is for endpoints in doubt, to know sooner
t.toml:9:126: warning: `timeout` (3s) is longer than `interval` (1s)
   help: the next probe waits for the one before
t.toml:9:139: error: `rise` must be from 1 to 100, not 0",
    );
}

#[test]
fn what_probes_and_agents_are_asked_is_checked() {
    let check_cluster = |keys: &str, want: &str| {
        let listener = "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let place = "[clusters.im.localities.here]\nendpoints = [{ address = \"10.0.0.7:5222\" }]\n";
        check(&format!("{listener}[clusters.im]\n{keys}\n{place}"), want);
    };
    check_cluster(
        "health.http = { degraded-header = \"a b\" }",
        "t.toml:6:35: error: `a b` is not the name of a header field",
    );
    check_cluster(
        "health.http = { load-header = \"a:b\" }",
        "t.toml:6:31: error: `a:b` is not the name of a header field",
    );
    check_cluster(
        "health.websocket = { path = \"ws\", protocol = \"im v1\", initial = \"maybe\" }",
        "
t.toml:6:29: error: `path` must start with `/`
t.toml:6:46: error: `im v1` is not a subprotocol
t.toml:6:65: error: `initial` cannot be `maybe`
   help: possible here: `up`, `down`",
    );
    check_cluster(
        "health.grpc = { authority = \"a/b\" }",
        "t.toml:6:29: error: `a/b` is not a host\n   help: a name, with or without a port",
    );
    check_cluster(
        "health.im = { device = \"a:b\" }",
        "
t.toml:6:13: error: `im` needs `token-file`
   help: a file with a token for a user of its own
t.toml:6:24: error: `a:b` cannot be a device
   help: 1 to 60 bytes, without colon, blanks and control characters",
    );
    check_cluster(
        "agent-check = { port = 0, interval = \"1s\", timeout = \"2s\" }",
        "
t.toml:6:24: error: `port` must be from 1 to 65535, not 0
t.toml:6:54: warning: `timeout` (2s) is longer than `interval` (1s)
   help: the next question waits for the one before",
    );
    check_cluster("agent-check = { interval = \"2s\" }", "t.toml:6:15: error: `agent-check` needs `port`");
    check_cluster(
        &format!("agent-check = {{ port = 8, send = \"{}\" }}", "x".repeat(257)),
        "t.toml:6:34: error: `send` must be at most 256 bytes, not 257",
    );
    check_cluster(
        "health.off = true\ncut-on-down = true",
        "t.toml:7:15: warning: `cut-on-down` has no effect: `health` is off and there is no `agent-check`",
    );
    check_cluster("health.off = true\ncut-on-down = true\nagent-check.port = 8", "");
    check_cluster("health.im = { token-file = \"probe.token\" }\ncut-on-down = true", "");
}

#[test]
fn tls_to_endpoints_needs_a_name_that_can_be_verified() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
tls = { name = "", verify = false }
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:16: error: `name`: `` is not a host name or address
   help: the name that the endpoints' certificate has
t.toml:7:29: warning: `verify = false`: any certificate is accepted
   help: with `ca`, endpoints that have a certificate of your own authority can be verified",
    );
}

#[test]
fn tls_to_endpoints_needs_the_key_name() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im]
tls = {}
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:7: error: `tls` needs `name`",
    );
}

#[test]
fn the_tables_of_the_process_are_checked() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[stop]
grace = "10s"
deadline = "10s"
[dns]
min-ttl = "10m"
resolvers = ["10.0.0.2", "dns"]
[log]
level = "infoo,proxy=debug"
access = "stdot"
[drain]
rate = "0/s"
[admin]
bind = ["127.0.0.1:9901", "127.0.0.1:9901"]
hosts = ["a:80"]
[geoip]
databases = ["a.mmdb", "a.mmdb", ""]
[edge]
location = [91.0, 181.0]
name = "a b"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:8:12: error: `deadline` (10s) must be longer than `grace` (10s)
   help: both count from SIGTERM; connections are asked to leave in the time between them
t.toml:10:11: error: `min-ttl` (10m) is longer than `max-ttl` (5m)
t.toml:11:26: error: `resolvers`: `dns` is not an address with a port
   help: write `IP:port` or `[IPv6]:port`
t.toml:13:9: error: `level`: `infoo` is not a level
   help: did you mean `info`?
t.toml:14:10: error: `access` cannot be `stdot`
   help: write `stdout`, `off`, or a path with a `/` or `.` in it
t.toml:16:8: error: `rate` must be from 0.01/s to 1000000/s, not 0/s
t.toml:18:27: error: 127.0.0.1:9901 is listed twice
t.toml:19:10: error: `a:80` is not a host name
   help: write it without port
t.toml:21:24: error: database a.mmdb is listed twice
t.toml:21:34: error: `databases` must name a file
   help: leave it out if there is none
t.toml:23:12: error: [91, 181] is no place on earth
   help: [latitude, longitude] in degrees: -90 to 90, and -180 to 180
t.toml:24:8: error: `a b` cannot be the name of an edge
   help: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`",
    );
}

#[test]
fn a_cluster_that_nothing_uses_is_a_warning() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.other.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:8:11: warning: nothing uses cluster `other`",
    );
}

#[test]
fn values_of_any_other_type_are_refused_in_plain_words() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
max-connections = 99999999999999999999999
max-head = -5
[clusters.im]
overprovisioning = nan
health = "off"
http = 2
rules = [{ country = 5, localities = { a = 1 } }]
[clusters.im.localities.here]
endpoints = [{}, "10.0.0.7:1", { address = 5 }]
"#,
        r#"
t.toml:6:19: error: `max-connections` must be a whole number, not the number `99999999999999999999999`
t.toml:7:12: error: `max-head` must be a size such as "64KiB" or "1MiB", or a number of bytes, not the number `-5`
t.toml:9:20: error: `overprovisioning` must be from 1.0 to 10, not NaN
t.toml:10:10: error: `health` must be a table, not the text "off"
t.toml:11:8: error: `http` must be a string
   help: write it in quotes
t.toml:12:22: error: `country` must be a string or a list of strings, not the number `5`
t.toml:12:38: error: `localities` must be a string or a list of strings, not a table
t.toml:14:14: error: an entry of `endpoints` needs `address`
t.toml:14:18: error: an entry of `endpoints` must be a table, not the text "10.0.0.7:1"
t.toml:14:44: error: `address` must be a string, not the number `5`"#,
    );
}

#[test]
fn a_mistyped_table_is_one_problem_and_nothing_seems_to_be_missing() {
    check(
        "
[listener.im]
[cluster.im]
",
        "
t.toml:2:2: error: unknown key `listener`
   help: did you mean `listeners`?
t.toml:3:2: error: unknown key `cluster`
   help: did you mean `clusters`?",
    );
}

#[test]
fn what_the_design_shows_is_accepted() {
    check(
        r#"
[edge]
name = "sgp-1"
location = [1.35, 103.82]
trusted-proxies = ["10.0.0.0/8"]

[admin]
bind = ["127.0.0.1:9901"]
socket = "run/warbler.sock"

[geoip]
databases = ["geo/city.mmdb", "geo/asn.mmdb"]
overrides = "geo/overrides.toml"

[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"

[listeners.web]
bind = ["0.0.0.0:443"]
protocol = "http"
http-versions = ["1.1", "2"]
tls.certificates = [{ chain = "tls/im.pem", key = "tls/im.key" }]

[[listeners.web.routes]]
host = "im.example.com"
path-prefix = "/ws"
cluster = "im"

[clusters.im]
policy = "p2c"
steer = ["rules", "distance", "rtt"]
http = "1.1"
health.http = { path = "/readyz", interval = "2s", rise = 2, fall = 3 }

[[clusters.im.rules]]
continent = "EU"
localities = ["frankfurt", "paris"]
strict = true

[clusters.im.localities.frankfurt]
provider = "aws"
location = [50.11, 8.68]
endpoints = [{ address = "10.1.0.4:5222", weight = 2 }, { address = "10.1.0.5:5222" }]

[clusters.im.localities.paris]
location = [48.86, 2.35]
endpoints = [{ address = "10.2.0.4:5222" }]
"#,
        "",
    );
}

/// What has to be written, and nothing else: a listener of each protocol, a cluster for each kind of probe.
const REQUIRED: &str = r#"
[listeners.im]
bind = ["127.0.0.1:0"]
protocol = "tcp"
cluster = "tcp"

[listeners.web]
bind = ["127.0.0.1:0"]
protocol = "http"
tls.certificates = [{ chain = "im.pem", key = "im.key" }]

[[listeners.web.routes]]
cluster = "http"

[clusters.tcp]
tls.name = "im.example.com"
stickiness = {}
user-token.verify.public-key-file = "users.pem"
rules = [{ localities = "here" }]
agent-check.port = 8

[clusters.tcp.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]

[clusters.http]
tls.name = "im.example.com"
stickiness = {}
user-token.verify.public-key-file = "users.pem"
rules = [{ localities = "here" }]
health.http = {}

[clusters.http.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]

[clusters.websocket]
health.websocket = {}

[clusters.websocket.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]

[clusters.grpc]
health.grpc = {}

[clusters.grpc.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]

[clusters.im]
health.im.token-file = "probe.token"

[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#;

#[test]
fn the_defaults_in_force_are_those_of_the_reference() {
    let mut written: toml::Table = toml::from_str(REQUIRED).unwrap();
    let mut count = 0;
    for key in KEYS {
        let Fallback::Value(value) = key.default else { continue };
        let value = toml::from_str::<toml::Table>(&format!("value = {value}")).unwrap().remove("value").unwrap();
        for path in named(key.path) {
            put(&mut written, &path, value.clone());
            count += 1;
        }
    }
    assert!(count > 60, "defaults are written: {count}");
    let written = load_text("t.toml", &written.to_string(), OpenFiles::No).unwrap().config;
    let required = load_text("t.toml", REQUIRED, OpenFiles::No).unwrap().config;
    assert_eq!(written, required);
}

/// The places of a key in [`REQUIRED`].
fn named(path: &str) -> Vec<String> {
    let names: &[&str] = match path.split('.').next() {
        Some("listeners") if path.contains(".max-head") || path.contains(".tls") => &["web"],
        Some("listeners") => &["im", "web"],
        Some("clusters") if path.contains("health.http") => &["http"],
        Some("clusters") if path.contains("health.websocket") => &["websocket"],
        Some("clusters") if path.contains("health.grpc") => &["grpc"],
        Some("clusters") if path.contains("health.im") => &["im"],
        Some("clusters") if path.contains("health.tcp") || path.contains("health.off") => &["tcp"],
        Some("clusters") if path.contains("agent-check") => &["tcp"],
        Some("clusters") => &["tcp", "http"],
        _ => &[""],
    };
    names.iter().map(|name| path.replacen('*', name, 1).replace('*', "here")).collect()
}

fn put(table: &mut toml::Table, path: &str, value: toml::Value) {
    let Some((step, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    match step.strip_suffix("[]") {
        Some(list) => put(table[list][0].as_table_mut().unwrap(), rest, value),
        None => {
            let inner = table.entry(step).or_insert_with(|| toml::Table::new().into());
            put(inner.as_table_mut().unwrap(), rest, value);
        }
    }
}

#[test]
fn values_become_what_the_program_uses() {
    let text = r#"
[edge]
name = "sgp-1"
workers = 3
trusted-proxies = ["10.0.0.0/8", "::1"]
[listeners.web]
bind = ["127.0.0.1:0", "[::1]:8080"]
protocol = "http"
http-versions = ["2"]
max-head = 2048
[[listeners.web.routes]]
host = "*.Example.com."
path-prefix = "/ws/"
headers = { X-Tenant = "a", X-Client = "*" }
cluster = "b"
[clusters.a.localities.x]
endpoints = [{ address = "im.example.com:1" }]
[clusters.b]
policy = "round-robin"
request-policy = "p2c"
p2c.choices = 4
overprovisioning = 1.15
panic-threshold = "0%"
[clusters.b.health.http]
expect = ["200", "300-399"]
interval = "300ms"
jitter = "5%"
[clusters.b.localities.x]
priority = 7
share = "90%"
endpoints = [{ address = "10.0.0.7:1", weight = 9, max-connections = 10 }]
"#;
    let loaded = load_text("t.toml", text, OpenFiles::No).unwrap();
    let config = loaded.config;
    assert_eq!((&*config.edge.name, config.edge.workers.get()), ("sgp-1", 3));
    assert!(config.trusts("10.1.2.3".parse().unwrap()) && config.trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!config.trusts("::2".parse().unwrap()));
    let crate::config::Serves::Http(http) = &config.listeners[0].serves else { panic!("an http listener") };
    assert_eq!((http.http1, http.http2, http.max_head), (false, true, 2048));
    let route = &http.routes[0];
    assert_eq!(&*route.name, "*.example.com/ws/* x-client x-tenant=\"a\"");
    assert_eq!(route.host, crate::config::HostMatch::Below("example.com".to_owned()));
    assert_eq!(route.path, crate::config::PathMatch::Prefix("/ws".to_owned()));
    let cluster = config.cluster(route.cluster);
    assert_eq!((&*cluster.name, cluster.overprovisioning_percent, cluster.panic_threshold_percent), ("b", 115, 0));
    assert_eq!(cluster.policy, policies::Policy::RoundRobin);
    assert_eq!(cluster.request_policy, policies::Policy::P2c { choices: 4 });
    let health = &cluster.health;
    assert_eq!((health.fast_interval, health.timeout), (health.interval, health.interval), "not longer than that");
    assert!((health.jitter - 0.05).abs() < 1e-9);
    let crate::config::Probe::Http(probe) = &health.probe else { panic!("an http probe") };
    assert_eq!(probe.expect, &[(200, 200), (300, 399)]);
    let locality = &cluster.localities[0];
    assert_eq!((locality.priority, locality.endpoints[0].max_connections.map(u32::from)), (7, Some(10)));
    assert_eq!(locality.share.as_percent(), 90);
}

#[test]
fn http_2_is_offered_by_itself_only_where_tls_can_negotiate_it() {
    let config = load_text("t.toml", REQUIRED, OpenFiles::No).unwrap().config;
    let crate::config::Serves::Http(tls) = &config.listeners[1].serves else { panic!("an http listener") };
    assert!(tls.http1 && tls.http2);
    let plain = REQUIRED.replace("tls.certificates = [{ chain = \"im.pem\", key = \"im.key\" }]", "");
    let config = load_text("t.toml", &plain, OpenFiles::No).unwrap().config;
    let crate::config::Serves::Http(plain) = &config.listeners[1].serves else { panic!("an http listener") };
    assert!(plain.http1 && !plain.http2);
}

#[test]
fn a_file_full_of_slips_ends_with_a_word_about_the_rest() {
    let slips: String = (0..150).map(|nth| format!("[unknown-{nth}]\n")).collect();
    let report = load_text("t.toml", &slips, OpenFiles::No).unwrap_err();
    assert_eq!(report.problems.len(), 101);
    let last = report.problems.last().unwrap().to_string();
    assert_eq!(last, "t.toml:151:1: error: 100 problems in this file so far; the rest of it was not read");
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_like_any_other() {
    let report = load(Path::new("/nowhere/edge.toml"), OpenFiles::No).unwrap_err();
    assert_eq!(
        report.render("nothing was started"),
        "/nowhere/edge.toml: error: cannot be read: No such file or directory (os error 2)\n\
         1 problem; nothing was started"
    );
}

proptest::proptest! {
    /// Whatever is in a file, it is answered with problems and never with a panic.
    #[test]
    fn no_text_makes_the_check_panic(at in 0..REQUIRED.len(), length in 0..40_usize, replacement in "[\\[\\]{}=\"., a-z0-9\n-]{0,12}") {
        let end = (at + length).min(REQUIRED.len());
        let text = format!("{}{replacement}{}", &REQUIRED[..at], &REQUIRED[end..]);
        if let Err(report) = load_text("t.toml", &text, OpenFiles::No) {
            proptest::prop_assert!(report.problems.iter().any(|problem| problem.severity == Severity::Error));
        }
    }
}

#[test]
fn settings_of_round_trips_have_ranges_and_must_fit_each_other() {
    check(
        r#"
[listeners.im]
bind = ["0.0.0.0:5222"]
protocol = "tcp"
cluster = "im"
[clusters.im.rtt]
hysteresis = "60%"
hysteresis-floor = "2h"
dwell = 0
window = "100ms"
[clusters.im.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.slow]
health.tcp.interval = "1m"
rtt = { window = "2m", max-age = "90s", hysteresis-floor = "6ms" }
[clusters.slow.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.short]
rtt = { window = "1m", max-age = "30s" }
[clusters.short.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
[clusters.blind]
steer = ["rtt"]
health.off = true
[clusters.blind.localities.here]
endpoints = [{ address = "10.0.0.7:5222" }]
"#,
        "
t.toml:7:14: error: `hysteresis` must be from 0% to 50%, not 60%
   help: more would keep a locality out of a narrow band for good
t.toml:8:20: error: `hysteresis-floor` must be from 0s to 1h, not 2h
t.toml:9:9: error: `dwell` must be from 1 to 100, not 0
t.toml:10:10: error: `window` must be from 300ms to 3h, not 100ms
t.toml:13:11: warning: nothing uses cluster `slow`
t.toml:15:18: warning: `window` (2m) holds fewer than three probes of `interval` (1m)
   help: of too few, the lowest may have met a queue, and steering follows it
t.toml:15:34: error: `max-age` (1m30s) is shorter than two probes of `interval` (1m)
   help: one late probe, and what was measured would not count
t.toml:15:60: warning: `hysteresis-floor` (6ms) is more than half of the first limit of `bands` (10ms), and counts as half there
t.toml:18:11: warning: nothing uses cluster `short`
t.toml:19:34: error: `max-age` (30s) is shorter than `window` (1m)
   help: `window` would count round trips that are too old to count
t.toml:22:11: warning: nothing uses cluster `blind`
t.toml:23:10: warning: `rtt` knows no more than the distance: `health` is off
   help: probes measure it; or rtt.from = \"handshake\", which live tunnels measure, too",
    );
}

#[test]
fn defaults_of_round_trips_follow_the_probes() {
    let rtt = |keys: &str| {
        let text = format!(
            "[listeners.im]\nbind = [\"0.0.0.0:5222\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n[clusters.im]\n{keys}\n\
             [clusters.im.localities.here]\nendpoints = [{{ address = \"10.0.0.7:5222\" }}]\n"
        );
        load_text("t.toml", &text, OpenFiles::No).unwrap().config.clusters[0].rtt.clone()
    };
    let seconds = Duration::from_secs;
    let usual = rtt("");
    assert_eq!((usual.window, usual.max_age, usual.bands), (seconds(6), seconds(30), RttBands::default()));
    let slow = rtt("health.tcp.interval = \"1m\"");
    assert_eq!((slow.window, slow.max_age), (seconds(180), seconds(900)));
    let fast = rtt("health.tcp.interval = \"500ms\"");
    assert_eq!((fast.window, fast.max_age), (seconds(6), seconds(30)));
    let written = rtt("rtt = { window = \"30s\", hysteresis = \"25%\" }");
    assert_eq!((written.window, written.max_age), (seconds(30), seconds(150)));
    assert!((written.bands.hysteresis_ratio - 0.25).abs() < 1e-9);
}
