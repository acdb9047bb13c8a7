//! Paths with parameters: those that requests are matched with, and templates that they fill.

use std::collections::BTreeSet;

/// A piece of a path with parameters.
enum Piece<'p> {
    Literal(&'p str),
    Param(&'p str),
}

const MAX_LENGTH: usize = 1024;
/// matchit's routing tree names parameters by letters, and panics when it runs out of them.
const MAX_PARAMS: usize = 16;

/// The names of the parameters in a path that requests are matched with, or what is wrong with it.
pub(super) fn path_params(path: &str) -> Result<Vec<String>, String> {
    let wrong = |why: &str| Err(why.to_owned());
    let Some(rest) = path.strip_prefix('/') else { return wrong("it must start with `/`") };
    if path.len() > MAX_LENGTH {
        return wrong(&format!("it must not be longer than {MAX_LENGTH} bytes"));
    }
    let mut params: Vec<String> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == "." || segment == ".." || (segment.is_empty() && segments.peek().is_some()) {
            return wrong("it must not have empty segments, `.` or `..`");
        }
        let pieces = split_pieces(segment).ok_or("its braces do not match")?;
        let mut names = 0;
        for piece in &pieces {
            match piece {
                Piece::Literal(text) if !text.bytes().all(is_path_byte) => {
                    return wrong("what cannot stand in a path must be percent-encoded");
                }
                Piece::Literal(_) => {}
                Piece::Param(name) => {
                    let name = match name.strip_prefix('*') {
                        Some(name) if pieces.len() == 1 && segments.peek().is_none() => name,
                        Some(_) => return wrong("a `{*rest}` must be the whole of the last segment"),
                        None => name,
                    };
                    if !is_param_name(name) {
                        return wrong("a parameter's name has only letters, digits and underscores");
                    }
                    if params.iter().any(|known| known == name) {
                        return wrong(&format!("it has two parameters named `{name}`"));
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
        return wrong(&format!("it must not have more than {MAX_PARAMS} parameters"));
    }
    Ok(params)
}

/// What is wrong with a prefix that is to be taken off a path, if anything.
pub(super) fn wrong_prefix(prefix: &str, path: &str) -> Option<String> {
    if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['{', '}']) {
        return Some("expected a prefix such as \"/api\", without parameters or a slash at the end".into());
    }
    let whole_segments = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!whole_segments).then(|| format!("expected what the path `{path}` starts with, in whole segments"))
}

/// The names of the parameters that a template such as `/orders?userId={id}` fills in, or what is wrong with it.
pub(super) fn template_params(text: &str) -> Result<BTreeSet<&str>, String> {
    let wrong = |why: &str| Err(why.to_owned());
    // Two slashes at the start would be read as a host by some.
    if !text.starts_with('/') || text.starts_with("//") {
        return wrong("it must start with one `/`");
    }
    if text.len() > MAX_LENGTH {
        return wrong(&format!("it must not be longer than {MAX_LENGTH} bytes"));
    }
    let Some(pieces) = split_pieces(text) else { return wrong("its braces do not match") };
    let mut params = BTreeSet::new();
    for piece in pieces {
        match piece {
            Piece::Literal(text) if !text.bytes().all(|b| is_path_byte(b) || b == b'/' || b == b'?') => {
                return wrong("what cannot stand in a path must be percent-encoded");
            }
            Piece::Literal(_) => {}
            Piece::Param(name) if is_param_name(name) => {
                params.insert(name);
            }
            Piece::Param(_) => return wrong("a parameter's name has only letters, digits and underscores"),
        }
    }
    Ok(params)
}

/// Splits at `{…}`; `None` if the braces do not match.
fn split_pieces(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, braced) = rest.split_at(open);
        let (name, after) = braced.strip_prefix('{')?.split_once('}')?;
        if name.contains('{') {
            return None;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        pieces.push(Piece::Param(name));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Some(pieces)
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

    proptest! {
        #[test]
        fn what_is_accepted_matchit_takes(path in "/([a-z{}*/.]{0,12}|(/[a-z]{0,2}\\{\\*?[a-z]\\}[a-z]{0,2}){0,20})") {
            if let Ok(params) = path_params(&path) {
                let mut router = matchit::Router::new();
                prop_assert!(router.insert(path.clone(), ()).is_ok(), "{}", path);
                prop_assert!(params.len() <= MAX_PARAMS);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "/?.*") {
            let _ = path_params(&text);
            let _ = template_params(&text);
            let _ = wrong_prefix(&text, &text);
        }
    }
}
