//! Groups in their tables. The rules are those of [`decide`]; here they are applied inside a transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, types::Type};

use super::{
    super::{Founded, GroupChange, GroupOf, NewGroup, NewMessage},
    read::unsigned,
    writer::{begin_reading, write_message},
};
use crate::{
    conversation::Conversation,
    frame::{CLIENT_MSG_ID, GroupEvent, KIND_GROUP, MAX_GROUPS, Role},
    group::{Change, Denied, Edit, Group, Member, decide},
};

/// A group with members, and the key of its conversation.
pub(super) fn group(moment: &Transaction<'_>, conv: &str) -> rusqlite::Result<Option<(i64, Group)>> {
    let found = moment
        .prepare_cached(
            "SELECT id, talk_group.name, created FROM talk_group JOIN conversation ON id = conversation
             WHERE conversation.name = ?1",
        )?
        .query_row([conv], |row| Ok((row.get(0)?, row.get(1)?, unsigned(row, 2)?)))
        .optional()?;
    let Some((conversation, name, created)) = found else { return Ok(None) };
    let members: BTreeMap<_, _> = moment
        .prepare_cached("SELECT user, role, joined FROM member WHERE conversation = ?1")?
        .query_map([conversation], |row| Ok((row.get(0)?, Member { role: role(row, 1)?, joined: unsigned(row, 2)? })))?
        .collect::<Result<_, _>>()?;
    Ok((!members.is_empty()).then_some((conversation, Group { name, created, members })))
}

pub(super) fn of_user(db: &Connection, user: &str) -> rusqlite::Result<Vec<GroupOf>> {
    db.prepare_cached(
        "SELECT conversation.name, talk_group.name, role,
             (SELECT count(*) FROM member AS others WHERE others.conversation = member.conversation)
         FROM member JOIN talk_group USING (conversation) JOIN conversation ON id = member.conversation
         WHERE user = ?1 ORDER BY conversation.name",
    )?
    .query_map([user], |row| {
        Ok(GroupOf { conv: row.get(0)?, name: row.get(1)?, role: role(row, 2)?, members: row.get(3)? })
    })?
    .collect()
}

/// Whether a conversation is no group, or this user is in it.
pub(super) fn may_use(moment: &Transaction<'_>, conv: &str, user: &str) -> rusqlite::Result<bool> {
    if !matches!(Conversation::parse(conv), Some(Conversation::Group)) {
        return Ok(true);
    }
    moment
        .prepare_cached("SELECT 1 FROM member JOIN conversation ON id = conversation WHERE name = ?1 AND user = ?2")?
        .exists([conv, user])
}

pub(super) fn create(
    transaction: &Transaction<'_>,
    wanted: &NewGroup,
    time: u64,
) -> rusqlite::Result<Result<Founded, Denied>> {
    if let Some(conv) = made_before(transaction, wanted)? {
        return Ok(Ok(Founded { conv, duplicate: true }));
    }
    let NewGroup { conv, name, creator, key, others, message_id } = wanted;
    let users: Vec<_> = std::iter::once(creator).chain(others).cloned().collect();
    for user in &users {
        if in_enough_groups(transaction, user)? {
            return Ok(Err(Denied::TooManyGroups { user: user.clone() }));
        }
    }
    let event = GroupEvent::Created { name: name.clone(), users };
    let (conversation, _) = tell(transaction, conv, creator, &event, *message_id, time)?;
    transaction.prepare_cached("INSERT INTO talk_group VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
        conversation,
        name,
        time.cast_signed(),
        creator,
        key,
    ))?;
    put(transaction, conversation, creator, Role::Owner, time)?;
    for user in others {
        put(transaction, conversation, user, Role::Member, time)?;
        begin_reading(transaction, conversation, user, 0)?;
    }
    Ok(Ok(Founded { conv: conv.clone(), duplicate: false }))
}

