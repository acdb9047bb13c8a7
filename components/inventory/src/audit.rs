//! Whether it all adds up.

use serde::Serialize;
use wharf_sdk::{Error, Json, Result, db, from_row, params};

/// How many products that do not add up are named.
const DIFFERENCES_MAX: u32 = 100;

/// The answer to `GET /inventory`: all products together. What is available, reserved and sold is what was received.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    #[serde(flatten)]
    counts: Counts,
    /// Products whose counts are not those of their reservations: none.
    differences: Vec<Difference>,
}

#[derive(Debug, Serialize)]
struct Counts {
    products: i64,
    available: i64,
    reserved: i64,
    sold: i64,
    received: i64,
}

from_row!(Counts { products, available, reserved, sold, received });

/// A product whose counts are not those of its reservations.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    product_id: String,
    reserved: i64,
    held: i64,
    sold: i64,
    kept: i64,
}

from_row!(Difference { product_id, reserved, held, sold, kept });

/// Adds up all products, and compares their counts with the reservations, at one moment.
pub async fn get_totals() -> Result<Json<Totals>> {
    let transaction = db::begin().await?;
    let counts = transaction
        .query_optional(
            "SELECT COUNT(*) AS products, COALESCE(SUM(available), 0) AS available, COALESCE(SUM(reserved), 0) AS reserved, \
             COALESCE(SUM(sold), 0) AS sold, COALESCE(SUM(received), 0) AS received FROM stock",
            params![],
        )
        .await?
        .ok_or_else(|| Error::internal("a sum has no row"))?;
    let differences = transaction
        .query(
            "SELECT stock.product_id, reserved, COALESCE(held, 0) AS held, sold, COALESCE(kept, 0) AS kept \
             FROM stock LEFT JOIN (SELECT product_id, \
                 SUM(CASE WHEN status = 'HELD' THEN quantity ELSE 0 END) AS held, \
                 SUM(CASE WHEN status = 'KEPT' THEN quantity ELSE 0 END) AS kept \
                 FROM reserved_items JOIN reservations ON reservations.key = reserved_items.key \
                 GROUP BY product_id) AS sums ON sums.product_id = stock.product_id \
             WHERE reserved <> COALESCE(held, 0) OR sold <> COALESCE(kept, 0) \
             ORDER BY stock.product_id LIMIT $1",
            params![DIFFERENCES_MAX],
        )
        .await?;
    transaction.rollback().await?;
    Ok(Json(Totals { counts, differences }))
}
