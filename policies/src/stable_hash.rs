//! The hash of everything that several edges must agree on: XXH64, the same on every machine and in every version.
//!
//! The standard library's hasher may change with the compiler, and a fast one that adapts to the machine would send the
//! same user to different servers from different edges. XXH64 is also what Envoy and gRPC hash with, so their published
//! tables are test vectors for ours. It is no protection against clients who choose their keys: whoever wants all their
//! connections on one server gets that with any hash that they can compute. Bounded load limits what comes of it.

use twox_hash::XxHash64;

/// The hash of a key of a client, for example the user's id. Seed 0, as in Envoy and gRPC.
pub fn hash_key(bytes: &[u8]) -> u64 {
    seeded(bytes, 0)
}

/// A hash that is independent of those with other seeds.
pub(crate) fn seeded(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sanity buffer of xxHash's own tests (`xxhsum`, `BMK_sanityCheck`).
    fn sanity_buffer() -> Vec<u8> {
        let mut generator = 2_654_435_761_u64;
        (0..222)
            .map(|_| {
                let byte = generator.to_be_bytes()[0];
                generator = generator.wrapping_mul(11_400_714_785_074_694_797);
                byte
            })
            .collect()
    }

    #[test]
    fn the_hashes_are_those_of_the_reference() {
        let buffer = sanity_buffer();
        let check =
            |length: usize, seed, want: u64| assert_eq!(seeded(&buffer[..length], seed), want, "{length} {seed}");
        // What `BMK_sanityCheck` expects of it: no whole word, one, several, and more than the 32 bytes of a stripe.
        check(0, 0, 0xEF46_DB37_51D8_E999);
        check(0, 2_654_435_761, 0xAC75_FDA2_929B_17EF);
        check(1, 0, 0xE934_A84A_DB05_2768);
        check(1, 2_654_435_761, 0x5014_6076_43A9_B4C3);
        check(14, 0, 0x8282_DCC4_994E_35C8);
        check(14, 2_654_435_761, 0xC3BD_6BF6_3DEB_6DF0);
        check(222, 0, 0xB641_AE8C_B691_C174);
        check(222, 2_654_435_761, 0x20CB_8AB7_AE10_C14A);
    }

    #[test]
    fn a_key_hashes_with_seed_zero() {
        assert_eq!(hash_key(b"abc"), 0x44BC_2CF5_AD77_0999);
    }
}
