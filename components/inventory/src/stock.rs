//! The counts of each product.

use crate::{request::Items, store};
use serde::Serialize;
use wharf_sdk::{
    db::{self, Statement, Transaction},
    events::NewEvent,
    from_row, params,
};

/// How much there is of a product, as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    pub product_id: String,
    /// On hand, and nobody's yet.
    pub available: i64,
    /// Set aside for orders.
    pub reserved: i64,
    pub sold: i64,
    /// All that ever came in: what is available, reserved and sold together.
    pub received: i64,
}

from_row!(Stock { product_id, available, reserved, sold, received });

/// The payload of `stock.changed`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StockChanged<'a> {
    product_id: &'a str,
    available: i64,
}

/// Where items come from and where they go: the columns of what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// From what is available to what is reserved.
    Reserve,
    /// Back again.
    Return,
    /// What was sold is available again.
    TakeBack,
}

pub async fn find(id: &str) -> db::Result<Option<Stock>> {
    db::query_optional(
        "SELECT product_id, available, reserved, sold, received FROM stock WHERE product_id = $1",
        params![id],
    )
    .await
}

/// Says how much of a product is available, and tells it.
pub async fn set(transaction: &Transaction, id: &str, quantity: u32) -> store::Result<()> {
    transaction
        .execute(
            "INSERT INTO stock (product_id, available, reserved, sold, received) VALUES ($1, $2, 0, 0, $2) \
             ON CONFLICT (product_id) DO UPDATE SET available = excluded.available, \
             received = excluded.available + stock.reserved + stock.sold",
            params![id, quantity],
        )
        .await?;
    tell(transaction, id, quantity.into()).await
}

/// What moves items from what is available to what is reserved, where nothing has to be told of it: it fails where there is
/// too little of one, and also where nothing would be left of it. [`shift`] does what this can't.
pub fn reserving(items: &Items) -> impl Iterator<Item = Statement> {
    items.iter().map(|(id, &quantity)| {
        // Nothing left is NULL and less is below zero, and the column may be neither.
        let sql =
            "UPDATE stock SET available = NULLIF(available - $1, 0), reserved = reserved + $1 WHERE product_id = $2";
        db::statement(sql, params![quantity, id])
    })
}

/// What moves items from what is reserved to what is sold, of which nothing is ever told.
pub fn selling(items: &Items) -> impl Iterator<Item = Statement> {
    items.iter().map(|(id, &quantity)| {
        let sql = "UPDATE stock SET reserved = reserved - $1, sold = sold + $1 WHERE product_id = $2";
        db::statement(sql, params![quantity, id])
    })
}

/// Moves items, all of them or up to the first of which there is too little, which is returned. Told is what came into stock
/// or ran out by it: whoever listens wants to know whether there is some, and at a thousand orders a second not each count.
pub async fn shift(transaction: &Transaction, items: &Items, shift: Move) -> store::Result<Option<String>> {
    for (id, &quantity) in items {
        let Some((available,)) = transaction.query_optional::<(i64,)>(shift.statement(), params![quantity, id]).await?
        else {
            return Ok(Some(id.clone()));
        };
        if shift.is_told(available, quantity) {
            tell(transaction, id, available).await?;
        }
    }
    Ok(None)
}

async fn tell(transaction: &Transaction, id: &str, available: i64) -> store::Result<()> {
    let changed = StockChanged { product_id: id, available };
    let event = NewEvent::about("stock.changed", id, &changed).map_err(store::Error::unpublishable)?;
    transaction.publish(event).await?;
    Ok(())
}

// === impl Move ===

impl Move {
    const fn statement(self) -> &'static str {
        match self {
            Self::Reserve => {
                "UPDATE stock SET available = available - $1, reserved = reserved + $1 \
                 WHERE product_id = $2 AND available >= $1 RETURNING available"
            }
            Self::Return => {
                "UPDATE stock SET available = available + $1, reserved = reserved - $1 \
                 WHERE product_id = $2 RETURNING available"
            }
            Self::TakeBack => {
                "UPDATE stock SET available = available + $1, sold = sold - $1 \
                 WHERE product_id = $2 RETURNING available"
            }
        }
    }

    /// Whether the product ran out or came into stock, where this many are `available` now.
    fn is_told(self, available: i64, quantity: u32) -> bool {
        match self {
            Self::Reserve => available == 0,
            Self::Return | Self::TakeBack => available == i64::from(quantity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_is_what_ran_out_or_came_into_stock() {
        assert!(Move::Reserve.is_told(0, 3) && !Move::Reserve.is_told(1, 3));
        assert!(Move::Return.is_told(3, 3) && !Move::Return.is_told(4, 3));
        assert!(Move::TakeBack.is_told(3, 3) && !Move::TakeBack.is_told(4, 3));
    }
}
