//! What may be said of a product.

use money::Money;
use serde::Deserialize;
use wharf_sdk::{Error, Result};

const NAME_MAX: usize = 200;
const ID_MAX: usize = 64;
const PAGE_MAX: u32 = 100;

/// The dearest product: orders of many must stay within what an amount can be.
const PRICE_MAX: Money = Money::from_minor(10_000_000_000).expect("it is below Money::MAX");

/// The body of `POST /products`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewProduct {
    /// An id of the client's own, such as an article number; one is made where it is not given.
    pub id: Option<String>,
    pub name: String,
    pub price: Money,
    #[serde(default = "in_stock")]
    pub in_stock: bool,
}

/// The body of `PATCH /products/:id`: what is not given stays as it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    pub name: Option<String>,
    pub price: Option<Money>,
    pub in_stock: Option<bool>,
}

/// The query of `GET /products`: the products after the one with this id.
#[derive(Debug, Deserialize)]
pub struct Page {
    #[serde(default)]
    pub after: String,
    limit: Option<u32>,
}

fn in_stock() -> bool {
    true
}

// === impl NewProduct ===

impl NewProduct {
    /// The same without surrounding space, where it can be sold.
    pub fn validated(mut self) -> Result<Self> {
        if let Some(id) = &self.id {
            let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
            if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(is_plain) {
                return Err(Error::bad_request("Invalid id, expected 1 to 64 of A-Z a-z 0-9 - _ ."));
            }
        }
        self.name = name(&self.name)?;
        price(self.price)?;
        Ok(self)
    }
}

// === impl Change ===

impl Change {
    /// The same without surrounding space, where it can be so.
    pub fn validated(mut self) -> Result<Self> {
        self.name = self.name.as_deref().map(name).transpose()?;
        self.price.map(price).transpose()?;
        Ok(self)
    }
}

// === impl Page ===

impl Page {
    /// How many products, 100 where it is not said.
    pub fn limit(&self) -> Result<u32> {
        match self.limit.unwrap_or(PAGE_MAX) {
            limit @ 1..=PAGE_MAX => Ok(limit),
            _ => Err(Error::bad_request("Invalid limit, expected 1 to 100")),
        }
    }
}

fn name(name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(Error::bad_request("Invalid name, expected 1 to 200 characters"));
    }
    Ok(name.to_owned())
}

fn price(price: Money) -> Result<()> {
    if price > PRICE_MAX {
        return Err(Error::bad_request(format!("Invalid price, expected at most {PRICE_MAX}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_in_stock_unless_it_is_said_not_to_be() {
        let product: NewProduct = serde_json::from_str(r#"{"name": " Pen ", "price": 1.5}"#).unwrap();
        let product = product.validated().unwrap();
        assert_eq!((product.name.as_str(), product.price.minor(), product.in_stock), ("Pen", 150, true));
    }

    #[test]
    fn names_prices_and_ids_are_bounded() {
        for json in [
            r#"{"name": "", "price": 1}"#,
            r#"{"name": "Pen", "price": -1}"#,
            r#"{"name": "Pen", "price": 1.005}"#,
            r#"{"name": "Pen", "price": "1"}"#,
            r#"{"name": "Pen", "price": 100000000.01}"#,
            r#"{"name": "Pen"}"#,
            r#"{"name": "Pen", "price": 1, "id": ""}"#,
            r#"{"name": "Pen", "price": 1, "id": "a/b"}"#,
            r#"{"name": "Pen", "price": 1, "inStock": "yes"}"#,
            r#"[]"#,
        ] {
            let refused = serde_json::from_str::<NewProduct>(json).map_or(true, |product| product.validated().is_err());
            assert!(refused, "{json}");
        }
    }

    #[test]
    fn a_change_names_only_what_it_changes() {
        let change: Change = serde_json::from_str(r#"{"inStock": false}"#).unwrap();
        let change = change.validated().unwrap();
        assert_eq!((change.name, change.price, change.in_stock), (None, None, Some(false)));
        assert!(serde_json::from_str::<Change>(r#"{"stock": false}"#).is_err());
    }

    #[test]
    fn pages_are_bounded() {
        let page = |limit| Page { after: String::new(), limit }.limit();
        assert_eq!(page(None).unwrap(), 100);
        assert!(page(Some(0)).is_err() && page(Some(101)).is_err());
    }
}
