//! What may be ordered, and what it costs.

use crate::{
    order::{Item, Items},
    wit::shop::catalog::catalog::Product,
};
use money::Money;
use serde::Deserialize;
use wharf_sdk::{Error, Result};

const ITEMS_MAX: usize = 100;
const QUANTITY_MAX: u32 = 1_000_000;
const ID_MAX: usize = 64;

/// The body of `POST /orders`. A client may send prices too; they are not looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewOrder {
    pub user_id: String,
    items: Vec<NewItem>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewItem {
    product_id: String,
    #[serde(deserialize_with = "wharf_sdk::whole_number")]
    quantity: u32,
}

// === impl NewOrder ===

impl NewOrder {
    /// What a neighbour wants to order for a user, of each product so many.
    pub fn new(user_id: String, items: impl Iterator<Item = (String, u32)>) -> Self {
        Self { user_id, items: items.map(|(product_id, quantity)| NewItem { product_id, quantity }).collect() }
    }

    /// Whether these items are of the same products, as many of each.
    pub fn is_of(&self, items: &[Item<'_>]) -> bool {
        let own = self.items.iter().map(|item| (item.product_id.as_str(), item.quantity));
        own.eq(items.iter().map(|item| (&*item.product_id, item.quantity)))
    }

    /// The same, where it is within bounds.
    pub fn validated(self) -> Result<Self> {
        if self.user_id.len() > ID_MAX {
            return Err(Error::bad_request("User not found"));
        }
        if !(1..=ITEMS_MAX).contains(&self.items.len()) {
            return Err(Error::bad_request("Invalid items, expected 1 to 100"));
        }
        for item in &self.items {
            if !(1..=QUANTITY_MAX).contains(&item.quantity) {
                return Err(Error::bad_request("Invalid quantity, expected 1 to 1000000"));
            }
            if item.product_id.chars().count() > ID_MAX {
                return Err(Error::bad_request("Invalid productId, expected at most 64 characters"));
            }
        }
        Ok(self)
    }

    /// The product of each item.
    pub fn product_ids(&self) -> Vec<String> {
        self.items.iter().map(|item| item.product_id.clone()).collect()
    }

    /// The items with the prices of the catalogue, and the sum of them. `products` are those of
    /// [`product_ids`](Self::product_ids), in that order.
    pub fn priced(&self, products: &[Product]) -> Result<(Items, Money)> {
        if products.len() != self.items.len() {
            return Err(Error::internal("the catalogue returned another number of products than was asked for"));
        }
        let mut items = Vec::with_capacity(self.items.len());
        let mut total = Some(Money::ZERO);
        for (NewItem { product_id, quantity }, product) in self.items.iter().zip(products) {
            if !product.in_stock {
                return Err(Error::bad_request(format!("Product {product_id} out of stock")));
            }
            let price = Money::from_minor(product.price)
                .ok_or_else(|| Error::internal(format_args!("product {product_id} has the price {}", product.price)))?;
            total = total.and_then(|sum| sum.plus(price.times(*quantity)?));
            items.push(Item { product_id: product_id.into(), quantity: *quantity, price });
        }
        let total = total.ok_or(Error::bad_request(format!("Total too large, expected at most {}", Money::MAX)))?;
        Ok((Items::new(&items)?, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(items: &str) -> Result<NewOrder> {
        serde_json::from_str::<NewOrder>(&format!(r#"{{"userId": "u", "items": {items}}}"#))
            .map_err(|error| Error::bad_request(error.to_string()))?
            .validated()
    }

    fn product(id: &str, price: i64, in_stock: bool) -> Product {
        Product { id: id.into(), name: "Pen".into(), price, in_stock }
    }

    #[test]
    fn prices_are_the_catalogues_and_not_the_clients() {
        let order = order(
            r#"[{"productId": "p-1", "quantity": 1, "price": 0.01},
                {"productId": "p-2", "quantity": 2, "price": "free"},
                {"productId": "p-3", "quantity": 3}]"#,
        )
        .unwrap();
        assert_eq!(order.product_ids(), ["p-1", "p-2", "p-3"]);
        let products = [product("p-1", 150, true), product("p-2", 250, true), product("p-3", 350, true)];
        let (items, total) = order.priced(&products).unwrap();
        assert_eq!(total.minor(), 1700);
        assert_eq!(
            items.as_json(),
            r#"[{"productId":"p-1","quantity":1,"price":1.5},{"productId":"p-2","quantity":2,"price":2.5},{"productId":"p-3","quantity":3,"price":3.5}]"#
        );
    }

    #[test]
    fn what_is_not_in_stock_cannot_be_ordered() {
        let order = order(r#"[{"productId": "p-1", "quantity": 1}]"#).unwrap();
        let error = order.priced(&[product("p-1", 1, false)]).unwrap_err();
        assert_eq!((error.status(), error.message()), (400, "Product p-1 out of stock"));
    }

    #[test]
    fn a_total_that_is_no_amount_any_more_is_refused() {
        let order = order(r#"[{"productId": "p", "quantity": 1000000}, {"productId": "p", "quantity": 1}]"#).unwrap();
        let dear = product("p", 1_000_000_000, true);
        assert_eq!(order.priced(&[dear.clone(), dear]).unwrap_err().status(), 400);
        let wrong = product("p", i64::MIN, true);
        assert_eq!(order.priced(&[wrong.clone(), wrong]).unwrap_err().status(), 500);
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
        for (written, quantity) in [("2", 2), ("2.0", 2), ("2e0", 2), ("1e6", 1_000_000)] {
            let order = order(&format!(r#"[{{"productId": "p", "quantity": {written}}}]"#)).unwrap();
            assert_eq!(order.items[0].quantity, quantity, "{written}");
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let id =
            |letter: &str, count| order(&format!(r#"[{{"productId": "{}", "quantity": 1}}]"#, letter.repeat(count)));
        assert!(id("é", 64).is_ok());
        assert!(id("é", 65).is_err());
    }

    #[test]
    fn items_and_quantities_are_bounded() {
        let many = format!("[{}]", vec![r#"{"productId": "p", "quantity": 1}"#; 101].join(","));
        let long = format!(r#"[{{"productId": "{}", "quantity": 1}}]"#, "p".repeat(65));
        for items in [
            "[]",
            "null",
            "{}",
            r#"[{"productId": "p", "quantity": 0}]"#,
            r#"[{"productId": "p", "quantity": -1}]"#,
            r#"[{"productId": "p", "quantity": 1.5}]"#,
            r#"[{"productId": "p", "quantity": 1000001}]"#,
            r#"[{"productId": "p", "quantity": 1e300}]"#,
            r#"[{"productId": "p", "quantity": "1"}]"#,
            r#"[{"productId": "p", "quantity": null}]"#,
            r#"[{"productId": "p"}]"#,
            r#"[{"productId": 1, "quantity": 1}]"#,
            &many,
            &long,
        ] {
            assert_eq!(order(items).unwrap_err().status(), 400, "{items}");
        }
    }
}
