//! Session tickets (RFC 5077; RFC 8446 section 4.6.1): what a client shows to come back without a full handshake.
//!
//! By default their keys are the process's own secret, made at its start and rotated by the library. With keys from a file
//! that several edges have, a client also resumes at the edge that takes it after another one has failed. Such keys are
//! rotated by who writes the file: the first one makes tickets, all of them open tickets, and one that is gone is forgotten.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto;
use rustls::server::ProducesTickets;

use super::TlsError;

/// As long as rustls' own tickets are good for at most.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// What a key is found by in a ticket, and its secret: 48 bytes together, which is a length that nginx and HAProxy take, too.
const NAME: usize = 16;
const SECRET: usize = 32;

/// Seconds since 1970, at which a ticket was made.
const ISSUED: usize = 8;

/// Keys that one file may hold. Each ticket names its own, so that this costs memory and no time.
const MOST_KEYS: usize = 64;

/// What a listener makes its tickets with.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// Of this process alone.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Tickets, TlsError> {
        crypto::ring::Ticketer::new().map(Tickets).map_err(|e| TlsError::Setup(e.to_string()))
    }

    /// Of all edges that have this file.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else than keys.
    pub fn shared(path: &Path) -> Result<Tickets, TlsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| TlsError::Unreadable { path: path.to_owned(), cause: error.to_string() })?;
        let keys = TicketKeys::parse(&text).map_err(|fault| TlsError::TicketKeys { path: path.to_owned(), fault })?;
        Ok(Tickets(Arc::new(keys)))
    }

    pub(super) fn producer(&self) -> Arc<dyn ProducesTickets> {
        self.0.clone()
    }
}

/// Keys as a file holds them: one a line, 48 bytes in base64, of which the first 16 are its name. Empty lines and those
/// that start with `#` are left out.
pub struct TicketKeys(Vec<Key>);

struct Key {
    name: [u8; NAME],
    sealing: LessSafeKey,
}

/// What is wrong with a file of ticket keys. Keys are never quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("holds no key")]
    NoKey,
    #[error("holds more than {MOST_KEYS} keys")]
    TooMany,
    #[error("is not base64 in line {line}")]
    NotBase64 { line: usize },
    #[error("has {length} bytes in line {line}, where a key has {}", NAME + SECRET)]
    Length { line: usize, length: usize },
    #[error("has the key of line {line} once more in line {again}")]
    Twice { line: usize, again: usize },
}

impl TicketKeys {
    /// # Errors
    /// When a line is no key, a key is there twice, or there is none.
    pub fn parse(text: &str) -> Result<TicketKeys, KeyFault> {
        let mut keys: Vec<(usize, Key)> = Vec::new();
        let lines = text.lines().map(str::trim).zip(1..);
        for (text, line) in lines.filter(|(text, _)| !text.is_empty() && !text.starts_with('#')) {
            let bytes = BASE64_STANDARD.decode(text).map_err(|_quotes_the_key| KeyFault::NotBase64 { line })?;
            let key = Key::of(&bytes).ok_or(KeyFault::Length { line, length: bytes.len() })?;
            if let Some((first, _)) = keys.iter().find(|(_, known)| known.name == key.name) {
                return Err(KeyFault::Twice { line: *first, again: line });
            }
            keys.push((line, key));
        }
        match keys.len() {
            0 => Err(KeyFault::NoKey),
            1..=MOST_KEYS => Ok(TicketKeys(keys.into_iter().map(|(_, key)| key).collect())),
            _ => Err(KeyFault::TooMany),
        }
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.0.first()?.seal(plain, seconds(now))
    }

    /// What was sealed by one of these keys no longer ago than [`LIFETIME`]. The clocks of edges differ: one that is ahead
    /// makes tickets that are as good as new.
    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_first_chunk::<NAME>()?;
        // Names are no secrets: they stand in every ticket.
        let key = self.0.iter().find(|key| key.name == *name)?;
        let opened = key.open(sealed)?;
        let (issued, plain) = opened.split_first_chunk::<ISSUED>()?;
        let age = seconds(now).saturating_sub(u64::from_be_bytes(*issued));
        (age <= LIFETIME.as_secs()).then(|| plain.to_vec())
    }
}

