//! The rules of groups: who may change what, and what a change does. Pure, so that every store applies the same ones
//! inside its own transaction.
//!
//! Always true: a group with members has exactly one owner. An owner who leaves is followed by the admin, or if there is
//! none the member, who has been there longest; when the last one leaves, nobody can read the group any more.

use std::collections::BTreeMap;

use crate::frame::{GroupEvent, MAX_MEMBERS, Role};

/// A group, as its members see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// When it was made, Unix time in milliseconds.
    pub created: u64,
    /// By user id.
    pub members: BTreeMap<String, Member>,
}

/// One user in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub role: Role,
    /// When the user came, Unix time in milliseconds.
    pub joined: u64,
}

/// What somebody wants of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Rename(String),
    /// Adds a user, or gives a member another role. Without a role: a plain member, and a member stays as it is.
    Put {
        user: String,
        role: Option<Role>,
    },
    /// Removes a member; oneself is leaving.
    Remove(String),
}

/// A change that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub edits: Vec<Edit>,
    pub event: GroupEvent,
}

/// One thing to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    Name(String),
    Put(String, Role),
    Drop(String),
}

/// Why a group was not made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("there is no such group, or you are not in it")]
    NotAMember,
    #[error("{0}")]
    NotAllowed(&'static str),
    #[error("a group has at most {MAX_MEMBERS} members")]
    TooManyMembers,
    #[error("{user} is in as many groups as a user may be")]
    TooManyGroups { user: String },
}

/// What an order by `actor` does to a group; `None` if it is so already. A group that is not there has no members.
///
/// # Errors
/// [`Denied`] if the actor may not.
pub fn decide(group: &Group, actor: &str, order: Order) -> Result<Option<Change>, Denied> {
    let role = group.members.get(actor).map(|member| member.role);
    match order {
        // Leaving twice is leaving once.
        Order::Remove(user) if user == actor => Ok(role.map(|role| leave(group, actor, role))),
        Order::Remove(user) => remove(group, role.ok_or(Denied::NotAMember)?, user),
        Order::Rename(name) => rename(group, role.ok_or(Denied::NotAMember)?, name),
        Order::Put { user, role: wanted } => {
            let role = role.ok_or(Denied::NotAMember)?;
            match group.members.get(&user) {
                Some(member) => change_role(actor, role, user, member.role, wanted.unwrap_or(member.role)),
                None => add(group, role, user, wanted.unwrap_or(Role::Member)),
            }
        }
    }
}

fn rename(group: &Group, by: Role, name: String) -> Result<Option<Change>, Denied> {
    if by > Role::Admin {
        return Err(Denied::NotAllowed("only the owner and admins rename a group"));
    }
    if name == group.name {
        return Ok(None);
    }
    Ok(Some(Change { edits: vec![Edit::Name(name.clone())], event: GroupEvent::Renamed { name } }))
}

fn add(group: &Group, by: Role, user: String, role: Role) -> Result<Option<Change>, Denied> {
    if by > Role::Admin {
        return Err(Denied::NotAllowed("only the owner and admins add members"));
    }
    if role < Role::Member {
        return Err(Denied::NotAllowed("a new member has no role yet: add it, then let the owner give it one"));
    }
    if group.members.len() >= MAX_MEMBERS {
        return Err(Denied::TooManyMembers);
    }
    Ok(Some(Change { edits: vec![Edit::Put(user.clone(), role)], event: GroupEvent::Added { user } }))
}

fn change_role(actor: &str, by: Role, user: String, now: Role, wanted: Role) -> Result<Option<Change>, Denied> {
    if now == wanted {
        return Ok(None);
    }
    if by != Role::Owner {
        return Err(Denied::NotAllowed("only the owner changes roles"));
    }
    if now == Role::Owner {
        return Err(Denied::NotAllowed("an owner gives the role up by making another member the owner"));
    }
    let mut edits = vec![Edit::Put(user.clone(), wanted)];
    if wanted == Role::Owner {
        edits.push(Edit::Put(actor.to_owned(), Role::Admin));
    }
    Ok(Some(Change { edits, event: GroupEvent::Role { user, role: wanted } }))
}

fn remove(group: &Group, by: Role, user: String) -> Result<Option<Change>, Denied> {
    let role = group.members.get(&user).map(|member| member.role);
    if by > Role::Admin || role.is_some_and(|role| role <= by) {
        return Err(Denied::NotAllowed("the owner removes everybody, admins remove members without a role"));
    }
    Ok(role.map(|_| Change { edits: vec![Edit::Drop(user.clone())], event: GroupEvent::Removed { user } }))
}

