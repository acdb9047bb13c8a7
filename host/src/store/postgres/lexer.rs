//! SQL in words: as little of PostgreSQL's grammar as it takes to know where a word is a word.
//!
//! Every byte of the text belongs to exactly one token, so that a text can be put together again from its tokens, some
//! of them replaced. What is malformed (a quote that nobody closes) is one token up to the end: PostgreSQL says what is
//! wrong with it.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// White space or a comment.
    Space,
    /// A key word or a name without quotes.
    Word,
    /// A name in double quotes.
    Name,
    /// A string, of whatever kind, its prefix included.
    String,
    /// A number.
    Number,
    /// `$1`.
    Parameter,
    /// Any other character.
    Symbol,
}

/// A piece of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'s> {
    pub(super) kind: Kind,
    pub(super) text: &'s str,
}

/// The tokens of a text.
pub(super) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut rest = sql;
    let mut tokens = Vec::with_capacity(sql.len() / 4 + 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = measure(rest, first);
        let (text, after) = rest.split_at(length);
        tokens.push(Token { kind, text });
        rest = after;
    }
    tokens
}

fn measure(rest: &str, first: char) -> (Kind, usize) {
    let after = |skip: usize| &rest[skip..];
    match first {
        _ if first.is_ascii() && is_space(first as u8) => (Kind::Space, while_bytes(rest, is_space)),
        '-' if rest.starts_with("--") => (Kind::Space, rest.find(['\n', '\r']).unwrap_or(rest.len())),
        '/' if rest.starts_with("/*") => (Kind::Space, comment(rest)),
        '\'' => (Kind::String, 1 + quoted(after(1), '\'', false)),
        '"' => (Kind::Name, 1 + quoted(after(1), '"', false)),
        '$' => dollar(rest),
        '0'..='9' => (Kind::Number, number(rest)),
        _ if begins_word(first) => {
            let length = while_bytes(rest, continues_word);
            match (&rest[..length], after(length).as_bytes()) {
                // A backslash escapes in this one.
                ("e" | "E", [b'\'', ..]) => (Kind::String, length + 1 + quoted(after(length + 1), '\'', true)),
                ("b" | "B" | "x" | "X" | "n" | "N", [b'\'', ..]) => {
                    (Kind::String, length + 1 + quoted(after(length + 1), '\'', false))
                }
                ("u" | "U", [b'&', quote @ (b'\'' | b'"'), ..]) => {
                    let kind = if *quote == b'"' { Kind::Name } else { Kind::String };
                    (kind, length + 2 + quoted(after(length + 2), char::from(*quote), false))
                }
                _ => (Kind::Word, length),
            }
        }
        other => (Kind::Symbol, other.len_utf8()),
    }
}

/// A vertical tab too, as PostgreSQL has it since its version 16.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

/// The length of a number, with all that stands close behind it.
fn number(rest: &str) -> usize {
    let digits = |rest: &str| while_bytes(rest, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    let length = digits(rest);
    match rest.as_bytes().get(length - 1..length + 2) {
        // The sign of an exponent.
        Some([b'e' | b'E', b'+' | b'-', b'0'..=b'9']) => length + 1 + digits(&rest[length + 1..]),
        _ => length,
    }
}

fn begins_word(first: char) -> bool {
    first.is_ascii_alphabetic() || first == '_' || !first.is_ascii()
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

fn while_bytes(rest: &str, mut wanted: impl FnMut(u8) -> bool) -> usize {
    rest.bytes().position(|byte| !wanted(byte)).unwrap_or(rest.len())
}

/// The length of what follows an opening quote, its closing one included. A quote twice stands for itself.
fn quoted(rest: &str, quote: char, backslash: bool) -> usize {
    let mut characters = rest.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if backslash && character == '\\' {
            characters.next();
        } else if character == quote {
            match characters.peek() {
                Some((_, next)) if *next == quote => {
                    characters.next();
                }
                _ => return at + 1,
            }
        }
    }
    rest.len()
}

/// The length of a comment; comments nest.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => {
                depth += 1;
                at += 2;
            }
            Some(b"*/") => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// A parameter, or a string between two `$tag$`.
