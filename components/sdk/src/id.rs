//! Identifiers.

use crate::{bindings::wasi::random::random::get_random_u64, time::Timestamp};

/// A new identifier: a UUID of version 7 (RFC 9562), which sorts by the moment it was made for. Rows inserted in the
/// order of their keys land side by side in the database; those of version 4 would be scattered over it.
pub fn new_id(at: Timestamp) -> String {
    format(at.unix_millis(), get_random_u64(), get_random_u64())
}

fn format(millis: u64, random_a: u64, random_b: u64) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let high = (millis << 16) | 0x7000 | (random_a & 0x0fff);
    let low = (random_b & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    let digits = (u128::from(high) << 64) | u128::from(low);
    let mut text = String::with_capacity(36);
    for position in (0..32).rev() {
        text.push(char::from(HEX[(digits >> (4 * position)) as usize & 0xf]));
        if matches!(position, 24 | 20 | 16 | 12) {
            text.push('-');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_variant_and_time_are_where_rfc_9562_has_them() {
        // The example of RFC 9562, appendix A.6.
        let text = format(0x017F_22E2_79B0, 0xCC3, 0x18C4_DC0C_0C07_398F);
        assert_eq!(text, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    #[test]
    fn later_ones_sort_after_earlier_ones() {
        assert!(format(1, u64::MAX, u64::MAX) < format(2, 0, 0));
    }
}
