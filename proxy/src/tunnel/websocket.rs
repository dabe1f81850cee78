//! WebSocket frame heads (RFC 6455 section 5.2), as far as a relay needs them: where one frame ends.
//!
//! A proxy can say goodbye properly only between two frames, so the relay follows their heads. Payloads are never
//! looked at nor copied, and a stream that is not WebSocket at all does no harm: borders are then meaningless.

const OPCODE_CLOSE: u8 = 0x8;
const LONGEST_HEAD: usize = 14;

/// Follows one direction of a WebSocket from its first byte.
#[derive(Debug, Default)]
pub struct Frames {
    /// Head bytes of a frame whose head came in pieces.
    head: [u8; LONGEST_HEAD],
    have: u8,
    /// Payload bytes still to come of the frame in progress.
    payload: u64,
    in_close: bool,
    saw_close: bool,
    /// The code of an unmasked Close frame, as far as it has come.
    code: [u8; 2],
    code_have: u8,
}

impl Frames {
    /// Between two frames: the next byte starts one.
    pub fn at_border(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// A whole Close frame has passed.
    pub fn saw_close(&self) -> bool {
        self.saw_close
    }

    /// The code of a Close frame that came from a server; `None` when it had none.
    pub fn close_code(&self) -> Option<u16> {
        (self.code_have == 2).then(|| u16::from_be_bytes(self.code))
    }

    /// Takes note of bytes that pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// Payload bytes still to come of the frame in progress.
    pub fn unread_payload(&self) -> usize {
        usize::try_from(self.payload).unwrap_or(usize::MAX)
    }

    /// Takes note of payload that passes unseen, no more than [`Frames::unread_payload`].
    pub fn skip_payload(&mut self, bytes: usize) {
        self.payload -= bytes as u64;
        self.end_of_frame();
    }

    /// Takes note of bytes up to the next border, and says how many those are; all of them if the border is further.
    pub fn pass_to_border(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && !(passed > 0 && self.at_border()) {
            passed += self.step(&bytes[passed..]);
        }
        passed
    }

    /// Consumes payload, or one byte or more of a head; at least one byte.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload > 0 {
            let take = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            if self.in_close {
                self.note_code(&bytes[..take]);
            }
            self.payload -= take as u64;
            self.end_of_frame();
            return take;
        }
        let mut used = 0;
        while used < bytes.len() {
            self.head[usize::from(self.have)] = bytes[used];
            self.have += 1;
            used += 1;
            if self.have >= 2 && usize::from(self.have) == self.head_length() {
                self.begin_payload();
                break;
            }
        }
        used
    }

    /// A client's payload is masked, and nothing to us.
    fn note_code(&mut self, payload: &[u8]) {
        let is_masked = self.head[1] & 0x80 != 0;
        let missing = self.code.len() - usize::from(self.code_have);
        for byte in payload.iter().take(if is_masked { 0 } else { missing }) {
            self.code[usize::from(self.code_have)] = *byte;
            self.code_have += 1;
        }
    }

    fn head_length(&self) -> usize {
        let masking_key = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let extended_length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended_length + masking_key
    }

    fn begin_payload(&mut self) {
        let head = &self.head;
        self.payload = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
            127 => u64::from_be_bytes([head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9]]),
            short => u64::from(short),
        };
        self.in_close = head[0] & 0x0f == OPCODE_CLOSE;
        self.have = 0;
        self.end_of_frame();
    }

    fn end_of_frame(&mut self) {
        if self.payload == 0 && self.in_close {
            self.saw_close = true;
            self.in_close = false;
        }
    }
}

/// A Close frame as a server sends it.
pub(super) fn close_to_client(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x80 | OPCODE_CLOSE, 2, high, low]
}

/// A Close frame as a client sends it, masked (RFC 6455 section 5.3). The key may be any: masking guards
/// intermediaries against payloads that a page chose, and this payload is ours.
pub(super) fn close_to_endpoint(code: u16) -> [u8; 8] {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let [high, low] = code.to_be_bytes();
    [0x80 | OPCODE_CLOSE, 0x80 | 2, KEY[0], KEY[1], KEY[2], KEY[3], high ^ KEY[0], low ^ KEY[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(mask_bit | u8::try_from(length).unwrap()),
            126..65536 => {
                bytes.push(mask_bit | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.resize(bytes.len() + length, 0x88);
        bytes
    }

    #[test]
    fn a_close_frame_is_seen_when_its_last_byte_has_passed() {
        let mut frames = Frames::default();
        let close = close_to_endpoint(1012);
        frames.pass(&close[..7]);
        assert!(!frames.saw_close());
        frames.pass(&close[7..]);
        assert!(frames.saw_close() && frames.at_border());
    }

    #[test]
    fn a_close_frame_without_a_code_counts() {
        let mut frames = Frames::default();
        frames.pass(&[0x88, 0]);
        assert!(frames.saw_close());
    }

    #[test]
    fn the_code_of_a_servers_close_frame_is_read_however_it_comes() {
        let close = [0x88, 5, 0x03, 0xf4, b'b', b'y', b'e'];
        for cut in 0..close.len() {
            let mut frames = Frames::default();
            frames.pass(&close[..cut]);
            frames.pass(&close[cut..]);
            assert_eq!((frames.close_code(), frames.saw_close()), (Some(1012), true), "cut at {cut}");
        }
        let mut without = Frames::default();
        without.pass(&[0x88, 0]);
        assert_eq!(without.close_code(), None);
        let mut masked = Frames::default();
        masked.pass(&close_to_endpoint(1012));
        assert_eq!((masked.close_code(), masked.saw_close()), (None, true));
    }

    #[test]
    fn our_own_close_frames_carry_their_code() {
        assert_eq!(close_to_client(1012), [0x88, 2, 0x03, 0xf4]);
        let masked = close_to_endpoint(1001);
        assert_eq!([masked[6] ^ masked[2], masked[7] ^ masked[3]], 1001u16.to_be_bytes());
    }

    proptest! {
        #[test]
        fn borders_are_found_however_the_bytes_are_cut(
            sizes in prop::collection::vec(prop_oneof![0usize..300, Just(65535), Just(65536), 100usize..70000], 1..6),
            masked: bool,
            cuts in prop::collection::vec(1usize..5000, 1..40),
        ) {
            let mut bytes = Vec::new();
            let mut borders = vec![0];
            for size in &sizes {
                bytes.extend(frame(2, masked, *size));
                borders.push(bytes.len());
            }
            let mut frames = Frames::default();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                if at == bytes.len() { break; }
                let to = (at + cut).min(bytes.len());
                frames.pass(&bytes[at..to]);
                at = to;
                prop_assert_eq!(frames.at_border(), borders.contains(&at), "at {}", at);
            }
            prop_assert!(!frames.saw_close());
        }

        #[test]
        fn passing_to_the_border_stops_there(first in 0usize..70000, second in 0usize..300, skip in 1usize..400) {
            let mut bytes = frame(1, false, first);
            let border = bytes.len();
            bytes.extend(frame(1, false, second));
            let mut frames = Frames::default();
            let skip = skip.min(border - 1);
            frames.pass(&bytes[..skip]);
            prop_assert_eq!(skip + frames.pass_to_border(&bytes[skip..]), border);
            prop_assert!(frames.at_border());
        }
    }
}