fn made_before(transaction: &Transaction<'_>, wanted: &NewGroup) -> rusqlite::Result<Option<String>> {
    transaction
        .prepare_cached(
            "SELECT conversation.name FROM talk_group JOIN conversation ON id = conversation
             WHERE creator = ?1 AND creation_key = ?2",
        )?
        .query_row((&wanted.creator, &wanted.key), |row| row.get(0))
        .optional()
}

pub(super) fn change(
    transaction: &Transaction<'_>,
    wanted: &GroupChange,
    time: u64,
) -> rusqlite::Result<Result<(), Denied>> {
    let (conversation, group) = group(transaction, &wanted.conv)?.unwrap_or_default();
    let Change { edits, event } = match decide(&group, &wanted.actor, wanted.order.clone()) {
        Ok(Some(change)) => change,
        Ok(None) => return Ok(Ok(())),
        Err(denied) => return Ok(Err(denied)),
    };
    if let GroupEvent::Added { user } = &event
        && in_enough_groups(transaction, user)?
    {
        return Ok(Err(Denied::TooManyGroups { user: user.clone() }));
    }
    let (_, seq) = tell(transaction, &wanted.conv, &wanted.actor, &event, wanted.message_id, time)?;
    for edit in edits {
        match edit {
            Edit::Name(name) => rename(transaction, conversation, &name)?,
            Edit::Drop(user) => remove(transaction, conversation, &user)?,
            Edit::Put(user, role) => {
                put(transaction, conversation, &user, role, time)?;
                if !group.members.contains_key(&user) {
                    begin_reading(transaction, conversation, &user, seq - 1)?;
                }
            }
        }
    }
    Ok(Ok(()))
}

/// Says in the group what has happened to it.
fn tell(
    transaction: &Transaction<'_>,
    conv: &str,
    actor: &str,
    event: &GroupEvent,
    client_msg_id: [u8; CLIENT_MSG_ID],
    time: u64,
) -> rusqlite::Result<(i64, u64)> {
    let message = NewMessage {
        conv: conv.to_owned(),
        sender: actor.to_owned(),
        // No device has it already: it is pushed to all of the actor's, too.
        device: String::new(),
        client_msg_id,
        kind: KIND_GROUP,
        body: event.to_json().into(),
        sent_at: time,
    };
    write_message(transaction, &message, time)
}

fn in_enough_groups(transaction: &Transaction<'_>, user: &str) -> rusqlite::Result<bool> {
    let count: u32 = transaction
        .prepare_cached("SELECT count(*) FROM member WHERE user = ?1")?
        .query_row([user], |row| row.get(0))?;
    Ok(count >= MAX_GROUPS)
}

/// A member keeps the time since when it is one.
fn put(transaction: &Transaction<'_>, conversation: i64, user: &str, role: Role, time: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO member (user, conversation, role, joined) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (user, conversation) DO UPDATE SET role = excluded.role",
        )?
        .execute((user, conversation, number(role), time.cast_signed()))?;
    Ok(())
}

fn remove(transaction: &Transaction<'_>, conversation: i64, user: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM member WHERE user = ?1 AND conversation = ?2")?
        .execute((user, conversation))?;
    Ok(())
}

fn rename(transaction: &Transaction<'_>, conversation: i64, name: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE talk_group SET name = ?2 WHERE conversation = ?1")?
        .execute((conversation, name))?;
    Ok(())
}

/// What stands in the table for a role.
fn number(role: Role) -> i64 {
    match role {
        Role::Owner => 1,
        Role::Admin => 2,
        Role::Member => 3,
    }
}

fn role(row: &Row<'_>, column: usize) -> rusqlite::Result<Role> {
    match row.get(column)? {
        1 => Ok(Role::Owner),
        2 => Ok(Role::Admin),
        3 => Ok(Role::Member),
        other => {
            let unknown = format!("{other} is no role").into();
            Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, unknown))
        }
    }
}
