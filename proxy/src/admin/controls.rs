//! Shifting traffic by hand, over the API: what may be asked, in which ranges, and how it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use policies::{Share, Tick, Weight};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Context, refusal};
use crate::cluster::overrides::{Kind, MOST_WEIGHT_PERCENT, Override, Service, Value};
use crate::controls::{self, Change, ControlError, Listed, Target};
use crate::state::State;

/// The longest time that something can be set for; what is meant for longer belongs into the files.
const LONGEST: u64 = 30 * 24 * 60 * 60;
/// Characters of a reason or a name.
const LONGEST_TEXT: usize = 200;

/// What can be set on a locality.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnLocality {
    share: Option<i64>,
    weight_percent: Option<i64>,
    for_seconds: Option<i64>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    force: bool,
}

/// What can be set on an endpoint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnEndpoint {
    state: Option<String>,
    weight: Option<i64>,
    for_seconds: Option<i64>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    force: bool,
}

/// Who takes something back, and why.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Who {
    by: String,
    reason: String,
}

pub async fn list(Shared(context): Shared<Context>) -> Response {
    Json(json!({"overrides": listed(&context.state, None)})).into_response()
}

pub async fn set_on_locality(
    Shared(context): Shared<Context>,
    Path((cluster, locality)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let target = Target::Locality { cluster: cluster.into(), locality: locality.into() };
    answer(&context.state, &target, on_locality(&body))
}

pub async fn set_on_endpoint(
    Shared(context): Shared<Context>,
    Path((cluster, address)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    match endpoint(cluster, &address) {
        Ok(target) => answer(&context.state, &target, on_endpoint(&body)),
        Err(error) => refusal(StatusCode::BAD_REQUEST, error),
    }
}

pub async fn reset_locality(
    Shared(context): Shared<Context>,
    Path((cluster, locality)): Path<(String, String)>,
    Query(who): Query<Who>,
) -> Response {
    reset(&context.state, &Target::Locality { cluster: cluster.into(), locality: locality.into() }, &who)
}

pub async fn reset_endpoint(
    Shared(context): Shared<Context>,
    Path((cluster, address)): Path<(String, String)>,
    Query(who): Query<Who>,
) -> Response {
    match endpoint(cluster, &address) {
        Ok(target) => reset(&context.state, &target, &who),
        Err(error) => refusal(StatusCode::BAD_REQUEST, error),
    }
}

pub async fn reset_all(Shared(context): Shared<Context>, Query(who): Query<Who>) -> Response {
    match who.checked() {
        Ok((by, reason)) => Json(json!({"reset": controls::reset_all(&context.state, &by, &reason)})).into_response(),
        Err(error) => refusal(StatusCode::BAD_REQUEST, error),
    }
}

fn answer(state: &State, target: &Target, change: Result<Change, String>) -> Response {
    let change = match change {
        Ok(change) => change,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
    };
    match controls::change(state, target, &change) {
        Ok(()) => Json(json!({"overrides": listed(state, Some(target))})).into_response(),
        Err(error) => refused(&error),
    }
}

fn reset(state: &State, target: &Target, who: &Who) -> Response {
    let (by, reason) = match who.checked() {
        Ok(checked) => checked,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
    };
    match controls::reset(state, target, &by, &reason) {
        Ok(reset) => Json(json!({"reset": reset})).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &ControlError) -> Response {
    let status = match error {
        ControlError::Unknown(_) => StatusCode::NOT_FOUND,
        ControlError::LeavesNobody { .. } => StatusCode::CONFLICT,
    };
    refusal(status, error)
}

fn endpoint(cluster: String, address: &str) -> Result<Target, String> {
    let address: SocketAddr = address.parse().map_err(|_cause| {
        format!("`{address}` is not the address of an endpoint: IP:port or [IPv6]:port, as status has it")
    })?;
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    Ok(Target::Endpoint { cluster: cluster.into(), address })
}

fn on_locality(body: &[u8]) -> Result<Change, String> {
    let asked: OnLocality = parsed(body)?;
    let share = whole("share", asked.share, 0, 100, " percent")?;
    let percent = whole("weight_percent", asked.weight_percent, 1, MOST_WEIGHT_PERCENT, " percent")?;
    let share = share.and_then(|share: u8| Share::percent(share)).map(Value::Share);
    let values = share.into_iter().chain(percent.map(Value::WeightPercent));
    let who = Who { by: asked.by, reason: asked.reason };
    wanted(values.collect(), "`share`, `weight_percent`", asked.for_seconds, &who, asked.force)
}

fn on_endpoint(body: &[u8]) -> Result<Change, String> {
    let asked: OnEndpoint = parsed(body)?;
    let weight = whole("weight", asked.weight, 1, u16::MAX, "")?.and_then(Weight::new).map(Value::Weight);
    let state = asked.state.as_deref().map(service).transpose()?.map(Value::State);
    let who = Who { by: asked.by, reason: asked.reason };
    wanted(state.into_iter().chain(weight).collect(), "`state`, `weight`", asked.for_seconds, &who, asked.force)
}

fn service(word: &str) -> Result<Service, String> {
    let known = [Service::Ready, Service::Drain, Service::Maintenance];
    let found = known.into_iter().find(|service| service.as_str() == word);
    found
        .ok_or_else(|| format!("`state` must be one of `ready`, `drain`, `maintenance`, not `{}`", word.escape_debug()))
}

fn wanted(
    values: Vec<Value>,
    possible: &str,
    for_seconds: Option<i64>,
    who: &Who,
    force: bool,
) -> Result<Change, String> {
    if values.is_empty() {
        return Err(format!("nothing to set; give one or more of {possible}"));
    }
    let lasts = whole("for_seconds", for_seconds, 1, LONGEST, " seconds")?.map(Duration::from_secs);
    let (by, reason) = who.checked()?;
    Ok(Change { values, by, reason, lasts, force })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not what is expected here: {error}"))
}

fn whole<T: TryFrom<i64> + PartialOrd + Copy + std::fmt::Display>(
    name: &str,
    value: Option<i64>,
    least: T,
    most: T,
    unit: &str,
) -> Result<Option<T>, String> {
    let Some(value) = value else { return Ok(None) };
    let fitting = T::try_from(value).ok().filter(|value| (least..=most).contains(value));
    fitting.map(Some).ok_or_else(|| format!("`{name}` must be from {least} to {most}{unit}, not {value}"))
}

impl Who {
    /// As they go into the log and onto terminals: not without end, and no control characters.
    fn checked(&self) -> Result<(Arc<str>, Arc<str>), String> {
        for (name, text) in [("by", &self.by), ("reason", &self.reason)] {
            if text.chars().count() > LONGEST_TEXT || text.chars().any(char::is_control) {
                return Err(format!("`{name}` must be one line of at most {LONGEST_TEXT} characters"));
            }
        }
        Ok((self.by.as_str().into(), self.reason.as_str().into()))
    }
}

fn listed(state: &State, only: Option<&Target>) -> Vec<serde_json::Value> {
    let now = state.clock.now();
    let all = controls::list(state).into_iter().filter(|listed| only.is_none_or(|only| listed.target == *only));
    all.map(|listed| page(&listed, now)).collect()
}

fn page(listed: &Listed, now: Tick) -> serde_json::Value {
    let (locality, address) = match &listed.target {
        Target::Locality { locality, .. } => (Some(&**locality), None),
        Target::Endpoint { address, .. } => (None, Some(address)),
    };
    let mut page = self::set(&listed.set, listed.file, now);
    page["target"] = listed.target.to_string().into();
    page["cluster"] = (**listed.target.cluster()).into();
    page["locality"] = json!(locality);
    page["endpoint"] = json!(address);
    page["configured"] = listed.file.is_some().into();
    page
}

/// One thing that is set, with what the files say beside it.
pub fn set(set: &Override, file: Option<Value>, now: Tick) -> serde_json::Value {
    json!({
        "kind": set.value.kind().as_str(),
        "value": value(set.value),
        "file": file.map(value),
        "by": &*set.note.by,
        "reason": &*set.note.reason,
        "since_seconds": now.since(set.note.since).as_secs(),
        "seconds_left": set.note.until.map(|until| until.since(now).as_secs_f64()),
    })
}

/// What is set on one identity, for the status.
pub fn set_here<'s>(
    overrides: impl Iterator<Item = &'s Override>,
    file: impl Fn(Kind) -> Option<Value>,
    now: Tick,
) -> Vec<serde_json::Value> {
    overrides.map(|one| set(one, file(one.value.kind()), now)).collect()
}

fn value(value: Value) -> serde_json::Value {
    match value {
        Value::State(service) => service.as_str().into(),
        Value::Weight(weight) => weight.get().into(),
        Value::Share(share) => share.as_percent().into(),
        Value::WeightPercent(percent) => percent.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is set, as people write it, or why nothing is.
    #[track_caller]
    fn check(got: Result<Change, String>, want: Result<&str, &str>) {
        let got = got.map(|change| change.values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(got.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn what_is_out_of_range_is_told_with_the_range() {
        check(on_locality(br#"{"share": 90, "weight_percent": 150, "for_seconds": 1800}"#), Ok("90% 150%"));
        check(on_locality(br#"{"share": 0}"#), Ok("0%"));
        check(on_locality(br#"{"share": 101}"#), Err("`share` must be from 0 to 100 percent, not 101"));
        check(on_locality(br#"{"share": -1}"#), Err("`share` must be from 0 to 100 percent, not -1"));
        check(on_locality(br#"{"weight_percent": 0}"#), Err("`weight_percent` must be from 1 to 1000 percent, not 0"));
        check(
            on_locality(br#"{"share": 1, "for_seconds": 0}"#),
            Err("`for_seconds` must be from 1 to 2592000 seconds, not 0"),
        );
        check(on_endpoint(br#"{"state": "drain", "weight": 65535}"#), Ok("drain 65535"));
        check(on_endpoint(br#"{"weight": 0}"#), Err("`weight` must be from 1 to 65535, not 0"));
        check(
            on_endpoint(br#"{"state": "up"}"#),
            Err("`state` must be one of `ready`, `drain`, `maintenance`, not `up`"),
        );
    }

    #[test]
    fn a_change_that_changes_nothing_or_says_something_else_is_refused() {
        check(on_locality(b"{}"), Err("nothing to set; give one or more of `share`, `weight_percent`"));
        let unknown = on_endpoint(br#"{"share": 5}"#).unwrap_err();
        assert!(unknown.contains("unknown field `share`"), "{unknown}");
        assert!(on_endpoint(b"drain").is_err());
        let reason = format!(r#"{{"weight": 1, "reason": "{}"}}"#, "x".repeat(201));
        check(on_endpoint(reason.as_bytes()), Err("`reason` must be one line of at most 200 characters"));
        check(
            on_endpoint(br#"{"weight": 1, "by": "a\u001b[2J"}"#),
            Err("`by` must be one line of at most 200 characters"),
        );
    }
}
