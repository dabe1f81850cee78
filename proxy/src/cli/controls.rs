//! `warbler drain`, `maintenance`, `ready`, `shift`, `overrides`, `reset`: shifting traffic by hand on the running edge.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use super::edge::EdgeArgs;
use super::{Code, say, socket};
use crate::config::units::{Percent, Period};

/// `warbler drain` and `warbler maintenance`
#[derive(Debug, Args)]
pub struct OutArgs {
    /// Which endpoint, as the status names it
    #[arg(value_name = "CLUSTER/ADDRESS")]
    endpoint: Target,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    call: Call,
}

/// `warbler ready`
#[derive(Debug, Args)]
pub struct ReadyArgs {
    /// Which endpoint, as the status names it
    #[arg(value_name = "CLUSTER/ADDRESS")]
    endpoint: Target,
    #[command(flatten)]
    call: Call,
}

/// `warbler shift`
#[derive(Debug, Args)]
pub struct ShiftArgs {
    /// Which locality or endpoint
    #[arg(value_name = "CLUSTER/LOCALITY|CLUSTER/ADDRESS")]
    target: Target,
    /// Of a locality: how much of what steering sends there may come; 0% takes it out of service
    #[arg(long, value_name = "PERCENT", required_unless_present = "weight")]
    share: Option<Percent>,
    /// Of an endpoint: its weight (5). Of a locality: what the weights of its endpoints are multiplied by (150%)
    #[arg(long)]
    weight: Option<Weight>,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    call: Call,
}

/// `warbler overrides`
#[derive(Debug, Args)]
pub struct OverridesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    edge: EdgeArgs,
}

/// `warbler reset`
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Which locality or endpoint
    #[arg(value_name = "CLUSTER/LOCALITY|CLUSTER/ADDRESS", required_unless_present = "all", conflicts_with = "all")]
    target: Option<Target>,
    /// Everything that is set by hand
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    call: Call,
}

/// For how long, and whether whatever it costs.
#[derive(Debug, Args)]
struct Terms {
    /// Ends by itself after this time: 30m, 2h
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<Period>,
    /// Also when nobody is left who could take a client
    #[arg(long)]
    force: bool,
}

/// How the edge is told, and what is shown of it.
#[derive(Debug, Args)]
struct Call {
    /// Why; it is shown in the log, and wherever the change is
    #[arg(long, default_value = "")]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    edge: EdgeArgs,
}

/// `im/frankfurt` or `im/10.0.0.7:5222`.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    cluster: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Locality(String),
    Endpoint(SocketAddr),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let parts = text.split_once('/').filter(|(cluster, rest)| !cluster.is_empty() && !rest.is_empty());
        let (cluster, rest) = parts.ok_or("a cluster and what is in it: im/frankfurt, im/10.0.0.7:5222")?;
        let what = rest.parse().map_or_else(|_cause| What::Locality(rest.to_owned()), What::Endpoint);
        Ok(Target { cluster: cluster.to_owned(), what })
    }
}

impl Target {
    fn path(&self) -> String {
        let cluster = socket::encode(&self.cluster);
        match &self.what {
            What::Locality(name) => format!("/api/v1/clusters/{cluster}/localities/{}", socket::encode(name)),
            What::Endpoint(address) => {
                format!("/api/v1/clusters/{cluster}/endpoints/{}", socket::encode(&address.to_string()))
            }
        }
    }
}

/// `5` or `150%`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Weight {
    Plain(u16),
    Percent(u16),
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Weight, String> {
        let whole = |digits: &str| {
            digits.parse().map_err(|_cause| format!("`{text}` is neither a weight such as 5 nor a factor such as 150%"))
        };
        match text.strip_suffix('%') {
            Some(digits) => whole(digits).map(Weight::Percent),
            None => whole(text).map(Weight::Plain),
        }
    }
}

pub fn drain(args: &OutArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    take_out(args, "drain", out, err)
}

pub fn maintenance(args: &OutArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    take_out(args, "maintenance", out, err)
}

