//! What may be asked for.

use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};
use wharf_sdk::{Error, Result as HttpResult};

const KEY_MAX: usize = 512;
const ID_MAX: usize = 64;
const ITEMS_MAX: usize = 100;
const QUANTITY_MAX: u32 = 1_000_000;
const TTL: Duration = Duration::from_secs(15 * 60);
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// So much of each product, by its id. Who takes several products takes them in this order, and so nobody waits for another
/// who waits for him.
pub type Items = BTreeMap<String, u32>;

/// The body of `PUT /inventory/{productId}`.
#[derive(Debug, Deserialize)]
pub struct Quantity {
    #[serde(deserialize_with = "wharf_sdk::whole_number")]
    quantity: u32,
}

/// What is to be reserved, within bounds.
#[derive(Debug)]
pub struct Wanted {
    pub key: String,
    pub order_id: String,
    pub items: Items,
    pub ttl: Duration,
}

// === impl Quantity ===

impl Quantity {
    /// The quantity, where it is within bounds.
    pub fn validated(self) -> HttpResult<u32> {
        if self.quantity > QUANTITY_MAX {
            return Err(Error::bad_request(format!("Invalid quantity, expected 0 to {QUANTITY_MAX}")));
        }
        Ok(self.quantity)
    }
}

// === impl Wanted ===

impl Wanted {
    /// The same as neighbours say it. Several items of one product become one.
    ///
    /// # Errors
    /// What of it is out of bounds.
    pub fn new(
        key: String,
        order_id: String,
        items: impl ExactSizeIterator<Item = (String, u32)>,
        ttl_ms: Option<u64>,
    ) -> Result<Self, String> {
        check_key(&key)?;
        if !is_visible(&order_id, ID_MAX) {
            return Err(format!("order-id: expected 1 to {ID_MAX} visible characters of ASCII"));
        }
        if !(1..=ITEMS_MAX).contains(&items.len()) {
            return Err(format!("{} items: expected 1 to {ITEMS_MAX}", items.len()));
        }
        let ttl = ttl_ms.map_or(TTL, Duration::from_millis);
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(format!("ttl-ms {}: expected 1 to {}", ttl.as_millis(), TTL_MAX.as_millis()));
        }
        let mut sums = Items::new();
        for (product, quantity) in items {
            if !is_visible(&product, ID_MAX) {
                return Err(format!("product-id: expected 1 to {ID_MAX} visible characters of ASCII"));
            }
            let sum = sums.entry(product).or_default();
            *sum = sum.saturating_add(quantity);
            if quantity == 0 || *sum > QUANTITY_MAX {
                return Err(format!("quantity: expected 1 to {QUANTITY_MAX} of each product"));
            }
        }
        Ok(Self { key, order_id, items: sums, ttl })
    }
}

/// That a key is one.
///
/// # Errors
/// What is expected.
pub fn check_key(key: &str) -> Result<(), String> {
    if is_visible(key, KEY_MAX) {
        Ok(())
    } else {
        Err(format!("the key is not one: expected 1 to {KEY_MAX} visible characters of ASCII"))
    }
}

/// That a product's id is one.
///
/// # Errors
/// What is expected.
pub fn check_product(id: &str) -> HttpResult<()> {
    if is_visible(id, ID_MAX) {
        Ok(())
    } else {
        Err(Error::bad_request("Invalid productId, expected 1 to 64 visible characters"))
    }
}

fn is_visible(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &str, items: &[(&str, u32)], ttl: Option<u64>) -> Result<Wanted, String> {
        let items: Vec<_> = items.iter().map(|(id, quantity)| ((*id).to_owned(), *quantity)).collect();
        Wanted::new(key.into(), "o".into(), items.into_iter(), ttl)
    }

    #[test]
    fn items_of_one_product_are_one_item_and_all_are_in_order() {
        let wanted = wanted("k", &[("pen", 2), ("ink", 1), ("pen", 3)], None).unwrap();
        assert_eq!(wanted.items.into_iter().collect::<Vec<_>>(), [("ink".to_owned(), 1), ("pen".to_owned(), 5)]);
        assert_eq!(wanted.ttl, TTL);
    }

    #[test]
    fn what_can_be_asked_for_is_bounded() {
        let many = vec![("pen", 1); 101];
        let long = "k".repeat(513);
        for refused in [
            wanted("", &[("pen", 1)], None),
            wanted(&long, &[("pen", 1)], None),
            wanted("k", &[], None),
            wanted("k", &many, None),
            wanted("k", &[("pen", 0)], None),
            wanted("k", &[("pen", 1_000_000), ("pen", 1)], None),
            wanted("k", &[("a pen", 1)], None),
            wanted("k", &[("pen", 1)], Some(0)),
            wanted("k", &[("pen", 1)], Some(86_400_001)),
            wanted("k", &[("pen", 1)], Some(u64::MAX)),
        ] {
            assert!(refused.is_err(), "{refused:?}");
        }
        assert!(Quantity { quantity: 1_000_001 }.validated().is_err());
        assert!(check_product("").is_err() && check_product("pen").is_ok());
    }
}
