//! Where messages of a WebSocket end (RFC 6455, section 5.2), seen from the bytes that are read.
//!
//! The library keeps what it has of a frame, and does not say whether that is nothing. Following the heads of frames tells
//! it: between two messages nothing of the stream is in any buffer. Payloads are not looked at, nothing is checked; the
//! library does that.

/// Longest head of a frame: two bytes, an eight-byte length, a masking key.
const LONGEST_HEAD: usize = 14;

/// Follows what a client sends, from its first byte.
#[derive(Debug, Default)]
pub(super) struct Borders {
    /// Bytes of a head that came in pieces.
    head: [u8; LONGEST_HEAD],
    have: u8,
    /// A message has begun whose last frame has not.
    in_message: bool,
    /// Bytes to come of the payload in progress.
    payload: u64,
}

impl Borders {
    /// Between two messages, and not inside a frame of any kind.
    pub(super) fn at_border(&self) -> bool {
        self.have == 0 && self.payload == 0 && !self.in_message
    }

    /// Takes note of bytes that have been read.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[skipped..];
                self.payload -= u64::try_from(skipped).unwrap_or(u64::MAX);
                continue;
            }
            self.head[usize::from(self.have)] = *first;
            self.have += 1;
            bytes = rest;
            if self.have >= 2 && usize::from(self.have) == self.head_length() {
                self.begin_payload();
            }
        }
    }

    fn head_length(&self) -> usize {
        let key = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let longer = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + longer + key
    }

    fn begin_payload(&mut self) {
        let [flags, length, rest @ ..] = self.head;
        self.payload = match length & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => u64::from_be_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]]),
            short => u64::from(short),
        };
        let (is_final, is_control) = (flags & 0x80 != 0, flags & 0x08 != 0);
        if !is_control {
            self.in_message = !is_final;
        }
        self.have = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTINUATION: u8 = 0;
    const BINARY: u8 = 2;
    const PING: u8 = 9;

    fn frame(opcode: u8, is_final: bool, length: usize) -> Vec<u8> {
        let mut bytes = vec![opcode | if is_final { 0x80 } else { 0 }];
        match length {
            0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend([0xff; 4]);
        bytes.extend(vec![0xff; length]);
        bytes
    }

    #[test]
    fn a_message_in_pieces_has_its_border_at_its_end_whatever_comes_between() {
        let mut borders = Borders::default();
        let mut after = |bytes: &[u8]| {
            borders.pass(bytes);
            borders.at_border()
        };
        assert!(after(&[]));
        assert!(!after(&frame(BINARY, false, 3)));
        assert!(!after(&frame(PING, true, 0)));
        assert!(!after(&frame(CONTINUATION, false, 0)));
        assert!(after(&frame(CONTINUATION, true, 200)));
        assert!(after(&frame(PING, true, 5)));
        assert!(after(&frame(BINARY, true, 70_000)));
        assert!(after(&frame(BINARY, true, 0)));
    }

    proptest! {
        #[test]
        fn borders_are_where_messages_end_however_the_bytes_are_cut(
            lengths in proptest::collection::vec(prop_oneof![0_usize..300, 65_530_usize..65_540], 1..6),
            piece in 1_usize..40,
        ) {
            let (mut borders, mut ends, mut bytes) = (Borders::default(), Vec::new(), Vec::new());
            for length in lengths {
                bytes.extend(frame(BINARY, true, length));
                ends.push(bytes.len());
            }
            let mut at = 0;
            for part in bytes.chunks(piece) {
                borders.pass(part);
                at += part.len();
                prop_assert_eq!(borders.at_border(), ends.contains(&at), "at {}", at);
            }
        }
    }
}
