//! Values as people write them.
//!
//! In WAVE, the component model's own text for values: `some({id: "0", name: "nobody"})`. What type such a text is of is
//! known only where it meets one, so all that is checked here is that it is a value of some type.

use std::{fmt, ops::Range};
use wasm_wave::{parser::ParserError, untyped::UntypedValue};

/// A text that is a value in WAVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaveText(String);

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a value in WAVE such as `some({{id: \"0\"}})`, found {found}: {reason}")]
pub struct NotWave {
    found: String,
    reason: String,
}

// === impl WaveText ===

impl WaveText {
    /// This text.
    ///
    /// # Errors
    ///
    /// Where it is no value.
    pub fn try_new(text: impl Into<String>) -> Result<Self, NotWave> {
        let text = Self(text.into());
        match UntypedValue::parse(&text.0) {
            Ok(_) => Ok(text),
            Err(error) => Err(NotWave { found: text.to_string(), reason: reason(&text, &error) }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part of it at these bytes, to be shown: as it is written, shortened if it is long, and where it begins.
    pub fn part(&self, span: Range<usize>) -> String {
        let before = self.0.get(..span.start).unwrap_or_default();
        let part = self.0.get(span).unwrap_or_default();
        format!("{} (character {})", shown(part), before.chars().count() + 1)
    }
}

impl fmt::Display for WaveText {
    /// To be shown: in one line, and shortened if it is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

fn reason(text: &WaveText, error: &ParserError) -> String {
    if error.span().is_empty() {
        error.kind().to_string()
    } else {
        format!("{}, {}", error.kind(), text.part(error.span()))
    }
}

/// A text in one line, without what a terminal would obey.
fn shown(text: &str) -> String {
    const MOST: usize = 100;
    let cut = text.char_indices().nth(MOST).map(|(at, _)| at);
    // NB: not `escape_debug` as a whole, which would escape the quotes of strings.
    let escaped = text[..cut.unwrap_or(text.len())].chars().map(|c| match c {
        '"' | '\'' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    });
    let dots = if cut.is_some() { "…" } else { "" };
    format!("`{}{dots}`", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_value_is_refused_and_the_place_told() {
        let refused = |text: &str| WaveText::try_new(text).unwrap_err().to_string();
        for (text, expected) in [
            ("", "found ``: unexpected end of input"),
            ("some({id: 1)", "found `some({id: 1)`: unexpected token, `)` (character 12)"),
            ("some({id: 1", "found `some({id: 1`: unexpected end of input"),
            ("1 2", "found `1 2`: trailing characters after value, `2` (character 3)"),
            ("{a: 1, a: 2}", "found `{a: 1, a: 2}`: duplicate field, `a` (character 8)"),
            ("\"ü\" ?", "found `\"ü\" ?`: trailing characters after value, `?` (character 5)"),
            ("a\u{1b}", "found `a\\u{1b}`: trailing characters after value, `\\u{1b}` (character 2)"),
        ] {
            let expected = format!("expected a value in WAVE such as `some({{id: \"0\"}})`, {expected}");
            assert_eq!(refused(text), expected);
        }
        let deep = "[".repeat(100_000);
        assert!(refused(&deep).ends_with("value nesting too deep, `[` (character 100)"), "{}", refused(&deep));
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_refused(text in ".*") {
            match WaveText::try_new(&*text) {
                Ok(value) => prop_assert_eq!(value.as_str(), text),
                Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
            }
        }
    }
}
