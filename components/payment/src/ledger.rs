//! The ledger: where the money is.
//!
//! Three accounts. An amount that is authorised leaves `customers` for `authorised`, one that is captured goes on to
//! `captured`, and what is given back returns. So `customers` is below zero by what the others have, and all of them
//! together are zero.

use money::Balance;
use serde::Serialize;
use wharf_sdk::{Json, Result, db, params};

/// The answer to `GET /ledger`.
#[derive(Debug, Default, Serialize)]
pub struct Ledger {
    /// What each account has.
    accounts: Accounts,
    /// All accounts together: zero.
    sum: Balance,
    /// What the payments say of themselves, and the accounts have to agree with.
    payments: Payments,
}

#[derive(Debug, Default, Serialize)]
struct Accounts {
    customers: Balance,
    authorised: Balance,
    captured: Balance,
}

/// The amounts of the payments of these states.
#[derive(Debug, Default, Serialize)]
struct Payments {
    authorised: Balance,
    captured: Balance,
}

/// Reads all of it at one moment.
pub async fn get_ledger() -> Result<Json<Ledger>> {
    let sums: Vec<(String, i64)> = db::query(
        "SELECT account AS name, SUM(amount) AS amount FROM entries GROUP BY account \
         UNION ALL SELECT status, SUM(amount) FROM payments WHERE status IN ('AUTHORISED', 'CAPTURED') GROUP BY status",
        params![],
    )
    .await?;
    let mut ledger = Ledger::default();
    for (name, amount) in sums {
        let amount = Balance::from_minor(amount);
        let place = match name.as_str() {
            "customers" => &mut ledger.accounts.customers,
            "authorised" => &mut ledger.accounts.authorised,
            "captured" => &mut ledger.accounts.captured,
            "AUTHORISED" => &mut ledger.payments.authorised,
            _ => &mut ledger.payments.captured,
        };
        *place = amount;
    }
    let Accounts { customers, authorised, captured } = ledger.accounts;
    ledger.sum = customers.plus(authorised).plus(captured);
    Ok(Json(ledger))
}
