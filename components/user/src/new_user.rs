//! What may be registered as a user.

use serde::Deserialize;
use wharf_sdk::{Error, Result};

/// The longest path that SMTP carries (RFC 5321, 4.5.3.1.3), less its angle brackets.
const EMAIL_MAX: usize = 254;
const LOCAL_PART_MAX: usize = 64;
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 200;

/// The body of `POST /users`.
#[derive(Debug, Deserialize)]
pub struct NewUser {
    pub email: String,
    pub name: String,
}

// === impl NewUser ===

impl NewUser {
    /// The same without surrounding space, where it can be registered.
    pub fn validated(self) -> Result<Self> {
        let (email, name) = (self.email.trim(), self.name.trim());
        if !is_email(email) {
            return Err(Error::bad_request("Invalid email"));
        }
        if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(Error::bad_request("Invalid name, expected 1 to 200 characters"));
        }
        Ok(Self { email: email.to_owned(), name: name.to_owned() })
    }
}

/// Whether it is an address as browsers take it in `<input type=email>`: the sensible part of RFC 5322, ASCII only.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_local = |c: u8| c.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&c);
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= EMAIL_MAX
        && (1..=LOCAL_PART_MAX).contains(&local.len())
        && local.bytes().all(is_local)
        && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validated(email: &str, name: &str) -> Result<NewUser> {
        NewUser { email: email.into(), name: name.into() }.validated()
    }

    #[test]
    fn ordinary_addresses_are_taken() {
        for email in ["ada@example.com", "a.b+c@sub.example.co.uk", "root@localhost", " ada@example.com "] {
            assert!(validated(email, "Ada").is_ok(), "{email}");
        }
        assert_eq!(validated(" ada@example.com ", " Ada ").unwrap().email, "ada@example.com");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        let longer = format!("a@{}com", "example.".repeat(32));
        for email in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "a@b@c",
            "a b@c.d",
            "a@b..c",
            "a@-b.c",
            "a@b_c",
            "a\n@b.c",
            &long,
            &longer,
        ] {
            assert_eq!(validated(email, "Ada").unwrap_err().message(), "Invalid email", "{email}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert!(validated("a@b.c", &"é".repeat(200)).is_ok());
        for name in ["", "  ", "a\0b", &"é".repeat(201)] {
            assert_eq!(validated("a@b.c", name).unwrap_err().status(), 400, "{name:?}");
        }
    }
}
