//! How a line of the access log is written: by hand, because the formatting machinery would be most of its cost.

use super::{AccessFormat, AccessRecord};
use std::{cell::RefCell, time::SystemTime};

thread_local! {
    /// Where the lines of this thread are made.
    pub(super) static LINE: RefCell<Line> = RefCell::default();
}

/// A line being made, and the second that the last one was made in: the date is worked out once a second.
#[derive(Default)]
pub(super) struct Line {
    pub(super) text: Vec<u8>,
    second: u64,
    date: String,
}

impl Line {
    pub(super) fn format(&mut self, format: AccessFormat, record: &AccessRecord<'_>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.second != now.as_secs() || self.date.is_empty() {
            self.second = now.as_secs();
            let stamp = jiff::Timestamp::from_second(now.as_secs().cast_signed()).unwrap_or_default();
            self.date = stamp.to_string().trim_end_matches('Z').to_owned();
        }
        self.text.clear();
        let mut out = Fields { out: &mut self.text, json: format == AccessFormat::Json };
        out.key("time");
        out.quoted(|out| {
            out.extend_from_slice(self.date.as_bytes());
            out.push(b'.');
            push_padded(out, now.subsec_micros());
            out.push(b'Z');
        });
        out.word("method", record.method);
        out.text("path", record.path);
        out.number("status", record.status.into());
        out.number("bytes", record.bytes);
        out.number("duration_us", u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX));
        out.optional("route", record.route);
        out.optional("service", record.service);
        out.key("trace");
        out.quoted(|out| push_hex(out, record.trace_id));
        out.optional("fault", record.fault);
        for (key, value) in [("limited", record.limited), ("aborted", record.aborted)] {
            if value {
                out.key(key);
                out.out.extend_from_slice(b"true");
            }
        }
        out.end();
    }
}

/// Writes the pairs of one line.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        if self.json {
            self.out.extend_from_slice(if self.out.is_empty() { b"{\"" } else { b",\"" });
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            if !self.out.is_empty() {
                self.out.push(b' ');
            }
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    /// A value that needs no escaping; in quotes where the format wants them.
    fn quoted(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.json {
            self.out.push(b'"');
        }
        write(self.out);
        if self.json {
            self.out.push(b'"');
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.out, value);
    }

    fn word(&mut self, key: &str, value: &str) {
        self.text(key, value);
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// Text that a client may have chosen: escaped, so that nobody writes lines of his own into the log.
    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let plain = |b: u8| matches!(b, b'!' | b'#'..=b'<' | b'>'..=b'[' | b']'..=b'~');
        if !self.json && !value.is_empty() && value.bytes().all(plain) {
            return self.out.extend_from_slice(value.as_bytes());
        }
        self.out.push(b'"');
        for byte in value.bytes() {
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                0..0x20 | 0x7f => {
                    self.out.extend_from_slice(b"\\u00");
                    self.out.push(HEX[usize::from(byte >> 4)]);
                    self.out.push(HEX[usize::from(byte & 15)]);
                }
                _ => self.out.push(byte),
            }
        }
        self.out.push(b'"');
    }

    fn end(&mut self) {
        if self.json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_hex(out: &mut Vec<u8>, value: u128) {
    for byte in value.to_be_bytes() {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Microseconds of a second: six digits.
fn push_padded(out: &mut Vec<u8>, micros: u32) {
    let mut scale = 100_000;
    while scale > 0 {
        out.push(b'0' + (micros / scale % 10) as u8);
        scale /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn record(path: &str) -> AccessRecord<'_> {
        AccessRecord {
            method: "GET",
            path,
            status: 404,
            bytes: 0,
            duration: Duration::ZERO,
            route: None,
            service: None,
            trace_id: 1,
            fault: None,
            limited: false,
            aborted: false,
        }
    }

    proptest! {
        #[test]
        fn no_path_forges_a_line(path in ".*") {
            let mut line = Line::default();
            line.format(AccessFormat::Json, &record(&path));
            let parsed: serde_json::Value = serde_json::from_slice(&line.text).unwrap();
            prop_assert_eq!(parsed["path"].as_str(), Some(path.as_str()));
            line.format(AccessFormat::Logfmt, &record(&path));
            prop_assert_eq!(line.text.iter().filter(|&&b| b == b'\n').count(), 1);
        }

        #[test]
        fn numbers_are_written_as_they_are(value: u64) {
            let mut out = Vec::new();
            push_number(&mut out, value);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
