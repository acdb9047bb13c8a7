//! Filling the templates of aggregates: `/orders?userId={id}`.
//!
//! A captured value goes into another request, so it must stay what it was: one path segment, or one query value. Every
//! byte that is not unreserved (RFC 3986) is percent-encoded; what the client had encoded already stays as it is.
//! Decoded, the value is the same before and after.

use super::path::{self, hex};
use crate::manifest::PathTemplate;
use http::uri::PathAndQuery;

/// A captured value that cannot stand as a segment of its own (`.` and `..` cannot be encoded away).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfillable;

/// The request target with every hole filled; `value` gives the captured text of a name as it was sent.
pub(super) fn fill<'v>(
    template: &PathTemplate,
    value: impl Fn(&str) -> Option<&'v str>,
) -> Result<PathAndQuery, Unfillable> {
    let text = template.render(|name, text| encode(value(name).unwrap_or_default(), text));
    let path = text.split_once('?').map_or(text.as_str(), |(path, _)| path);
    path::check(path).map_err(|_| Unfillable)?;
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| Unfillable)
}

fn encode(value: &str, out: &mut String) {
    let bytes = value.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let encoded = || bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(|&digit| hex(digit).is_some()));
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'%' if encoded() => out.push('%'),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(text: &str, id: &str) -> Result<String, Unfillable> {
        let template = text.parse().unwrap();
        super::fill(&template, |_| Some(id)).map(|target| target.to_string())
    }

    /// What a reader of the target makes of the percent-encoding.
    fn decode(text: &str) -> Vec<u8> {
        let mut rest = text.as_bytes();
        let mut out = Vec::new();
        while let [first, after @ ..] = rest {
            let pair = after.first_chunk().and_then(|&[high, low]| Some(hex(high)? << 4 | hex(low)?));
            match (first, pair) {
                (b'%', Some(byte)) => {
                    out.push(byte);
                    rest = &after[2..];
                }
                _ => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        out
    }

    #[test]
    fn ordinary_values_are_put_in_as_they_are() {
        assert_eq!(fill("/users/{id}", "42").unwrap(), "/users/42");
        assert_eq!(fill("/orders?userId={id}&limit=3", "a-b_c.d~e").unwrap(), "/orders?userId=a-b_c.d~e&limit=3");
        assert_eq!(fill("/{id}/x/{id}", "caf%C3%a9").unwrap(), "/caf%C3%a9/x/caf%C3%a9");
    }

    #[test]
    fn a_value_injects_nothing() {
        assert_eq!(fill("/orders?userId={id}", "1&admin=1").unwrap(), "/orders?userId=1%26admin%3D1");
        assert_eq!(fill("/orders?userId={id}", "1+2;3#4?5/6").unwrap(), "/orders?userId=1%2B2%3B3%234%3F5%2F6");
        assert_eq!(fill("/users/{id}", "1%2Fdelete").unwrap(), "/users/1%2Fdelete");
        assert_eq!(fill("/users/{id}/x", ".."), Err(Unfillable));
        assert_eq!(fill("/users/{id}", "%2e%2e"), Err(Unfillable));
        assert_eq!(fill("/users/v.{id}", "1").unwrap(), "/users/v.1");
    }

    proptest! {
        /// Whatever was captured, the reader finds one segment or one value, and in it what was captured.
        #[test]
        fn any_value_stays_one_value(value in "(%[0-9a-fA-F]{2}|[^/?#]){1,20}") {
            if let Ok(target) = fill("/a/{id}/b", &value) {
                let segments: Vec<&str> = target.split('/').collect();
                prop_assert_eq!(segments.len(), 4);
                prop_assert!(!target.contains(['?', '#', '&', ' ']));
                prop_assert_eq!(decode(segments[2]), decode(&value));
            }
            let target = fill("/a?x={id}&y=1", &value).unwrap();
            let query = target.split_once('?').unwrap().1;
            let pairs: Vec<&str> = query.split('&').collect();
            prop_assert_eq!(pairs.len(), 2);
            prop_assert_eq!(decode(pairs[0].strip_prefix("x=").unwrap()), decode(&value));
        }

        /// What the manifest takes as a template is one: nothing is left to be found out when a request comes.
        #[test]
        fn what_is_a_template_can_be_filled(text in "/[a-z{}%?#/. :&=~'()-]{0,20}") {
            if let Ok(template) = text.parse() {
                let filled = super::fill(&template, |_| Some("x"));
                prop_assert_eq!(filled.map(|target| target.to_string()), Ok(template.render(|_, text| text.push('x'))));
            }
        }
    }
}
