//! Path templates of aggregates: `/orders?userId={id}`.
//!
//! A captured value goes into another request, so it must stay what it was: one path segment, or one query value. Every
//! byte that is not unreserved (RFC 3986) is percent-encoded; what the client had encoded already stays as it is.
//! Decoded, the value is the same before and after.

use super::path::hex;
use http::uri::PathAndQuery;

/// A path and query with holes for the values that an aggregate's pattern captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Param(String),
}

/// The template of a part cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no path.
    #[error("must begin with /")]
    NoPath,
    /// A brace without its partner.
    #[error("has an unmatched {{ or }}; write {{{{ or }}}} for a brace that is meant")]
    UnmatchedBrace,
    /// The aggregate's own path captures no such value.
    #[error("uses {{{0}}}, which the aggregate's path does not capture")]
    UnknownParam(String),
    /// What is written outside the holes can't stand in a request.
    #[error("has a character that can't stand in a request path: {0}")]
    Literal(String),
}

/// A captured value that cannot stand as a segment of its own (`.` and `..` cannot be encoded away).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfillable;

// === impl Template ===

impl Template {
    /// Parses `text`; `captured` are the names that the aggregate's pattern captures.
    pub(super) fn parse(text: &str, captured: &[String]) -> Result<Self, TemplateError> {
        if !text.starts_with('/') {
            return Err(TemplateError::NoPath);
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                literal.push_str(if brace.starts_with('{') { "%7B" } else { "%7D" });
                rest = &brace[2..];
                continue;
            }
            let name = brace.strip_prefix('{').and_then(|open| open.split_once('}'));
            let Some((name, after)) = name.filter(|(name, _)| !name.contains('{')) else {
                return Err(TemplateError::UnmatchedBrace);
            };
            if !captured.iter().any(|known| known == name) {
                return Err(TemplateError::UnknownParam(name.to_owned()));
            }
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            pieces.push(Piece::Param(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        pieces.retain(|piece| *piece != Piece::Literal(String::new()));

        let template = Self { pieces };
        let sample = template.render(|_| "x");
        match sample.parse::<PathAndQuery>() {
            // The parser drops a fragment without a word.
            Ok(parsed) if parsed.as_str() == sample => Ok(template),
            _ => Err(TemplateError::Literal(text.to_owned())),
        }
    }

    /// The request target with every hole filled; `value` gives the captured text of a name as it was sent.
    pub(super) fn fill<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Result<PathAndQuery, Unfillable> {
        let text = self.render(|name| value(name).unwrap_or_default());
        let path = text.split_once('?').map_or(text.as_str(), |(path, _)| path);
        super::path::check(path).map_err(|_| Unfillable)?;
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| Unfillable)
    }

    fn render<'v>(&self, value: impl Fn(&str) -> &'v str) -> String {
        let mut text = String::with_capacity(64);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Param(name) => encode(value(name), &mut text),
            }
        }
        text
    }
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

    fn template(text: &str) -> Template {
        Template::parse(text, &["id".to_owned()]).unwrap()
    }

    fn fill(text: &str, id: &str) -> Result<String, Unfillable> {
        template(text).fill(|_| Some(id)).map(|target| target.to_string())
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

    #[test]
    fn what_no_request_could_carry_is_refused_at_the_start() {
        let parse = |text| Template::parse(text, &["id".to_owned()]).unwrap_err();
        assert_eq!(parse("users/{id}"), TemplateError::NoPath);
        assert_eq!(parse("/users/{id"), TemplateError::UnmatchedBrace);
        assert_eq!(parse("/users/id}"), TemplateError::UnmatchedBrace);
        assert_eq!(parse("/users/{{id}"), TemplateError::UnmatchedBrace);
        assert_eq!(parse("/users/{name}"), TemplateError::UnknownParam("name".into()));
        assert!(matches!(parse("/users/{id}#top"), TemplateError::Literal(_)));
        assert!(matches!(parse("/us ers/{id}"), TemplateError::Literal(_)));
        assert_eq!(fill("/{{{id}}}", "1").unwrap(), "/%7B1%7D");
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

        #[test]
        fn no_text_breaks_the_parser(text in "[/{}a-z%?#]*") {
            let _ = Template::parse(&text, &["a".to_owned()]);
        }
    }
}
