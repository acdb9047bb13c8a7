//! What a client may ask for.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_sdk::{Error, Extract, Request, Result, whole_number};

const ITEMS_MAX: usize = 100;
const QUANTITY_MAX: u32 = 1_000_000;
const TEXT_MAX: usize = 64;
const KEY_MAX: usize = 64;

/// The longest that a request waits for the end of its checkout.
const WAIT_MAX: u64 = 30;

/// The body of `POST /checkout`. A client may send prices too; they are not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewCheckout {
    pub user_id: String,
    pub items: Vec<Item>,
    /// What stands for the card or account.
    pub payment_method: Option<String>,
}

/// So many of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub product_id: String,
    #[serde(deserialize_with = "whole_number")]
    pub quantity: u32,
}

/// What the headers of a request ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// `Idempotency-Key`, as [draft-ietf-httpapi-idempotency-key-header] has it, with or without its quotes.
    ///
    /// [draft-ietf-httpapi-idempotency-key-header]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
    pub key: Option<String>,
    /// `Prefer: wait=…` (RFC 7240): seconds.
    pub wait: Option<Duration>,
}

fn too_long(text: &str) -> bool {
    text.chars().count() > TEXT_MAX
}

// === impl NewCheckout ===

impl NewCheckout {
    /// The same, where it is within bounds.
    pub fn validated(self) -> Result<Self> {
        if too_long(&self.user_id) {
            return Err(Error::bad_request("Invalid userId, expected at most 64 characters"));
        }
        if !(1..=ITEMS_MAX).contains(&self.items.len()) {
            return Err(Error::bad_request("Invalid items, expected 1 to 100"));
        }
        for Item { product_id, quantity } in &self.items {
            if !(1..=QUANTITY_MAX).contains(quantity) {
                return Err(Error::bad_request("Invalid quantity, expected 1 to 1000000"));
            }
            if too_long(product_id) {
                return Err(Error::bad_request("Invalid productId, expected at most 64 characters"));
            }
        }
        if self.payment_method.as_deref().is_some_and(too_long) {
            return Err(Error::bad_request("Invalid paymentMethod, expected at most 64 characters"));
        }
        Ok(self)
    }
}

// === impl Asked ===

impl Asked {
    fn new(key: Option<String>, prefer: Option<&str>) -> Result<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.~".contains(&c);
        let quoted = |key: &str| Some(key.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        let key = key.map(|key| quoted(&key).unwrap_or(key));
        if let Some(key) = &key
            && !((1..=KEY_MAX).contains(&key.len()) && key.bytes().all(plain))
        {
            return Err(Error::bad_request("Invalid Idempotency-Key, expected 1 to 64 of A-Z a-z 0-9 - _ . ~"));
        }
        // A preference that can't be understood is none.
        let preferences = prefer.unwrap_or_default().split(',');
        let wait =
            preferences.filter_map(|it| it.split(';').next()?.trim().split_once('=')).find_map(|(name, value)| {
                let seconds = value.trim().trim_matches('"').parse::<u64>().ok()?;
                name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds.min(WAIT_MAX)))
            });
        Ok(Self { key, wait: wait.filter(|wait| !wait.is_zero()) })
    }
}

impl Extract for Asked {
    async fn extract(request: &mut Request) -> Result<Self> {
        Self::new(request.header("idempotency-key"), request.header("prefer").as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_how_long_it_waits() {
        for (prefer, seconds) in [
            (None, None),
            (Some("wait=5"), Some(5)),
            (Some("respond-async, Wait = 5; x=1"), Some(5)),
            (Some("wait=\"7\""), Some(7)),
            (Some("wait=3600"), Some(WAIT_MAX)),
            (Some("wait=0"), None),
            (Some("wait=-1"), None),
            (Some("wait"), None),
            (Some("return=minimal"), None),
        ] {
            let asked = Asked::new(None, prefer).unwrap();
            assert_eq!(asked.wait.map(|wait| wait.as_secs()), seconds, "{prefer:?}");
        }
    }

    #[test]
    fn a_key_is_taken_with_and_without_quotes_and_is_bounded() {
        let key = |key: &str| Asked::new(Some(key.into()), None).map(|asked| asked.key.unwrap());
        assert_eq!(key("\"8e03978e-40d5\"").as_deref(), Ok("8e03978e-40d5"));
        assert_eq!(key("a.b").as_deref(), Ok("a.b"));
        for wrong in ["", "\"\"", "\"\"a\"\"", "\"a", "a b", "a/b", "ä", &"k".repeat(65)] {
            assert_eq!(key(wrong).unwrap_err().status(), 400, "{wrong}");
        }
    }

    #[test]
    fn what_is_ordered_is_bounded() {
        let item = |quantity, length| Item { product_id: "p".repeat(length), quantity };
        let new = |items| NewCheckout { user_id: "u".into(), items, payment_method: None }.validated();
        assert!(new(vec![item(1, 64)]).is_ok());
        for items in [vec![], vec![item(0, 1)], vec![item(1_000_001, 1)], vec![item(1, 65)], vec![item(1, 1); 101]] {
            assert_eq!(new(items).unwrap_err().status(), 400);
        }
    }
}
