//! Files that are no good: refused, or at least harmless. Nothing here may panic.

use geoip::{Database, DatabaseError};
use maxminddb_writer::metadata::IpVersion;
use proptest::prelude::*;

use crate::written::{Double, List, Map, Text, U16, bytes, coded, ip};

fn good() -> Vec<u8> {
    let record = |code, latitude| {
        Map(vec![
            ("city", Map(vec![("names", Map(vec![("en", Text("City")), ("de", Text("Stadt"))]))])),
            ("country", coded("iso_code", code)),
            (
                "location",
                Map(vec![("accuracy_radius", U16(10)), ("latitude", Double(latitude)), ("longitude", Double(8.0))]),
            ),
            ("subdivisions", List(vec![coded("iso_code", "BY")])),
        ])
    };
    let networks = [
        ("10.0.0.0/8", record("US", 40.0)),
        ("10.1.0.0/16", record("DE", 50.0)),
        ("2001:db8::/32", record("JP", 35.0)),
    ];
    bytes(IpVersion::V6, &networks)
}

/// Asks a database, if these bytes are one, for many addresses.
fn use_it(bytes: Vec<u8>) {
    if let Ok(database) = Database::from_bytes("damaged", bytes) {
        for address in
            ["10.1.2.3", "10.9.9.9", "192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "ffff::"]
        {
            let found = database.place(ip(address));
            assert!(found.is_none_or(|(_, network)| network.contains(&ip(address))));
        }
    }
}

#[test]
fn what_is_no_mmdb_is_called_that() {
    for bytes in [Vec::new(), b"hello".to_vec(), vec![0; 100_000]] {
        let refused = Database::from_bytes("notes.txt", bytes).unwrap_err();
        assert!(matches!(refused, DatabaseError::NotMmdb { .. }), "{refused}");
        assert_eq!(refused.to_string(), "notes.txt is not an MMDB database");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let whole = good();
    for length in 0..whole.len() {
        assert!(Database::from_bytes("cut", whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn a_file_whose_head_is_missing_is_refused() {
    let whole = good();
    let refused = Database::from_bytes("headless", whole[200..].to_vec()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Damaged { .. }), "{refused}");
    assert!(std::error::Error::source(&refused).is_some());
}

#[test]
fn no_flipped_bit_does_more_than_refuse_the_file() {
    let whole = good();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            use_it(flipped);
        }
    }
}

proptest! {
    #[test]
    fn no_damage_does_more_than_refuse_the_file(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = good();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        use_it(bytes);
    }

    #[test]
    fn noise_before_the_marker_is_refused_or_harmless(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = good();
        let marker = whole.windows(14).rposition(|window| window == b"\xab\xcd\xefMaxMind.com").unwrap();
        let mut bytes = noise;
        bytes.extend_from_slice(&whole[marker..]);
        use_it(bytes);
    }

    #[test]
    fn noise_after_the_marker_is_refused_or_harmless(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = good();
        let marker = whole.windows(14).rposition(|window| window == b"\xab\xcd\xefMaxMind.com").unwrap();
        let mut bytes = whole[..marker + 14].to_vec();
        bytes.extend_from_slice(&noise);
        use_it(bytes);
    }
}