fn leave(group: &Group, actor: &str, role: Role) -> Change {
    let mut edits = vec![Edit::Drop(actor.to_owned())];
    let others = group.members.iter().filter(|(user, _)| *user != actor);
    let heir = others.min_by_key(|(_, member)| (member.role, member.joined)).map(|(user, _)| user.clone());
    let owner = heir.filter(|_| role == Role::Owner);
    edits.extend(owner.clone().map(|heir| Edit::Put(heir, Role::Owner)));
    Change { edits, event: GroupEvent::Left { owner } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(members: &[(&str, Role)]) -> Group {
        let members = members
            .iter()
            .enumerate()
            .map(|(at, (user, role))| (user.to_string(), Member { role: *role, joined: u64::try_from(at).unwrap() }));
        Group { name: "trip".into(), created: 0, members: members.collect() }
    }

    fn four() -> Group {
        group(&[("olga", Role::Owner), ("zoe", Role::Admin), ("abe", Role::Admin), ("mia", Role::Member)])
    }

    fn put(user: &str, role: Option<Role>) -> Order {
        Order::Put { user: user.into(), role }
    }

    #[track_caller]
    fn does(actor: &str, order: Order, want: &[Edit]) {
        let change = decide(&four(), actor, order.clone()).unwrap();
        assert_eq!(change.map(|change| change.edits).unwrap_or_default(), want, "{actor} {order:?}");
    }

    #[track_caller]
    fn denied(actor: &str, order: Order) {
        let denied = decide(&four(), actor, order.clone());
        assert!(matches!(denied, Err(Denied::NotAllowed(_))), "{actor} {order:?}: {denied:?}");
    }

    fn drop_of(user: &str) -> Edit {
        Edit::Drop(user.into())
    }

    fn to(user: &str, role: Role) -> Edit {
        Edit::Put(user.into(), role)
    }

    #[test]
    fn the_owner_may_everything_admins_keep_members_and_members_leave() {
        does("olga", put("new", None), &[to("new", Role::Member)]);
        does("zoe", put("new", None), &[to("new", Role::Member)]);
        denied("mia", put("new", None));
        denied("olga", put("new", Some(Role::Admin)));

        does("olga", Order::Remove("zoe".into()), &[drop_of("zoe")]);
        does("zoe", Order::Remove("mia".into()), &[drop_of("mia")]);
        denied("zoe", Order::Remove("abe".into()));
        denied("zoe", Order::Remove("olga".into()));
        denied("mia", Order::Remove("zoe".into()));
        does("mia", Order::Remove("mia".into()), &[drop_of("mia")]);

        does("zoe", Order::Rename("tour".into()), &[Edit::Name("tour".into())]);
        denied("mia", Order::Rename("tour".into()));

        does("olga", put("mia", Some(Role::Admin)), &[to("mia", Role::Admin)]);
        denied("zoe", put("mia", Some(Role::Admin)));
        denied("olga", put("olga", Some(Role::Member)));
    }

    #[test]
    fn what_is_so_already_changes_nothing() {
        does("olga", Order::Rename("trip".into()), &[]);
        does("olga", put("mia", None), &[]);
        does("mia", put("mia", Some(Role::Member)), &[]);
        does("olga", Order::Remove("stranger".into()), &[]);
        does("stranger", Order::Remove("stranger".into()), &[]);
    }

    #[test]
    fn ownership_is_passed_on_or_inherited_by_the_longest_there() {
        does("olga", put("mia", Some(Role::Owner)), &[to("mia", Role::Owner), to("olga", Role::Admin)]);
        does("olga", Order::Remove("olga".into()), &[drop_of("olga"), to("zoe", Role::Owner)]);
        let alone = decide(&group(&[("olga", Role::Owner)]), "olga", Order::Remove("olga".into())).unwrap().unwrap();
        assert_eq!((alone.edits, alone.event), (vec![drop_of("olga")], GroupEvent::Left { owner: None }));
    }

    #[test]
    fn strangers_learn_nothing_and_a_full_group_takes_nobody() {
        for order in [Order::Rename("x".into()), put("new", None), Order::Remove("mia".into())] {
            assert_eq!(decide(&four(), "stranger", order.clone()), Err(Denied::NotAMember));
            assert_eq!(decide(&Group::default(), "olga", order), Err(Denied::NotAMember));
        }
        let names: Vec<_> = (1..MAX_MEMBERS).map(|user| format!("user{user}")).collect();
        let mut full: Vec<_> = names.iter().map(|user| (user.as_str(), Role::Member)).collect();
        full.push(("olga", Role::Owner));
        assert_eq!(decide(&group(&full), "olga", put("new", None)), Err(Denied::TooManyMembers));
    }

    fn order() -> impl Strategy<Value = (usize, usize, Option<u8>)> {
        (0..5_usize, 0..5_usize, proptest::option::of(0..4_u8))
    }

    proptest! {
        #[test]
        fn a_group_with_members_has_one_owner_after_any_orders(orders in proptest::collection::vec(order(), 0..60)) {
            let users = ["olga", "zoe", "abe", "mia", "new"];
            let mut now = four();
            for (actor, user, what) in orders {
                let order = match what {
                    None => Order::Remove(users[user].into()),
                    Some(role) => {
                        let role = [None, Some(Role::Owner), Some(Role::Admin), Some(Role::Member)][usize::from(role)];
                        put(users[user], role)
                    }
                };
                let Ok(Some(change)) = decide(&now, users[actor], order) else { continue };
                for edit in change.edits {
                    match edit {
                        Edit::Name(name) => now.name = name,
                        Edit::Drop(user) => drop(now.members.remove(&user)),
                        Edit::Put(user, role) => {
                            now.members.entry(user).or_insert(Member { role, joined: 9 }).role = role;
                        }
                    }
                }
                let owners = now.members.values().filter(|member| member.role == Role::Owner).count();
                prop_assert_eq!(owners, usize::from(!now.members.is_empty()));
            }
        }
    }
}