fn take_out(args: &OutArgs, state: &str, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    if !is_endpoint(&args.endpoint, err) {
        return Code::Usage;
    }
    send(&args.endpoint, under(&args.terms, json!({"state": state})), &args.call, out, err)
}

pub fn ready(args: &ReadyArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    if !is_endpoint(&args.endpoint, err) {
        return Code::Usage;
    }
    send(&args.endpoint, json!({"state": "ready"}), &args.call, out, err)
}

pub fn shift(args: &ShiftArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let body = match (&args.target.what, args.share, args.weight) {
        (What::Locality(_), share, None) => json!({"share": share.map(|share| share.0)}),
        (What::Locality(_), share, Some(Weight::Percent(percent))) => {
            json!({"share": share.map(|share| share.0), "weight_percent": percent})
        }
        (What::Endpoint(_), None, Some(Weight::Plain(weight))) => json!({"weight": weight}),
        (What::Locality(_), _, Some(Weight::Plain(_))) => {
            say(
                err,
                "error: the weight of a locality is a percentage that its endpoints' weights are multiplied by: 150%",
            );
            return Code::Usage;
        }
        (What::Endpoint(_), ..) => {
            say(
                err,
                "error: an endpoint has a weight, a number from 1, and no share; see `warbler drain` to take it out",
            );
            return Code::Usage;
        }
    };
    send(&args.target, under(&args.terms, body), &args.call, out, err)
}

pub fn overrides(args: &OverridesArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    match args.edge.ask("GET", "/api/v1/overrides", b"", err) {
        Ok(page) => print(&page, args.json, "nothing is set by hand", out),
        Err(code) => code,
    }
}

pub fn reset(args: &ResetArgs, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    let path = args.target.as_ref().map_or_else(|| "/api/v1/overrides".to_owned(), Target::path);
    let query = format!("?by={}&reason={}", socket::encode(&operator()), socket::encode(&args.call.reason));
    let page = match args.call.edge.ask("DELETE", &(path + &query), b"", err) {
        Ok(page) => page,
        Err(code) => return code,
    };
    let text = match (args.call.json, page["reset"].as_u64()) {
        (true, _) => page.to_string(),
        (false, Some(0) | None) => "nothing was set by hand".to_owned(),
        (false, Some(1)) => "1 override taken back".to_owned(),
        (false, Some(count)) => format!("{count} overrides taken back"),
    };
    written(out, &text)
}

fn is_endpoint(target: &Target, err: &mut dyn Write) -> bool {
    let What::Locality(name) = &target.what else { return true };
    let cluster = &target.cluster;
    say(
        err,
        format!(
            "error: `{name}` is not the address of an endpoint (10.0.0.7:5222)\n   \
             help: a whole locality is taken out by `warbler shift {cluster}/{name} --share 0%`"
        ),
    );
    false
}

fn under(terms: &Terms, mut body: Value) -> Value {
    body["force"] = terms.force.into();
    body["for_seconds"] = terms.lasts.map_or(Value::Null, |lasts| lasts.0.as_secs().into());
    body
}

fn send(target: &Target, mut body: Value, call: &Call, out: &mut dyn Write, err: &mut dyn Write) -> Code {
    body["by"] = operator().into();
    body["reason"] = call.reason.as_str().into();
    match call.edge.ask("POST", &target.path(), body.to_string().as_bytes(), err) {
        Ok(page) => print(&page, call.json, "nothing is set on it by hand any more", out),
        Err(code) => code,
    }
}

/// Who sits here, for the colleagues.
fn operator() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

fn print(page: &Value, json: bool, nothing: &str, out: &mut dyn Write) -> Code {
    let set = page["overrides"].as_array().map(Vec::as_slice).unwrap_or_default();
    match (json, set) {
        (true, _) => written(out, &serde_json::to_string_pretty(page).unwrap_or_default()),
        (false, []) => written(out, nothing),
        (false, set) => written(out, table(set).trim_end()),
    }
}

fn written(out: &mut dyn Write, text: &str) -> Code {
    if writeln!(out, "{text}").is_ok() { Code::Done } else { Code::Failed }
}

