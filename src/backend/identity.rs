//! The one hash that must mean the same in every process, on every machine and in every version: `ip_hash` sends a client
//! to the same backend after a restart, and two proxies agree, only because of it. Never std's `RandomState`.
//!
//! It is FNV-1a, 64 bit (offset basis `cbf29ce484222325`, prime `100000001b3`), followed by the finaliser of SplitMix64,
//! which spreads FNV's weak high bits. It has no key: whoever can choose the input can choose the backend, as with every
//! published consistent hash.

/// The hash of `bytes`.
#[inline]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
#[inline]
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down: a change here moves every client of every user.
    #[test]
    fn the_hash_never_changes() {
        let known = [("", 0xf52a_15e9_a9b5_e89b), ("a", 0x02c0_bdbf_4814_20f8), ("instance-1", 0xc9f9_5282_40e4_b399)];
        for (text, hash) in known {
            assert_eq!(stable_hash(text.as_bytes()), hash, "{text:?}: {:#x}", stable_hash(text.as_bytes()));
        }
    }
}
