//! docs/protocol.md is held against the codec: its JSON examples are frames, its frame numbers are the real ones.

use backend::frame::Frame;
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
