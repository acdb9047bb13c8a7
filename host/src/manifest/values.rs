//! How durations and sizes are written: `"250ms"`, `"64KiB"`.

use std::{fmt, time::Duration};

/// The shortest duration that any key accepts.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
/// The longest duration that most keys accept.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];
const SIZE_UNITS: [(&str, u64); 5] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];

/// Shows a duration as the manifest writes it.
pub(super) struct ShowDuration(pub Duration);

/// Shows a size as the manifest writes it.
pub(super) struct ShowSize(pub u64);

/// Whether this can name a topic or a bucket: letters, digits, dots, hyphens and underscores.
pub(super) fn is_plain_name(text: &str, longest: usize) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=longest).contains(&text.len()) && text.bytes().all(good)
}

/// Reads a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`; the value is in bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, scale) = units.iter().find_map(|(unit, scale)| {
        let number = text.strip_suffix(unit)?;
        // "5ms" ends in "s" too: what is left must be a number.
        number.bytes().all(|b| b.is_ascii_digit()).then_some((number, *scale))
    })?;
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = units.iter().filter(|(_, scale)| value.is_multiple_of(*scale) && value >= *scale);
    match fits.max_by_key(|(_, scale)| *scale) {
        Some((unit, scale)) => write!(f, "{}{unit}", value / scale),
        None => write!(f, "{value}"),
    }
}

// === impl ShowDuration ===

impl fmt::Display for ShowDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A day is 24 hours to most people, and not always to a clock.
        let units = if self.0 > LONGEST { &DURATION_UNITS[..] } else { &DURATION_UNITS[..4] };
        show(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), units)
    }
}

// === impl ShowSize ===

impl fmt::Display for ShowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &SIZE_UNITS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("1m"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "ms", "-1s", "+1s", "1.5s", "1 s", "1S", "1m30s", "18446744073709551615h"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1MiB"), Some(1 << 20));
        assert_eq!(parse_size("7B"), Some(7));
        for bad in ["", "64", "64KB", "64kib", "KiB", "-1B", "1.5MiB", "18446744073709551615KiB"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 1u64..=u64::MAX / 3_600_000, bytes in 1u64..) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&ShowDuration(duration).to_string()), Some(duration));
            prop_assert_eq!(parse_size(&ShowSize(bytes).to_string()), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