fn table(set: &[Value]) -> String {
    let mut text = String::new();
    let mut row = |cells: [&str; 7]| {
        let [target, kind, value, file, since, left, why] = cells;
        // Writing into a string does not fail.
        writeln!(text, "{target:<32} {kind:<14} {value:<12} {file:<8} {since:<8} {left:<8} {why}").ok();
    };
    row(["target", "what", "set to", "file", "since", "left", "by, reason"]);
    for one in set {
        let percent = if one["kind"].as_str().is_some_and(|kind| kind != "weight") { "%" } else { "" };
        let value = |value: &Value| match value {
            Value::String(word) => word.clone(),
            Value::Null => "-".to_owned(),
            number => format!("{number}{percent}"),
        };
        let since = rough(one["since_seconds"].as_u64().unwrap_or(0));
        // Rounded up: a time that is not over shows as some.
        let left = one["seconds_left"].as_f64().map_or_else(|| "-".to_owned(), |left| rough(whole_seconds(left)));
        let text_of = |key: &str| one[key].as_str().unwrap_or_default();
        let why = [text_of("by"), text_of("reason")].into_iter().filter(|part| !part.is_empty());
        let mut why = why.collect::<Vec<_>>().join(": ");
        if one["configured"] == false {
            why.push_str(" (no longer in the files)");
        }
        row([text_of("target"), text_of("kind"), &value(&one["value"]), &value(&one["file"]), &since, &left, &why]);
    }
    text
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 30 days, in seconds")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().max(0.0) as u64
}

/// `45s`, `12m`, `3h`, `2d`: enough to know whether it is old.
fn rough(seconds: u64) -> String {
    match seconds {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_locality_or_an_endpoint_of_a_cluster() {
        let what = |text: &str| text.parse::<Target>().map(|target| (target.cluster, target.what));
        let locality = What::Locality("frankfurt".to_owned());
        assert_eq!(what("im/frankfurt"), Ok(("im".to_owned(), locality)));
        for address in ["10.0.0.7:5222", "[2001:db8::7]:5222"] {
            assert_eq!(what(&format!("im/{address}")), Ok(("im".to_owned(), What::Endpoint(address.parse().unwrap()))));
        }
        for wrong in ["im", "im/", "/frankfurt", ""] {
            assert!(what(wrong).is_err(), "{wrong}");
        }
        let path = "im/[2001:db8::7]:5222".parse::<Target>().unwrap().path();
        assert_eq!(path, "/api/v1/clusters/im/endpoints/%5B2001%3Adb8%3A%3A7%5D%3A5222");
    }

    #[test]
    fn a_weight_is_a_number_or_a_factor() {
        assert_eq!("5".parse(), Ok(Weight::Plain(5)));
        assert_eq!("150%".parse(), Ok(Weight::Percent(150)));
        for wrong in ["", "%", "-1", "1.5", "70000"] {
            assert!(wrong.parse::<Weight>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_set_is_a_table_for_people() {
        let set = json!([
            {"target": "im/frankfurt", "kind": "share", "value": 90, "file": 100, "by": "ada", "reason": "new rack",
             "since_seconds": 12, "seconds_left": 1787.2, "configured": true},
            {"target": "im/10.0.0.7:5222", "kind": "state", "value": "drain", "file": null, "by": "", "reason": "",
             "since_seconds": 7300, "seconds_left": null, "configured": false},
            {"target": "im/10.0.0.8:5222", "kind": "weight", "value": 5, "file": 1, "by": "ada", "reason": "",
             "since_seconds": 0, "seconds_left": null, "configured": true},
        ]);
        let want = "\
target                           what           set to       file     since    left     by, reason
im/frankfurt                     share          90%          100%     12s      29m      ada: new rack
im/10.0.0.7:5222                 state          drain        -        2h       -         (no longer in the files)
im/10.0.0.8:5222                 weight         5            1        0s       -        ada
";
        assert_eq!(table(set.as_array().unwrap()), want);
    }
}
