//! Which request paths are let in.
//!
//! Routes are matched on the path as it was sent, and the service behind reads it again with a parser of its own. A
//! path that the two could read differently would reach what no route grants, so it is refused rather than normalised.

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AmbiguousPath {
    #[error("the path has a % that two hexadecimal digits do not follow")]
    BadEncoding,
    #[error("the path has a NUL in it")]
    Nul,
    #[error("the path has a segment of one or two dots; send the path that is meant")]
    DotSegment,
}

/// Looks for what could be read in two ways.
pub(super) fn check(path: &str) -> Result<(), AmbiguousPath> {
    let mut rest = path.as_bytes();
    // Dots of the segment so far, or None when something else is in it.
    let mut dots = Some(0);
    loop {
        let (byte, width) = match rest {
            [] => (b'/', 0),
            [b'%', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => return Err(AmbiguousPath::BadEncoding),
            },
            [b'%', ..] => return Err(AmbiguousPath::BadEncoding),
            [byte, ..] => (*byte, 1),
        };
        match byte {
            0 => return Err(AmbiguousPath::Nul),
            b'.' => dots = dots.map(|dots| dots + 1),
            // An encoded slash counts as one: some decode before they split.
            b'/' | b'\\' => {
                if matches!(dots, Some(1 | 2)) {
                    return Err(AmbiguousPath::DotSegment);
                }
                dots = Some(0);
            }
            _ => dots = None,
        }
        if width == 0 {
            return Ok(());
        }
        rest = &rest[width..];
    }
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in ["/", "/api/users/1", "/a//b/", "/a.b/..c/...", "/caf%C3%A9/%2F", "*", "/a%2e%2eb"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        use AmbiguousPath::*;
        for (path, why) in [
            ("/%", BadEncoding),
            ("/%1", BadEncoding),
            ("/%zz", BadEncoding),
            ("/%+1", BadEncoding),
            ("/a%00b", Nul),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/..", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a%2f..%2fb", DotSegment),
            ("/a/..\\b", DotSegment),
        ] {
            assert_eq!(check(path), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_breaks_the_check(path in ".*") {
            let _ = check(&path);
        }
    }
}