fn dollar(rest: &str) -> (Kind, usize) {
    let digits = while_bytes(&rest[1..], |byte| byte.is_ascii_digit());
    if digits > 0 {
        return (Kind::Parameter, 1 + digits);
    }
    let tag = while_bytes(&rest[1..], |byte| continues_word(byte) && byte != b'$');
    if !rest[1 + tag..].starts_with('$') {
        return (Kind::Symbol, 1);
    }
    let (open, inside) = rest.split_at(tag + 2);
    (Kind::String, inside.find(open).map_or(rest.len(), |end| open.len() + end + open.len()))
}

// === impl Token ===

impl Token<'_> {
    /// Whether it is this key word, given in capitals.
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is one of these key words, given in capitals.
    pub(super) fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    /// Whether it is this character.
    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    /// Whether it is a string in which a backslash escapes.
    pub(super) fn has_escapes(&self) -> bool {
        self.kind == Kind::String && self.text.starts_with(['e', 'E'])
    }

    /// Whether it is a string that begins with its quote: what PostgreSQL takes for more of one before it, by whose rules,
    /// where a line ends in between.
    pub(super) fn is_plain_string(&self) -> bool {
        self.kind == Kind::String && self.text.starts_with('\'')
    }

    /// Whether it is a number to every version of PostgreSQL that knows it: older ones take what stands close behind a
    /// number for a word of its own.
    pub(super) fn is_number(&self) -> bool {
        let text = self.text.replace('_', "").to_ascii_lowercase();
        match text.get(..2) {
            Some("0x" | "0o" | "0b") => text[2..].bytes().all(|byte| byte.is_ascii_hexdigit()),
            _ => text.parse::<f64>().is_ok(),
        }
    }

    /// What it names, if it may be a name: as PostgreSQL reads it, without quotes and in small letters.
    pub(super) fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_ascii_lowercase()),
            Kind::Name => {
                let inside = self.text.trim_start_matches(['u', 'U', '&']).strip_prefix('"')?;
                Some(inside.strip_suffix('"').unwrap_or(inside).replace("\"\"", "\"").to_ascii_lowercase())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds(sql: &str) -> Vec<(Kind, &str)> {
        tokens(sql)
            .into_iter()
            .filter(|token| token.kind != Kind::Space)
            .map(|token| (token.kind, token.text))
            .collect()
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        for string in
            ["'a;''$1'", r"E'a\'; $1'", "$$ ; $1 $$", "$x$ $$ ; $x$", "x'ff'", "U&'\\0041;'", "'never closed; $1"]
        {
            assert_eq!(kinds(string), [(Kind::String, string)]);
        }
        assert_eq!(kinds(r"'a\'; $1"), [(Kind::String, r"'a\'"), (Kind::Symbol, ";"), (Kind::Parameter, "$1")]);
    }

    #[test]
    fn numbers_are_told_from_what_stands_behind_them() {
        for number in ["1", "1.", "1.5", "1e5", "1E-5", "1.5e+05", "0x1F", "1_000"] {
            assert_eq!(kinds(number), [(Kind::Number, number)]);
            assert!(tokens(number)[0].is_number(), "{number}");
        }
        assert_eq!(kinds("1-5"), [(Kind::Number, "1"), (Kind::Symbol, "-"), (Kind::Number, "5")]);
        for not in ["1FOR", "1e", "0xFOR", "1..2", "1_x"] {
            assert!(!tokens(not)[0].is_number(), "{not}");
        }
    }

    #[test]
    fn comments_are_space() {
        assert_eq!(kinds("-- $1;\n/* ; /* $2 */ ; */ a/*"), [(Kind::Word, "a")]);
    }

    #[test]
    fn names_and_parameters() {
        assert_eq!(
            kinds("\"a\"\"b\".c$1 $12::text é_1"),
            [
                (Kind::Name, "\"a\"\"b\""),
                (Kind::Symbol, "."),
                (Kind::Word, "c$1"),
                (Kind::Parameter, "$12"),
                (Kind::Symbol, ":"),
                (Kind::Symbol, ":"),
                (Kind::Word, "text"),
                (Kind::Word, "é_1"),
            ]
        );
        assert_eq!(tokens("\"A\"\"b\"")[0].name().as_deref(), Some("a\"b"));
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_token(sql in "[a-z'\"$*/;é\\\\ \\n-]{0,40}") {
            prop_assert_eq!(tokens(&sql).iter().map(|token| token.text).collect::<String>(), sql);
        }
    }
}
