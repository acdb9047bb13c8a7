//! Paths with parameters: patterns that requests are matched with, and templates that are filled with what was captured.
//!
//! This is the only place that reads them. The gateway gets them as values that hold together, and need not know how they
//! are written.

use std::{borrow::Cow, fmt, str::FromStr};

/// A path that requests are matched with, in [`matchit`]'s syntax: `/users/{id}`, `/files/{*rest}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    params: Vec<String>,
}

/// A path and query with holes for what a pattern captures: `/orders?userId={id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathTemplate(Vec<Piece>);

/// What is wrong with a path, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPath(Cow<'static, str>);

/// A piece of a path with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece<T = String> {
    Literal(T),
    Param(T),
}

const MAX_LENGTH: usize = 1024;
/// matchit's routing tree names parameters by letters, and panics when it runs out of them.
const MAX_PARAMS: usize = 16;

const BRACES: &str = "its braces do not match";
const BYTES: &str = "what cannot stand in a path must be percent-encoded";
const NAME: &str = "a parameter's name has only letters, digits and underscores";

// === impl PathPattern ===

impl PathPattern {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its parameters, in their order.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// Whether it ends with a `{*rest}`.
    pub fn has_rest(&self) -> bool {
        self.text.contains("{*")
    }

    /// How many bytes `prefix` takes off each path that matches: whole segments of it, without parameters.
    ///
    /// # Errors
    /// What is wrong with the prefix.
    pub fn strip(&self, prefix: &str) -> Result<usize, InvalidPath> {
        if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['{', '}']) {
            return wrong("expected a prefix such as \"/api\", without parameters or a slash at the end");
        }
        match self.text.strip_prefix(prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(prefix.len()),
            _ => wrong(format!("expected what the path `{}` starts with, in whole segments", self.text)),
        }
    }
}

impl FromStr for PathPattern {
    type Err = InvalidPath;

    fn from_str(path: &str) -> Result<Self, InvalidPath> {
        let Some(rest) = path.strip_prefix('/') else { return wrong("it must start with `/`") };
        if path.len() > MAX_LENGTH {
            return wrong(format!("it must not be longer than {MAX_LENGTH} bytes"));
        }
        let mut params: Vec<String> = Vec::new();
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if is_dots(segment) || (segment.is_empty() && segments.peek().is_some()) {
                return wrong("it must not have empty segments, `.` or `..`");
            }
            let pieces = split_pieces(segment)?;
            let mut names = 0;
            for piece in &pieces {
                match piece {
                    Piece::Literal(text) => check_literal(text, is_path_byte)?,
                    Piece::Param(name) => {
                        let name = match name.strip_prefix('*') {
                            Some(name) if pieces.len() == 1 && segments.peek().is_none() => name,
                            Some(_) => return wrong("a `{*rest}` must be the whole of the last segment"),
                            None => name,
                        };
                        if !is_param_name(name) {
                            return wrong(NAME);
                        }
                        if params.iter().any(|known| known == name) {
                            return wrong(format!("it has two parameters named `{name}`"));
                        }
                        params.push(name.to_owned());
                        names += 1;
                    }
                }
            }
            if names > 1 {
                return wrong("a segment can hold only one parameter");
            }
        }
        if params.len() > MAX_PARAMS {
            return wrong(format!("it must not have more than {MAX_PARAMS} parameters"));
        }
        Ok(Self { text: path.to_owned(), params })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl PathTemplate ===

impl PathTemplate {
    /// The names of the parameters that it is filled with, in their order; each as often as it is there.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Param(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// The text with every hole filled; `fill` is given a name, and adds what belongs there to the text so far.
    pub fn render(&self, mut fill: impl FnMut(&str, &mut String)) -> String {
        let mut text = String::with_capacity(64);
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Param(name) => fill(name, &mut text),
            }
        }
        text
    }
}

