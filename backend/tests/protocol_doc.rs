//! docs/protocol.md is held against the code: its JSON examples are frames and events, its frame numbers, codes and
//! bounds are the real ones.

use std::collections::BTreeSet;

use backend::frame::{Frame, GroupEvent, KIND_GROUP, MAX_GROUP_NAME, MAX_GROUPS, MAX_MEMBERS};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/protocol.md");

/// Lines that hold a frame, also behind `A> ` or `>A `.
fn examples() -> impl Iterator<Item = &'static str> {
    PAGE.lines().filter_map(|line| line.find(r#"{"type":"#).map(|at| &line[at..]))
}

#[test]
fn every_json_example_is_a_frame_that_comes_back_unchanged() {
    for example in examples() {
        let frame = Frame::from_json(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        let frame = frame.unwrap_or_else(|| panic!("{example} is of a later version"));
        assert_eq!(Frame::from_bytes(frame.to_bytes()).unwrap(), Some(frame.clone()), "{example}");
        let written: Value = serde_json::from_str(example).unwrap();
        let ours: Value = serde_json::from_str(&frame.to_json()).unwrap();
        for (name, value) in written.as_object().unwrap() {
            // An id may be written like a UUID; it comes back without hyphens.
            let same = ours[name] == *value || name == "client_msg_id";
            assert!(same, "{example}: `{name}` comes back as {}", ours[name]);
        }
    }
    assert!(examples().count() > 20, "the examples were not found");
}

#[test]
fn every_frame_has_an_example() {
    for (name, _, reserved) in frames() {
        let found = examples().any(|example| example.starts_with(&format!(r#"{{"type":"{name}""#)));
        assert!(found || reserved, "{name} has no example");
    }
}

#[test]
fn the_documented_numbers_are_those_on_the_wire() {
    for (name, number, reserved) in frames() {
        let frame =
            Frame::from_json(&format!(r#"{{"type":"{name}"}}"#)).unwrap_or_else(|error| panic!("{name}: {error}"));
        match frame {
            Some(frame) => assert_eq!(u64::from(first_field(&frame)), number, "{name}"),
            None => assert!(reserved, "{name} is documented as known"),
        }
    }
    assert_eq!(frames().count(), 26);
}

#[test]
fn every_event_of_a_group_has_an_example_that_comes_back_unchanged() {
    let mut shown = BTreeSet::new();
    let (_, groups) = PAGE.split_once("### Groups").expect("the page has groups");
    let (groups, _) = groups.split_once("### ").expect("another part follows");
    for example in groups.lines().filter(|line| line.starts_with(r#"{"event":"#)) {
        let event: GroupEvent = serde_json::from_str(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        assert_eq!(event.to_json(), example);
        shown.insert(match event {
            GroupEvent::Created { .. } => "created",
            GroupEvent::Added { .. } => "added",
            GroupEvent::Removed { .. } => "removed",
            GroupEvent::Left { .. } => "left",
            GroupEvent::Renamed { .. } => "renamed",
            GroupEvent::Role { .. } => "role",
        });
    }
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert!(PAGE.contains(&format!("`kind` {KIND_GROUP}")));
}

#[test]
fn the_bounds_of_groups_are_on_the_page() {
    for row in [
        format!("| members of a group | {MAX_MEMBERS} |"),
        format!("| groups of a user | {MAX_GROUPS} |"),
        format!("| name of a group | {MAX_GROUP_NAME} bytes |"),
    ] {
        assert!(PAGE.contains(&row), "{row}");
    }
}

/// The codes are read out of the source, so that none is forgotten on either side.
#[test]
fn the_codes_of_the_api_are_those_in_its_source() {
    const SOURCE: [&str; 3] = [
        include_str!("../src/http/api.rs"),
        include_str!("../src/http/groups.rs"),
        include_str!("../src/http/demo_login.rs"),
    ];
    let quoted = |text: &'static str| text.trim_start().strip_prefix('"')?.split('"').next();
    let after = |mark| SOURCE.iter().flat_map(move |source| source.split(mark).skip(1));
    let statuses = after("StatusCode::").filter_map(|rest| quoted(rest.split_once(',')?.1));
    let in_source: BTreeSet<_> = statuses
        .chain(after("Problem::wrong(").filter_map(quoted))
        .chain(after("StoreError::Busy =>").filter_map(quoted))
        .chain(after("StoreError::Injected =>").filter_map(quoted))
        // Headers have values there, too.
        .filter(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    let (_, table) = PAGE.split_once("| status | code | meaning |").expect("the page has the codes");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let rows = table.lines().filter_map(|row| row.split('`').nth(1));
    let on_page: BTreeSet<_> = rows.filter(|code| *code != "token_malformed").collect();
    assert_eq!(on_page, in_source);
}

/// Name, number, and whether it is reserved, from the `oneof` on the page.
fn frames() -> impl Iterator<Item = (&'static str, u64, bool)> {
    let (_, from) = PAGE.split_once("oneof frame {").expect("the page has the envelope");
    let (block, _) = from.split_once('}').expect("the envelope ends");
    block.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.nth(1)?;
        let number = words.nth(1)?.trim_end_matches(';').parse().ok()?;
        Some((name, number, line.contains("reserved")))
    })
}

/// The number of the first field of an envelope, from its one or two bytes of key.
fn first_field(frame: &Frame) -> u16 {
    let bytes = frame.to_bytes();
    let key =
        if bytes[0] < 0x80 { u16::from(bytes[0]) } else { u16::from(bytes[0] & 0x7f) | (u16::from(bytes[1]) << 7) };
    key >> 3
}