impl Key {
    fn of(bytes: &[u8]) -> Option<Key> {
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        let sealing = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, secret).ok()?);
        Some(Key { name: *name, sealing })
    }

    /// Name, nonce, then the time and the session, encrypted. The nonce is random (RFC 5116 section 3.1 asks for one that
    /// never comes twice): with 2³² tickets by one key the odds of a second are 2⁻³³.
    fn seal(&self, plain: &[u8], issued: u64) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = [&issued.to_be_bytes(), plain].concat();
        let nonce_once = Nonce::assume_unique_for_key(nonce);
        self.sealing.seal_in_place_append_tag(nonce_once, Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.sealing.open_in_place(nonce, Aad::from(self.name), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.0.len()).finish()
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, SystemTime::now())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(seed: u8) -> String {
        BASE64_STANDARD.encode([seed; NAME + SECRET])
    }

    fn keys(seeds: &[u8]) -> TicketKeys {
        TicketKeys::parse(&seeds.iter().map(|seed| line(*seed) + "\n").collect::<String>()).unwrap()
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_first_key_makes_tickets_and_every_key_opens_its_own() {
        let ticket = keys(&[1, 2]).seal(b"session", NOW).unwrap();
        for (seeds, opens) in [(&[1][..], true), (&[3, 2, 1], true), (&[2], false), (&[3], false)] {
            assert_eq!(keys(seeds).open(&ticket, NOW).is_some(), opens, "{seeds:?}");
        }
        assert_eq!(keys(&[1]).open(&ticket, NOW).unwrap(), b"session");
        let again = keys(&[1, 2]).seal(b"session", NOW).unwrap();
        assert_ne!(ticket, again, "whoever sees two tickets learns nothing from them");
    }

    #[test]
    fn a_ticket_ends_with_its_lifetime_and_a_clock_that_is_ahead_does_no_harm() {
        let made = NOW + Duration::from_secs(1_000_000);
        let ticket = keys(&[1]).seal(b"session", made).unwrap();
        let second = Duration::from_secs(1);
        assert!(keys(&[1]).open(&ticket, made + LIFETIME).is_some());
        assert!(keys(&[1]).open(&ticket, made + LIFETIME + second).is_none());
        assert!(keys(&[1]).open(&ticket, made - 60 * second).is_some());
    }

    #[test]
    fn a_file_that_is_wrong_is_told_by_its_line() {
        let fault = |text: &str| TicketKeys::parse(text).unwrap_err().to_string();
        assert_eq!(fault("# nothing yet\n\n"), "holds no key");
        assert_eq!(fault(&format!("{}\n\nno key\n", line(1))), "is not base64 in line 3");
        assert_eq!(fault("# short\nAAAA\n"), "has 3 bytes in line 2, where a key has 48");
        assert_eq!(fault(&BASE64_STANDARD.encode([1; 80])), "has 80 bytes in line 1, where a key has 48");
        assert_eq!(fault(&[line(1), line(2), line(1)].join("\n")), "has the key of line 1 once more in line 3");
        let many: Vec<String> = (0..=64).map(line).collect();
        assert_eq!(fault(&many.join("\n")), "holds more than 64 keys");
        assert!(TicketKeys::parse(&format!("# now\r\n  {}  \r\n", line(1))).is_ok());
    }

    proptest! {
        #[test]
        fn what_was_changed_on_its_way_is_no_ticket(session in prop::collection::vec(any::<u8>(), 0..300), at: usize, bit in 0u8..8) {
            let ticket = keys(&[1]).seal(&session, NOW).unwrap();
            prop_assert_eq!(keys(&[1]).open(&ticket, NOW), Some(session));
            let at = at % ticket.len();
            let mut changed = ticket.clone();
            changed[at] ^= 1u8 << bit;
            prop_assert_eq!(keys(&[1]).open(&changed, NOW), None);
            prop_assert_eq!(keys(&[1]).open(&ticket[..at], NOW), None);
        }
    }
}
