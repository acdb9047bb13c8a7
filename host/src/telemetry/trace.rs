//! Trace context, as the [W3C recommendation](https://www.w3.org/TR/trace-context/) has it.

use std::{fmt, str::FromStr};

/// The place of a call in its trace: the parsed form of a `traceparent` header, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// The text was no `traceparent` of version 00 (or of a later version that starts like one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: expected 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, ids not all zero")]
pub struct InvalidTraceparent;

// === impl TraceContext ===

impl TraceContext {
    /// A new trace, marked as sampled. Ids are random but not secret, so a fast generator serves.
    pub fn root() -> Self {
        let high = fastrand::u128(1..);
        Self { trace_id: high, parent_id: fastrand::u64(1..), flags: 1 }
    }

    /// The same trace, one call further in.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { parent_id: fastrand::u64(1..), ..*self }
    }

    /// The id that all calls of the trace share.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id that all calls of the trace share, as logs show it.
    pub fn trace_id_text(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The `traceparent` as it stands in a header: ASCII, written without the formatting machinery, because every
    /// request carries one.
    pub fn encode(&self) -> [u8; 55] {
        let mut text = *b"00-................................-................-..";
        write_hex(&mut text[3..35], &self.trace_id.to_be_bytes());
        write_hex(&mut text[36..52], &self.parent_id.to_be_bytes());
        write_hex(&mut text[53..55], &[self.flags]);
        text
    }
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        // Lower case hex only, and a later version may carry more after the flags (section 3.2 of the recommendation).
        let hex = |range: std::ops::Range<usize>| {
            let digits = text.as_bytes().get(range)?;
            let plain = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| plain)?, 16).ok()
        };
        let dashes = [2, 35, 52].iter().all(|&at| text.as_bytes().get(at) == Some(&b'-'));
        let parts = (hex(0..2), hex(3..35), hex(36..52), hex(53..55));
        let (Some(version), Some(trace_id @ 1..), Some(parent_id @ 1..), Some(flags)) = parts else {
            return Err(InvalidTraceparent);
        };
        let ended = text.len() == 55 || (version > 0 && text.as_bytes()[55] == b'-');
        if !dashes || version == 0xff || !ended {
            return Err(InvalidTraceparent);
        }
        Ok(Self { trace_id, parent_id: parent_id as u64, flags: flags as u8 & 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_recommendations_example_survives_a_round_trip() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
    }

    #[test]
    fn what_the_recommendation_forbids_is_refused() {
        for text in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(InvalidTraceparent), "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(later.parse::<TraceContext>().is_ok());
    }

    #[test]
    fn the_header_is_what_display_says() {
        let trace = TraceContext::root();
        assert_eq!(trace.encode(), trace.to_string().as_bytes());
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let root = TraceContext::root();
        assert_eq!(root.child().trace_id(), root.trace_id());
        assert_ne!(root.child(), root);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in ".*") {
            if let Ok(trace) = text.parse::<TraceContext>() {
                prop_assert_eq!(trace.to_string().parse(), Ok(trace));
            }
        }
    }
}
