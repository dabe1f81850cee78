//! Ports for programs that cannot take port 0 (nginx, HAProxy, mosquitto).
//!
//! Why not bind port 0 and give the number away: the kernel takes such ports from the range that it also gives to
//! clients, so a later outgoing connection can sit on the port before the program listens, and runs fail at random.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::Mutex,
};

use anyhow::{Context, Result, bail};

use super::locked;

/// Well-known and registered services live below.
const LOWEST: u16 = 10_000;
const CLIENT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

static GIVEN_OUT: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port outside the kernel's client range on which nothing listens, never given out twice by one process. Two
/// processes may draw the same one, so a program that finds it taken should be started again with another.
///
/// # Errors
/// When the client range leaves no room or no port in it is free.
pub fn reserve_port() -> Result<u16> {
    let text = fs::read_to_string(CLIENT_RANGE).with_context(|| format!("cannot read {CLIENT_RANGE}"))?;
    let room = room_beside(&text)?;
    let mut given_out = locked(&GIVEN_OUT);
    let given_out = given_out.get_or_insert_default();
    for _ in 0..1000 {
        let port = fastrand::u16(room.clone());
        if !given_out.contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            given_out.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port in {room:?}")
}

/// The ports below the client range, else those above it.
fn room_beside(client_range: &str) -> Result<Range<u16>> {
    let mut words = client_range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (words.next(), words.next()) else {
        bail!("{CLIENT_RANGE} does not hold two ports: {client_range:?}");
    };
    if low > LOWEST + 1000 {
        Ok(LOWEST..low)
    } else if high < u16::MAX - 1000 {
        Ok(high + 1..u16::MAX)
    } else {
        bail!("the client ports {low} to {high} leave no room for listeners: narrow {CLIENT_RANGE}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_keep_out_of_the_range_of_clients() {
        assert_eq!(room_beside("32768\t60999\n").unwrap(), 10_000..32_768);
        assert_eq!(room_beside("1024 60999").unwrap(), 61_000..65_535);
        assert!(room_beside("1024 65535").unwrap_err().to_string().contains("no room"));
        assert!(room_beside("x").is_err());
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| reserve_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
