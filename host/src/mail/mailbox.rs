//! Who sends mail and who gets it.

use super::{Invalid, MAX_NAME, header};
use std::{fmt, str::FromStr};

/// An address, and perhaps a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    name: Option<String>,
    address: lettre::Address,
}

const MAX_ADDRESS: usize = 254;
const MAX_LOCAL: usize = 64;
const MAX_LABEL: usize = 63;
const EXPECTED: &str =
    "expected one such as `ada@example.com`, of ASCII letters, digits and what is usual between them";

// === impl Mailbox ===

impl Mailbox {
    /// A mailbox of these. A name of nothing but spaces is none.
    ///
    /// # Errors
    ///
    /// When the address is none, or the name is too long or has control characters.
    pub fn new(name: Option<String>, address: &str) -> Result<Self, Invalid> {
        if let Some(name) = &name {
            header::check("a name", name, MAX_NAME)?;
        }
        let name = name.filter(|name| !name.trim().is_empty());
        Ok(Self { name, address: parse(address)? })
    }

    /// The name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The address.
    pub fn address(&self) -> &str {
        self.address.as_ref()
    }

    pub(super) fn domain(&self) -> &str {
        self.address.domain()
    }

    pub(super) fn to_lettre(&self) -> lettre::Address {
        self.address.clone()
    }
}

impl FromStr for Mailbox {
    type Err = Invalid;

    /// Reads `ada@example.com` or `Ada Lovelace <ada@example.com>`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        match text.strip_suffix('>').and_then(|text| text.split_once('<')) {
            Some((name, address)) => Self::new(Some(name.trim().to_owned()), address),
            None => Self::new(None, text),
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} <{}>", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// The addresses that mail really goes to: RFC 5321's `Dot-string` and `Domain`. Quoted local parts, addresses of IP hosts
/// and scripts that a server would have to be asked for first are left out on purpose.
fn parse(address: &str) -> Result<lettre::Address, Invalid> {
    let wrong = || {
        let shown: String = address.chars().take(100).flat_map(char::escape_debug).collect();
        Invalid(format!("`{shown}` is no address; {EXPECTED}"))
    };
    let is_atom = |atom: &str| {
        let special = |b| b"!#$%&'*+-/=?^_`{|}~".contains(&b);
        !atom.is_empty() && atom.bytes().all(|b| b.is_ascii_alphanumeric() || special(b))
    };
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (1..=MAX_LABEL).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let (local, domain) = address.split_once('@').ok_or_else(wrong)?;
    if address.len() > MAX_ADDRESS
        || local.len() > MAX_LOCAL
        || !local.split('.').all(is_atom)
        || !domain.split('.').all(is_label)
    {
        return Err(wrong());
    }
    lettre::Address::new(local, domain).map_err(|_| wrong())
}
