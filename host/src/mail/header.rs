//! What stands in headers: plain words as they are, and everything else encoded (RFC 2047).
//!
//! Where text is not surely plain, all of it is written in base64. So `=?` and spaces at the ends arrive as they were said,
//! and there is no character whose meaning in a header would have to be known here.

use super::{Invalid, Mailbox};
use base64::{Engine, prelude::BASE64_STANDARD};

/// Where a header goes on in another line.
const FOLD: &str = "\r\n ";
/// The bytes of an encoded word: with what is around it, it is shorter than the 75 characters that it may have, by the
/// length of a header's name.
const WORD: usize = 39;
/// The longest text that is left as it is: one that fits into a line.
const LINE: usize = 60;

/// Refuses text that can't be in a header: control characters have no place there, encoded or not.
pub(super) fn check(what: &str, text: &str, longest: usize) -> Result<(), Invalid> {
    if text.len() > longest {
        return Err(Invalid(format!("{what} has {} bytes, and may have {longest}", text.len())));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Invalid(format!("{what} has the control character U+{:04X}, and may have none", u32::from(c)))),
        None => Ok(()),
    }
}

/// Text of a header that is only text, such as the subject.
pub(super) fn unstructured(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b" .,:;!?'#&%+/@*-".contains(&b);
    if is_line(text) && text.bytes().all(is_plain) { text.to_owned() } else { encoded(text) }
}

/// Mailboxes, one a line.
pub(super) fn mailboxes<'a>(all: impl IntoIterator<Item = &'a Mailbox>) -> String {
    let one = |mailbox: &Mailbox| match mailbox.name() {
        Some(name) => format!("{}{FOLD}<{}>", phrase(name), mailbox.address()),
        None => mailbox.address().to_owned(),
    };
    all.into_iter().map(one).collect::<Vec<_>>().join(&format!(",{FOLD}"))
}

/// A name: words of letters and digits, or encoded.
fn phrase(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b' ';
    if is_line(name) && name.bytes().all(is_plain) { name.to_owned() } else { encoded(name) }
}

/// Whether it comes out of a line as it went in: with single spaces between words, and not too long.
fn is_line(text: &str) -> bool {
    text.len() <= LINE && text.split(' ').all(|word| !word.is_empty())
}

fn encoded(text: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        // A character is never cut: each word stands for itself.
        let (word, after) = rest.split_at(rest.floor_char_boundary(WORD));
        words.push(format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(word)));
        rest = after;
    }
    words.join(FOLD)
}
