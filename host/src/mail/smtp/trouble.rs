//! What a server's refusal, or its silence, means for a message.

use lettre::transport::smtp::Error;
use std::{error::Error as _, time::Duration};

/// When a server that says "later" is asked again, where it does not say when: greylisting servers want a minute or more.
pub(super) const LATER: Duration = Duration::from_secs(60);
/// The longest wait that a server can ask for.
const LATEST: Duration = Duration::from_secs(3600);
/// The longest words of a server that are repeated, in characters.
const MAX_WORDS: usize = 300;

/// A step took longer than it may.
pub(super) struct NotInTime;

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server has it.
    None,
    /// It never will.
    Refused(String),
    /// It will later, perhaps.
    Later { said: String, after: Duration, closes: bool },
    /// It wants to know first who sends: the operator's to mend, and nothing about the message.
    NoLogin(u16),
    /// The connection broke, and the server surely does not have it.
    Broken(String),
    /// The connection broke when it may have had it.
    BrokenMidway(String),
}

// === impl Trouble ===

impl Trouble {
    /// What an error comes to where the message may have been sent.
    pub fn of(error: &Error) -> Self {
        let said = words(error);
        match error.status().map(u16::from) {
            // RFC 4954: authentication required, too weak, wrong, to be encrypted.
            Some(code @ (530 | 534 | 535 | 538)) => Self::NoLogin(code),
            Some(code) if error.is_transient() => Self::Later {
                after: wait_in(&said).unwrap_or(LATER),
                said: format!("{code} {said}"),
                closes: code == 421,
            },
            Some(code) => Self::Refused(format!("{code} {said}")),
            None => Self::BrokenMidway(said),
        }
    }

    /// The same where nothing of the message was sent yet.
    pub fn before_the_message(self) -> Self {
        match self {
            Self::BrokenMidway(why) => Self::Broken(why),
            other => other,
        }
    }

    /// Whether the connection can go on with another message.
    pub fn leaves_connection(&self) -> bool {
        match self {
            Self::None | Self::Refused(_) => true,
            Self::Later { closes, .. } => !closes,
            Self::NoLogin(_) | Self::Broken(_) | Self::BrokenMidway(_) => false,
        }
    }

    pub fn into_words(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Refused(said) | Self::Later { said, .. } | Self::Broken(said) | Self::BrokenMidway(said) => said,
            Self::NoLogin(code) => format!("it wants a login (reply {code})"),
        }
    }
}

/// What the server or the system said, fit for a line of a log.
fn words(error: &Error) -> String {
    let mut words = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        words.push(error.to_string());
        source = error.source();
    }
    let words = if words.is_empty() { error.to_string() } else { words.join(": ") };
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

/// The time that a server asks for, where it says one in the way of greylisting servers: "try again in 300 seconds".
fn wait_in(said: &str) -> Option<Duration> {
    let mut words = said.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    let mut before = words.next()?;
    for word in words {
        let unit = match word.to_ascii_lowercase().as_str() {
            "second" | "seconds" | "secs" | "sec" => 1,
            "minute" | "minutes" | "mins" | "min" => 60,
            _ => 0,
        };
        if unit > 0
            && let Ok(number) = before.parse::<u64>()
        {
            let wait = Duration::from_secs(number.saturating_mul(unit));
            return Some(wait.clamp(Duration::from_secs(1), LATEST));
        }
        before = word;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_when_to_come_again() {
        let seconds = |said: &str| wait_in(said).map(|wait| wait.as_secs());
        assert_eq!(seconds("4.7.1 Greylisted, please try again in 300 seconds."), Some(300));
        assert_eq!(seconds("4.2.0 <a@b>: greylisted for 5 minutes"), Some(300));
        assert_eq!(seconds("try in 0 seconds"), Some(1));
        assert_eq!(seconds("99999999999999999999 seconds"), None);
        assert_eq!(seconds("9999999999 minutes"), Some(3600));
        for said in ["", "seconds", "mailbox busy", "a few minutes"] {
            assert_eq!(seconds(said), None, "{said}");
        }
    }
}