impl FromStr for PathTemplate {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        // Two slashes at the start would be read as a host by some.
        if !text.starts_with('/') || text.starts_with("//") {
            return wrong("it must start with one `/`");
        }
        if text.len() > MAX_LENGTH {
            return wrong(format!("it must not be longer than {MAX_LENGTH} bytes"));
        }
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        if path.split('/').any(is_dots) {
            return wrong("it must not have the segments `.` or `..`");
        }
        let mut pieces = Vec::new();
        for piece in split_pieces(text)? {
            pieces.push(match piece {
                Piece::Literal(text) => {
                    check_literal(text, |b| is_path_byte(b) || b == b'/' || b == b'?')?;
                    Piece::Literal(text.to_owned())
                }
                Piece::Param(name) if is_param_name(name) => Piece::Param(name.to_owned()),
                Piece::Param(_) => return wrong(NAME),
            });
        }
        Ok(Self(pieces))
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(|name, text| text.extend(["{", name, "}"])))
    }
}

// === Reading ===

fn wrong<T>(why: impl Into<Cow<'static, str>>) -> Result<T, InvalidPath> {
    Err(InvalidPath(why.into()))
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn check_literal(text: &str, allowed: impl Fn(u8) -> bool) -> Result<(), InvalidPath> {
    if !text.bytes().all(allowed) {
        return wrong(BYTES);
    }
    let digits = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(digits) {
        return wrong("two hexadecimal digits must follow a `%`");
    }
    Ok(())
}

/// Splits at `{…}`.
fn split_pieces(text: &str) -> Result<Vec<Piece<&str>>, InvalidPath> {
    let braces = || InvalidPath(BRACES.into());
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, braced) = rest.split_at(open);
        let named = braced.strip_prefix('{').and_then(|open| open.split_once('}'));
        let (name, after) = named.filter(|(name, _)| !name.contains('{')).ok_or_else(braces)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        pieces.push(Piece::Param(name));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Ok(pieces)
}

fn is_param_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// RFC 3986's `pchar`, which is all that a path's segment can hold.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_request_could_carry_is_refused() {
        let refused = |text: &str| text.parse::<PathTemplate>().unwrap_err().to_string();
        for text in ["/users/{id", "/users/id}", "/users/{{id}", "/users/{{id}}"] {
            assert_eq!(refused(text), BRACES, "{text}");
        }
        for text in ["/users/{id}#top", "/us ers/{id}", "/caf\u{e9}"] {
            assert_eq!(refused(text), BYTES, "{text}");
        }
        for text in ["users/{id}", "//users/{id}"] {
            assert_eq!(refused(text), "it must start with one `/`", "{text}");
        }
        for text in ["/../{id}", "/a/./b?x={id}"] {
            assert_eq!(refused(text), "it must not have the segments `.` or `..`", "{text}");
        }
        for text in ["/%", "/%1", "/a%zz/{id}", "/%{id}"] {
            assert_eq!(refused(text), "two hexadecimal digits must follow a `%`", "{text}");
            assert!(text.replace("{id}", "").parse::<PathPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_template_reads_back_as_it_was_written() {
        for text in ["/", "/users/{id}", "/orders?userId={id}&x={other}&y={id}", "/caf%C3%A9/v.{id}"] {
            assert_eq!(text.parse::<PathTemplate>().unwrap().to_string(), text);
        }
        let template: PathTemplate = "/{a}?b={b}&a={a}".parse().unwrap();
        assert_eq!(template.params().collect::<Vec<_>>(), ["a", "b", "a"]);
    }

    #[test]
    fn a_prefix_is_of_whole_segments() {
        let pattern: PathPattern = "/api/v1/{*rest}".parse().unwrap();
        assert_eq!((pattern.strip("/api"), pattern.strip("/api/v1")), (Ok(4), Ok(7)));
        for prefix in ["api", "/", "/api/", "/ap", "/api/v1/{*rest}", "/apis", ""] {
            assert!(pattern.strip(prefix).is_err(), "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_matchit_takes(path in "/([a-z{}*/.]{0,12}|(/[a-z]{0,2}\\{\\*?[a-z]\\}[a-z]{0,2}){0,20})") {
            if let Ok(pattern) = path.parse::<PathPattern>() {
                let mut router = matchit::Router::new();
                prop_assert!(router.insert(path.clone(), ()).is_ok(), "{}", path);
                prop_assert!(pattern.params().len() <= MAX_PARAMS);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "/?.*") {
            let _ = text.parse::<PathTemplate>();
            if let Ok(pattern) = text.parse::<PathPattern>() {
                let _ = pattern.strip(&text);
            }
        }
    }
}
