//! Groups over HTTP: made, looked at, changed. docs/protocol.md, section 10, has the requests and their answers.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Body, answer_json,
    api::{Problem, allowed, body, user},
    not_allowed,
};
use crate::{
    conversation::{Conversation, GROUP, is_id},
    frame::{MAX_GROUP_NAME, MAX_MEMBERS, Role},
    group::{Denied, Group, Order},
    server::Server,
    store::{Founded, GroupChange, NewGroup},
};

/// Where groups are.
const PATH: &str = "/api/v1/groups";
/// Names a creation, so that it may be repeated.
const KEY: &str = "idempotency-key";
/// Longest of these names, in bytes.
const MAX_KEY: usize = 64;

pub(super) fn is_at(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) async fn answer(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let answer = match user(server, request.headers()) {
        Ok(user) => route(server, request, user).await.unwrap_or_else(|problem| problem.answer()),
        Err(problem) => problem.answer(),
    };
    server.metrics.api_answered(answer.status());
    answer
}

async fn route(server: &Server, request: Request<Incoming>, user: String) -> Result<Response<Body>, Problem> {
    let path = request.uri().path().strip_prefix(PATH).unwrap_or_default().to_owned();
    let parts: Vec<_> = path.split('/').skip(1).collect();
    match (parts.as_slice(), request.method()) {
        ([] | [""], &Method::GET) => list(server, &user).await,
        ([] | [""], &Method::POST) => create(server, request, user).await,
        ([] | [""], _) => Ok(not_allowed("GET, POST")),
        ([id], &Method::GET) => show(server, &conv(id)?, &user).await,
        ([id], &Method::PATCH) => rename(server, conv(id)?, request, user).await,
        ([_], _) => Ok(not_allowed("GET, PATCH")),
        ([id, "members", segment @ ..], method) if segment.len() <= 1 => {
            let member = member(segment, request.uri().query())?;
            match *method {
                Method::PUT => put(server, conv(id)?, member, request, user).await,
                Method::DELETE => change(server, conv(id)?, user, Order::Remove(member)).await,
                _ => Ok(not_allowed("DELETE, PUT")),
            }
        }
        _ => Err(Problem::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing here")),
    }
}

async fn list(server: &Server, user: &str) -> Result<Response<Body>, Problem> {
    let groups = server.store.groups(user).await?;
    let groups: Vec<_> = groups
        .into_iter()
        .map(|group| json!({ "conv": group.conv, "name": group.name, "role": group.role, "members": group.members }))
        .collect();
    Ok(answer_json(StatusCode::OK, &json!({ "groups": groups })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    #[serde(default)]
    members: Vec<String>,
}

async fn create(server: &Server, request: Request<Incoming>, creator: String) -> Result<Response<Body>, Problem> {
    let key = key(request.headers())?;
    let Wanted { name, members } = body(request).await?;
    let name = group_name(&name)?;
    let mut others = members;
    others.iter().try_for_each(|user| check_user(user))?;
    others.sort_unstable();
    others.dedup();
    others.retain(|user| *user != creator);
    if others.len() >= MAX_MEMBERS {
        return Err(Denied::TooManyMembers.into());
    }
    // A creation writes as much as so many requests of a session.
    allowed(server, &creator, u32::try_from(1 + others.len()).unwrap_or(u32::MAX))?;
    let conv = format!("{GROUP}{}", URL_SAFE_NO_PAD.encode(random::<12>()?));
    let wanted = NewGroup { conv, name, creator: creator.clone(), key, others, message_id: random()? };
    let Founded { conv, duplicate } = server.store.create_group(wanted).await?;
    match member_view(server, &conv, &creator).await {
        Ok(group) => Ok(answer_json(if duplicate { StatusCode::OK } else { StatusCode::CREATED }, &group)),
        // It was made all the same, and its creator is not in it any more.
        Err(problem) if problem.status == StatusCode::NOT_FOUND => {
            Ok(answer_json(StatusCode::OK, &json!({ "conv": conv })))
        }
        Err(problem) => Err(problem),
    }
}

async fn show(server: &Server, conv: &str, user: &str) -> Result<Response<Body>, Problem> {
    Ok(answer_json(StatusCode::OK, &member_view(server, conv, user).await?))
}

/// A group with everything that its members may know.
async fn member_view(server: &Server, conv: &str, user: &str) -> Result<Value, Problem> {
    let Group { name, created, members } = server.store.group(conv).await?.ok_or(Denied::NotAMember)?;
    let role = members.get(user).ok_or(Denied::NotAMember)?.role;
    let cursors: std::collections::HashMap<_, _> = server.store.cursors(conv).await?.into_iter().collect();
    let members: Vec<_> = members
        .into_iter()
        .map(|(user, member)| {
            let cursor = cursors.get(&user).copied().unwrap_or_default();
            json!({
                "user": user,
                "role": member.role,
                "joined": member.joined,
                "delivered_seq": cursor.delivered_seq,
                "read_seq": cursor.read_seq,
            })
        })
        .collect();
    Ok(json!({ "conv": conv, "name": name, "created": created, "role": role, "members": members }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewName {
    name: String,
}

async fn rename(
    server: &Server,
    conv: String,
    request: Request<Incoming>,
    actor: String,
) -> Result<Response<Body>, Problem> {
    let NewName { name } = body(request).await?;
    change(server, conv, actor, Order::Rename(group_name(&name)?)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    role: Option<Role>,
}

async fn put(
    server: &Server,
    conv: String,
    user: String,
    request: Request<Incoming>,
    actor: String,
) -> Result<Response<Body>, Problem> {
    let Place { role } = body(request).await?;
    change(server, conv, actor, Order::Put { user, role }).await
}

async fn change(server: &Server, conv: String, actor: String, order: Order) -> Result<Response<Body>, Problem> {
    allowed(server, &actor, 1)?;
    server.store.change_group(GroupChange { conv, actor, order, message_id: random()? }).await?;
    let mut done = Response::new(Either::Left(Full::default()));
    *done.status_mut() = StatusCode::NO_CONTENT;
    Ok(done)
}

fn conv(id: &str) -> Result<String, Problem> {
    let conv = format!("{GROUP}{id}");
    // What cannot be a group is none that one is in.
    match Conversation::parse(&conv) {
        Some(Conversation::Group) => Ok(conv),
        _ => Err(Denied::NotAMember.into()),
    }
}

/// The user whom a request is about: the segment behind `members`, or `user` of the query. Only so can users named `.` and
/// `..` be told, for these are segments with another meaning.
fn member(segment: &[&str], query: Option<&str>) -> Result<String, Problem> {
    let in_query = || query?.split('&').find_map(|part| part.strip_prefix("user="));
    let missing = "a user is needed, as in `members/USER` or `members?user=USER`";
    let part = segment.first().copied().or_else(in_query).ok_or_else(|| Problem::wrong("user_invalid", missing))?;
    member_name(part)
}

fn member_name(part: &str) -> Result<String, Problem> {
    let user = percent_decode_str(part).decode_utf8().map_err(|_not_utf8| no_user(part))?;
    check_user(&user)?;
    Ok(user.into_owned())
}

fn check_user(user: &str) -> Result<(), Problem> {
    if is_id(user) { Ok(()) } else { Err(no_user(user)) }
}

fn no_user(text: &str) -> Problem {
    Problem::wrong("user_invalid", format!("`{text}` cannot be a user: 1 to 60 bytes without colon and white space"))
}

fn group_name(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    let reason = match name.len() {
        0 => "the name is empty",
        1..=MAX_GROUP_NAME if name.chars().any(char::is_control) => "the name has control characters",
        1..=MAX_GROUP_NAME => return Ok(name.to_owned()),
        _ => "the name is longer than 128 bytes",
    };
    Err(Problem::wrong("name_invalid", reason))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    let fits = |text: &&str| (1..=MAX_KEY).contains(&text.len());
    let key = value.to_str().ok().filter(fits);
    let reason = "Idempotency-Key is 1 to 64 visible ASCII characters";
    key.map(|key| Some(key.to_owned())).ok_or_else(|| Problem::wrong("key_invalid", reason))
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Problem> {
    let mut bytes = [0; BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    let none = |_no_entropy| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no random numbers");
    filled.map_err(none).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_what_is_wrong_is_said() {
        assert_eq!(group_name("  Übung für alle \n").unwrap(), "Übung für alle");
        for wrong in ["", "  ", "a\nb", &"x".repeat(MAX_GROUP_NAME + 1)] {
            assert_eq!(group_name(wrong).unwrap_err().code, "name_invalid");
        }
    }

    #[test]
    fn a_user_is_told_by_the_path_or_by_the_query() {
        assert_eq!(member(&["alice"], Some("user=bob")).unwrap(), "alice");
        for (query, user) in [("user=..", ".."), ("a=b&user=x%2F..&user=z", "x/.."), ("user=a+b", "a+b")] {
            assert_eq!(member(&[], Some(query)).unwrap(), user);
        }
        for query in [None, Some(""), Some("user="), Some("users=a")] {
            assert_eq!(member(&[], query).unwrap_err().code, "user_invalid", "{query:?}");
        }
    }

    #[test]
    fn users_in_a_path_are_decoded() {
        assert_eq!(member_name("gr%C3%BC%2Fx").unwrap(), "grü/x");
        for wrong in ["", "%FF", "a%20b", "a:b"] {
            assert_eq!(member_name(wrong).unwrap_err().code, "user_invalid", "{wrong}");
        }
    }
}
